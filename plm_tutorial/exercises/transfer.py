"""Checks of the exercises on transfer and fine-tuning.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal, expect_tensor

exercises = Exercises()
check = exercises.check


@exercises.add("ex-transfer-count")
def _count(answer):
    cases = (
        (384, 1536, 6, 8, ("query", "value")),
        (384, 1536, 6, 1, ("query",)),
        (768, 3072, 12, 4, ("up", "down")),
        (100, 250, 2, 3, ("query", "key", "value", "output", "up", "down")),
    )
    for D, F, L, r, targets in cases:
        call = f"lora_parameters({D}, {F}, {L}, {r}, {targets})"
        got = answer(D, F, L, r, targets)
        n_wide = sum(target in ("up", "down") for target in targets)
        n_square = len(targets) - n_wide
        wrong = {
            "that is one layer's; all have an adapter": r * (2 * D * n_square + (D + F) * n_wide),
            "A is (r, in) and B is (out, r): add their sizes, do not multiply in by out": L
            * r
            * (D * D * n_square + D * F * n_wide),
            "that is A alone, or B alone": L * r * (D * n_square + D * n_wide),
            "up and down are not square: one of their sides is d_hidden": L * r * 2 * D * len(targets),
        }
        wanted = L * r * (2 * D * n_square + (D + F) * n_wide)
        if got != wanted:
            for reason, other in wrong.items():
                expect(got != other, f"{call} gave {got}: {reason}")
        expect_equal(got, wanted, call)


@exercises.add("ex-transfer-flops")
def _flops(answer):
    cases: tuple[tuple[Sequence[int], Sequence[bool]], ...] = (
        ((10, 20, 30, 5), (True, True, True)),
        ((10, 20, 30, 5), (False, False, True)),
        ((10, 20, 30, 5), (True, False, False)),
        ((10, 20, 30, 5), (False, True, False)),
        ((8, 8), (True,)),
        ((4, 7, 9, 3, 2), (False, False, False, False)),
        ((4, 7, 9, 3, 2), (False, True, False, True)),
    )
    for widths, trained in cases:
        call = f"training_flops({widths}, {trained})"
        got = answer(list(widths), list(trained))
        products = [2 * a * b for a, b in zip(widths, widths[1:], strict=False)]
        forward = sum(products)
        weights = sum(p for p, t in zip(products, trained, strict=True) if t)
        lowest = trained.index(True) if any(trained) else len(trained)
        inputs = sum(products[lowest + 1 :])
        wanted = forward + weights + inputs
        if got == wanted:
            continue
        wrong = {
            "a frozen layer above a trained one still passes the gradient of its input down": forward
            + weights
            + sum(p for i, (p, t) in enumerate(zip(products, trained, strict=True)) if t and i > lowest),
            "nothing below asks the lowest trained layer for the gradient of its input": forward
            + weights
            + sum(products[lowest:]),
            "below the lowest trained layer nothing needs a gradient": forward + weights + sum(products[1:]),
            "that is the cost of training all layers": 3 * forward - products[0],
            "that is three times the forward pass; the first layer's input needs no gradient": 3 * forward,
            "that is the forward pass alone": forward,
            "the gradients of the inputs are missing": forward + weights,
        }
        for reason, other in wrong.items():
            expect(got != other, f"{call} gave {got}: {reason}")
        expect(2 * got != wanted, f"{call} gave {got}: a product and a sum are two operations")
        expect_equal(got, wanted, call)


@exercises.add("ex-transfer-stages")
def _stages(answer):
    for every, n_blocks in ((10, 6), (1, 2), (4, 3)):
        for step in (0, every - 1, every, 2 * every, every * n_blocks, every * (n_blocks + 1), 100 * every):
            call = f"trained_depths({step}, {every}, {n_blocks})"
            got = answer(step, every, n_blocks)
            expect(
                isinstance(got, list | tuple | set | frozenset | range),
                f"{call} gave a {type(got).__name__}; expected a list or a set of depths",
            )
            got, top = set(got), n_blocks + 1
            lowest = max(0, top - step // every)
            wanted = set(range(lowest, top + 1))
            if got == wanted:
                continue
            expect(top in got, f"{call} gave {sorted(got)}: the head, depth {top}, is trained from the first step on")
            expect(min(got) >= 0, f"{call} gave {sorted(got)}: there is no depth below 0, the embeddings")
            later = set(range(max(0, top - (step + 1) // every), top + 1))
            expect(got != later, f"{call} gave {sorted(got)}: a stage lasts {every} steps, the first one too")
            expect(len(got) != 1, f"{call} gave {sorted(got)}: what has been unfrozen stays so")
            raise Wrong(f"{call} gave {sorted(got)}, expected {sorted(wanted)}")


@exercises.add("ex-transfer-merge")
def _merge(answer):
    draw = torch.Generator().manual_seed(0)
    for n_out, n_in, rank, alpha in ((6, 4, 2, 16.0), (3, 9, 1, 0.5), (5, 5, 5, 8.0)):
        weight = torch.randn(n_out, n_in, generator=draw, dtype=torch.float64)
        a = torch.randn(rank, n_in, generator=draw, dtype=torch.float64)
        b = torch.randn(n_out, rank, generator=draw, dtype=torch.float64)
        call = f"merged(weight ({n_out}, {n_in}), a ({rank}, {n_in}), b ({n_out}, {rank}), alpha={alpha:g})"
        given = weight.clone()
        got = expect_tensor(answer(given, a.clone(), b.clone(), alpha), (n_out, n_in), call)
        expect(torch.equal(given, weight), f"{call} changed the weight it was given: then nothing can be undone")
        wanted = weight + alpha / rank * b @ a
        if (got - wanted).abs().max() > 1e-9:
            wrong = {
                "the update is multiplied by alpha / rank": weight + b @ a,
                "alpha is divided by the rank": weight + alpha * b @ a,
                "the update is added to the weight": alpha / rank * b @ a,
                "alpha / rank is the factor, not rank / alpha": weight + rank / alpha * b @ a,
            }
            for reason, other in wrong.items():
                expect((got - other).abs().max() > 1e-9, f"{call}: {reason}")
            x = torch.randn(n_in, generator=draw, dtype=torch.float64)
            gap = (got @ x - (weight @ x + alpha / rank * (b @ (a @ x)))).abs().max()
            raise Wrong(f"{call}: for some input the merged layer differs from the two paths by {gap:.3g}")


@exercises.add("ex-transfer-low-rank")
def _low_rank(answer):
    draw = torch.Generator().manual_seed(1)
    for n_out, n_in, rank in ((6, 6, 2), (8, 5, 3), (4, 9, 1), (5, 5, 5)):
        update = torch.randn(n_out, n_in, generator=draw, dtype=torch.float64)
        call = f"as_lora(update ({n_out}, {n_in}), rank={rank})"
        got = answer(update.clone(), rank)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} should give a and b")
        a, b = got
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == (n_out, rank) and n_out != rank:
            raise Wrong(f"{call} gave b and a: first a ({rank}, {n_in}), then b ({n_out}, {rank})")
        a = expect_tensor(a, (rank, n_in), f"{call}, a,").double()
        b = expect_tensor(b, (n_out, rank), f"{call}, b,").double()
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        if (b @ a - best).abs().max() > 1e-6:
            last = (u[:, -rank:] * s[-rank:]) @ v[-rank:]
            wrong = {
                "these are the weakest directions": last,
                "the singular values are missing": u[:, :rank] @ v[:rank],
                "the singular values are in it twice, once in a and once in b": (u[:, :rank] * s[:rank] ** 2)
                @ v[:rank],
            }
            for reason, other in wrong.items():
                expect((b @ a - other).abs().max() > 1e-6, f"{call}: {reason}")
            far, least = ((update - one).norm().item() for one in (b @ a, best))
            raise Wrong(f"{call}: b @ a is {far:.3f} away from the update; {least:.3f} is possible")


@exercises.add("ex-transfer-between")
def _between(answer):
    draw = torch.Generator().manual_seed(2)
    before = {name: torch.randn(3, 2, generator=draw) for name in ("layer.weight", "norm.weight")}
    after = {name: value + torch.randn(3, 2, generator=draw) for name, value in before.items()}
    for share in (0.0, 0.25, 1.0):
        call = f"between(before, after, {share:g})"
        given = tuple({name: value.clone() for name, value in one.items()} for one in (before, after))
        got = answer(*given, share)
        expect(isinstance(got, dict), f"{call} gave a {type(got).__name__}; expected a dict, name -> weight")
        unchanged = all(
            torch.equal(one[n], other[n]) for one, other in zip(given, (before, after), strict=True) for n in one
        )
        expect(unchanged, f"{call} changed the weights it was given; return new ones")
        expect_equal(set(got), set(before), f"the names of {call}")
        for name, start in before.items():
            wanted = start + share * (after[name] - start)
            value = expect_tensor(got[name], start.shape, f"{call}[{name!r}]")
            if (value - wanted).abs().max() > 1e-5:
                swapped = after[name] + share * (start - after[name])
                expect((value - swapped).abs().max() > 1e-5, f"{call}: at 0 it should be before, at 1 after")
                added = start + share * after[name]
                expect(
                    (value - added).abs().max() > 1e-5, f"{call}: add a share of the *change*, not of the new weight"
                )
                raise Wrong(f"{call}: {name!r} is off by {(value - wanted).abs().max():.3g}")
