"""Figures about generated text.

In: a table of measurements, and an ``Axes``. Out: the ``Axes``. Nothing here computes results.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from plm_tutorial.figures import COLOURS, MARKERS

KINDS = ("greedy", "beam", "temperature", "top-k", "top-p", "min-p")  # how names of strategies begin


def draw_strategies(
    ax: Axes, table: pd.DataFrame, x: str = "perplexity", y: str = "distinct-2", *, human: str = "human"
) -> Axes:
    """Draw a point for each way of decoding, its name beside it, and human text as a star between two thin lines.

    Args:
        table: a row for each, named as in :data:`KINDS`; one row is named ``human``.
        x, y: its columns; x is drawn on a logarithmic scale.

    Raises:
        ValueError: there is no row for human text, or a name begins in no known way.
    """
    if human not in table.index:
        raise ValueError(f"the table has no row {human!r}, only {', '.join(map(str, table.index))}")
    last = {"left": -1.0, "right": -1.0}  # how high the latest label of each side stands
    for number, (name, row) in enumerate(table.sort_values(y).iterrows()):
        at = row[x], row[y]
        if name == human:
            ax.axvline(at[0], color="0.75", linewidth=1)
            ax.axhline(at[1], color="0.75", linewidth=1)
            ax.plot(*at, "*", markersize=18, color="black")
            ax.annotate(name, at, (0, 11), textcoords="offset points", weight="bold", ha="center")
            continue
        kind = next((i for i, begin in enumerate(KINDS) if str(name).startswith(begin)), None)
        if kind is None:
            raise ValueError(f"the row {name!r} begins with none of {', '.join(KINDS)}")
        ax.plot(*at, marker=MARKERS[kind], color=COLOURS[kind], markersize=7)
        side = "left" if number % 2 == 0 else "right"  # neighbours on different sides
        lift = 2 if at[1] - last[side] < 0.03 else -3
        last[side] = at[1]
        place = (7 if side == "left" else -7, lift)
        ax.annotate(str(name), at, place, textcoords="offset points", fontsize=7, ha=side)
    ax.margins(x=0.22)
    ax.set(xscale="log", xlabel=x, ylabel=y)
    return ax
