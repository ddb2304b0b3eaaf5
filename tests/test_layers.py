"""The parts of a Transformer: formulas, the two paths of attention, the cache, recording."""

import ast
import itertools
import math

import pytest
import torch
from torch import nn

from plm_tutorial import layers
from plm_tutorial.layers import KVCache, MultiHeadAttention, PreNormBlock, attention, record, rotary_angles, rotate
from plm_tutorial.models.llama import half_split

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_full(dtype):
    q, k, v = _qkv(T=6, S=6, G=2)
    full = attention(q, k, v, causal=True)
    for fused in (False, True):
        out = attention(q.to(dtype), k.to(dtype), v.to(dtype), _mask("padding", 2, 4, 6, 6), True, fused=fused)
        assert out.dtype == dtype and out.isfinite().all()
        out = attention(q.to(dtype), k.to(dtype), v.to(dtype), causal=True, fused=fused)
        torch.testing.assert_close(out.double(), full, atol=0.03, rtol=0)


def test_gradients_by_finite_differences():
    q, k, v = (x.requires_grad_() for x in _qkv(T=3, S=4, H=2, G=1, K=3))
    mask = torch.tensor([[True, True, False, True]])
    for fused in (False, True):
        assert torch.autograd.gradcheck(lambda *x, fused=fused: attention(*x, mask, True, fused=fused), (q, k, v))


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


def test_causal_mask_of_the_last_queries():
    assert layers.causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


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
