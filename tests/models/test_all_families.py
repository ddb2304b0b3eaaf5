"""What is the same for all model families, over a table of tiny configurations.

Causality with and without a cache, every precision and device, two calls that give the same, records, and the way out
and back in through a folder.
"""

import json
from dataclasses import replace

import pytest
import torch

from plm_tutorial import load_model
from plm_tutorial.layers import record
from plm_tutorial.models import (
    GPT2,
    HUB,
    T5,
    Bert,
    BertConfig,
    Decoder,
    DecoderConfig,
    GPT2Config,
    Llama,
    LlamaConfig,
    T5Config,
    Transformer,
    TransformerConfig,
)
from plm_tutorial.pretrained import export
from plm_tutorial.weights import WeightsError, build, read_folder

V = 50
BERT = BertConfig(vocab_size=V, context_length=32, d_model=24, n_layers=2, n_heads=4, d_hidden=40)
ROBERTA = replace(BERT, n_token_types=1, pad_id=1)
GPT_2 = GPT2Config(vocab_size=V, context_length=32, d_model=24, n_layers=2, n_heads=4, d_hidden=40)
LLAMA = LlamaConfig(
    vocab_size=V, context_length=32, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_hidden=48
)
DECODER = DecoderConfig(vocab_size=V, context_length=32, d_model=24, n_layers=2, n_heads=4, d_hidden=40)
MODERN = {"positions": "rotary", "norm": "rms", "qk_norm": True, "activation": "relu2", "bias": False}
T_5 = T5Config(vocab_size=V, d_model=24, n_layers=2, n_decoder_layers=1, n_heads=4, d_head=8, d_hidden=40, n_buckets=8)
TRANSFORMER = TransformerConfig(vocab_size=V, context_length=32, d_model=24, n_layers=2, n_heads=4, d_hidden=40)

ENCODERS = {
    f"{name}, {head}": (Bert, replace(config, head=head, n_labels=3 if head in ("sequence", "token") else None))
    for name, config in (("bert", BERT), ("roberta", ROBERTA))
    for head in (None, "mlm", "sequence", "token", "span")
} | {
    "bert, mlm, untied": (Bert, replace(BERT, head="mlm", tied=False)),
    "roberta, mlm, untied": (Bert, replace(ROBERTA, head="mlm", tied=False)),
}
DECODERS = {
    "gpt2": (GPT2, GPT_2),
    "gpt2, untied": (GPT2, replace(GPT_2, tied=False)),
    "llama": (Llama, LLAMA),
    "llama, untied": (Llama, replace(LLAMA, tied=False)),
    "mistral": (Llama, replace(LLAMA, window=4)),
    "mistral, window 1": (Llama, replace(LLAMA, window=1)),
    "decoder": (Decoder, DECODER),
    "decoder, modern": (Decoder, replace(DECODER, **MODERN)),
}
BOTH = {
    "t5": (T5, T_5),
    "t5, gated, untied": (T5, replace(T_5, gated=True, activation="gelu_new", tied=False, n_decoder_layers=3)),
    "transformer": (Transformer, TRANSFORMER),
    "transformer, pre-norm": (Transformer, replace(TRANSFORMER, norm="pre")),
}
MODELS = ENCODERS | DECODERS | BOTH
PUBLISHED = {name: kind for name, kind in MODELS.items() if kind[0] is not Transformer}
IDS, TARGET = torch.randint(2, V, (2, 12)), torch.randint(2, V, (2, 9))
WINDOW = {"mistral": 7, "mistral, window 1": 1}  # positions that reach an output through two layers
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def _make(name, seed=0):
    """A random model in which norms and biases have numbers of their own too."""
    torch.manual_seed(seed)
    kind, config = MODELS[name]
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def _call(model, ids=IDS, target=TARGET, mask=None):
    device = next(model.parameters()).device
    ids, mask = ids.to(device), None if mask is None else mask.to(device)
    more = {"decoder_input_ids": target.to(device)} if isinstance(model, T5 | Transformer) else {}
    return model(ids, attention_mask=mask, **more)


def _sizes(name):
    kind, config = MODELS[name]
    if kind is not Bert:
        return (2, 9 if name in BOTH else 12, V)
    sizes = {None: (12, config.d_model), "mlm": (12, V), "sequence": (3,), "token": (12, 3), "span": (12, 2)}
    return (2, *sizes[config.head])


