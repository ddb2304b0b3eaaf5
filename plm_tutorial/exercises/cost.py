"""Checks of the exercises on cost.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

from plm_tutorial.exercises import Exercises, expect, expect_close

exercises = Exercises()
check = exercises.check


@exercises.add("ex-cost-carbon")
def _carbon(answer):
    for seconds, watts, grid in ((3600, 1000, 400), (231, 700, 57), (1.2e6, 150, 650)):
        call = f"grams_of_co2({seconds}, {watts}, {grid})"
        kwh = seconds * watts / 3.6e6
        reasons = {
            seconds * watts * grid: "watts times seconds are joules; a kilowatt-hour has 3.6 million of them",
            seconds / 3600 * watts * grid: "watts times hours are watt-hours; the grid counts kilowatt-hours",
            kwh * grid / 1e3: "that is kilograms",
            kwh: "those are the kilowatt-hours; each of them emits `grid` grams",
        }
        expect_close(answer(seconds, watts, grid), kwh * grid, call, reasons)


@exercises.add("ex-cost-served")
def _served(answer):
    for parameters, tokens, answers in ((1e9, 2e10, 500), (7e9, 2e12, 1000), (135e6, 2e12, 200)):
        call = f"answers_to_equal({parameters:g}, {tokens:g}, {answers})"
        wanted = 3 * tokens / answers
        reasons = {
            tokens / answers: "a token costs 6N in training, forward and backward, and 2N in use",
            3 * tokens: "those are tokens; an answer has several",
            6 * tokens / answers: "a token in use costs 2N, not N",
            wanted * parameters: "the number of parameters stands on both sides and cancels",
        }
        expect_close(answer(parameters, tokens, answers), wanted, call, reasons)


@exercises.add("ex-cost-cheapest")
def _cheapest(answer):
    ways = {
        "count": [(100, 1.0, 0.60), (1000, 2.0, 0.70), (6000, 5.0, 0.78)],
        "probe": [(100, 20.0, 0.68), (1000, 40.0, 0.74)],
        "tune": [(100, 60.0, 0.70), (1000, 200.0, 0.80), (6000, 900.0, 0.85)],
    }
    cases = [
        ((0.70, 0.0, 0.01), ("count", 1000), "labels are free, so the least seconds decide"),
        ((0.70, 0.10, 0.01), ("tune", 100), "a label costs ten cents: few labels and more seconds are cheaper"),
        ((0.75, 0.10, 0.01), ("tune", 1000), "only 'tune' with 1,000 labels, and those with 6,000, are good enough"),
        ((0.85, 0.10, 0.01), ("tune", 6000), "exactly good enough is good enough"),
        ((0.70, 0.001, 1.0), ("count", 1000), "a second costs a euro: the least seconds decide"),
    ]
    for (wanted, per_label, per_second), best, why in cases:
        call = f"cheapest(ways, {wanted}, per_label={per_label}, per_second={per_second})"
        got = answer({k: list(v) for k, v in ways.items()}, wanted, per_label, per_second)
        expect(got is not None, f"{call} gave None; {best} is good enough")
        got = tuple(got) if isinstance(got, list | tuple) else got
        expect(isinstance(got, tuple) and len(got) == 2, f"{call} gave {got!r}; expected a name and a number of labels")
        expect(got == best, f"{call} gave {got}, expected {best}: {why}")
    got = answer(ways, 0.99, 0.1, 0.1)
    expect(got is None, f"cheapest(ways, 0.99, …) gave {got!r}; none is good enough: expected None")
