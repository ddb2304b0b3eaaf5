"""Figures about advice on fine-tuning: a grid of settings, scores by what is frozen, differences with intervals.

In: tables of scores. Out: the ``Axes``. Nothing here computes results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from plm_tutorial.evaluation import Difference
from plm_tutorial.figures import COLOURS, MARKERS


def draw_grid(ax: Axes, table: pd.DataFrame, *, title: str, good: str = "high") -> Axes:
    """Draw a number for each rate (a row of the table) and number of epochs (a column), darker where it is better.

    Args:
        good: "high" or "low": which numbers are better.

    Raises:
        ValueError: ``good`` is neither.
    """
    if good not in ("high", "low"):
        raise ValueError(f"good is {good!r}; expected 'high' or 'low'")
    values = table.to_numpy(dtype=float)
    image = ax.imshow(values, cmap="Blues" if good == "high" else "Blues_r", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = sum(image.cmap(image.norm(value))[:3]) < 1.5
        ax.text(column, row, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    ax.set_xticks(range(len(table.columns)), [f"{n}" for n in table.columns])
    ax.set_yticks(range(len(table.index)), [f"{rate:g}" for rate in table.index])
    ax.set(title=title, xlabel="epochs", ylabel="learning rate")
    ax.grid(False)
    return ax


def draw_by_depth(ax: Axes, scores: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> Axes:
    """Draw scores by what is frozen: a line through the means for each way of choosing, a band over the seeds.

    Args:
        scores: way -> what is frozen -> a score for each seed; the same order in each.
    """
    for number, (way, by_depth) in enumerate(scores.items()):
        values = [np.asarray(one, dtype=float) for one in by_depth.values()]
        places = range(len(values))
        colour, style = COLOURS[number], ("-", "--")[number % 2]
        ax.plot(places, [v.mean() for v in values], style, marker=MARKERS[number], color=colour, label=way)
        ax.fill_between(places, [v.min() for v in values], [v.max() for v in values], color=colour, alpha=0.15)
    names = list(next(iter(scores.values())))
    ax.set_xticks(range(len(names)), names, rotation=45)
    ax.set(title=title, xlabel="frozen up to block")
    return ax


def draw_points(ax: Axes, differences: Mapping[str, Difference], *, xlabel: str) -> Axes:
    """Draw differences as points with their intervals, one below the other, the first on top, and a line at zero."""
    for place, difference in enumerate(differences.values()):
        reach = [[difference.estimate - difference.low], [difference.high - difference.estimate]]
        colour = COLOURS[place % 2]
        ax.errorbar(difference.estimate, place, xerr=reach, fmt=MARKERS[place % 2], color=colour, capsize=3)
    ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set_yticks(range(len(differences)), list(differences))
    ax.invert_yaxis()
    ax.set(xlabel=xlabel)
    return ax
