"""Checks of the exercises on choosing a model.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math

from plm_tutorial.exercises import Exercises, expect, expect_number

exercises = Exercises()
check = exercises.check


@exercises.add("ex-choosing-fits")
def _fits(answer):
    shape = (135_000_000, 8, 30, 3, 64)  # 135 MB of weights; 23,040 bytes a position
    edge = 135_000_000 + 23_040 * 1000
    cases = [
        ((*shape, 1000, edge), True, "the memory is filled to the last byte, and it fits"),
        ((*shape, 1000, edge - 1), False, "a byte is lacking"),
        ((*shape, 0, 135_000_000), True, "with no positions the weights alone count, 8 bits being a byte"),
        ((1_000_000, 4, 1, 1, 1, 0, 500_000), True, "two numbers of 4 bits share a byte"),
        ((1_000_000, 32, 1, 1, 1, 0, 3_999_999), False, "32 bits are four bytes"),
        ((0, 8, 2, 4, 16, 10, 5119), False, "keys and values, two bytes each: 2 · 2 · 4 · 16 · 10 · 2 bytes"),
        ((0, 8, 2, 4, 16, 10, 5120), True, "keys and values, two bytes each: 2 · 2 · 4 · 16 · 10 · 2 bytes"),
    ]
    for given, wanted, why in cases:
        got = answer(*given)
        expect(got in (True, False), f"fits{given} gave {got!r}; expected True or False")
        expect(bool(got) is wanted, f"fits{given} gave {got}: {why}")


@exercises.add("ex-choosing-frontier")
def _frontier(answer):
    cases = [
        ({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.6)}, ["a", "b"], "c is dearer and worse than b"),
        ({"x": (5, 0.9), "y": (1, 0.9)}, ["y"], "x is as good as y, and dearer"),
        ({"x": (5, 0.9), "y": (5, 0.8)}, ["x"], "y costs as much as x, and is worse"),
        ({"big": (100, 0.9), "small": (1, 0.2), "middle": (10, 0.5)}, ["small", "middle", "big"], "none is beaten"),
        ({"only": (3, 0.1)}, ["only"], "there is no other"),
    ]
    for points, wanted, why in cases:
        call = f"frontier_of({points})"
        got = answer(dict(points))
        expect(isinstance(got, list | tuple), f"{call} gave a {type(got).__name__}; expected a list of names")
        expect(set(got) == set(wanted), f"{call} gave {list(got)}, expected {wanted}: {why}")
        expect(list(got) == wanted, f"{call} gave {list(got)}; expected by rising cost: {wanted}")
    twins = {"one": (2, 0.4), "two": (2, 0.4), "bad": (3, 0.1)}
    got = answer(dict(twins))
    expect(set(got) == {"one", "two"}, f"frontier_of({twins}) gave {list(got)}: equals do not beat each other")


@exercises.add("ex-choosing-needed")
def _needed(answer):
    cases = [
        ([1] * 30 + [0] * 20, [1] * 24 + [0] * 6 + [1] * 2 + [0] * 18),
        ([1, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 1, 0, 1, 1]),
        ([0] * 10 + [1] * 90, [1] * 25 + [1] * 75),  # the second is better
    ]
    for a, b in cases:
        n = len(a)
        call = f"needed(right_a, right_b) with {n} texts, {sum(a)} and {sum(b)} of them right"
        d = [x - y for x, y in zip(a, b, strict=True)]
        delta, p = abs(sum(d)) / n, sum(x != 0 for x in d) / n
        wanted = math.ceil(((1.96 * p**0.5 + 0.8416 * (p - delta**2) ** 0.5) / delta) ** 2)
        got = answer(list(a), list(b))
        expect(got is not None, f"{call} gave None; there is a difference, whatever its sign")
        got = expect_number(got, call)
        rates = sum(a) / n, sum(b) / n
        apart = sum(q * (1 - q) for q in rates)
        unpaired = ((1.96 + 0.8416) / delta) ** 2 * apart
        same_variance = ((1.96 + 0.8416) / delta) ** 2 * (p - delta**2)
        expect(
            abs(got - wanted) < 1 or abs(got - unpaired) > 1,
            f"{call} gave {got:g}: the texts are the same, so pair them",
        )
        expect(
            abs(got - wanted) < 1 or abs(got - same_variance) > 1,
            f"{call} gave {got:g}: the first of the two roots has p alone, the variance if there were no difference",
        )
        expect(abs(got - wanted) < 1, f"{call} gave {got:g}, expected {wanted}")
        expect(got == int(got), f"{call} gave {got:g}; a number of texts is whole, rounded up")
    got = answer([1, 0, 1], [0, 1, 1])
    expect(got is None, f"needed([1, 0, 1], [0, 1, 1]) gave {got!r}; the pilot shows no difference: expected None")
