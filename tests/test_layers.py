"""The parts of a Transformer: formulas, the two paths of attention, positions, the cache, recording."""

import ast
import itertools
import math

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention

from plm_tutorial import layers
from plm_tutorial.layers import KVCache, MultiHeadAttention, PreNormBlock, attention, record, rotary_angles, rotate
from plm_tutorial.models.llama import half_split

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


def _qkv(B=2, T=5, S=5, H=4, G=4, K=8, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = (B, H, T, K), (B, G, S, K), (B, G, S, K)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]


def _mask(kind, B, H, T, S):
    """Masks of every rank that broadcasts; in two of them some queries may look at nothing."""
    random = torch.rand(B, H, T, S, generator=torch.Generator().manual_seed(1)) < 0.6
    keys = torch.ones(B, 1, 1, S, dtype=torch.bool)
    keys[0, ..., : S // 2] = False  # padding on the left: with causal, the first queries see nothing
    return {
        "none": None,
        "padding": keys,
        "nothing": keys & torch.tensor([True, False])[:, None, None, None],  # the second sequence is all padding
        "any": random,
        "shared": random[0, 0],
    }[kind]


MASKS = ("none", "padding", "nothing", "any", "shared")


def test_layers_imports_nothing_of_ours(root):
    files = list((root / "plm_tutorial" / "layers").glob("*.py"))
    assert files
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
        assert not any(name.startswith("plm_tutorial") for name in names)
        assert getattr(node, "level", 0) < 2  # `from .x` stays inside the folder, `from ..x` would not


# ---- attention


def test_attention_is_the_weighted_average_of_the_formula():
    q, k, v = _qkv(B=1, T=3, S=3, H=2, G=1, K=4)
    out = attention(q, k, v, causal=True, fused=False)
    for h, t in itertools.product(range(2), range(3)):
        scores = [sum(q[0, h, t, i] * k[0, 0, s, i] for i in range(4)) / 2 for s in range(t + 1)]
        total = sum(math.exp(score) for score in scores)
        average = sum(math.exp(score) / total * v[0, 0, s] for s, score in enumerate(scores))
        assert torch.allclose(out[0, h, t], average, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("causal", [False, True])
def test_explicit_and_fused_paths_are_equal(dtype, kind, causal):
    for (T, S), (H, G) in itertools.product([(5, 5), (1, 1), (1, 6), (3, 6)], [(4, 4), (4, 2), (6, 1)]):
        mask = _mask(kind, 2, H, T, S)
        results = []
        for fused in (False, True):
            q, k, v = (x.requires_grad_() for x in _qkv(T=T, S=S, H=H, G=G, dtype=dtype))
            out = attention(q, k, v, mask, causal, fused=fused)
            (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
            results.append((out.detach(), q.grad, k.grad, v.grad))
        for explicit, fast in zip(*results, strict=True):
            assert explicit.isfinite().all()
            torch.testing.assert_close(fast, explicit, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_query_that_may_look_at_nothing_gets_zeros(fused):
    for T, H in itertools.product((1, 4), (2, 4)):
        q, k, v = _qkv(T=T, S=4, H=H, G=2, dtype=torch.float32)
        mask = torch.tensor([True, False])[:, None, None, None].expand(2, 1, 1, 4)
        out = attention(q, k, v, mask, fused=fused)
        assert (out[1] == 0).all() and (out[0] != 0).all()


def _naive(q, k, v, mask=None, causal=False, window=None, scale=None, bias=None):
    """Attention by loops over sequences, heads and queries: (B, H, T, K)."""
    (B, H, T, K), G, S = q.shape, k.size(1), k.size(2)
    scale = K**-0.5 if scale is None else scale
    mask = torch.ones(B, H, T, S, dtype=torch.bool) if mask is None else mask.expand(B, H, T, S)
    bias = torch.zeros(B, H, T, S, dtype=q.dtype) if bias is None else bias.expand(B, H, T, S)
    rows = []
    for b, h, t in itertools.product(range(B), range(H), range(T)):
        g, own = h * G // H, S - T + t  # the key-value head, and the query's own position
        seen = [s for s in range(S) if mask[b, h, t, s] and not (causal and s > own)]
        if window is not None:
            seen = [s for s in seen if s > own - window]
        if not seen:
            rows.append(torch.zeros(K, dtype=q.dtype))
            continue
        scores = torch.stack([scale * (q[b, h, t] @ k[b, g, s]) + bias[b, h, t, s] for s in seen])
        rows.append(scores.softmax(0) @ v[b, g, seen])
    return torch.stack(rows).view(B, H, T, K)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("window", [None, 1, 3, 6, 50])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_attention_equals_loops(dtype, kind, window, biased, fused):
    for (T, S), (H, G), scale in itertools.product([(6, 6), (1, 6), (3, 6)], [(4, 4), (4, 2)], [None, 0.3]):
        q, k, v = _qkv(T=T, S=S, H=H, G=G)
        mask = _mask(kind, 2, H, T, S)
        biases = (
            [torch.randn(shape, dtype=torch.float64) for shape in ((1, H, T, S), (2, 1, T, S))] if biased else [None]
        )
        for causal, bias in itertools.product([True] if window else [False, True], biases):
            how = dict(causal=causal, window=window, scale=scale)
            expected = _naive(q, k, v, mask, bias=bias, **how)
            given = [x if x is None else x.to(dtype) for x in (q, k, v, bias)]
            out = attention(*given[:3], mask, bias=given[3], fused=fused, **how)
            torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_all_types_on_all_devices_are_close_to_full_precision(device, dtype, fused, kind):
    draw = torch.Generator().manual_seed(1)
    for (T, S), window, biased in itertools.product([(6, 6), (1, 6), (3, 6)], [None, 2], [False, True]):
        q, k, v = _qkv(T=T, S=S, G=2)
        mask = _mask(kind, 2, 4, T, S)
        bias = torch.randn(1, 4, T, S, generator=draw, dtype=torch.float64) if biased else None
        expected = attention(q, k, v, mask, True, window=window, bias=bias, fused=False)
        given = [x if x is None else x.to(device, dtype) for x in (q, k, v, bias)]
        mask = mask if mask is None else mask.to(device)
        out = attention(*given[:3], mask, True, window=window, bias=given[3], fused=fused)
        assert out.dtype == dtype and out.device.type == device and out.isfinite().all()
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(out.double().cpu(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 2)])
@pytest.mark.parametrize("G", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_gradients_by_finite_differences(fused, causal, window, G, masked, scale):
    q, k, v = (x.requires_grad_() for x in _qkv(B=2, T=3, S=4, H=2, G=G, K=3))
    mask = torch.tensor([[True, True, False, True], [False] * 4])[:, None, None] if masked else None  # one sees nothing
    bias = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(q, k, v, bias=None):
        return attention(q, k, v, mask, causal, window=window, scale=scale, bias=bias, fused=fused)

    assert torch.autograd.gradcheck(run, (q, k, v))
    assert torch.autograd.gradcheck(run, (q, k, v, bias))


def test_weights_are_saved_only_when_asked_for():
    q, k, v = _qkv()
    attention(q, k, v, save=(saved := []))
    (weights,) = saved
    assert weights.shape == (2, 4, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(weights @ v, attention(q, k, v))


def test_dropout_of_the_weights():
    q, k, v = _qkv(T=40, S=40, K=4)
    torch.manual_seed(0)
    out = torch.stack([attention(q, k, torch.ones_like(v), dropout=0.5, fused=False) for _ in range(50)])
    assert abs(out.mean().item() - 1) < 0.02  # what stays is scaled up
    assert out.std() > 0.1


def test_calls_that_attention_refuses():
    q, k, v = _qkv(H=4, G=3)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key-value heads"):
        attention(q, k, v)
    with pytest.raises(ValueError, match="mask is torch.int64; expected bool"):
        attention(q, q, q, torch.ones(5, 5, dtype=torch.int64))
    for how in (dict(window=2), dict(window=0, causal=True)):
        with pytest.raises(ValueError, match="a window of at least 1 position goes with causal=True"):
            attention(q, q, q, **how)


def test_causal_mask_of_the_last_queries():
    assert layers.causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert layers.causal_mask(2, 4, window=2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(layers.causal_mask(5, 5, window=5), layers.causal_mask(5, 5))


# ---- the attention module


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_module_is_projections_around_attention(window, scale):
    torch.manual_seed(0)
    module = MultiHeadAttention(12, 4, 2, d_head=5, scale=scale, window=window).double()
    x, bias = torch.randn(2, 6, 12, dtype=torch.float64), torch.randn(1, 4, 6, 6, dtype=torch.float64)

    def heads(linear, n):
        y = x @ linear.weight.T + linear.bias
        return torch.stack(y.split(5, dim=-1), dim=1) if n > 1 else y[:, None]

    q, k, v = heads(module.query, 4), heads(module.key, 2), heads(module.value, 2)
    joined = torch.cat(_naive(q, k, v, causal=True, window=window, scale=scale, bias=bias).unbind(1), dim=-1)
    expected = joined @ module.output.weight.T + module.output.bias
    torch.testing.assert_close(module(x, causal=True, bias=bias), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_cross_attention_equals_torch(padded):
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(12, 3, batch_first=True).double(), MultiHeadAttention(12, 3).double()
    for kind in ("weight", "bias"):
        packed = getattr(theirs, f"in_proj_{kind}").data
        packed.normal_()
        for module, part in zip((ours.query, ours.key, ours.value), packed.chunk(3), strict=True):
            getattr(module, kind).data = part
        getattr(ours.output, kind).data = getattr(theirs.out_proj, kind).data
    x, memory = torch.randn(2, 4, 12, dtype=torch.float64), torch.randn(2, 7, 12, dtype=torch.float64)
    keep = torch.tensor([[1] * 7, [1] * 5 + [0] * 2]) if padded else None
    out = ours(x, layers.padding_mask(keep), memory=memory)
    expected, _ = theirs(x, memory, memory, key_padding_mask=None if keep is None else keep == 0)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    cache = KVCache(n_layers=1)
    for t in range(4):  # from the cache the second time: another memory changes nothing
        given = memory if t == 0 else memory + 1
        piece = ours(x[:, t : t + 1], layers.padding_mask(keep), memory=given, cache=cache)
        torch.testing.assert_close(piece, expected[:, t : t + 1], atol=1e-10, rtol=0)
    assert cache.length == 0 and len(cache.memory[0]) == 2


# ---- norms, activations, feed-forwards


def test_norms_are_their_formulas():
    x = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    weight, bias = torch.randn(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    norm = layers.LayerNorm(16, eps=0.1).double()
    norm.weight.data, norm.bias.data = weight, bias
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 0.1).sqrt() * weight + bias)
    norm = layers.RMSNorm(16, eps=0.1).double()
    norm.weight.data = weight
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight)


def test_activations_are_their_formulas():
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    exact = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    tanh = x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    expected = {"relu": x.clamp(min=0), "gelu": exact, "gelu_new": tanh, "gelu_pytorch_tanh": tanh}
    for name, value in (expected | {"silu": x / (1 + torch.exp(-x))}).items():
        torch.testing.assert_close(layers.ACTIVATIONS[name](x), value)
    assert (exact - tanh).abs().max() > 1e-4  # so the test can tell them apart


def test_feed_forwards_are_their_formulas():
    x = torch.randn(2, 3, 8)
    plain, gated = layers.FeedForward(8, 20, "relu"), layers.GatedFeedForward(8, 20)
    hidden = (x @ plain.up.weight.T + plain.up.bias).clamp(min=0)
    torch.testing.assert_close(plain(x), hidden @ plain.down.weight.T + plain.down.bias)
    gate = x @ gated.gate.weight.T
    hidden = gate * gate.sigmoid() * (x @ gated.up.weight.T)
    torch.testing.assert_close(gated(x), hidden @ gated.down.weight.T)
    assert gated.up.bias is None


# ---- sinusoidal and relative positions


def test_sinusoidal_positions_are_their_formula():
    positions = layers.sinusoidal_positions(200, 12)
    assert positions.shape == (200, 12) and positions.dtype == torch.float32
    for t, i in itertools.product(range(0, 200, 7), range(6)):
        angle = t / 10000 ** (2 * i / 12)
        assert positions[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert positions[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    torch.testing.assert_close(positions.square().sum(-1), torch.full((200,), 6.0))  # half of the width
    with pytest.raises(ValueError, match="d_model is 7; sines and cosines come in pairs"):
        layers.sinusoidal_positions(4, 7)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (8, 20), (16, 1000)])
def test_buckets_of_relative_positions_equal_transformers(bidirectional, n_buckets, max_distance):
    bias = layers.RelativeBias(2, n_buckets, max_distance, bidirectional)
    offsets = torch.arange(-1100, 1101)
    expected = T5Attention._relative_position_bucket(offsets, bidirectional, n_buckets, max_distance)
    assert torch.equal(bias.bucket(offsets), expected)
    assert expected.unique().numel() >= n_buckets - 1  # the reference reaches (nearly) all of them here


def test_relative_bias_is_a_number_for_each_head_and_distance():
    bias = layers.RelativeBias(3, 8, 20)
    assert (bias.weight == 0).all()
    bias.weight.data = torch.randn(8, 3)
    out = bias(6, 6)
    assert out.shape == (1, 3, 6, 6)
    for h, t, s in itertools.product(range(3), range(6), range(6)):
        assert out[0, h, t, s] == bias.weight[bias.bucket(torch.tensor(s - t)), h]
    assert torch.equal(bias(2, 6), out[:, :, -2:])  # the last queries, as with a cache
    out[0, 1, 4, 2].backward()
    assert bias.weight.grad.count_nonzero() == 1
    for options in ((16, 8, False), (32, 8, True), (3, 100, True)):
        with pytest.raises(ValueError, match="max_distance beyond them"):
            layers.RelativeBias(1, *options)


# ---- rotary positions


def test_rotation_turns_pairs_by_the_angles_of_the_paper():
    x = torch.randn(1, 1, 6, 8, dtype=torch.float64)
    cos, sin = rotary_angles(torch.arange(6), 8, base=100.0)
    turned = rotate(x, cos, sin)
    for t, i in itertools.product(range(6), range(4)):
        angle = t / 100.0 ** (2 * i / 8)
        pair = complex(x[0, 0, t, i], x[0, 0, t, i + 4]) * complex(math.cos(angle), math.sin(angle))
        assert abs(pair - complex(turned[0, 0, t, i], turned[0, 0, t, i + 4])) < 1e-6


def test_rotated_products_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    products = []
    for start in (0, 5, 100):
        (cos, sin), (cos2, sin2) = (rotary_angles(torch.tensor([start + d]), 16) for d in (0, 7))
        products.append((rotate(q, cos, sin) * rotate(k, cos2, sin2)).sum().item())
    assert max(products) - min(products) < 1e-4
    assert abs(products[0] - (q * k).sum().item()) > 1e-3


def test_interleaved_weights_are_sorted_to_half_split():
    """Turning neighbours, then attending, gives the same products as sorting the rows and turning halves."""
    x = torch.randn(1, 1, 5, 12, dtype=torch.float64)
    weights = torch.randn(2, 8, 12, dtype=torch.float64)  # of one head's queries and keys
    cos, sin = rotary_angles(torch.arange(5), 8)

    def turn_neighbours(y):
        pairs = torch.view_as_complex(y.view(1, 1, 5, 4, 2).contiguous())
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)

    q, k = (turn_neighbours(x @ w.T) for w in weights)
    q2, k2 = (rotate(x @ half_split(w, 8).T, cos, sin) for w in weights)
    torch.testing.assert_close(q @ k.mT, q2 @ k2.mT)
    wrong_q, wrong_k = (rotate(x @ w.T, cos, sin) for w in weights)
    assert (q @ k.mT - wrong_q @ wrong_k.mT).abs().max() > 0.1


# ---- cache


def test_cache_is_filled_in_place_and_grows_seldom():
    cache = KVCache(n_layers=2)
    k, v = torch.randn(2, 3, 2, 200, 4)
    places = set()
    for t in range(200):
        for layer in range(2):
            assert cache.length == t
            keys, values = cache.update(layer, k[:, :, t : t + 1] + layer, v[:, :, t : t + 1] - layer)
            assert torch.equal(keys, k[:, :, : t + 1] + layer) and torch.equal(values, v[:, :, : t + 1] - layer)
        places.add(keys.data_ptr())
    assert cache.length == 200
    assert len(places) == 3  # space for 64, 128 and 256 positions


def test_cache_refuses_what_does_not_fit():
    cache = KVCache(n_layers=1, max_length=4)
    cache.update(0, *torch.zeros(2, 1, 1, 3, 8))
    with pytest.raises(ValueError, match="holds 3 positions and cannot take 2 more: the context is 4"):
        cache.update(0, *torch.zeros(2, 1, 1, 2, 8))
    with pytest.raises(ValueError, match="holds 1 sequences, the input has 2"):
        cache.update(0, *torch.zeros(2, 2, 1, 1, 8))
    keys, _ = cache.update(0, *torch.ones(2, 1, 1, 1, 8))
    assert keys[0, 0, :, 0].tolist() == [0, 0, 0, 1]


def test_an_interrupted_call_leaves_no_trace_in_the_cache():
    cache = KVCache(n_layers=2)
    for layer in range(2):
        cache.update(layer, *torch.zeros(2, 1, 1, 3, 8))
    cache.update(0, *torch.full((2, 1, 1, 2, 8), 7.0))  # and then the second layer fails
    assert cache.length == 3
    keys, _ = cache.update(0, *torch.ones(2, 1, 1, 1, 8))
    assert keys[0, 0, :, 0].tolist() == [0, 0, 0, 1]


# ---- recording


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        part = layers.FeedForward(8, 16)
        self.layers = nn.ModuleList(
            PreNormBlock(MultiHeadAttention(8, 2), part, layers.RMSNorm(8), layers.RMSNorm(8)) for _ in range(3)
        )

    def forward(self, x):
        for block in self.layers:
            x = block(x, causal=True)
        return x


def test_record_keeps_maps_and_hidden_states_of_each_call():
    model, x = Model(), torch.randn(2, 4, 8)
    plain = model(x)
    with record(model) as recording:
        out = model(x)
        model(x[:, :3])
        assert recording.attention[0].shape == (2, 2, 3, 3)  # the latest
    torch.testing.assert_close(out, plain)
    first = recording.calls[0]
    assert [len(c.attention) for c in recording.calls] == [3, 3] and len(first.hidden) == 4
    assert torch.equal(first.hidden[0], x) and torch.equal(first.hidden[3], out)
    torch.testing.assert_close(first.hidden[2], model.layers[1](first.hidden[1], causal=True))
    for weights in first.attention:
        assert weights.shape == (2, 2, 4, 4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
        assert (weights.triu(1) == 0).all()
    model(x)
    assert len(recording.calls) == 2  # nothing is kept after the block


def test_record_refuses_and_cleans_up():
    model = Model()
    with pytest.raises(ValueError, match="Linear has no attention"), record(nn.Linear(2, 2)):
        pass
    with record(model), pytest.raises(ValueError, match="is being recorded already"), record(model):
        pass
    with pytest.raises(RuntimeError), record(model) as recording:
        model(torch.randn(2, 4, 9))
    assert not model._forward_pre_hooks and all(block.attention.save is None for block in model.layers)
    with record(model) as recording:
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        recording.hidden  # noqa: B018
