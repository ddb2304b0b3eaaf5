"""Checks of the exercises on attention.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plm_tutorial.exercises import Exercises, Wrong, expect
from plm_tutorial.layers import attention, causal_mask

exercises = Exercises()
check = exercises.check


def _expect_close(got: float, wanted: float, call: str, remarks: dict[float, str]) -> None:
    """Raise Wrong unless ``got`` is ``wanted``; ``remarks`` says what is wrong with some likely other values."""
    for value, remark in remarks.items():
        if math.isclose(got, value, rel_tol=1e-6) and not math.isclose(value, wanted, rel_tol=1e-6):
            raise Wrong(f"{call} gave {got:.6g}: {remark}")
    expect(math.isclose(got, wanted, rel_tol=1e-6), f"{call} gave {got:.6g}, expected {wanted:.6g}")


def _expect_mask(got: Tensor, wanted: Tensor, call: str) -> None:
    """Raise Wrong unless ``got`` is the bool mask ``wanted``, naming the first query and key that differ."""
    expect(isinstance(got, Tensor), f"{call} gave {type(got).__name__}; expected a tensor")
    expect(got.dtype == torch.bool, f"{call} gave {got.dtype}; expected bool, True where a query may look")
    expect(got.shape == wanted.shape, f"{call} has shape {tuple(got.shape)}; expected {tuple(wanted.shape)}")
    if not torch.equal(got, wanted):
        where = tuple((got != wanted).nonzero()[0].tolist())
        query, key = where[-2:]
        can = "may" if got[where] else "may not"
        should = "it should not" if got[where] else "it should"
        raise Wrong(f"{call}: query {query} {can} look at key {key}, but {should}")


@exercises.add("ex-attention-unit-scale")
def _unit_scale(answer):
    for width in (4, 64, 100):
        wanted = math.sqrt(width)
        remarks = {
            1 / wanted: "that makes scores of unit vectors smaller still; their variance is 1 / K, below 1",
            width: "that is 1 over the variance; a factor on the score counts twice in the variance",
            1.0: "the products of unit vectors have variance 1 / K, not 1",
        }
        _expect_close(float(answer(width)), wanted, f"unit_scale({width})", remarks)


@exercises.add("ex-attention-documents")
def _documents(answer):
    for rows in ([[0, 0, 0]], [[0, 0, 1, 1, 1, 2], [5, 5, 5, 5, 5, 5]], [[3, 1, 1, 0]]):
        documents = torch.tensor(rows)
        n = documents.size(1)
        wanted = (documents[:, None, :, None] == documents[:, None, None, :]) & causal_mask(n, n)
        _expect_mask(answer(documents.clone()), wanted, f"document_mask(torch.tensor({rows}))")


@exercises.add("ex-attention-sink-mask")
def _sink_mask(answer):
    for n_tokens, window, n_sinks in ((6, 2, 1), (6, 6, 0), (8, 3, 2), (5, 1, 4), (4, 1, 0)):
        t, s = torch.arange(n_tokens)[:, None], torch.arange(n_tokens)
        wanted = (s <= t) & ((t - s < window) | (s < n_sinks))
        _expect_mask(answer(n_tokens, window, n_sinks), wanted, f"sink_mask({n_tokens}, {window}, {n_sinks})")


@exercises.add("ex-attention-previous")
def _previous(answer):
    for n in (4, 12, 50):
        call = f"previous_token({n})"
        pair = answer(n)
        expect(isinstance(pair, tuple | list) and len(pair) == 2, f"{call} must return two matrices, W_Q and W_K")
        w_q, w_k = (torch.as_tensor(matrix).float() for matrix in pair)
        for name, matrix in (("W_Q", w_q), ("W_K", w_k)):
            expect(matrix.shape == (n, n), f"{call}: {name} has shape {tuple(matrix.shape)}; expected ({n}, {n})")
        x, saved = torch.eye(n), []
        q, k = (x @ w_q.T)[None, None], (x @ w_k.T)[None, None]
        attention(q, k, x[None, None], causal=True, save=saved)
        weights = saved[0][0, 0]  # (T, S)
        expect(bool(weights.isfinite().all()), f"{call}: the weights are not finite; the scores are too large")
        for t in range(1, n):
            top = int(weights[t].argmax())
            expect(top == t - 1, f"{call}: position {t} looks most at position {top}, expected {t - 1}")
            share = weights[t, t - 1].item()
            expect(share >= 0.99, f"{call}: position {t} gives {share:.2f} to position {t - 1}, expected at least 0.99")


def _triple(scores: Tensor, values: Tensor) -> tuple[Tensor, float, float]:
    """Return (o, m, z) of a block: scores (S,), values (S, K)."""
    terms = (scores - scores.max()).exp()
    return terms @ values, scores.max().item(), terms.sum().item()


@exercises.add("ex-attention-merge")
def _merge(answer):
    generator = torch.Generator().manual_seed(0)
    for sizes, shift, about in (
        ((3, 4), 0.0, "two blocks"),
        ((1, 5), 5.0, "a second block with larger scores"),
        ((5, 2), -5.0, "a second block with smaller scores"),
        ((3, 3), 2000.0, "scores that differ by 2000"),
        ((3, 3), -2000.0, "scores that differ by 2000"),
    ):
        scores = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
        values = torch.randn(sum(sizes), 4, generator=generator, dtype=torch.float64)
        scores[sizes[0] :] += shift
        first, second = zip(scores.split(sizes), values.split(sizes), strict=True)
        try:
            got = answer(_triple(*first), _triple(*second))
        except OverflowError as error:
            raise Wrong(
                f"{about}: an exponential overflows; subtract the common maximum, not the smaller one"
            ) from error
        expect(
            isinstance(got, tuple | list) and len(got) == 3, f"{about}: expected a triple (o, m, z), got {got!r:.60}"
        )
        o, m, z = got
        wanted_o, wanted_m, wanted_z = _triple(scores, values)
        expect(
            math.isclose(m, wanted_m, rel_tol=1e-6),
            f"{about}: m is {float(m):.4g}, expected {wanted_m:.4g}, the larger of the two",
        )
        hint = "bring both parts to the common maximum first"
        expect(
            math.isclose(z, wanted_z, rel_tol=1e-5), f"{about}: z is {float(z):.4g}, expected {wanted_z:.4g}; {hint}"
        )
        close = torch.allclose(torch.as_tensor(o, dtype=torch.float64), wanted_o, rtol=1e-4)
        average = torch.allclose(torch.as_tensor(o, dtype=torch.float64), wanted_o / wanted_z, rtol=1e-4)
        expect(
            not average or close, f"{about}: o is the finished average; the triple holds the sum, before division by z"
        )
        expect(close, f"{about}: o is wrong, although m and z are right; {hint}")


@exercises.add("ex-attention-crossover")
def _crossover(answer):
    for sizes in ((768, 12, 12, 64, 2048), (576, 9, 3, 64, 1536), (64, 4, 1, 32, 100)):
        d_model, n_heads, n_kv_heads, d_head, d_hidden = sizes
        query, key = d_model * n_heads * d_head, d_model * n_kv_heads * d_head
        numbers, per_token = 2 * query + 2 * key + 3 * d_model * d_hidden, 4 * n_heads * d_head
        remarks = {
            numbers / per_token: "each number of a matrix costs two FLOPs, a multiplication and an addition",
            2 * (4 * query + 3 * d_model * d_hidden) / per_token: "key and value matrices have only G heads",
            2 * (numbers - d_model * d_hidden) / per_token: "this feed-forward part has three matrices",
            2 * numbers / (4 * n_kv_heads * d_head): "there are scores for each of the H query heads",
        }
        _expect_close(float(answer(*sizes)), 2 * numbers / per_token, f"crossover{sizes}", remarks)


@exercises.add("ex-attention-linear")
def _linear(answer):
    generator = torch.Generator().manual_seed(0)
    for n_tokens, width in ((6, 4), (40, 8), (1, 3)):
        q, k, v = torch.randn(3, n_tokens, width, generator=generator)
        call = f"linear_attention of {n_tokens} tokens, width {width}"
        scores = q @ k.T  # (T, T)
        wanted = scores.tril() @ v
        got = answer(q.clone(), k.clone(), v.clone())
        expect(isinstance(got, Tensor), f"{call} gave {type(got).__name__}; expected a tensor")
        expect(got.shape == v.shape, f"{call} has shape {tuple(got.shape)}; expected {tuple(v.shape)}")
        if n_tokens > 1 and torch.allclose(got, scores @ v, atol=1e-4):
            raise Wrong(f"{call}: each output depends on later tokens too; M_t sums only up to t")
        if n_tokens > 1 and torch.allclose(got, scores.tril(-1) @ v, atol=1e-4):
            raise Wrong(f"{call}: a token's own key and value are missing; add them before you read")
        expect(
            torch.allclose(got, wanted, atol=1e-4),
            f"{call} differs from the sum over (q·k) v, without softmax or scale",
        )
