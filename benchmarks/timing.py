"""What the benchmarks share: the machine's own limits, and runs of two or more programs in turn.

A machine's speed drifts, so only runs of one round are compared: in each round every program runs once, in another
order each time. The ratio is the median over the rounds, its interval the bootstrap's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from plm_tutorial.evaluation import bootstrap_interval


class Ratio(NamedTuple):
    """How many times as fast as another program, with the 95 % interval."""

    median: float
    low: float
    high: float


def in_turn(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each program took in each round, after one run that is not counted."""
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(programs), len(programs)):
            start = time.perf_counter()
            programs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> Ratio:
    """Return how many times as fast as theirs ours is, from the seconds of each round."""
    ratios = np.array(theirs) / np.array(ours)
    return Ratio(float(np.median(ratios)), *bootstrap_interval(ratios, np.median))


def bandwidth(n_bytes: int = 2**29) -> float:
    """Return the bytes that this machine reads from memory in a second: the median of nine sums of a large array."""
    numbers = torch.ones(n_bytes // 4)
    return n_bytes / median(in_turn({"read": numbers.sum}, 9)["read"])


def matmul_rate(size: int = 1024) -> float:
    """Return the floating-point operations in a second of a large float32 product, the median of nine."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / median(in_turn({"multiply": lambda: a @ b}, 9)["multiply"])


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of strings, the first of them the head, with the columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *numbers]))
