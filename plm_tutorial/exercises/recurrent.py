"""Checks of the exercises on Transformers and recurrent networks.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_number, expect_tensor

exercises = Exercises()
check = exercises.check


@exercises.add("ex-recurrent-gru")
def _gru(answer: Callable) -> None:
    for B, D, seed in ((1, 2, 0), (3, 5, 1)):
        torch.manual_seed(seed)
        cell, x, h = nn.GRUCell(D, D, bias=False), torch.randn(B, D), torch.randn(B, D)
        call = f"gru_step(x, h, w_x, w_h) with B = {B}, D = {D}"
        with torch.no_grad():
            got = expect_tensor(answer(x, h, cell.weight_ih, cell.weight_hh), (B, D), call)
            wanted = cell(x, h)
            r_x, z_x, n_x = (x @ cell.weight_ih.T).chunk(3, -1)
            r_h, z_h, n_h = (h @ cell.weight_hh.T).chunk(3, -1)
            r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
            n = (n_x + r * n_h).tanh()
            wrong = {
                "z keeps the old state, and 1 - z lets the new one in; here it is the other way round": z * n
                + (1 - z) * h,
                "r weighs what comes from h in the candidate; it is missing": (1 - z) * (n_x + n_h).tanh() + z * h,
                "r weighs only what comes from h in the candidate, not from x too": (1 - z) * (r * (n_x + n_h)).tanh()
                + z * h,
                "the order of the rows is r, z, n; here r and z have changed places": (1 - r) * (n_x + z * n_h).tanh()
                + r * h,
            }
        if torch.allclose(got, wanted, atol=1e-5):
            continue
        for reason, other in wrong.items():
            expect(not torch.allclose(got, other, atol=1e-5), f"{call}: {reason}")
        raise Wrong(f"{call} differs from torch.nn.GRUCell by up to {(got - wanted).abs().max():.3g}")


@exercises.add("ex-recurrent-bias")
def _bias(answer: Callable) -> None:
    for n in (1, 4, 32, 1000):
        call = f"forget_bias({n})"
        got = expect_number(answer(n), call)
        f = 0.5 ** (1 / n)
        wanted = math.log(f / (1 - f))
        if abs(got - wanted) < 1e-4 * max(1, abs(wanted)):
            continue
        wrong = {
            "this is the gate f itself; asked for is the bias, of which f is the sigmoid": f,
            "1/e is left with this one after n steps, not one half": math.log(
                math.exp(-1 / n) / (1 - math.exp(-1 / n))
            ),
            "the sign: a gate that keeps much has a positive bias": -wanted,
        }
        for reason, other in wrong.items():
            expect(abs(got - other) > 1e-4 or abs(other - wanted) < 1e-4, f"{call} gave {got:.5g}: {reason}")
        raise Wrong(f"{call} gave {got:.5g}; after {n} steps {(1 / (1 + math.exp(-got))) ** n:.3g} is left, not 0.5")


@exercises.add("ex-recurrent-combine")
def _combine(answer: Callable) -> None:
    draw = torch.Generator().manual_seed(0)
    for n in (2, 3, 7):
        a, b = torch.rand(n, 4, generator=draw), torch.randn(n, 4, generator=draw)
        h = begin = torch.randn(4, generator=draw)
        for t in range(n):
            h = a[t] * h + b[t]
        joined = (a[0], b[0])
        for t in range(1, n):
            joined = answer(joined, (a[t], b[t]))
            expect(isinstance(joined, tuple | list) and len(joined) == 2, "combine should give a pair, (a, b)")
        call = f"{n} steps joined by combine"
        keep = expect_tensor(joined[0], (4,), call)
        add = expect_tensor(joined[1], (4,), call)
        got = keep * begin + add
        if torch.allclose(got, h, atol=1e-4):
            continue
        if n == 2:
            swapped = a[0] * b[1] + b[0]
            expect(not torch.allclose(add, swapped, atol=1e-5), f"{call}: this takes the second step first")
            expect(
                not torch.allclose(add, b[0] + b[1], atol=1e-5),
                f"{call}: what the first step added is kept only in part",
            )
            expect(torch.allclose(keep, a.prod(0), atol=1e-5), f"{call}: of the state before both, a product is kept")
        raise Wrong(f"{call} lead to another state than the steps one by one, by up to {(got - h).abs().max():.3g}")


@exercises.add("ex-recurrent-crossover")
def _crossover(answer: Callable) -> None:
    for blocks, layers, d, heads, groups in ((24, 36, 2048, 32, 8), (30, 45, 576, 9, 3), (4, 6, 256, 4, 4)):
        call = f"crossover(n_blocks={blocks}, n_layers={layers}, d_model={d}, n_heads={heads}, n_kv_heads={groups})"
        got = expect_number(answer(blocks, layers, d, heads, groups), call)
        a_token, state = 2 * blocks * groups * (d // heads), 2 * layers * d
        wanted = state // a_token + 1
        if got == wanted:
            continue
        wrong = {
            "keys and values are kept of n_kv_heads, each d_model / n_heads wide": state // (2 * blocks * d) + 1,
            "an LSTM's state has two vectors a layer, h and c": layers * d // a_token + 1,
            "with each token both a key and a value are kept": state // (a_token // 2) + 1,
            "that many tokens are not yet more than the state; asked for is the first number that is": state // a_token,
        }
        for reason, other in wrong.items():
            expect(got != other or other == wanted, f"{call} gave {got:g}: {reason}")
        raise Wrong(f"{call} gave {got:g}, expected {wanted}")
