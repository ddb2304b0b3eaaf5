"""The Transformer of 2017 against torch's own, its causality and cache; and the layer that is often copied."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plm_tutorial.layers import padding_mask, record, sinusoidal_positions
from plm_tutorial.models.transformer import (
    Stack,
    Transformer,
    TransformerConfig,
    TransformerEncoder,
    transformer_block,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SMALL = dict(vocab_size=50, context_length=32, d_model=32, n_layers=2, n_heads=4, d_hidden=48)
cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))


def to_ours(theirs, decoder):
    """Tensors of a torch layer, by name, as tensors of our block: weights, or their gradients."""
    parts = {"self_attn": "attention", "multihead_attn": "cross_attention"} if decoder else {"self_attn": "attention"}
    norms = (
        ("attention_norm", "cross_norm", "feed_forward_norm") if decoder else ("attention_norm", "feed_forward_norm")
    )
    ours = {}
    for kind in ("weight", "bias"):
        for torch_name, name in parts.items():
            packed = theirs[f"{torch_name}.in_proj_{kind}"].chunk(3)  # queries, keys, values
            ours |= {f"{name}.{n}.{kind}": part for n, part in zip(("query", "key", "value"), packed, strict=True)}
            ours[f"{name}.output.{kind}"] = theirs[f"{torch_name}.out_proj.{kind}"]
        ours[f"feed_forward.up.{kind}"] = theirs[f"linear1.{kind}"]
        ours[f"feed_forward.down.{kind}"] = theirs[f"linear2.{kind}"]
        ours |= {f"{name}.{kind}": theirs[f"norm{i}.{kind}"] for i, name in enumerate(norms, start=1)}
    return ours


def stack_to_ours(theirs, decoder, n_layers):
    """The same for a whole encoder or decoder."""
    ours = {f"norm.{kind}": theirs[f"norm.{kind}"] for kind in ("weight", "bias") if f"norm.{kind}" in theirs}
    for i in range(n_layers):
        part = {name.removeprefix(f"layers.{i}."): x for name, x in theirs.items() if name.startswith(f"layers.{i}.")}
        ours |= {f"layers.{i}.{name}": x for name, x in to_ours(part, decoder).items()}
    return ours


def shaken(module):
    """The module with all its parameters random, so that no bias is 0 and no norm does nothing."""
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def same_gradients(ours, theirs, change, tolerance):
    expected = change({name: p.grad for name, p in theirs.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def keep(B, S):
    """An attention_mask with padding on the right, another number in each sequence."""
    return (torch.arange(S) < torch.tensor([S - i for i in range(B)])[:, None]).long()


OPTIONS = list(itertools.product(("post", "pre"), ("relu", "gelu"), (True, False), TOLERANCE))


@pytest.mark.parametrize(("norm", "activation", "batch_first", "dtype"), OPTIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_encoder_layer_equals_torch(norm, activation, batch_first, dtype, causal, padded):
    torch.manual_seed(0)
    options = dict(activation=activation, norm_first=norm == "pre", batch_first=batch_first, dtype=dtype)
    theirs = shaken(nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, **options))
    ours = transformer_block(TransformerConfig(**SMALL | dict(norm=norm, activation=activation, dropout=0.0)), False)
    ours.to(dtype).load_state_dict(to_ours(theirs.state_dict(), False))
    B, T = 3, 7
    x = torch.randn(B, T, 32, dtype=dtype)
    mask = keep(B, T) if padded else None
    read = torch.ones(B, T, dtype=torch.bool) if mask is None else mask.bool()  # torch may put zeros in padding
    how = dict(
        src_key_padding_mask=None if mask is None else mask == 0,
        src_mask=torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None,
    )

    def run_theirs():
        out = theirs(x if batch_first else x.transpose(0, 1), **how)
        return (out if batch_first else out.transpose(0, 1))[read]

    out, expected = ours(x, mask=padding_mask(mask), causal=causal)[read], run_theirs()
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=0)
    weights = torch.randn_like(out) / out.numel() ** 0.5
    for result in (out, expected):
        (result * weights).sum().backward()
    same_gradients(ours, theirs, lambda t: to_ours(t, False), TOLERANCE[dtype])
    theirs.eval()
    with torch.no_grad():  # torch takes its fast path here
        torch.testing.assert_close(out, run_theirs(), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize(("norm", "activation", "batch_first", "dtype"), OPTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_decoder_layer_equals_torch(norm, activation, batch_first, dtype, padded):
    torch.manual_seed(0)
    options = dict(activation=activation, norm_first=norm == "pre", batch_first=batch_first, dtype=dtype)
    theirs = shaken(nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, **options))
    ours = transformer_block(TransformerConfig(**SMALL | dict(norm=norm, activation=activation, dropout=0.0)), True)
    ours.to(dtype).load_state_dict(to_ours(theirs.state_dict(), True))
    B, T, S = 3, 5, 7
    x, memory = torch.randn(B, T, 32, dtype=dtype), torch.randn(B, S, 32, dtype=dtype)
    mask = keep(B, S) if padded else None
    out = ours(x, causal=True, memory=memory, memory_mask=padding_mask(mask))
    inputs = (x, memory) if batch_first else (x.transpose(0, 1), memory.transpose(0, 1))
    how = dict(memory_key_padding_mask=None if mask is None else mask == 0)
    expected = theirs(*inputs, tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1), **how)
    expected = expected if batch_first else expected.transpose(0, 1)
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=0)
    weights = torch.randn_like(out) / out.numel() ** 0.5
    for result in (out, expected):
        (result * weights).sum().backward()
    same_gradients(ours, theirs, lambda t: to_ours(t, True), TOLERANCE[dtype])


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # what torch says of norm_first
def test_the_whole_model_equals_torch(norm, dtype, padded):
    torch.manual_seed(0)
    theirs = nn.Transformer(32, 4, 2, 2, 48, dropout=0.0, norm_first=norm == "pre", batch_first=True, dtype=dtype)
    shaken(theirs)
    if norm == "post":  # torch has a norm after each stack, also where the last block ends with one; the paper has not
        theirs.encoder.norm = theirs.decoder.norm = None
    ours = shaken(Transformer(TransformerConfig(**SMALL | dict(norm=norm, dropout=0.0))).to(dtype))
    for stack, reference, decoder in ((ours.encoder, theirs.encoder, False), (ours.decoder, theirs.decoder, True)):
        stack.load_state_dict(stack_to_ours(reference.state_dict(), decoder, 2))
    B, S, T = 3, 9, 6
    source, target = torch.randint(50, (B, S)), torch.randint(50, (B, T))
    mask = keep(B, S) if padded else None
    out = ours(source, mask, decoder_input_ids=target)

    def embed(ids):
        positions = sinusoidal_positions(ids.size(1), 32).to(dtype)  # float32 in any model; see tests/test_layers.py
        return ours.tokens.weight[ids] * math.sqrt(32) + positions

    ignored = None if mask is None else mask == 0
    causal = torch.ones(T, T, dtype=torch.bool).triu(1)
    padding = dict(src_key_padding_mask=ignored, memory_key_padding_mask=ignored)
    expected = theirs(embed(source), embed(target), tgt_mask=causal, **padding) @ ours.tokens.weight.T
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=0)
    weights = torch.randn_like(out) / out.numel() ** 0.5
    for result in (out, expected):
        (result * weights).sum().backward()
    for stack, reference, decoder in ((ours.encoder, theirs.encoder, False), (ours.decoder, theirs.decoder, True)):
        same_gradients(stack, reference, lambda t, d=decoder: stack_to_ours(t, d, 2), TOLERANCE[dtype])


# ---- the model


def test_the_parameters_of_the_base_model():
    """65 million in table 3 of the paper, which counts a vocabulary of about 37,000."""
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    D, F, N, V = 512, 2048, 6, 37000
    attention, feed_forward, norm = 4 * (D * D + D), 2 * D * F + F + D, 2 * D
    expected = V * D + N * (3 * attention + 2 * feed_forward + 5 * norm)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert abs(expected / 1e6 - 65) < 2


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_initial_states_and_logits_have_a_spread_of_about_1(norm):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(vocab_size=500, d_model=128, n_layers=2, d_hidden=256, norm=norm)).eval()
    ids = torch.randint(500, (8, 20))
    with torch.no_grad():
        embedded, logits = model.embed(ids), model(ids, decoder_input_ids=ids)
    assert 0.9 < embedded.var() < 2  # 1 of the tokens, and half of sines and cosines
    assert 0.5 < logits.std() < 2


def test_one_embedding_serves_source_target_and_output():
    model = Transformer(TransformerConfig(**SMALL))
    assert [p.shape for p in model.parameters() if 50 in p.shape] == [(50, 32)]
    ids = torch.randint(50, (2, 5))
    model(ids, decoder_input_ids=ids).sum().backward()
    assert model.tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("decoder", [False, True])
def test_only_pre_norm_has_a_final_norm(norm, decoder):
    stack = Stack(TransformerConfig(**SMALL | dict(norm=norm)), decoder)
    extra = [name for name, _ in stack.named_parameters() if not name.startswith("layers")]
    assert extra == (["norm.weight", "norm.bias"] if norm == "pre" else [])
    how = dict(memory=torch.randn(2, 3, 32)) if decoder else {}
    out = shaken(stack)(torch.randn(2, 5, 32) * 9, **how)
    assert 0.3 < out.std() < 3  # normalised in both cases


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_of_the_source_changes_nothing(norm):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SMALL | dict(norm=norm))).eval()
    source, target = torch.randint(50, (2, 6)), torch.randint(50, (2, 4))
    padded = torch.cat((source, torch.randint(50, (2, 3))), dim=1)
    mask = torch.tensor([1] * 6 + [0] * 3).repeat(2, 1)
    with torch.no_grad():
        plain, out = model(source, decoder_input_ids=target), model(padded, mask, decoder_input_ids=target)
        without = model(padded, decoder_input_ids=target)
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=0)
    assert (without - plain).abs().max() > 1e-2


def in_pieces(model, ids, memory, mask, pieces):
    """The logits of ids when the decoder is given them piece by piece, with a cache."""
    cache, start, logits = model.new_cache(), 0, []
    for size in pieces:
        logits.append(model.decode(ids[:, start : start + size], memory, mask, cache))
        start += size
        assert cache.length == start
    return torch.cat(logits, dim=1)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_later_token_never_changes_an_earlier_output(data):
    seed = data.draw(st.integers(0, 2**31 - 1))
    norm = data.draw(st.sampled_from(["post", "pre"]))
    B, S, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9)), data.draw(st.integers(2, 12))
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1))))
    t = data.draw(st.integers(1, T - 1))  # tokens from here on are changed
    torch.manual_seed(seed)
    model = shaken(Transformer(TransformerConfig(**SMALL | dict(norm=norm)))).eval()
    source, target = torch.randint(50, (B, S)), torch.randint(50, (B, T))
    mask = keep(B, S) if S > B else None
    changed = torch.cat((target[:, :t], (target[:, t:] + 1 + torch.randint(49, (B, T - t))) % 50), dim=1)
    pieces = [end - start for start, end in itertools.pairwise([0, *cuts, T])]
    with torch.no_grad():
        memory = model.encode(source, mask)
        whole = model.decode(target, memory, mask)
        torch.testing.assert_close(in_pieces(model, target, memory, mask, pieces), whole, atol=1e-5, rtol=0)
        others = model.decode(changed, memory, mask), in_pieces(model, changed, memory, mask, pieces)
    for other in others:
        torch.testing.assert_close(other[:, :t], whole[:, :t], atol=1e-5, rtol=0)
        assert (other[:, t:] - whole[:, t:]).abs().max() > 1e-4


def test_the_encoder_looks_both_ways():
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SMALL)).eval()
    ids = torch.randint(50, (1, 8))
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 50
    with torch.no_grad():
        assert ((model.encode(ids) - model.encode(changed))[0].abs().max(-1).values > 1e-4).all()


def test_last_only_is_the_last_of_all():
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SMALL)).eval()
    ids = torch.randint(50, (2, 8))
    with torch.no_grad():
        memory = model.encode(ids)
        last = model.decode(ids, memory, last_only=True)
        torch.testing.assert_close(last, model.decode(ids, memory)[:, -1:], atol=1e-6, rtol=0)


def test_a_cache_keeps_what_it_made_of_the_memory():
    model = Transformer(TransformerConfig(**SMALL)).eval()
    ids, cache = torch.randint(50, (2, 4)), model.new_cache()
    with torch.no_grad():
        memory = model.encode(ids)
        model.decode(ids[:, :1], memory, cache=cache)
        kept = [k for k, _ in cache.memory]
        model.decode(ids[:, 1:2], memory, cache=cache)
    assert [k.shape for k in kept] == [(2, 4, 4, 8)] * 2
    assert all(k is after for k, (after, _) in zip(kept, cache.memory, strict=True))


def test_record_keeps_each_stack():
    model = Transformer(TransformerConfig(**SMALL)).eval()
    source, target = torch.randint(50, (2, 7)), torch.randint(50, (2, 5))
    with torch.no_grad(), record(model.encoder) as encoder, record(model.decoder) as decoder:
        memory = model.encode(source)
        model.decode(target, memory)
    assert [a.shape for a in encoder.attention] == [(2, 4, 7, 7)] * 2 and encoder.cross == []
    assert [a.shape for a in decoder.attention] == [(2, 4, 5, 5)] * 2
    assert [a.shape for a in decoder.cross] == [(2, 4, 5, 7)] * 2
    assert torch.equal(encoder.hidden[-1], memory) and len(decoder.hidden) == 3
    assert (decoder.attention[0].triu(1) == 0).all() and (encoder.attention[0] > 0).all()
    with torch.no_grad(), record(model) as both:
        model(source, decoder_input_ids=target)
    assert len(both.attention) == 4 and len(both.cross) == 2


def test_dropout_acts_in_training_alone():
    model = Transformer(TransformerConfig(**SMALL | dict(dropout=0.5)))
    ids = torch.randint(50, (2, 5))
    with torch.no_grad():
        assert not torch.equal(*(model(ids, decoder_input_ids=ids) for _ in range(2)))
        assert not torch.equal(*(model.embed(ids) for _ in range(2)))
        model.eval()
        assert torch.equal(*(model(ids, decoder_input_ids=ids) for _ in range(2)))


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_all_types_on_all_devices(device, dtype, norm):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SMALL | dict(norm=norm))).eval()
    source, target, mask = torch.randint(50, (3, 9)), torch.randint(50, (3, 6)), keep(3, 9)
    with torch.no_grad():
        expected = model(source, mask, decoder_input_ids=target)
        model.to(device, dtype)
        source, target, mask = source.to(device), target.to(device), mask.to(device)
        out = model(source, mask, decoder_input_ids=target)
        pieces = in_pieces(model, target, model.encode(source, mask), mask, [2, 1, 3])
    tolerance = {torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    for found in (out, pieces):
        assert found.dtype == dtype and found.device.type == device
        torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "sandwich"}, "norm is 'sandwich'; expected 'post', as in the paper, or 'pre'"),
        ({"activation": "tanh"}, "activation is 'tanh'; implemented here: relu"),
        ({"n_heads": 5}, "d_model = 32 cannot be split evenly into n_heads = 5"),
        ({"d_model": 33, "n_heads": 3}, "d_model is 33; sines and cosines come in pairs"),
        ({"n_layers": 0}, "n_layers is 0; expected a whole number"),
    ],
)
def test_configurations_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SMALL | options)


def test_inputs_that_are_refused():
    model = Transformer(TransformerConfig(**SMALL)).eval()
    ids = torch.zeros(2, 4, dtype=torch.int64)
    memory = model.encode(ids)
    with pytest.raises(ValueError, match="the text is 33 tokens long, this model's context is 32"):
        model.encode(torch.zeros(1, 33, dtype=torch.int64))
    with pytest.raises(ValueError, match="holds ids from 50 to 50; this model knows 0 to 49"):
        model(ids, decoder_input_ids=ids + 50)
    with pytest.raises(ValueError, match=r"memory has shape \(2, 4, 32\) and decoder_input_ids \(1, 4\)"):
        model.decode(ids[:1], memory)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 3\); expected \(2, 4\).* of the source"):
        model.decode(ids[:, :3], memory, torch.ones(2, 3))
    cache = model.new_cache()
    model.decode(torch.zeros(2, 30, dtype=torch.int64), memory, cache=cache)
    with pytest.raises(ValueError, match="the text is 34 tokens long"):
        model.decode(ids, memory, cache=cache)


# ---- the layer that is often copied


class Wired(nn.Module):
    """The same layer from torch's parts."""

    def __init__(self, d_model, nhead, dim_feedforward, dropout=0.1, layer_norm_eps=1e-5):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, src):
        src2 = self.self_attn(src, src, src)[0]
        src = self.norm1(src + self.dropout1(src2))
        src2 = self.linear2(self.dropout(torch.relu(self.linear1(src))))
        return self.norm2(src + self.dropout2(src2))


