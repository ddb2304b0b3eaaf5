"""Freezing, learning rates by depth, LoRA and its files, against formulas, peft and transformers."""

import json
import math
from dataclasses import replace

import numpy as np
import peft
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.adaptation import (
    GradualUnfreezing,
    LoraConfig,
    LoraLinear,
    class_logits,
    count_parameters,
    depths,
    find_names,
    freeze,
    inject,
    layer_decay,
    lora_layers,
    merge,
    trained_whole,
    unfreeze,
    unmerge,
)
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.layers import Linear, MultiHeadAttention, for_decoding
from plm_tutorial.models import Bert, Llama
from plm_tutorial.objectives import predict_classes
from plm_tutorial.pretrained import WeightsError, export, save_adapter
from plm_tutorial.training import CheckpointError, TrainingConfig, fit
from plm_tutorial.training.optimizers import lr_at
from tests.models.test_all_families import BERT, IDS, MODELS, _call, _make
from tests.test_export import _reference
from tests.test_pretrained_models import SHAPE as LLAMA_SHAPE
from tests.test_pretrained_models import _write_gguf

CLASSIFIER = "bert, sequence"
FAMILIES = [CLASSIFIER, "roberta, token", "gpt2", "llama", "t5", "decoder", "transformer"]


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted(name, seed=1, **options):
    """A random model with a LoRA update that is not 0, as after training."""
    model = inject(_make(name), LoraConfig(**{"rank": 4, "alpha": 8.0} | options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_b.normal_(std=0.2)
        for name in trained_whole(model):
            parameter = model.get_parameter(name)
            parameter += 0.1 * torch.randn_like(parameter)
    return model


# ---- names and depths


def test_patterns_are_parts_of_names():
    names = ["tokens.weight", "layers.0.attention.query.weight", "layers.1.cross_attention.query.weight", "head.weight"]
    assert find_names(names, ["attention"]) == names[1:2]
    assert find_names(names, ["query", "layers.0"]) == names[1:3]
    assert find_names(names, ["layers.*.*attention.query"]) == names[1:3]
    assert find_names(names, ["head", "tokens"]) == [names[0], names[3]]
    assert find_names(names, []) == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("atention", "no parameter has 'atention' in its name; near it: 'attention'"),
        ("layers.7", "no parameter has 'layers.7' in its name; near it: 'layers.*'layers"),
        ("zzz", "no parameter has 'zzz' in its name; near it: 'embeddings', 'head', 'layers'"),
        ("quer", "no parameter has 'quer' in its name; near it: 'query'"),
    ],
)
def test_a_pattern_that_fits_nothing_names_what_is_near(pattern, message):
    with pytest.raises(ValueError, match=message):
        freeze(_make(CLASSIFIER), pattern)


@pytest.mark.parametrize("name", FAMILIES)
def test_depths_rise_from_the_embeddings_to_the_head(name):
    model = _make(name)
    depth = depths(model)
    assert depth.keys() == dict(model.named_parameters()).keys()
    values = list(depth.values())
    assert values == sorted(values) and values[0] == 0
    n_blocks = max(values) if values[-1] in values[:-1] and not hasattr(model, "head") else max(values)
    assert set(values) <= set(range(n_blocks + 1))


def test_depths_of_an_encoder_and_of_an_encoder_with_a_decoder():
    bert, t5 = depths(_make(CLASSIFIER)), depths(_make("t5"))
    assert bert["embeddings.norm.bias"] == 0 and bert["layers.1.attention.key.bias"] == 2
    assert bert["head.dense.weight"] == bert["head.output.bias"] == 3
    assert t5["tokens.weight"] == t5["encoder.bias.weight"] == 0 and t5["encoder.layers.1.attention.query.weight"] == 2
    assert t5["encoder.norm.weight"] == t5["decoder.bias.weight"] == 2
    assert t5["decoder.layers.0.cross_attention.key.weight"] == 3 and t5["decoder.norm.weight"] == 4
    assert depths(_make("gpt2"))["norm.weight"] == 3
    with pytest.raises(ValueError, match="a Linear has no blocks to count; freeze by name instead"):
        depths(nn.Linear(2, 2))


# ---- freezing


