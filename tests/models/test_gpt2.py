"""GPT-2 against transformers, with random weights; causality, the cache, padding, precision and refusals."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from plm_tutorial import export, load_model, weights
from plm_tutorial.generation import generate
from plm_tutorial.gguf_files import WeightsError
from plm_tutorial.layers import record
from plm_tutorial.models import gpt2
from plm_tutorial.models.gpt2 import GPT2, GPT2Config

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SMALL = GPT2Config(vocab_size=50, context_length=32, d_model=32, n_layers=3, n_heads=4, d_hidden=48)
MASKS = {
    "none": None,
    "right": torch.tensor([[1] * 9, [1] * 5 + [0] * 4]),
    "left": torch.tensor([[1] * 9, [0] * 3 + [1] * 6]),
}
cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))


def _shake(model):
    for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def _reference(folder, **options):
    """A random GPT2LMHeadModel of transformers, saved to a folder."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4} | options
    options |= {"bos_token_id": None, "eos_token_id": None}
    model = _shake(transformers.GPT2LMHeadModel(transformers.GPT2Config(**options)))
    model.save_pretrained(folder)
    return model


def _load(folder, dtype=torch.float32):
    return load_model(folder, device="cpu", dtype=dtype)


def _published(model, values):
    """Our tensors, or their gradients, under their published names and in their published form."""
    table = weights.expand(gpt2.hub_weights(model.config), model.config)
    parts = {name: place for name, place in table.items() if isinstance(place, str | weights.Change)}
    return {name: weights.joined(place, values, model.config) for name, place in parts.items()}


def _positions(mask, T):
    """What transformers' generate passes as position_ids."""
    return torch.arange(T).expand(2, T) if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)


def _theirs(reference, ids, mask, **options):
    with torch.no_grad():
        return reference(ids, attention_mask=mask, position_ids=_positions(mask, ids.size(1)), **options)


# ---- random weights


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_weights_equal_transformers(tmp_path, heads, layers, activation, tied, dtype):
    reference = _reference(
        tmp_path,
        n_head=heads,
        n_layer=layers,
        activation_function=activation,
        tie_word_embeddings=tied,
        n_inner=None if activation == "gelu_new" else 40,
        layer_norm_epsilon=1e-3,  # so large that another place for it would show
    ).to(dtype)
    ours, ids = _load(tmp_path, dtype), torch.randint(50, (2, 9))
    assert (ours.head is None) == tied and ours.config.d_hidden == (128 if activation == "gelu_new" else 40)
    for mask in MASKS.values():
        with torch.no_grad():
            out = ours(ids, attention_mask=mask)
        assert out.dtype == dtype and out.isfinite().all()
        kept = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask.bool()
        expected = _theirs(reference, ids, mask).logits
        torch.testing.assert_close(out[kept], expected[kept], atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", MASKS)
def test_gradients_equal_transformers(tmp_path, tied, padding):
    """Of each parameter."""
    mask = MASKS[padding]
    reference = _reference(tmp_path, tie_word_embeddings=tied)
    ours, ids = _load(tmp_path), torch.randint(50, (2, 9))
    labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
    theirs = reference(ids, attention_mask=mask, position_ids=_positions(mask, 9)).logits
    for logits in (theirs, ours(ids, attention_mask=mask)):
        last = torch.zeros_like(labels[:, 1:], dtype=torch.bool) if mask is None else mask[:, :-1] == 0
        # A padding position, to which the token after it would be a label, has other logits here and there.
        targets = labels[:, 1:].masked_fill(last, -100)
        F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
    expected = {gpt2.bare_name(name): p.grad for name, p in reference.named_parameters()}
    found = _published(ours, {name: p.grad for name, p in ours.named_parameters()})
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().max() > 1e-4, "so that equal is not two zeros"


@pytest.mark.parametrize("padding", MASKS)
def test_record_equals_the_outputs_of_transformers(tmp_path, padding):
    mask = MASKS[padding]
    reference = _reference(tmp_path, n_layer=3)
    reference.set_attn_implementation("eager")
    ours, ids = _load(tmp_path), torch.randint(50, (2, 9))
    with torch.no_grad(), record(ours) as recording:
        ours(ids, attention_mask=mask)
    expected = _theirs(reference, ids, mask, output_attentions=True, output_hidden_states=True)
    kept = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask.bool()
    for out, theirs in zip(recording.attention, expected.attentions, strict=True):
        out, theirs = out.transpose(1, 2)[kept], theirs.transpose(1, 2)[kept]  # rows of queries that are no padding
        torch.testing.assert_close(out, theirs, atol=1e-5, rtol=0)
    hidden = [*recording.hidden[:-1], ours.norm(recording.hidden[-1])]  # theirs has the final norm in the last
    for out, theirs in zip(hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(out[kept], theirs[kept], atol=1e-5, rtol=0)


def test_generated_text_equals_transformers_on_prompts_padded_on_the_left(tmp_path):
    reference = _reference(tmp_path, n_layer=3)
    ours, ids, mask = _load(tmp_path), torch.randint(50, (2, 9)), MASKS["left"]
    expected = reference.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0)
    for use_cache in (True, False):
        out = generate(ours, ids, 16, attention_mask=mask, use_cache=use_cache)
        assert torch.equal(out, expected[:, 9:])
    alone = generate(ours, ids[1:, 3:], 16)
    assert torch.equal(alone, out[1:]), "padding changes nothing"


# ---- files


def test_files_of_older_releases(tmp_path):
    """Names without "transformer.", the masks as tensors, a copy of the tied output layer."""
    reference = _reference(tmp_path, n_layer=2)
    file, ids = tmp_path / "model.safetensors", torch.randint(50, (2, 9))
    tensors = {gpt2.bare_name(name): tensor for name, tensor in load_file(file).items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, file)
    with torch.no_grad():
        torch.testing.assert_close(_load(tmp_path)(ids), reference(ids).logits, atol=1e-5, rtol=0)
    tensors["lm_head.weight"][3, 5] += 1
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"'lm_head.weight' should repeat tokens.weight and differs from it"):
        _load(tmp_path)


