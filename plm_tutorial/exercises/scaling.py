"""Checks of the exercises on scaling.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_number
from plm_tutorial.experiments.scaling import Law, effective_tokens

exercises = Exercises()
check = exercises.check

LAWS = (Law(E=2.4, A=25.0, alpha=0.3, B=150.0, beta=0.35), Law(E=1.8, A=480.0, alpha=0.35, B=2000.0, beta=0.37))


def _near(got: float, wanted: float, tolerance: float) -> bool:
    return abs(got - wanted) <= tolerance * abs(wanted)


def _explain(got: float, wrong: dict[str, float], call: str, tolerance: float) -> None:
    for reason, other in wrong.items():
        expect(not _near(got, other, tolerance), f"{call} gave {got:,.6g}: {reason}")


@exercises.add("ex-scaling-linear")
def _linear(answer: Callable) -> None:
    for law in LAWS:
        N, D = (grid.ravel() for grid in np.meshgrid([1e5, 3e5, 1e6, 3e6], [1e6, 4e6, 16e6]))
        L = law(N, D)
        call = "linear_fit(N, D, L, alpha, beta) of twelve runs on a known law"
        got = answer(N.copy(), D.copy(), L.copy(), law.alpha, law.beta)
        expect(isinstance(got, Sequence | np.ndarray) and len(got) == 3, f"{call} should give three numbers, E, A, B")
        E, A, B = (expect_number(one, call) for one in got)
        swapped = _near(A, law.B, 1e-3) and _near(B, law.A, 1e-3)
        expect(not swapped, f"{call}: A and B have changed places; A belongs to N, B to D")
        expect(not _near(E, law.A, 1e-3), f"{call}: the order is E, A, B")
        expect(E != 0, f"{call} gave E = 0; the column of ones is missing, or E was left out")
        for name, found, true in (("E", E, law.E), ("A", A, law.A), ("B", B, law.B)):
            expect(_near(found, true, 1e-3), f"{call} gave {name} = {found:.5g}; the runs lie on {name} = {true:g}")


@exercises.add("ex-scaling-vocabulary")
def _vocabulary(answer: Callable) -> None:
    for law, flops, extra in ((LAWS[0], 1e13, 1e6), (LAWS[0], 1e15, 1e6), (LAWS[1], 1e19, 3e7), (LAWS[0], 1e14, 0)):
        call = f"best_size(law, {flops:.0e}, {extra:.0e}) for {law}"
        got = expect_number(answer(law, flops, extra), call)

        def lowest(loss: Callable, budget: float = flops) -> float:
            sizes = np.geomspace(1e2, budget / 6e2, 200_001)
            return float(sizes[np.argmin(loss(sizes))])

        wanted = lowest(lambda N, law=law, C=flops, X=extra: law(N, C / 6 / (N + X)))
        if _near(got, wanted, 0.02):
            continue
        plain = law.best(flops)[0]
        wrong = {
            "the best size when the output layer costs nothing": plain,
            "the number of tokens; asked for is the size": flops / 6 / (wanted + extra),
            "with the extra parameters counted in; return N, without them": wanted + extra,
            "the extra weights cost time but do not take part in N: inside the law it is N alone": lowest(
                lambda N, law=law, C=flops, X=extra: law(N + X, C / 6 / (N + X))
            ),
        }
        _explain(got, wrong, call, 0.02)
        raise Wrong(f"{call} gave {got:,.6g}, but the loss is lowest at N = {wanted:,.6g}")


@exercises.add("ex-scaling-repeats")
def _repeats(answer: Callable) -> None:
    R = 15.387756
    for epochs in (1, 2, 4, 2.3, 16, 40):
        call = f"worth({epochs})"
        got = expect_number(answer(epochs), call)
        wanted = effective_tokens(epochs, 1) / epochs
        if _near(got, wanted, 1e-3):
            continue
        wrong = {
            "this is D' in units of the text; asked for is its share of the tokens read": wanted * epochs,
            "the first pass is no repetition: R is epochs - 1": (1 + R * (1 - math.exp(-epochs / R))) / epochs,
            "the first pass is missing from D'": R * (1 - math.exp(-(epochs - 1) / R)) / epochs,
            "the sign in the exponent": (1 + R * (1 - math.exp((epochs - 1) / R))) / epochs,
        }
        _explain(got, wrong, call, 1e-3)
        raise Wrong(f"{call} gave {got:.5g}, expected {wanted:.5g}")


@exercises.add("ex-scaling-served")
def _served(answer: Callable) -> None:
    for law, loss, served in ((LAWS[0], 3.6, 0), (LAWS[0], 3.6, 1e9), (LAWS[0], 3.6, 1e11), (LAWS[1], 2.1, 1e13)):
        call = f"cheapest(law, {loss}, {served:.0e}) for {law}"
        got = expect_number(answer(law, loss, served), call)
        smallest = (law.A / (loss - law.E)) ** (1 / law.alpha)  # with all the text there is
        expect(got > smallest, f"{call} gave {got:,.6g}, which no amount of text brings to a loss of {loss}")

        def bill(N: np.ndarray, train: float, serve: float, law: Law = law, loss: float = loss) -> np.ndarray:
            return train * N * _needed(law, loss, N) + serve * N

        sizes = smallest * np.geomspace(1.0001, 1e4, 400_001)
        wanted = float(sizes[np.argmin(bill(sizes, 6, 2 * served))])
        if _near(got, wanted, 0.02):
            continue
        wrong = {
            "the cheapest to train; the served tokens are not in the bill": float(sizes[np.argmin(bill(sizes, 6, 0))]),
            "a served token costs 2N, only a forward pass, not 6N": float(sizes[np.argmin(bill(sizes, 6, 6 * served))]),
            "a trained token costs 6N": float(sizes[np.argmin(bill(sizes, 2, 2 * served))]),
            "the number of tokens; asked for is the size": float(_needed(law, loss, np.array(wanted))),
        }
        _explain(got, wrong, call, 0.02)
        raise Wrong(f"{call} gave {got:,.6g}, but the bill is lowest at N = {wanted:,.6g}")


def _needed(law: Law, loss: float, N: np.ndarray) -> np.ndarray:
    """Return the tokens that bring a model of N parameters to a loss."""
    return (law.B / (loss - law.E - law.A / N**law.alpha)) ** (1 / law.beta)


@exercises.add("ex-scaling-resolution")
def _resolution(answer: Callable) -> None:
    for p, k, n in ((0.5, 1, 1), (0.5, 2, 3), (0.3, 8, 1000), (0.6, 8, 1000), (0.9, 20, 50), (0.0, 3, 10)):
        call = f"chance_of_a_point({p}, {k}, {n})"
        got = expect_number(answer(p, k, n), call)
        wanted = -math.expm1(n * math.log1p(-(p**k)))
        if abs(got - wanted) < 1e-6:
            continue
        wrong = {
            "this is the chance that one given answer is right": p**k,
            "this is the expected number of right answers, not a chance": n * p**k,
            "this is the chance that none is right": 1 - wanted,
            "this is the chance that all are right": p ** (k * n),
            "a single right token does not make an answer right; all k have to be": 1 - (1 - p) ** n,
        }
        _explain(got, wrong, call, 1e-6)
        raise Wrong(f"{call} gave {got:.6g}, expected {wanted:.6g}")