def test_freezing_by_name():
    model = _make(CLASSIFIER)
    everything = trained(model)
    freeze(model)
    assert not trained(model)
    unfreeze(model, "head", "layers.1.attention")
    assert trained(model) == {n for n in everything if n.startswith(("head.", "layers.1.attention."))}
    freeze(model, "head.output")
    assert "head.dense.bias" in trained(model) and "head.output.bias" not in trained(model)
    unfreeze(model)
    assert trained(model) == everything


@pytest.mark.parametrize("until", [0, 1, 2, "head"])
def test_freezing_by_depth(until):
    model = _make(CLASSIFIER)
    freeze(model, until=until)
    limit = 2 if until == "head" else until
    assert trained(model) == {name for name, depth in depths(model).items() if depth > limit}
    assert all(name.startswith("head.") for name in trained(model)) == (limit == 2)


def test_depths_that_are_refused():
    for until in (-1, 3, True, "top", 1.0):
        with pytest.raises(ValueError, match="this model has 2 blocks: pass 0 to 2, or 'head'"):
            freeze(_make(CLASSIFIER), until=until)
    with pytest.raises(ValueError, match="both patterns and until are given"):
        freeze(_make(CLASSIFIER), "head", until=1)


def test_parameters_are_counted_once():
    model = _make("gpt2")  # tied
    counts = count_parameters(model)
    assert counts.trained == counts.total == sum(p.numel() for p in model.parameters())
    freeze(model, "tokens")
    assert count_parameters(model) == (counts.total - 50 * 24, counts.total)


def test_what_is_frozen_does_not_move_and_the_rest_does():
    model = _make(CLASSIFIER)
    freeze(model, until=1)
    before, names = {name: p.clone() for name, p in model.named_parameters()}, trained(model)
    fit(model, Labelled(), TrainingConfig(steps=3, lr=1e-2, warmup=0), progress=False)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in names), name


# ---- learning rates by depth


def test_layer_decay_multiplies_once_for_each_step_down():
    scales = layer_decay(_make(CLASSIFIER), 0.5)
    assert scales["head.output.weight"] == 1 and scales["layers.1.attention.query.weight"] == 0.5
    assert scales["layers.0.attention.query.weight"] == 0.25 and scales["embeddings.tokens.weight"] == 0.125
    assert set(layer_decay(_make(CLASSIFIER), 1.0).values()) == {1.0}
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="expected a number above 0 and at most 1"):
            layer_decay(_make(CLASSIFIER), wrong)


def test_lower_layers_move_less():
    """AdamW's first step moves each number by the learning rate, whatever the gradient's size."""
    model = _make(CLASSIFIER)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = TrainingConfig(steps=1, lr=1e-3, weight_decay=0.0, clip=0.0)
    history = fit(model, Labelled(), config, lr_scales=layer_decay(model, 0.5), progress=False)
    assert history.rows[0]["lr"] == 1e-3
    rates = {"head.output.bias": 1e-3, "layers.1.attention.value.weight": 5e-4, "embeddings.norm.weight": 1.25e-4}
    for name, rate in rates.items():
        moved = (model.get_parameter(name) - before[name]).detach().abs().median()
        assert float(moved) == pytest.approx(rate, rel=1e-2)


# ---- gradual unfreezing


class Labelled:
    """Random texts of two labels, a function of the step alone."""

    def __init__(self, classes=3):
        self.classes = classes

    def __getitem__(self, step):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(2, 50, (4, 8), generator=generator)
        return {"input_ids": ids, "labels": ids[:, 0] % self.classes}


def _unfreezing_run(folder=None, stop=None, optimizer="adamw", precision="fp32", every=3, model=None):
    model = model or _make(CLASSIFIER)
    seen = []

    def watch(model, history):
        seen.append((history.steps, min(depths(model)[name] for name in trained(model))))
        if history.steps == stop:
            raise KeyboardInterrupt

    config = TrainingConfig(steps=12, lr=1e-2, checkpoint_every=2, optimizer=optimizer, precision=precision)
    callbacks = [GradualUnfreezing(every), watch]
    fit(model, Labelled(), config, folder=folder, callbacks=callbacks, progress=False)
    return model, seen


def test_one_more_layer_is_trained_every_so_many_steps():
    start = {name: p.clone() for name, p in _make(CLASSIFIER).named_parameters()}
    model, seen = _unfreezing_run()
    assert [depth for _, depth in seen] == [3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0]  # after each step, for the next one
    assert trained(model) == start.keys()
    model, _ = _unfreezing_run(every=12)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, start[n])} == {
        n for n in start if n.startswith("head.")
    }


