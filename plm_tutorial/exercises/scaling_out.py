"""Checks of the exercises on several GPUs or machines.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails. None starts a
process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-scaling-out-average")
def _average(answer):
    draw = torch.Generator().manual_seed(0)
    for counts in ([3, 1], [5, 5], [2, 0, 6], [1, 4, 2, 9]):
        rows = [torch.randn(count, 4, generator=draw, dtype=torch.float64) for count in counts]  # a gradient a label
        gradients = [part.mean(0) if len(part) else part.new_full((4,), math.nan) for part in rows]
        kept = [gradient.clone() for gradient in gradients]
        call = f"combine(gradients, {counts})"
        got = answer(list(gradients), list(counts))
        expect(isinstance(got, Tensor), f"{call} gave a {type(got).__name__}; expected a tensor")
        expect(got.shape == (4,), f"{call} gave shape {tuple(got.shape)}, expected (4,)")
        same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(gradients, kept, strict=True))
        expect(same, f"{call} changed the gradients it was given; work on copies")
        expect(not got.isnan().any(), f"{call} gave NaN: 0 · NaN is NaN, so leave out the process without labels")
        wanted = torch.cat(rows).mean(0)
        if (got - wanted).abs().max() > 1e-9:
            total = sum(count * g for count, g in zip(counts, gradients, strict=True) if count)
            wrong = {
                "that is the mean of the means, in which labels of small parts count more": sum(
                    g for count, g in zip(counts, gradients, strict=True) if count
                )
                / len(counts),
                "that is the sum over all labels; divide by how many there are": total,
                "divide by the labels of all processes, not by the number of processes": total / len(counts),
            }
            for reason, other in wrong.items():
                expect((got - other).abs().max() > 1e-9, f"{call}: {reason}")
            raise Wrong(f"{call} is off by {(got - wanted).abs().max():.3g} from the mean over all labels")


@exercises.add("ex-scaling-out-zero")
def _zero(answer):
    for parameters, gpus in ((7e9, 8), (100, 1), (1e9, 64)):
        for stage in range(4):
            call, got = f"bytes_per_gpu({parameters:g}, {gpus}, {stage})", answer(parameters, gpus, stage)
            parts = (2, 2, 12)  # parameter, gradient, optimizer
            divided = parts[:0] if stage == 0 else parts[3 - stage :]  # the optimizer first, the parameter last
            wanted = parameters * (sum(parts) - sum(divided) + sum(divided) / gpus)
            if math.isclose(got, wanted, rel_tol=1e-9):
                continue
            whole = 16 * parameters
            expect(
                stage == 0 or gpus == 1 or not math.isclose(got, whole),
                f"{call} gave {got:.4g}: at stage {stage} something is divided",
            )
            expect(
                stage in (0, 3) or not math.isclose(got, whole / gpus),
                f"{call} gave {got:.4g}: only stage 3 divides everything",
            )
            swapped = parameters * (14 + 2 / gpus) if stage == 1 else math.nan
            expect(
                not math.isclose(got, swapped),
                f"{call} gave {got:.4g}: stage 1 divides what is largest, the optimizer's 12 bytes",
            )
            expect_equal(got, wanted, call)


@exercises.add("ex-scaling-out-bubble")
def _bubble(answer):
    for stages in (2, 4, 5, 8, 16, 1):
        for share in (0.5, 0.3, 0.2, 0.1, 0.05):
            m = 1
            while (stages - 1) / (m + stages - 1) > share + 1e-9:
                m += 1
            call, got = f"micro_batches({stages}, {share})", answer(stages, share)
            expect(not isinstance(got, float) or got == int(got), f"{call} gave {got}; expected a whole number")
            if got == m:
                continue
            expect(got >= 1, f"{call} gave {got}; a batch is at least one micro-batch")
            idle = (stages - 1) / (got + stages - 1)
            expect(idle <= share + 1e-9, f"{call} gave {got}: the pipeline waits {idle:.1%} of the time")
            fewer = (stages - 1) / (got - 1 + stages - 1)
            raise Wrong(f"{call} gave {got}: with {got - 1} it waits {fewer:.1%} of the time, which is allowed")


@exercises.add("ex-scaling-out-interval")
def _interval(answer):
    for save, between in ((60, 10_800), (1, 50), (30, 86_400)):
        call, got = f"best_interval({save}, {between})", answer(save, between)
        wanted = math.sqrt(2 * save * between)
        if math.isclose(got, wanted, rel_tol=1e-3):
            continue
        expect(
            not math.isclose(got, math.sqrt(save * between), rel_tol=1e-3),
            f"{call} gave {got:.1f}: half an interval is lost at a failure, not a whole one",
        )

        def waste(interval, save=save, between=between):
            return save / interval + interval / 2 / between

        expect(got > 0, f"{call} gave {got}; expected a positive number of seconds")
        raise Wrong(
            f"{call} gave {got:.1f}, which wastes {waste(got):.1%}; another interval wastes {waste(wanted):.1%}"
        )
