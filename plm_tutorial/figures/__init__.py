"""Figures of the book: static ones with matplotlib here, interactive ones in `figures.interactive`.

In: data that a page computed, and an ``Axes``. Out: the ``Axes`` (or an object that a notebook displays). Nothing
here computes results, and nothing in the package imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes

# Eight colours that stay apart for colour-blind readers (Okabe and Ito's palette), darkened where 3:1 contrast
# on white needs it.
COLOURS = ["#0072b2", "#d55e00", "#008060", "#b0569a", "#8a6d00", "#2a7fb8", "#5b5b5b", "#a03a2c"]
MARKERS = "osD^vPX*"  # as many, so that lines differ by more than colour


def use_style() -> None:
    """Set matplotlib's defaults for the whole page: readable sizes, no box, a light grid, white ground."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.4),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 10,
            "lines.linewidth": 1.8,
            "lines.markersize": 4.5,
            "legend.frameon": False,
        }
    )


def lines(ax: Axes, x: Sequence[float], series: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> Axes:
    """Draw one line for each named series over the same ``x``, each with its own marker, and a legend."""
    for (name, y), marker in zip(series.items(), MARKERS, strict=False):
        ax.plot(x, y, marker=marker, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        ax.legend()
    return ax


def bars(ax: Axes, values: Mapping[str, float], *, xlabel: str) -> Axes:
    """Draw one horizontal bar for each named value, largest names first as given, with the value written at its end."""
    drawn = ax.barh(list(values), list(values.values()), color=COLOURS[0])
    ax.bar_label(drawn, fmt="%.3g", padding=3)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel)
    return ax


def grouped_bars(ax: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], *, xlabel: str) -> Axes:
    """Draw for each group one horizontal bar for each named series, values written at their ends, and a legend."""
    height = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        middle = [row + (number - (len(series) - 1) / 2) * height for row in range(len(groups))]
        drawn = ax.barh(middle, values, height=0.9 * height, label=name, color=COLOURS[number % len(COLOURS)])
        ax.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    ax.set_yticks(range(len(groups)), groups)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel)
    ax.legend()
    return ax