@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "fp32"), ("muon", "fp16")])
def test_unfreezing_goes_on_where_it_was_stopped(tmp_path, optimizer, precision):
    """Stopped before, at and after the steps at which a layer is added; the frozen have no moments to be loaded."""
    how = {"optimizer": optimizer, "precision": precision}
    straight, _ = _unfreezing_run(tmp_path / "a", **how)
    model = _make(CLASSIFIER)
    for stop in (5, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            _unfreezing_run(tmp_path / "b", stop=stop, model=model, **how)
        assert len(trained(model)) == len(list(model.parameters()))  # as before, though it was interrupted
    resumed, _ = _unfreezing_run(tmp_path / "b", **how)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_a_run_with_other_frozen_parameters_or_rates_is_not_gone_on_with(tmp_path):
    def run(model, **options):
        fit(model, Labelled(), TrainingConfig(steps=2, lr=1e-2), folder=tmp_path, progress=False, **options)

    model = _make(CLASSIFIER)
    freeze(model, until="head")
    run(model)
    with pytest.raises(CheckpointError, match=r"embeddings.norm.bias was frozen, now it is trained at 0.01; freeze"):
        run(_make(CLASSIFIER))
    freeze(model, "head.dense")
    with pytest.raises(CheckpointError, match="head.dense.bias was trained at 0.01, now it is frozen"):
        run(model)
    unfreeze(model, "head")
    with pytest.raises(CheckpointError, match="head.output.bias was trained at 0.01, now it is trained at 0.005"):
        run(model, lr_scales={"head.output.bias": 0.5})


def test_unfreezing_that_is_refused():
    with pytest.raises(ValueError, match="every is 0; expected at least 1 step"):
        GradualUnfreezing(0)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        GradualUnfreezing(1).begin(_make(CLASSIFIER).requires_grad_(False), None)


# ---- LoRA


@pytest.mark.parametrize("kind", [nn.Linear, Linear])
@pytest.mark.parametrize("bias", [True, False])
def test_a_lora_layer_is_its_formula(kind, bias):
    torch.manual_seed(0)
    layer = kind(6, 4, bias=bias)
    lora = LoraLinear(layer, rank=2, scale=1.5)
    x = torch.randn(3, 5, 6)
    torch.testing.assert_close(lora(x), layer(x), atol=0, rtol=0)  # B begins at 0
    assert lora.lora_a.abs().max() <= 1 / math.sqrt(6) and lora.lora_a.std() > 0.1
    nn.init.normal_(lora.lora_b)
    expected = layer(x) + 1.5 * (x @ lora.lora_a.T @ lora.lora_b.T)
    torch.testing.assert_close(lora(x), expected, atol=1e-5, rtol=0)
    assert lora.weight is layer.weight and "rank=2, scale=1.5" in repr(lora)


def test_a_lora_layer_equals_that_of_peft():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(3, 6)
    theirs = peft.get_peft_model(nn.Sequential(layer), peft.LoraConfig(r=2, lora_alpha=5, target_modules=["0"]))
    ours = LoraLinear(layer, 2, 5 / 2)
    a, b = (getattr(theirs.base_model.model[0], f"lora_{x}").default.weight for x in "AB")
    nn.init.normal_(b)
    ours.lora_a.data, ours.lora_b.data = a.data.clone(), b.data.clone()
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=0)
    for out in (ours(x), theirs(x)):
        out.cos().sum().backward()
    torch.testing.assert_close(ours.lora_a.grad, a.grad, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.lora_b.grad, b.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_injected_models_begin_as_they_were_and_merge_within_rounding(name):
    plain = _make(name)
    names, expected = list(dict(plain.named_parameters())), _call(plain).detach()
    fresh = inject(_make(name), LoraConfig(rank=4, targets=("query", "value", "up")))
    torch.testing.assert_close(_call(fresh), expected, atol=1e-5, rtol=0)
    assert {n for n, _ in fresh.named_parameters()} > set(names)

    model = adapted(name, targets=("query", "value", "up"))
    before, out = {n: p.clone() for n, p in model.named_parameters()}, _call(model).detach()
    assert (out - expected).abs().max() > 0.01
    merged = merge(model)
    assert [n for n, _ in merged.named_parameters()] == names
    torch.testing.assert_close(_call(merged), out, atol=1e-5, rtol=0)
    unmerge(merged)
    torch.testing.assert_close(_call(merged), out, atol=0, rtol=0)
    assert all(torch.equal(p, before[n]) for n, p in merged.named_parameters())


def test_merging_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="there is no update to merge"):
        merge(_make("gpt2"))
    model = adapted("gpt2")
    with pytest.raises(ValueError, match="nothing is merged"):
        unmerge(model)
    with pytest.raises(ValueError, match="or it is merged already"):
        merge(merge(model))


