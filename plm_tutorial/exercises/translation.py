"""Checks of the exercises on translation.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
from collections import Counter

import torch

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_close, expect_equal, expect_tensor

exercises = Exercises()
check = exercises.check


@exercises.add("ex-translation-brevity")
def _brevity(answer):
    for output, reference in ((9, 12), (12, 12), (20, 12), (1, 40), (500, 501)):
        wanted = 1.0 if output >= reference else math.exp(1 - reference / output)
        reasons = {
            output / reference: "this is the ratio of the lengths; the penalty falls off faster",
            math.exp(1 - reference / output): "an output that is long enough gets 1, no reward",
            math.exp(1 - output / reference): "the ratio is upside down",
            math.exp(-reference / output): "the exponent is 1 minus the ratio, so that equal lengths get 1",
        }
        reasons = {value: reason for value, reason in reasons.items() if abs(value - wanted) > 1e-6}
        expect_close(answer(output, reference), wanted, f"brevity_penalty({output}, {reference})", reasons)


@exercises.add("ex-translation-clip")
def _clip(answer):
    cases = (
        ("the the the cat sat", "the cat is on the mat", 1),
        ("the the the the", "the cat is on the mat", 1),
        ("on the mat the cat", "the cat is on the mat", 2),
        ("le 5 mars 2024", "le 5 mars 2024", 3),
        ("a b", "a b c d", 3),
        ("a b a b a", "a b c a b", 2),
        ("the cat sat", "a dog ran", 1),
    )
    for output, reference, n in cases:
        call = f"clipped_precision({output!r}, {reference!r}, {n})"
        got, want = (_grams(text.split(), n) for text in (output, reference))
        right, total = sum((got & want).values()), sum(got.values())
        wanted = right / total if total else 0.0
        unclipped = sum(count for gram, count in got.items() if gram in want)
        reasons = {
            unclipped / max(total, 1): "an n-gram counts at most as often as the reference has it",
            right / max(sum(want.values()), 1): "divided by the n-grams of the reference: this is recall",
            len(got & want) / max(len(got), 1): "each n-gram counts as often as it occurs, not once",
        }
        reasons = {value: reason for value, reason in reasons.items() if abs(value - wanted) > 1e-6}
        expect_close(answer(output, reference, n), wanted, call, reasons)


@exercises.add("ex-translation-shift")
def _shift(answer):
    for rows in ([[5, 6, 7, 2], [7, 2, -100, -100]], [[9, 8, 7, 2]], [[2, -100], [4, 2]]):
        labels = torch.tensor(rows)
        call = f"decoder_input(torch.tensor({rows}), begin=1, pad=0)"
        kept = labels.clone()
        got = expect_tensor(answer(labels, 1, 0), tuple(labels.shape), call)
        expect(torch.equal(labels, kept), f"{call} changed the labels, which the loss still needs: work on a copy")
        expect(bool((got[:, 0] == 1).all()), f"{call} gave {got.tolist()}: each row begins with the begin token")
        expect(
            bool((got >= 0).all()), f"{call} gave {got.tolist()}: -100 is no token; what stands for nothing is padding"
        )
        wanted = torch.cat([torch.ones_like(labels[:, :1]), labels[:, :-1].masked_fill(labels[:, :-1] < 0, 0)], dim=1)
        expect(torch.equal(got, wanted), f"{call} gave {got.tolist()}, expected {wanted.tolist()}")


@exercises.add("ex-translation-length")
def _length(answer):
    cases = (
        ([[-0.6], [-0.25] * 2, [-0.16] * 5, [-0.14] * 12, [-3.0]], 0.6),
        ([[-0.5], [-0.3, -0.3, -0.3]], 0.0),
        ([[-0.5], [-0.3, -0.3, -0.3]], 1.0),
        ([[-0.5], [-0.3, -0.3, -0.3]], 0.3),
        ([[-0.2, -0.9], [-0.4, -0.4, -0.4, -0.4], [-1.0]], 0.6),
        ([[-2.0, -2.0], [-0.9] * 8], 0.5),
        ([[-1.0, -1.0], [-0.4] * 6, [-0.1] * 30], 2.0),
    )
    for hypotheses, penalty in cases:
        call = f"best({hypotheses}, {penalty})"
        scores = [sum(h) / len(h) ** penalty for h in hypotheses]
        wanted, got = max(range(len(scores)), key=scores.__getitem__), answer(hypotheses, penalty)
        if got == wanted:
            continue
        others = {
            "this is the smallest score: log-probabilities are negative, the best is nearest to 0": min(
                range(len(scores)), key=scores.__getitem__
            ),
            "the sum is divided by the length to the power of the penalty, not multiplied": max(
                range(len(scores)), key=lambda i: sum(hypotheses[i]) * len(hypotheses[i]) ** penalty
            ),
            "the sum alone, without the length": max(range(len(scores)), key=lambda i: sum(hypotheses[i])),
            "the mean, whatever the penalty": max(
                range(len(scores)), key=lambda i: sum(hypotheses[i]) / len(hypotheses[i])
            ),
        }
        reason = next((reason for reason, choice in others.items() if choice == got), f"expected {wanted}")
        raise Wrong(f"{call} gave {got}; the scores are {[round(s, 3) for s in scores]}: {reason}")


@exercises.add("ex-translation-holdout")
def _holdout(answer):
    cases = (
        ([("Jan", 1), ("Jan", 2), ("Feb", 1), ("Feb", 2)], [("Feb", 2)]),
        ([("Jan", 1), ("Jan", 2), ("Feb", 1)], [("Feb", 1)]),
        ([("Jan", 1), ("Feb", 2), ("Mar", 3)], [("Jan", 1)]),
        ([("Jan", 1), ("Feb", 2), ("Jan", 2), ("Feb", 1)], [("Jan", 1), ("Feb", 2)]),
        ([("Jan", 1), ("Jan", 2), ("Feb", 1), ("Feb", 2)], [("Jan", 2), ("Feb", 2)]),
        ([("Jan", 1), ("Jan", 1), ("Feb", 1), ("Jan", 2)], [("Jan", 1)]),
    )
    for everything, held_out in cases:
        train = [one for one in everything if one not in held_out]
        parts = [{one[i] for one in train} for i in (0, 1)]
        wanted = all(one[i] in parts[i] for one in held_out for i in (0, 1))
        call = f"fair({train}, {held_out})"
        got = answer(train, held_out)
        expect(isinstance(got, bool), f"{call} gave {got!r}; expected True or False")
        expect_equal(got, wanted, call)
    call = "fair([('Jan', 1), ('Feb', 2)], [('Jan', 1)])"
    expect_equal(answer([("Jan", 1), ("Feb", 2)], [("Jan", 1)]), False, f"{call}: it was trained on. It")
    expect_equal(answer([(1, 2), (2, 3), (3, 1)], [(1, 1)]), True, "fair([(1, 2), (2, 3), (3, 1)], [(1, 1)])")
    expect_equal(answer([(1, 2)], [(2, 1)]), False, "fair([(1, 2)], [(2, 1)]): seen, but in the other place. It")


def _grams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
