"""Figures about classifiers: confusion matrix, reliability diagram, learning curves.

In: what :mod:`plm_tutorial.evaluation` computed, and an ``Axes``. Out: the ``Axes``. Nothing here computes results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import ArrayLike

from plm_tutorial.evaluation import ReliabilityBins
from plm_tutorial.figures import COLOURS, MARKERS

NARROW = 0.02  # of the width of a reliability diagram; there is no room for a number above such a bin


def draw_confusion(ax: Axes, matrix: ArrayLike, names: Sequence[str] | None = None) -> Axes:
    """Draw a confusion matrix: in each cell the count, below it the share of its row, which also is its colour.

    Args:
        matrix: (C, C) counts, a row for each true class; see
            :func:`~plm_tutorial.evaluation.classification.confusion_matrix`.
        names: of the classes; their numbers by default.

    Raises:
        ValueError: the matrix is not square, holds something else than counts, or the names do not fit.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"matrix has the shape {matrix.shape}; expected (C, C), a row and a column for each class")
    if matrix.dtype.kind not in "iu" or (matrix < 0).any():
        raise ValueError(f"matrix holds {matrix.dtype}, the smallest {matrix.min()}; expected counts")
    names = [str(number) for number in range(len(matrix))] if names is None else list(names)
    if len(names) != len(matrix):
        raise ValueError(f"got {len(names)} names, {names!r:.60}, for {len(matrix)} classes; pass one for each")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)  # a class that never occurs: 0
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        share = f"{100 * shares[row, column]:.1f} %" if totals[row, 0] else "–"
        dark = shares[row, column] > 0.71  # either colour has a contrast of 4.5 there
        ax.text(column, row, f"{count:,}\n{share}", ha="center", va="center", color="white" if dark else "black")
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


def draw_reliability(ax: Axes, bins: ReliabilityBins) -> Axes:
    """Draw a reliability diagram: how often it happened, against how probable it was called, bin by bin.

    A bar is as high as the share that happened; a line leads from its top to the dashed diagonal, at the bin's mean
    confidence: its length is the gap that the expected calibration error averages. Above each bin stands its number of
    examples, unless the bin is too narrow for it.

    Args:
        bins: see :func:`~plm_tutorial.evaluation.calibration.reliability_bins`; empty ones are left blank.

    Raises:
        ValueError: all bins are empty.
    """
    count = np.asarray(bins.count)
    full = np.flatnonzero(count)
    if not len(full):
        raise ValueError("all bins are empty; there is nothing to draw")
    low, high, confidence, frequency = (
        np.asarray(values)[full] for values in (bins.low, bins.high, bins.confidence, bins.frequency)
    )
    left, right = low.min(), high.max()
    margin = 0.02 * (right - left) or 0.02
    ax.plot([left, right], [left, right], color=COLOURS[6], linestyle="--", linewidth=1.2, zorder=3)
    ax.bar(low, frequency, high - low, align="edge", color=COLOURS[0], alpha=0.75, edgecolor="white")
    ax.vlines(confidence, frequency, confidence, color=COLOURS[1], linewidth=2, zorder=4)
    ax.plot(confidence, frequency, "o", color=COLOURS[1], zorder=5)
    wide = (high - low) / (right - left + 2 * margin)
    upright = wide.min() < 0.08
    for place, share in enumerate(wide):
        if share >= NARROW:
            ax.text(
                (low[place] + high[place]) / 2,
                1.01,
                f"{count[full[place]]:,}",
                transform=ax.get_xaxis_transform(),
                rotation=90 if upright else 0,
                ha="center",
                va="bottom",
                fontsize=8,
            )
    ax.set(xlim=(left - margin, right + margin), ylim=(0, 1))
    ax.set(xlabel="confidence", ylabel="share that happened")
    return ax


def draw_learning_curves(
    ax: Axes,
    sizes: Sequence[float],
    scores: Mapping[str, ArrayLike],
    *,
    ylabel: str,
    xlabel: str = "training examples",
) -> Axes:
    """Draw scores against the size of the training set: a line through the means, and the range of the runs.

    Each run is a dot, so that the spread over seeds is seen and not only summarised. Sizes are drawn in logarithmic
    steps.

    Args:
        sizes: (S,) above 0, in rising order.
        scores: name -> (runs, S), a row for each seed; NaN where a run is missing. (S,) is a single run.

    Raises:
        ValueError: nothing to draw, sizes out of order, or scores of another shape.
    """
    sizes = np.asarray(sizes, dtype=float)
    if sizes.ndim != 1 or not len(sizes) or not (sizes > 0).all() or not (np.diff(sizes) > 0).all():
        raise ValueError(f"sizes is {sizes.tolist()!r:.60}; expected numbers above 0 in rising order")
    if not scores:
        raise ValueError("there are no scores to draw; pass a name and an array of shape (runs, sizes)")
    for number, ((name, values), marker) in enumerate(zip(scores.items(), MARKERS * len(scores), strict=False)):
        runs = np.atleast_2d(np.asarray(values, dtype=float))  # (runs, S)
        if runs.ndim != 2 or runs.shape[1] != len(sizes):
            raise ValueError(f"the scores of {name!r} have the shape {runs.shape}; expected (runs, {len(sizes)})")
        there = ~np.isnan(runs).all(axis=0)  # sizes that some run has
        if not there.any():
            raise ValueError(f"the scores of {name!r} are all NaN; leave it out")
        x, runs = sizes[there], runs[:, there]
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(x, np.nanmean(runs, axis=0), marker=marker, label=name, color=colour)
        if len(runs) > 1:
            ax.fill_between(x, np.nanmin(runs, axis=0), np.nanmax(runs, axis=0), color=colour, alpha=0.15, linewidth=0)
            ax.plot(np.tile(x, len(runs)), runs.ravel(), ".", color=colour, alpha=0.6, markersize=4)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,g}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(scores) > 1:
        ax.legend()
    return ax