def test_only_updates_and_head_are_trained():
    model = inject(_make(CLASSIFIER), LoraConfig(rank=2))
    assert trained_whole(model) == ["head.dense.weight", "head.dense.bias", "head.output.weight", "head.output.bias"]
    updates = {f"layers.{i}.attention.{part}.lora_{x}" for i in (0, 1) for part in ("query", "value") for x in "ab"}
    assert trained(model) == updates | set(trained_whole(model))
    start = {n: p.clone() for n, p in model.named_parameters()}
    fit(model, Labelled(), TrainingConfig(steps=4, lr=1e-2), progress=False)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, start[n])} == trained(model)
    assert trained_whole(inject(_make("gpt2, untied"), LoraConfig())) == []  # its head has a row for each token
    assert trained_whole(inject(_make("bert, mlm"), LoraConfig())) == []
    assert len(trained_whole(inject(_make("bert, span"), LoraConfig()))) == 2
    one = LoraConfig(targets=("layers.0.feed_forward",), trained=("head.output", "layers.*.attention_norm"))
    model = inject(_make(CLASSIFIER), one)
    assert list(lora_layers(model)) == ["layers.0.feed_forward.up", "layers.0.feed_forward.down"]
    assert len(trained_whole(model)) == 2 + 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (CLASSIFIER, {"targets": ("quary",)}, "no linear layer that can be adapted has 'quary' .*; near it: 'query'"),
        (CLASSIFIER, {"targets": ("head",)}, "no linear layer that can be adapted has 'head'"),  # trained whole
        (CLASSIFIER, {"trained": ("heads",)}, "no parameter has 'heads' in its name; near it: 'head'"),
        ("gpt2, untied", {"targets": ("query", "head")}, "head.weight has a row for each token"),
        ("t5, gated, untied", {"trained": ("head",)}, "head.weight has a row for each token"),
        ("gpt2", {"trained": ("tokens",)}, "tokens.weight has a row for each token"),
        (CLASSIFIER, {"trained": ("embeddings",)}, "embeddings.positions.weight has a row for each token or position"),
        ("bert, mlm, untied", {"targets": ("output",)}, "head.output.weight has a row for each token"),
    ],
)
def test_injections_that_are_refused(name, options, message):
    model = _make(name)
    with pytest.raises(ValueError, match=message):
        inject(model, LoraConfig(**options))
    assert not lora_layers(model) and len(trained(model)) == len(list(model.parameters()))


def test_configurations_that_lora_refuses():
    for wrong in ({"rank": 0}, {"alpha": 0}, {"alpha": float("nan")}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="expected a rank of at least 1, an alpha above 0 and a dropout from 0"):
            LoraConfig(**wrong)
    with pytest.raises(ValueError, match="targets and trained are tuples"):
        LoraConfig(targets="query")
    with pytest.raises(ValueError, match="has an adapter already"):
        inject(adapted("gpt2"), LoraConfig())
    with pytest.raises(ValueError, match="this GPT2 has no adapter; make one by inject"):
        trained_whole(_make("gpt2"))


