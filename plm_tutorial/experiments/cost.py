"""What a computation costs in energy and money: a meter where the machine has one, bounds where it has none.

In: a function to run; or seconds, watts and prices. Out: joules, kilowatt-hours, money, as ranges from low to high.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

METERS = Path("/sys/class/powercap")  # where Linux shows the counters of processors that have them


class Range(NamedTuple):
    """A quantity that is known only to lie between two numbers."""

    low: float
    high: float

    def times(self, other: float | Range) -> Range:
        """Return the range of products with a number, or with any number of another range; none is negative."""
        low, high = other if isinstance(other, Range) else (other, other)
        return Range(self.low * low, self.high * high)


CORE = Range(
    3.0, 15.0
)  # watts that a busy core of a processor draws, with its share of the rest: from laptop to server
GPU = Range(300.0, 700.0)  # watts of an H100; the most it may draw is 700
OVERHEAD = Range(1.0, 1.6)  # a building's whole power over that of its computers


def read_joules(folder: Path = METERS) -> float | None:
    """Return the joules that the processors' own counters show, added up over packages; None where there is none.

    The counters (RAPL) begin anew after some time, and may be readable by the administrator alone; then None, too.
    Source: the Linux kernel's documentation of the power capping framework.
    """
    total, found = 0.0, False
    for counter in sorted(folder.glob("intel-rapl:*/energy_uj")):
        if counter.parent.name.count(":") > 1:  # a part of a package, which is counted there
            continue
        try:
            total += int(counter.read_text()) / 1e6
        except (OSError, ValueError):
            return None
        found = True
    return total if found else None


class Metered(NamedTuple):
    """What a run took."""

    result: Any
    seconds: float
    joules: float | None  # of the whole machine, others' work included; None: no meter, or it began anew


def metered(run: Callable[[], Any], folder: Path = METERS) -> Metered:
    """Run a function between two looks at the clock and at the meter."""
    before, begun = read_joules(folder), time.perf_counter()
    result = run()
    seconds, after = time.perf_counter() - begun, read_joules(folder)
    joules = None if before is None or after is None or after < before else after - before
    return Metered(result, seconds, joules)


def kilowatt_hours(seconds: float, watts: Range, overhead: Range = OVERHEAD) -> Range:
    """Return the energy of so many seconds, from the least to the most.

    Raises:
        ValueError: the time is negative.
    """
    if seconds < 0:
        raise ValueError(f"seconds is {seconds}; expected a time that is not negative")
    return watts.times(overhead).times(seconds / 3.6e6)


def uses_to_equal(training_flops: float, use_flops: float) -> float:
    """Return after how many uses a model has cost as much in use as it did in training.

    Raises:
        ValueError: a number is not positive.
    """
    if not (training_flops > 0 and use_flops > 0):
        raise ValueError(f"training costs {training_flops}, a use {use_flops}; expected positive numbers of FLOPs")
    return training_flops / use_flops