def test_files_with_another_head_are_refused(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=32, n_layer=1, n_head=4, bos_token_id=None, eos_token_id=None
    )
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"holds the tensor 'score.weight', for which a GPT2 .* has no use"):
        _load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation", ["gelu_new", "silu"])
def test_what_export_writes_is_opened_by_transformers_and_by_us(tmp_path, tied, activation):
    torch.manual_seed(0)
    config = GPT2Config(
        **vars(SMALL)
        | {"tied": tied, "activation": activation, "dropout": 0.2, "attention_dropout": 0.0, "norm_eps": 1e-3}
    )
    assert GPT2Config.from_hub(json.loads(json.dumps(config.to_hub()))) == config
    ours = _shake(GPT2(config))
    folder = export(ours, tmp_path / "model")
    again = _load(folder)
    assert again.config == config and again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in ours.state_dict().items())
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(theirs, transformers.GPT2LMHeadModel)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids), atol=1e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "again")
    assert GPT2Config.from_hub(weights.read_json(tmp_path / "again" / "config.json")) == config


def test_the_published_configuration_is_the_default():
    assert GPT2Config.from_hub(transformers.GPT2Config().to_dict()) == GPT2Config()
    assert GPT2Config().to_hub()["eos_token_id"] == 50256 and SMALL.to_hub()["eos_token_id"] is None
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT2(GPT2Config()).parameters()) == 124_439_808


# ---- causality and the cache


def _in_pieces(model, ids, pieces, mask=None):
    """The logits of ids when they are given piece by piece, with a cache."""
    cache, start, logits = model.new_cache(), 0, []
    for size in pieces:
        seen = None if mask is None else mask[:, : start + size]
        logits.append(model(ids[:, start : start + size], attention_mask=seen, cache=cache))
        start += size
        assert cache.length == start
    return torch.cat(logits, dim=1)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    cached=st.booleans(),
    data=st.data(),
)
def test_a_later_token_never_changes_an_earlier_output(seed, pieces, cached, data):
    torch.manual_seed(seed)
    model, T = _shake(GPT2(SMALL)), sum(pieces)
    ids, t = torch.randint(50, (2, T)), data.draw(st.integers(0, T - 1))
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + torch.randint(1, 50, (2, T - t))) % 50
    with torch.no_grad():
        before, after = ((_in_pieces(model, x, pieces) if cached else model(x)) for x in (ids, changed))
    torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-5, rtol=0)
    assert (after[:, t] != before[:, t]).any(-1).all(), "each output sees its own token"


@pytest.mark.parametrize("pieces", [[9], [1] * 9, [5, 1, 3], [1, 8]])
@pytest.mark.parametrize("padding", MASKS)
def test_cached_and_uncached_logits_are_equal(pieces, padding):
    torch.manual_seed(0)
    model, ids, mask = _shake(GPT2(SMALL)).double(), torch.randint(50, (2, 9)), MASKS[padding]
    with torch.no_grad():
        whole, pieced = model(ids, attention_mask=mask), _in_pieces(model, ids, pieces, mask)
        last = model(ids, attention_mask=mask, last_only=True)
        torch.testing.assert_close(pieced, whole, atol=1e-10, rtol=0)
        torch.testing.assert_close(last, whole[:, -1:], atol=1e-10, rtol=0)
        if padding == "left":
            torch.testing.assert_close(whole[1:, 3:], model(ids[1:, 3:]), atol=1e-10, rtol=0)
        if padding == "right":
            torch.testing.assert_close(whole[1:, :5], model(ids[1:, :5]), atol=1e-10, rtol=0)