# ---- shapes, precision, device, repetition


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_every_precision_and_device(name, dtype, device):
    """The output has the model's precision and device, is near to that in float64, and its gradient is finite."""
    exact = _make(name).double()
    model = _make(name).to(device, dtype)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    out, expected = _call(model, mask=mask), _call(exact, mask=mask).detach()
    assert out.shape == _sizes(name) and out.dtype == dtype and out.device.type == device
    exact_here = 1e-9 if device == "cpu" else 1e-7  # sines of positions are in float32, on a GPU by another routine
    tolerance = {torch.float64: exact_here, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}[dtype]
    torch.testing.assert_close(out.detach().cpu().double(), expected, atol=tolerance * expected.abs().max(), rtol=0)
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_makes_the_same_model_and_call(name):
    kind, config = MODELS[name]
    torch.manual_seed(3)
    first = kind(config)
    torch.manual_seed(3)
    second = kind(config)
    with torch.no_grad():
        out = _call(first.eval())
        assert torch.equal(out, _call(second.eval())) and torch.equal(out, _call(first))
        torch.manual_seed(4)
        assert not torch.equal(out, _call(kind(config).eval()))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_padded_on_the_right_changes_nothing(name):
    model, mask = _make(name), torch.ones(2, 12, dtype=torch.int64)
    mask[:, 8:] = 0
    other = IDS.clone()
    other[:, 8:] = torch.randint(2, V, (2, 4))
    with torch.no_grad():
        out, changed, alone = _call(model, mask=mask), _call(model, other, mask=mask), _call(model, IDS[:, :8])
    if name not in BOTH and out.dim() == 3:  # what stands at the padding itself is read by nobody
        out, changed = out[:, :8], changed[:, :8]
    torch.testing.assert_close(out, changed, atol=1e-6, rtol=0)
    torch.testing.assert_close(out, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_recording_keeps_all_layers_and_changes_nothing(name):
    model = _make(name)
    with torch.no_grad():
        plain = _call(model)
        with record(model) as recording:
            recorded = _call(model)
    torch.testing.assert_close(recorded, plain, atol=1e-5, rtol=0)
    config = model.config
    layers = config.n_layers + (getattr(config, "n_decoder_layers", config.n_layers) if name in BOTH else 0)
    assert len(recording.attention) == layers
    for weights in recording.attention + recording.cross:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


# ---- causality and the cache


def _continue(model, name, ids, pieces, cache=None):
    """The logits of ids, given piece by piece with a cache; of an encoder-decoder, the decoder's."""
    if name in BOTH:
        memory = model.encode(IDS)

        def step(ids, cache):
            return model.decode(ids, memory, cache=cache)

    else:

        def step(ids, cache):
            return model(ids, cache=cache)

    if pieces is None:
        return step(ids, None)
    cache, start, logits = model.new_cache(), 0, []
    for size in pieces:
        logits.append(step(ids[:, start : start + size], cache))
        start += size
        assert cache.length == start
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("pieces", [None, [12], [1] * 12, [5, 1, 4, 2]], ids=["none", "one", "ones", "mixed"])
@pytest.mark.parametrize("name", DECODERS | BOTH)
def test_a_later_token_never_changes_an_earlier_output(name, pieces):
    """And an earlier one changes all outputs that it reaches: all later ones, or those in the window."""
    model, reach = _make(name), WINDOW.get(name, 12)
    with torch.no_grad():
        before = _continue(model, name, IDS, pieces)
        for t in range(12):
            changed = IDS.clone()
            changed[:, t] = 2 + (changed[:, t] - 2 + torch.randint(1, V - 2, (2,))) % (V - 2)
            after = _continue(model, name, changed, pieces)
            torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-6, rtol=0)
            assert (after[:, t : t + reach] != before[:, t : t + reach]).any(-1).all()
            torch.testing.assert_close(after[:, t + reach :], before[:, t + reach :], atol=1e-6, rtol=0)


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 4, 2], [1, 11]], ids=["one", "ones", "mixed", "two"])
@pytest.mark.parametrize("name", DECODERS | BOTH)
def test_cached_and_uncached_logits_are_equal(name, pieces):
    model = _make(name)
    with torch.no_grad():
        whole = _continue(model, name, IDS, None)
        torch.testing.assert_close(_continue(model, name, IDS, pieces), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_looks_in_both_directions(name):
    model, changed = _make(name), IDS.clone()
    changed[:, -1] = 2 + (changed[:, -1] - 1) % (V - 2)
    with torch.no_grad():
        assert (_call(model) != _call(model, changed)).any(-1).all()


# ---- out to a folder and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 4000], ids=["one file", "shards"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_export_and_load_give_the_same_bits(tmp_path, name, max_shard_bytes, dtype):
    model = _make(name).to(dtype)
    folder = export(model, tmp_path / "model", max_shard_bytes=max_shard_bytes)
    assert (folder / "model.safetensors.index.json").exists() == (max_shard_bytes == 4000)
    loaded = load_model(folder, device="cpu", dtype=dtype)
    assert type(loaded) is type(model) and loaded.config == model.config and not loaded.training
    theirs = loaded.state_dict()
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_missing_misshapen_and_foreign_tensor_is_named(tmp_path, name):
    """Each tensor of each family in turn, and one that belongs to none."""
    kind, config = PUBLISHED[name]
    one = {field: 1 for field in ("n_layers", "n_decoder_layers") if hasattr(config, field)}
    model = kind(replace(config, **one))
    folder = export(model, tmp_path / "model")
    whole = read_folder(folder)
    family = HUB[model.config.to_hub()["model_type"]]

    def refused(tensors, message):
        with pytest.raises(WeightsError, match=message) as caught:
            build(family, model.config, tensors, folder, torch.device("cpu"), torch.float32)
        assert str(folder) in str(caught.value)

    for tensor, stored in whole.items():
        missing = {n: value for n, value in whole.items() if n != tensor}
        refused(missing, f"lacks the tensor '{tensor}'|holds tensors of|no tensors of")
        wrong = whole | {tensor: replace(stored, shape=(7, 3))}
        refused(wrong, rf"tensor '{tensor}' has shape \(7, 3\); the configuration expects")
    refused(whole | {"foreign.weight": stored}, "holds the tensor 'foreign.weight', for which")


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("foreign", HUB)
def test_a_configuration_of_another_family_is_refused(tmp_path, name, foreign):
    folder = export(_make(name), tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    if foreign == values["model_type"] or {foreign, values["model_type"]} == {"llama", "mistral"}:
        return  # itself; and the two are one model, with and without a window
    (folder / "config.json").write_text(json.dumps(values | {"model_type": foreign}))
    with pytest.raises(WeightsError, match="does not describe a model|lacks the tensor|holds the tensor|no tensors of"):
        load_model(folder, device="cpu")
