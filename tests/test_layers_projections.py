"""Linear maps of a single vector: the same numbers on one core and on several, in both orders of memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from plm_tutorial.layers import Linear, for_decoding, linear
from plm_tutorial.models import Llama, LlamaConfig

SMALL = {"context_length": 32, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_hidden": 24}


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (2, 6), (1, 3, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_equals_the_library(threads, shape, bias, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(12, 6, dtype=dtype)
    offset = torch.randn(12, dtype=dtype) if bias else None
    for laid_out in (weight, weight.t().contiguous().t()):
        torch.testing.assert_close(linear(x, laid_out, offset), F.linear(x, weight, offset))
    torch.testing.assert_close(linear(x, weight[:7]), F.linear(x, weight[:7]))  # no multiple of 2 or 3


def test_gradients_equal_the_library(threads):
    torch.manual_seed(0)
    ours = Linear(6, 12)
    theirs = nn.Linear(6, 12)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 1, 6)
    for module in (ours, theirs):
        module(x).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("tied", [True, False])
def test_for_decoding_changes_the_order_in_memory_and_nothing_else(tied):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=40, tied=tied, **SMALL)).eval()
    other = for_decoding(copy.deepcopy(model))
    state, laid_out = model.state_dict(), other.state_dict()
    assert state.keys() == laid_out.keys() and all(torch.equal(state[name], laid_out[name]) for name in state)
    wide = {name for name, value in laid_out.items() if value.dim() == 2 and value.stride() == (1, value.size(0))}
    ours = {"tokens.weight" if tied else "head.weight"}
    ours |= {f"layers.{i}.feed_forward.{name}.weight" for i in range(2) for name in ("gate", "up")}
    assert wide == ours
    ids = torch.randint(40, (2, 9))
    torch.testing.assert_close(other(ids), model(ids))
    other(ids).sum().backward()  # still can be trained
    copied = Llama(LlamaConfig(vocab_size=40, tied=tied, **SMALL))
    copied.load_state_dict(laid_out)
    assert copied.layers[0].feed_forward.up.weight.is_contiguous()