REFERENCES = {"wired": Wired, "torch": nn.TransformerEncoderLayer}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("d_model", "nhead", "hidden"), [(32, 4, 48), (12, 1, 7), (6, 6, 6)])
def test_the_copied_layer_equals_torch(reference, dtype, d_model, nhead, hidden):
    torch.manual_seed(0)
    theirs = shaken(REFERENCES[reference](d_model, nhead, hidden, 0.0, layer_norm_eps=1e-3).to(dtype))
    ours = TransformerEncoder(d_model, nhead, hidden, 0.0, 1e-3).to(dtype)
    assert ours.load_state_dict(theirs.state_dict()) and theirs.load_state_dict(ours.state_dict())
    x = torch.randn(9, 3, d_model, dtype=dtype)
    out, expected = ours(x), theirs(x)  # in training mode, without dropout
    torch.testing.assert_close(out, expected, atol=TOLERANCE[dtype], rtol=0)
    weights = torch.randn_like(out) / out.numel() ** 0.5
    for result in (out, expected):
        (result * weights).sum().backward()
    same_gradients(ours, theirs, dict, TOLERANCE[dtype])
    dropping = TransformerEncoder(d_model, nhead, hidden, 0.9, 1e-3).to(dtype).eval()
    dropping.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(dropping(x), theirs.eval()(x), atol=TOLERANCE[dtype], rtol=0)