def test_dropout_of_the_update_acts_in_training_only():
    model = adapted("gpt2", dropout=0.5)
    with torch.no_grad():
        assert torch.equal(_call(model), _call(model))
        for module in model.modules():
            module.training = isinstance(module, LoraLinear)
        lora_layers(model)["layers.0.attention.query"].dropout.train()
        assert not torch.equal(_call(model), _call(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_keep_updates_of_32(dtype):
    exact, model = adapted(CLASSIFIER), _make(CLASSIFIER).to(dtype)
    inject(model, LoraConfig(rank=4, alpha=8.0))
    model.load_state_dict(exact.state_dict())
    assert all(layer.lora_a.dtype == torch.float32 for layer in lora_layers(model).values())
    expected = _call(exact).detach()
    tolerance = (0.05 if dtype == torch.bfloat16 else 0.01) * float(expected.abs().max())
    out = _call(model)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=0)
    before = [p.clone() for p in model.parameters()]
    torch.testing.assert_close(_call(merge(model)).float(), expected, atol=tolerance, rtol=0)
    unmerge(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lora_trains_in_half_precision(precision):
    losses = []
    for p in ("fp32", precision):
        model = inject(_make(CLASSIFIER), LoraConfig(rank=4))
        losses.append(fit(model, Labelled(), TrainingConfig(steps=8, lr=1e-2, precision=p), progress=False))
    full, half = (history.column("loss") for history in losses)
    assert max(abs(a - b) for a, b in zip(full, half, strict=True)) < 0.1


def test_a_lora_run_goes_on_where_it_was_stopped(tmp_path):
    def run(folder, stop=None, config=None):
        def watch(model, history):
            if history.steps == stop:
                raise KeyboardInterrupt

        model = _make(CLASSIFIER)
        torch.manual_seed(3)
        model = inject(model, LoraConfig(rank=2, dropout=0.1)) if config is None else model
        how = TrainingConfig(steps=8, lr=1e-2, checkpoint_every=3)
        fit(model, Labelled(), how, folder=folder, callbacks=[watch], progress=False)
        return model

    straight = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop=5)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        run(tmp_path / "b", config="none injected")
    resumed = run(tmp_path / "b")
    assert all(torch.equal(p, resumed.get_parameter(n)) for n, p in straight.named_parameters())


@pytest.mark.parametrize("when", ["before", "after"])
def test_decoding_is_faster_laid_out_with_or_without_a_merge(when):
    model = adapted("llama", targets=("query", "up"))
    expected = _call(model).detach()
    model = merge(for_decoding(model)) if when == "before" else for_decoding(merge(model))
    torch.testing.assert_close(_call(model), expected, atol=1e-5, rtol=0)
    assert all(layer.weight.stride(0) == 1 for n, layer in lora_layers(model).items() if n.endswith("up"))


def test_an_update_beside_the_weights_is_not_exported_a_merged_one_is(tmp_path):
    model = adapted(CLASSIFIER)
    expected = _call(model).detach()
    with pytest.raises(ValueError, match="has no published name: take out what was added to the model, or merge it"):
        export(model, tmp_path / "model")
    export(merge(model), tmp_path / "model")
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(load_model(tmp_path / "model", device="cpu")(IDS), expected, atol=1e-5, rtol=0)


# ---- files of adapters

# A model of transformers, the LoRA targets by their published names, and by ours.
BOTH = {
    "bert for one text": (["query", "value"], ("query", "value")),
    "bert for words": (["query", "dense"], None),
    "bert": (["key"], ("key",)),
    "bert for tokens": (["query"], ("query",)),
    "bert for spans": (["query"], ("query",)),
    "roberta for one text": (["query", "value"], ("query", "value")),
    "llama": (["q_proj", "down_proj"], ("query", "down")),
    "gpt2": (["c_attn"], ("query", "key", "value")),
    "gpt2, untied": (["c_attn", "c_fc"], ("query", "value", "up")),
    "t5": (["q", "wo"], ("query", "down")),
    "t5 1.1": (["q", "v"], ("encoder.layers.*.attention.query", "cross_attention.value")),
}


def _theirs_out(model, base):
    inputs = {"input_ids": IDS}
    if isinstance(base, transformers.T5ForConditionalGeneration):
        inputs["decoder_input_ids"] = IDS[:, :5]
    with torch.no_grad():
        out = model(**inputs)
    if "start_logits" in out:
        return torch.stack((out.start_logits, out.end_logits), dim=-1)
    return out.logits if "logits" in out else out.last_hidden_state


def _ours_out(model):
    with torch.no_grad():
        more = {"decoder_input_ids": IDS[:, :5]} if hasattr(model, "decoder") else {}
        return model(IDS, **more)


def _shake(model):
    """Give each trained parameter numbers of its own, as after training."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_peft_wrote(name, tmp_path):
    base = _reference(name)
    base.save_pretrained(tmp_path / "base")
    patterns = {"rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {"layer.1.*query": 1}}
    options = {"r": 4, "lora_alpha": 6, "target_modules": BOTH[name][0], "fan_in_fan_out": "gpt2" in name}
    options |= patterns if name == "bert for one text" else {}
    task = {"one text": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS"}.get(name.partition(" for ")[2])
    theirs = _shake(peft.get_peft_model(base, peft.LoraConfig(task_type=task, **options))).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(_ours_out(ours), _theirs_out(theirs, base), atol=1e-5, rtol=0)
    assert {n for n in trained(ours) if "lora_" not in n} == set(trained_whole(ours)) and lora_layers(ours)
    # And through our own files once more: nothing grows, nothing is lost.
    save_adapter(ours, tmp_path / "again")
    again = load_model(tmp_path / "base", adapter=tmp_path / "again", device="cpu")
    torch.testing.assert_close(_ours_out(again), _ours_out(ours), atol=1e-6, rtol=0)
    assert count_parameters(again) == count_parameters(ours)


@pytest.mark.parametrize("name", [name for name, (_, ours) in BOTH.items() if ours])
@pytest.mark.filterwarnings("ignore")
def test_peft_opens_what_was_saved(name, tmp_path):
    base = _reference(name)
    base.save_pretrained(tmp_path / "base")
    ours = load_model(tmp_path / "base", device="cpu")
    _shake(inject(ours, LoraConfig(rank=3, alpha=7.0, targets=BOTH[name][1])))
    save_adapter(ours, tmp_path / "adapter", base="some/base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert theirs.active_peft_config.base_model_name_or_path == "some/base"
    torch.testing.assert_close(_theirs_out(theirs, base), _ours_out(ours), atol=1e-5, rtol=0)
    again = load_model(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(_ours_out(again), _ours_out(ours), atol=0, rtol=0)
    assert trained(again) == trained(ours)
    merged = save_adapter(merge(ours), tmp_path / "merged")
    for file in ("adapter_config.json",):
        assert json.loads((merged / file).read_text()) | {"base_model_name_or_path": "some/base"} == json.loads(
            (tmp_path / "adapter" / file).read_text()
        )
    a, b = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("adapter", "merged"))
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    half = save_adapter(ours, tmp_path / "half", dtype=torch.float16) / "adapter_model.safetensors"
    assert all(tensor.equal(a[name].half()) for name, tensor in load_file(half).items())
    again = load_model(tmp_path / "base", adapter=tmp_path / "half", device="cpu")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(_ours_out(again), _ours_out(ours), atol=1e-2, rtol=0)


def test_an_adapter_of_the_books_own_decoder(tmp_path):
    base = _make("decoder, modern")
    export(base, tmp_path / "base")
    model = _shake(inject(base, LoraConfig(rank=2, targets=("attention",), trained=("norm",))))
    save_adapter(model, tmp_path / "adapter")
    options = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert options["target_modules"] == ["key", "output", "query", "value"] and options["modules_to_save"] == ["norm"]
    again = load_model(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(_call(again), _call(model), atol=0, rtol=0)
    with pytest.raises(ValueError, match="a MultiHeadAttention has no published form"):
        save_adapter(inject(MultiHeadAttention(8, 2), LoraConfig()), tmp_path / "other")


def test_an_adapter_beside_a_gguf_file_has_the_names_of_the_hub(tmp_path):
    torch.manual_seed(0)
    base = Llama(LLAMA_SHAPE)
    export(base, tmp_path / "base")
    _write_gguf(tmp_path / "base.gguf", base)
    model = _shake(inject(load_model(tmp_path / "base.gguf", device="cpu"), LoraConfig(targets=("query", "key"))))
    folder = save_adapter(model, tmp_path / "adapter")
    for path in ("base.gguf", "base"):
        again = load_model(tmp_path / path, adapter=folder, device="cpu")
        torch.testing.assert_close(again(IDS % 40), model(IDS % 40), atol=1e-5, rtol=0)


def test_an_adapter_of_minilm_is_small_and_holds_the_head(tmp_path):
    torch.manual_seed(0)
    model = _shake(inject(load_model("minilm", head="sequence", n_labels=2, device="cpu"), LoraConfig()))
    counts = count_parameters(model)
    assert counts.trained / counts.total < 0.02
    folder = save_adapter(model, tmp_path / "adapter", base="sentence-transformers/all-MiniLM-L6-v2")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    ids, state = torch.randint(1000, 2000, (2, 9)), torch.get_rng_state()
    again = load_model("minilm", adapter=folder, device="cpu")
    assert again.config.head == "sequence" and again.config.n_labels == 2 and not again.training
    assert torch.equal(torch.get_rng_state(), state)  # what is loaded whole draws nothing
    with torch.no_grad():
        torch.testing.assert_close(again(ids), model.eval()(ids), atol=0, rtol=0)
    half = load_model("minilm", adapter=folder, device="cpu", dtype=torch.bfloat16)
    assert half.head.output.weight.dtype == torch.bfloat16
    assert half.layers[0].attention.query.lora_a.dtype == torch.float32


def test_a_saved_adapter_is_there_whole_or_not_at_all(tmp_path):
    model = adapted(CLASSIFIER)
    folder = save_adapter(model, tmp_path / "adapter")
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with pytest.raises(ValueError, match="is not empty; pass another one, or overwrite=True"):
        save_adapter(model, folder)
    with torch.no_grad():
        model.head.output.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"classifier.bias holds numbers that are not finite"):
        save_adapter(model, folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"] and len(list(folder.iterdir())) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(ValueError, match="holds no adapter_config.json, so it is no model's and is not replaced"):
        save_adapter(adapted(CLASSIFIER), tmp_path / "other", overwrite=True)


def test_adapters_that_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="this Bert has no adapter"):
        save_adapter(_make(CLASSIFIER), tmp_path / "a")
    model = adapted(CLASSIFIER)
    unfreeze(model, "layers.1.attention_norm")
    with pytest.raises(ValueError, match=r"layers.1.attention_norm.bias is trained and would be lost: name it in"):
        save_adapter(model, tmp_path / "a")
    model = adapted(CLASSIFIER, trained=("head.output.bias",))
    with pytest.raises(ValueError, match="of classifier only a part is trained; peft keeps whole modules"):
        save_adapter(model, tmp_path / "a")
    model = inject(Bert(replace(BERT, head="sequence", n_labels=3, pooling="mean")), LoraConfig())
    with pytest.raises(ValueError, match="pools by 'mean'; the published form knows the first position alone"):
        save_adapter(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda options, tensors: options.update(peft_type="IA3"), "has peft_type 'IA3'; implemented here: 'LORA'"),
        (lambda options, tensors: options.update(use_dora=True), "was made with use_dora = True, which is not"),
        (lambda options, tensors: options.update(bias="all"), "was made with bias = 'all'"),
        (lambda options, tensors: options.update(something_new=3), "was made with something_new = 3"),
        (lambda options, tensors: options.pop("r"), "has r = None; expected a number above 0"),
        (lambda options, tensors: options.update(lora_alpha="much"), "has lora_alpha = 'much'"),
        (lambda options, tensors: tensors.pop(_NAME + "lora_B.weight"), "lacks the tensor '.*query.lora_B.weight'"),
        (lambda options, tensors: tensors.pop(_NAME + "lora_A.weight"), "lacks the matrix '.*query.lora_A.weight'"),
        (
            lambda options, tensors: tensors.update({_NAME + "lora_B.weight": torch.ones(3, 4)}),
            r"query.lora_B.weight' has shape \(3, 4\); the configuration expects \(24, 4\)",
        ),
        (
            lambda options, tensors: tensors.update({_NAME + "lora_magnitude_vector": torch.ones(24)}),
            "holds the tensor '.*lora_magnitude_vector', for which a Bert of this configuration has no use",
        ),
        (
            lambda options, tensors: tensors.update({_NAME + "lora_B.weight": torch.full((24, 4), float("nan"))}),
            "holds numbers that are not finite",
        ),
        (lambda options, tensors: tensors.update({"strange": torch.ones(1)}), "holds 'strange'; expected names that"),
        (
            lambda options, tensors: [tensors.pop(n) for n in list(tensors) if "classifier" in n],
            "neither .* nor .* holds head.output.weight, a part of the head 'sequence'",
        ),
        (
            lambda options, tensors: [tensors.pop(n) for n in list(tensors) if "lora_" in n],
            "adapts no layer of this Bert: it is another model's",
        ),
    ],
)
def test_adapters_that_are_not_loaded(tmp_path, change, message):
    torch.manual_seed(0)
    export(Bert(BERT), tmp_path / "base")
    save_adapter(adapted(CLASSIFIER), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    options, tensors = json.loads(file.read_text()), load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    change(options, tensors)
    file.write_text(json.dumps(options))
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_model(tmp_path / "base", head="sequence", n_labels=3, adapter=tmp_path / "adapter", device="cpu")


_NAME = "base_model.model.bert.encoder.layer.0.attention.self.query."


def test_adapters_of_other_models_and_other_folders(tmp_path):
    export(_make("gpt2"), tmp_path / "gpt2")
    save_adapter(adapted(CLASSIFIER), tmp_path / "adapter")
    with pytest.raises(WeightsError, match="was trained for SEQ_CLS, with a head that a GPT2 does not have here"):
        load_model(tmp_path / "gpt2", adapter=tmp_path / "adapter", device="cpu")
    for folder in (tmp_path / "gpt2", tmp_path / "nowhere"):
        with pytest.raises(WeightsError, match="holds no adapter: it has no adapter_config.json"):
            load_model(tmp_path / "gpt2", adapter=folder, device="cpu")


# ---- agreement over a training run


@pytest.fixture(scope="module")
def tokenizer():
    words = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(46))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return made


@pytest.mark.parametrize("lora", [False, True], ids=["all parameters", "lora"])
@pytest.mark.filterwarnings("ignore")
def test_twenty_steps_equal_those_of_transformers_and_peft(tmp_path, tokenizer, lora):
    """The same initial weights, order of data and optimizer; their loop is written out here."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60).tolist()
    texts = [" ".join(f"w{label + 3 * w}" for w in rng.integers(0, 14, rng.integers(1, 20))) for label in labels]
    batches = Batches(TextRows(texts, labels, tokenizer, 16), 8, seed=1, bucket=4)
    config = TrainingConfig(steps=20, lr=2e-2, weight_decay=0.1, warmup=3, clip=1.0)

    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_labels": 3}
    shape |= {
        "num_attention_heads": 4,
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
    theirs.save_pretrained(tmp_path / "base")
    ours = load_model(tmp_path / "base", device="cpu")
    if lora:
        options = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
        theirs = peft.get_peft_model(theirs, peft.LoraConfig(modules_to_save=["pooler"], **options))
        theirs.save_pretrained(tmp_path / "adapter")
        ours = load_model(tmp_path / "base", adapter=tmp_path / "adapter", device="cpu")
    history = fit(ours, batches, config, objective=predict_classes, progress=False)

    decayed, rest = [], []
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            (decayed if "encoder.layer" in name and parameter.ndim == 2 else rest).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_at(step, 20, warmup=3))
    losses = []
    for step in range(20):
        loss = theirs(**batches[step]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert history.column("loss") == pytest.approx(losses, abs=1e-4)
    assert min(losses) < losses[0] - 0.1
    assert count_parameters(ours).trained == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


def test_a_tokenizer_of_a_published_model_and_lora_learn_together(tmp_path):
    """The whole way on real weights: texts, buckets, LoRA, fit, adapter, the same answers from the file."""
    texts = ["a wonderful film", "a dreadful bore", "great fun", "dull and awful"] * 4
    rows = TextRows(texts, [1, 0, 1, 0] * 4, load_tokenizer("minilm"), 32)
    torch.manual_seed(0)
    model = inject(load_model("minilm", head="sequence", n_labels=2, device="cpu"), LoraConfig())
    history = fit(model, Batches(rows, 8, bucket=2), TrainingConfig(steps=12, lr=2e-3), progress=False)
    assert history.rows[-1]["loss"] < 0.2 < history.rows[0]["loss"]
    again = load_model("minilm", adapter=save_adapter(model, tmp_path / "adapter"), device="cpu")
    logits = class_logits(again, rows, size=5)
    assert logits.argmax(-1).tolist() == [1, 0, 1, 0] * 4
    torch.testing.assert_close(logits, class_logits(model.train(), rows, size=16), atol=1e-5, rtol=0)
    assert model.training and not again.training


assert set(FAMILIES) <= MODELS.keys()