# ---- precision, device, training


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25), (torch.float16, 0.05)])
@pytest.mark.parametrize("padding", MASKS)
def test_each_precision_on_each_device(device, dtype, tolerance, padding):
    torch.manual_seed(0)
    model, ids, mask = _shake(GPT2(SMALL)), torch.randint(50, (2, 9)), MASKS[padding]
    kept = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask.bool()
    expected = model.double()(ids, attention_mask=mask)
    model = model.to(device, dtype)
    there = None if mask is None else mask.to(device)
    out = model(ids.to(device), attention_mask=there)
    pieced = _in_pieces(model, ids.to(device), [4, 1, 4], there)
    for logits in (out, pieced):
        assert logits.dtype == dtype and logits.device.type == device
        torch.testing.assert_close(logits.cpu().double()[kept], expected[kept], atol=tolerance, rtol=0)
    F.cross_entropy(out[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten().to(device)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_initial_weights_are_those_of_the_published_code():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=500, context_length=300, d_model=128, n_layers=8, n_heads=4, d_hidden=512)
    small = 0.02 / (2 * 8) ** 0.5
    for name, parameter in GPT2(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            std = 0.01 if name == "positions.weight" else small if ("output" in name or "down" in name) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.05 * std, name


def test_dropout_stands_at_the_published_places():
    """With everything dropped at one of the places, what is left of the model says which place it was."""
    torch.manual_seed(0)
    ids = torch.randint(50, (2, 9))
    base = vars(SMALL) | {"embedding_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.0}
    for place in ("embedding_dropout", "attention_dropout", "dropout"):
        model = _shake(GPT2(GPT2Config(**base | {place: 1.0}))).train()
        with torch.no_grad(), record(model) as recording:
            model(ids)
        first, *_, last = recording.hidden
        if place == "embedding_dropout":
            assert not first.any() and last.any()
        elif place == "dropout":
            assert first.any() and torch.equal(first, last), "nothing is added to the residual stream"
        else:
            block = model.layers[0]
            x = first + block.attention.output.bias  # no value passes; the bias of the last projection does
            expected = x + block.feed_forward(block.feed_forward_norm(x))
            torch.testing.assert_close(recording.hidden[1], expected, atol=1e-6, rtol=0)


# ---- refusals


def test_calls_that_gpt2_refuses():
    model = GPT2(SMALL).eval()
    cache, five = model.new_cache(), torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        model(torch.ones(1, 30, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="the text is 35 tokens long, this model's context is 32"):
        model(five, cache=cache)
    with pytest.raises(ValueError, match=r"expected \(1, 32\): 1 or 0 for each of the 32 positions \(30 in the cache"):
        model(five[:, :2], attention_mask=five[:, :2], cache=cache)
    with pytest.raises(ValueError, match="input_ids holds ids from 50 to 50; this model knows 0 to 49"):
        model(five * 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 5}, "d_model = 768 cannot be split evenly into n_heads = 5"),
        ({"activation": "tanh"}, "activation is 'tanh'; implemented here: relu, gelu"),
        ({"tied": "yes"}, "tied is 'yes'; expected true or false"),
        ({"context_length": 0}, "context_length is 0; expected a whole number from 1 to"),
        ({"dropout": -0.1}, "dropout is -0.1; expected a number that is not negative"),
    ],
)
def test_configurations_that_gpt2_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_attn_weights": False}, "its scale_attn_weights is False; implemented here: True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "its scale_attn_by_inverse_layer_idx is True"),
        ({"reorder_and_upcast_attn": True}, "its reorder_and_upcast_attn is True; implemented here: False"),
        ({"add_cross_attention": True}, "its add_cross_attention is True; implemented here: False"),
        ({"activation_function": "swish"}, "activation is 'swish'; implemented here: relu, gelu"),
        ({"activation_function": ["gelu"]}, r"activation is \['gelu'\]; implemented here"),
        ({"n_embd": None}, "d_model is None; expected a whole number"),
        ({"n_embd": "768"}, "d_model is '768'; expected a whole number"),
        ({"n_inner": 0}, "d_hidden is 0; expected a whole number"),
    ],
)
def test_published_options_that_gpt2_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config.from_hub(GPT2Config().to_hub() | options)


def test_published_options_that_gpt2_needs():
    values = GPT2Config().to_hub()
    needed = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "activation_function", "layer_norm_epsilon")
    for key in needed:
        with pytest.raises(ValueError, match=f"it has no {key}, without which the model cannot be built"):
            GPT2Config.from_hub({k: v for k, v in values.items() if k != key})
