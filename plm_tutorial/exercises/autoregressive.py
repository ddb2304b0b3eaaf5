"""Checks of the exercises on autoregressive pretraining.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal, expect_tensor
from plm_tutorial.training import lr_at

exercises = Exercises()
check = exercises.check


@exercises.add("ex-autoregressive-count")
def _count(answer):
    wanted = (8 * 128, 8 * 128 - 3, (7_000_000 - 1) // 128 // 8)
    expect(
        isinstance(answer, tuple | list) and len(answer) == 3,
        f"the answer is {answer!r:.60}; expected three numbers: examples, examples when separate, whole steps",
    )
    examples, separate, steps = answer
    expect(examples != 8 * 127, "examples: the last token of a row has a label too, the first token of the next row")
    expect_equal(examples, wanted[0], "examples of a batch")
    expect(separate != 8 * 128 - 6, "separate: at a border one label is left out, not two; the token before it is told")
    expect_equal(separate, wanted[1], "examples of a batch with separate documents")
    expect(steps != math.ceil((7_000_000 - 1) // 128 / 8), "steps: an eighth of the last batch is from the next pass")
    expect_equal(steps, wanted[2], "whole steps of a pass")


@exercises.add("ex-autoregressive-labels")
def _labels(answer):
    for n, length in ((13, 4), (9, 4), (8, 4), (7, 3), (30, 7)):
        tokens = torch.arange(100, 100 + n)
        call = f"rows_of(tokens, {length}) of {n} tokens, 100 to {99 + n},"
        got = answer(tokens.clone(), length)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} should give inputs and labels")
        count = (n - 1) // length
        if isinstance(got[0], Tensor) and got[0].size(0) == n // length > count:
            raise Wrong(
                f"{call} gave {n // length} rows: the last label of the last one would be token number {n}, "
                "which does not exist"
            )
        inputs, labels = (expect_tensor(part, (count, length), call) for part in got)
        expect_equal(inputs.tolist(), tokens[: count * length].view(count, length).tolist(), call + " as inputs")
        wrapped = inputs.roll(-1, dims=1)
        if count and torch.equal(labels, wrapped) and not torch.equal(labels, inputs + 1):
            raise Wrong(f"{call} still asks the last position of a row for the row's own first token")
        expect(not torch.equal(labels, inputs), f"{call} asks each position for the token it has just read")
        expect_equal(labels.tolist(), (inputs + 1).tolist(), call + " as labels")


@exercises.add("ex-autoregressive-init")
def _init(answer):
    cases = ((4096, 96, 0.02), (4096, 96, 0.0), (50257, 768, 0.02), (1000, 64, 0.1))
    for vocab_size, d_model, std in cases:
        call = f"initial_loss({vocab_size}, {d_model}, {std})"
        got = float(answer(vocab_size, d_model, std))
        log_v, variance = math.log(vocab_size), d_model * std**2
        wrong = {
            "the logarithm is the natural one": math.log2(vocab_size) + variance / 2,
            "this is log V alone; it holds for std = 0": log_v,
            "the variance of a logit is D · std², not std²": log_v + std**2 / 2,
            "it enters by half": log_v + variance,
            "this is its spread, half of it; the variance is what enters": log_v + math.sqrt(variance) / 2,
            "the mean of exp(z) is larger than 1, so it raises the loss": log_v - variance / 2,
        }
        wanted = log_v + variance / 2
        if abs(got - wanted) > 1e-6:
            for reason, other in wrong.items():
                expect(abs(got - other) > 1e-6, f"{call} gave {got:.4f}: {reason}")
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-autoregressive-separate")
def _separate(answer):
    end = 9
    cases = ([1, 9, 2, 3, 9, 4], [1, 2, 3, 4], [9, 9, 1, 2], [5, 6, 9, 7])
    for row in cases:
        call = f"separate(torch.tensor({row}), end_id={end})"
        got = answer(torch.tensor(row), end)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} should give a mask and labels")
        T = len(row) - 1
        number = [sum(token == end for token in row[:i]) for i in range(T + 1)]  # of the document of each token
        mask = torch.tensor([[s <= t and number[s] == number[t] for s in range(T)] for t in range(T)])
        labels = [-100 if number[t + 1] != number[t] else row[t + 1] for t in range(T)]
        found = expect_tensor(got[0], (T, T), call + " as a mask").bool()
        if not torch.equal(found, mask):
            later = torch.ones(T, T).triu(1).bool()
            expect(not (found & later).any(), f"{call}: some position looks at a later one")
            starts = torch.tensor([sum(token == end for token in row[: i + 1]) for i in range(T)])
            other = (starts[:, None] == starts[None]) & ~later
            expect(
                not torch.equal(found, other),
                f"{call}: a token that ends a document belongs to it, not to the next one",
            )
            t, s = (found != mask).nonzero()[0].tolist()
            raise Wrong(f"{call}: mask[{t}, {s}] is {found[t, s].item()}, expected {mask[t, s].item()}")
        expect_equal(expect_tensor(got[1], (T,), call + " as labels").tolist(), labels, call + " as labels")


@exercises.add("ex-autoregressive-wsd")
def _wsd(answer):
    for steps, warmup, decay in ((100, 10, 0.2), (50, 0, 0.5), (40, 4, 1.0), (10, 1, 0.05)):
        for step in range(steps):
            call = f"wsd({step}, {steps}, warmup={warmup}, decay={decay})"
            got = float(answer(step, steps, warmup, decay))
            wanted = lr_at(step, steps, warmup=warmup, shape="wsd", decay=decay)
            if abs(got - wanted) < 1e-9:
                continue
            expect(step >= warmup or got != 0, f"{call} gave 0: that step would do nothing")
            expect(
                step >= warmup or abs(got - step / max(1, warmup)) > 1e-9,
                f"{call} gave {got:.4f}; in warm-up it is (step + 1) / (warmup + 1)",
            )
            expect(
                step < steps - 1 or got != 0, f"{call} gave 0: the last step would do nothing; 0 comes after the end"
            )
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-autoregressive-svd")
def _svd(answer):
    draw = torch.Generator().manual_seed(0)
    for shape in ((6, 6), (4, 9), (9, 4), (1, 5)):
        matrix = torch.randn(shape, generator=draw, dtype=torch.float64)
        matrix *= torch.logspace(0, -3, shape[1], dtype=torch.float64)  # some directions are weak
        call = f"orthogonal(matrix) of shape {shape}"
        got = expect_tensor(answer(matrix.clone()), shape, call).double()
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        wanted = left @ right
        if (got - wanted).abs().max() > 1e-6:
            by_length = matrix / matrix.norm()
            expect((got - by_length).abs().max() > 1e-6, f"{call} only scales the matrix: its directions stay uneven")
            if left.shape == right.shape:
                expect(
                    (got - left @ right.T).abs().max() > 1e-6,
                    f"{call}: torch's svd returns Vᵀ already, do not transpose it again",
                )
            values = torch.linalg.svdvals(got)
            spread = f"{values.min():.3g} to {values.max():.3g}"
            expect(values.max() - values.min() < 1e-4, f"{call} has singular values from {spread}; all should be 1")
            expect(abs(values.mean() - 1) < 1e-4, f"{call} has singular values {spread}; they should be 1")
            raise Wrong(f"{call} has the right singular values and turns other directions: keep U and V of the matrix")
