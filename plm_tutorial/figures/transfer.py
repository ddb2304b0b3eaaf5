"""Figures about adapting a model: what it costs and brings, what memory holds, what is learned and what is kept.

In: numbers by the name of a way, always in the same order, so that each way keeps its colour from figure to figure; NaN
leaves one out. Out: the ``Axes``. Nothing here computes results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from plm_tutorial.figures import COLOURS, MARKERS

PARTS = ("#4d4d4d", COLOURS[1], COLOURS[4], COLOURS[0])  # of a stacked bar


def draw_cost(
    ax: Axes,
    costs: Mapping[str, ArrayLike],
    scores: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    notes: Sequence[str] = (),
    noted: str | None = None,
) -> Axes:
    """Draw scores against costs, in logarithmic steps: a line for each way, a point for each size of its training set.

    Args:
        costs, scores: name -> (S,), the same names in both; NaN where there is no such run.
        notes: (S,), written at the points of one line.
        noted: the name of that line.

    Raises:
        ValueError: a name has costs and no scores, or they differ in number.
    """
    for number, (name, score) in enumerate(scores.items()):
        x, y = np.asarray(costs.get(name, ()), dtype=float), np.asarray(score, dtype=float)
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(f"{name!r} has costs of shape {x.shape} and scores of shape {y.shape}; expected (S,) each")
        there = np.isfinite(x) & np.isfinite(y)
        if not there.any():
            continue
        ax.plot(
            x[there], y[there], marker=MARKERS[number % len(MARKERS)], label=name, color=COLOURS[number % len(COLOURS)]
        )
        for at in np.flatnonzero(there) if name == noted else ():
            ax.annotate(notes[at], (x[at], y[at]), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(fontsize=8)
    return ax


def draw_parts(ax: Axes, table: Mapping[str, Mapping[str, float]], *, xlabel: str) -> Axes:
    """Draw one bar for each name, made of its parts one after another, with their sum at its end.

    Raises:
        ValueError: the names have different parts, or more than four.
    """
    names = list(table)
    parts = list(table[names[0]]) if names else []
    if any(list(one) != parts for one in table.values()) or not 0 < len(parts) <= len(PARTS):
        raise ValueError(
            f"expected the same parts, one to {len(PARTS)}, for each name; got {list(table.values())!r:.90}"
        )
    begin = np.zeros(len(names))
    for part, colour in zip(parts, PARTS, strict=False):
        sizes = np.array([table[name][part] for name in names], dtype=float)
        ax.barh(names, sizes, left=begin, color=colour, label=part, height=0.6)
        begin += sizes
    for row, total in enumerate(begin):
        ax.annotate(f"{total:,.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.set(xlabel=xlabel)
    ax.legend(fontsize=8)
    return ax


def draw_balance(
    ax: Axes, points: Mapping[str, tuple[float, float]], start: float, *, xlabel: str, ylabel: str
) -> Axes:
    """Draw what each way has kept against what it has learned; a line marks what there was to keep.

    Args:
        points: name -> (learned, kept).
        start: what there was before.
    """
    for number, (name, (learned, kept)) in enumerate(points.items()):
        if not np.isfinite([learned, kept]).all():
            continue
        ax.plot(learned, kept, MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], ms=8)
        ax.annotate(name, (learned, kept), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    ax.axhline(start, color="0.35", lw=1.2, ls="--")
    ax.annotate("before", (1, start), (-4, -10), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", fontsize=8, color="0.35")  # fmt: skip
    ax.margins(0.18)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax
