"""Checks of the exercises on fine-tuning well.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from plm_tutorial.exercises import Exercises, Wrong, expect

exercises = Exercises()
check = exercises.check

# method, rate, validation, test
TRAININGS = (
    ("a", 1e-4, 0.70, 0.60),
    ("a", 1e-4, 0.74, 0.62),
    ("a", 1e-3, 0.80, 0.90),  # the single best validation score, beside a bad one
    ("a", 1e-3, 0.50, 0.90),
    ("b", 1e-4, 0.60, 0.71),
    ("b", 1e-3, 0.65, 0.69),
    ("c", 3e-4, 0.50, 0.40),
    ("c", 1e-4, 0.50, 0.30),  # a tie, the smaller rate last
)


def _close(got: object, wanted: float) -> bool:
    try:
        return math.isclose(float(got), wanted, rel_tol=1e-6, abs_tol=1e-9)
    except (TypeError, ValueError):
        return False


@exercises.add("ex-advice-choose")
def _choose(answer):
    got = answer(list(TRAININGS))
    if not isinstance(got, Mapping):
        raise Wrong(f"fair_scores gave a {type(got).__name__}; expected a dict from method to score")
    expect(set(got) == {"a", "b", "c"}, f"the methods are a, b and c; got {sorted(map(str, got))}")
    expect(
        not _close(got["a"], 0.90),
        "method 'a' at the rate 0.001 was chosen: by the best single training, or by test scores; take the mean over "
        "the trainings of a rate, on validation",
    )
    expect(not _close(got["b"], 0.71), "method 'b': the rate was chosen by its test score; choose on validation")
    expect(not _close(got["c"], 0.40), "method 'c': the two rates are equal on validation; take the smaller one")
    for method, wanted in (("a", 0.61), ("b", 0.69), ("c", 0.30)):
        expect(_close(got[method], wanted), f"method {method!r} gave {got[method]}; expected {wanted:.2f}")
    got = answer([("x", 1e-3, 0.9, 0.5), ("x", 1e-4, 0.8, 0.7), ("x", 1e-4, 0.8, 0.5)])
    expect(_close(got.get("x"), 0.5), f"three trainings of 'x', the best rate 0.001: got {got.get('x')}; expected 0.5")


@exercises.add("ex-advice-prevalence")
def _prevalence(answer):
    for recall, alarms, prevalence in ((0.8, 0.1, 0.05), (0.5, 0.2, 0.5), (1.0, 0.01, 0.001), (0.3, 0.0, 0.1)):
        call = f"precision_at({recall}, {alarms}, {prevalence})"
        got, right = answer(recall, alarms, prevalence), prevalence * recall
        wanted = right / (right + (1 - prevalence) * alarms)
        if not _close(got, wanted) and prevalence != 0.5:
            balanced = recall / (recall + alarms)
            expect(
                not _close(got, balanced), f"{call} gave {got:.4f}: that is the precision where both are as frequent"
            )
            swapped = (1 - prevalence) * recall / ((1 - prevalence) * recall + prevalence * alarms)
            expect(
                not _close(got, swapped), f"{call} gave {got:.4f}: prevalence is the share of class 1, not of class 0"
            )
        expect(_close(got, wanted), f"{call} gave {got}; expected {wanted:.6f}")
    try:
        got = answer(0.0, 0.0, 0.1)
    except ZeroDivisionError:
        raise Wrong("precision_at(0.0, 0.0, 0.1): nothing is called, and a division by zero; return 0") from None
    expect(_close(got, 0.0), f"precision_at(0.0, 0.0, 0.1) gave {got}; nothing is called: expected 0")


@exercises.add("ex-advice-focal")
def _focal(answer):
    for p in (0.05, 0.3, 0.5, 0.9, 0.99):
        for gamma in (0.0, 1.0, 2.0, 5.0):
            call = f"focal_pull({p}, {gamma})"
            got = answer(p, gamma)
            wanted = (1 - p) ** gamma * (1 - p - gamma * p * math.log(p))
            if _close(got, wanted):
                continue
            wrong = {
                "the first factor depends on p too: use the product rule": (1 - p) ** (gamma + 1),
                "that is the loss, not its derivative": -((1 - p) ** gamma) * math.log(p),
                "the sign is turned: the pull is towards a larger margin": -wanted,
                "that is the derivative by p; dp/dm = p (1 - p) is missing": wanted / (p * (1 - p)),
            }
            for reason, other in wrong.items():
                expect(not _close(got, other), f"{call} gave {got}: {reason}")
            raise Wrong(f"{call} gave {got}; expected {wanted:.6f}")
    many = np.array([0.2, 0.6])
    expect(np.shape(answer(many, 2.0)) == (2,), "an array of two probabilities should give an array of two numbers")