def test_the_copied_layer_keeps_the_order_of_parameters_and_the_defaults():
    ours, theirs = TransformerEncoder(16, 2, 24), nn.TransformerEncoderLayer(16, 2, 24)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [(n, p.shape) for n, p in theirs.named_parameters()]
    assert ours.norm1.eps == ours.norm2.eps == 1e-5 and ours.dropout.p == ours.self_attn.dropout == 0.1
    torch.manual_seed(0)
    large, reference = TransformerEncoder(256, 2, 512), nn.TransformerEncoderLayer(256, 2, 512)
    for (name, parameter), expected in zip(large.named_parameters(), reference.parameters(), strict=True):
        assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.1), name  # the same initial spread


def test_dropout_of_the_copied_layer_acts_as_in_the_wired_one():
    """The same distribution of outputs: mean and spread over many draws, each sequence of the batch being one."""
    torch.manual_seed(0)
    theirs = shaken(Wired(8, 2, 12, dropout=0.3))
    ours = TransformerEncoder(8, 2, 12, dropout=0.3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 1, 8).expand(4, 20000, 8)
    with torch.no_grad():
        out, expected = ours(x), theirs(x)
        torch.testing.assert_close(out.mean(1), expected.mean(1), atol=0.04, rtol=0)
        torch.testing.assert_close(out.std(1), expected.std(1), atol=0.04, rtol=0)
        assert out.std(1).min() > 0.1 and not torch.equal(out, ours(x))
        ours.eval()
        assert ours(x[:, :2]).std(1).max() < 1e-6


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_copied_layer_in_all_types(device, dtype):
    torch.manual_seed(0)
    ours, x = TransformerEncoder(32, 4, 48).eval(), torch.randn(6, 2, 32)
    with torch.no_grad():
        expected = ours(x)
        out = ours.to(device, dtype)(x.to(device, dtype))
    tolerance = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    assert out.dtype == dtype
    torch.testing.assert_close(out.float().cpu(), expected, atol=tolerance, rtol=0)


def test_what_the_copied_layer_refuses():
    with pytest.raises(ValueError, match="d_model = 32 cannot be split evenly into nhead = 5"):
        TransformerEncoder(32, 5, 48)
    layer = TransformerEncoder(32, 4, 48)
    for shape in ((2, 32), (2, 3, 16)):
        with pytest.raises(ValueError, match=r"expected \(T, B, 32\), positions first"):
            layer(torch.zeros(shape))
