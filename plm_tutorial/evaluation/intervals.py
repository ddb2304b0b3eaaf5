"""How sure we are of a number: bootstrap intervals, of one system and of the difference between two.

In: one value, or one row of values, for each test unit. Out: an interval. It is about the choice of the test units; how
much a result depends on the seed of the training is shown by training again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Statistic = Callable[[np.ndarray], float]
Score = Callable[..., float]


class Difference(NamedTuple):
    """A difference between two systems, with its interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, statistic: Statistic = np.mean, n: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron & Tibshirani 1993).

    Draw as many units as there are, with replacement, compute the statistic, do this ``n`` times; the interval spans
    the middle ``level`` of the results. It says how far the number would move with other *test units* from the same
    source; it knows nothing of other training seeds.

    Args:
        values: (N,) or (N, ...): one row a unit. Units must be independent: reviews, not the tokens within a review.
        statistic: from rows to a number; for a ratio of sums pass rows with both parts, see
            :func:`~plm_tutorial.evaluation.language.corpus_bits_per_byte`.

    Raises:
        ValueError: fewer than two units, a NaN among them, ``n`` below 1, ``level`` outside (0, 1).
    """
    values = _units(values)
    draws = [statistic(values[rows]) for rows in _resamples(len(values), n, level, seed)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, statistic: Statistic = np.mean, n: int = 1000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Return statistic(a) - statistic(b) and its percentile interval, if both met the same units (Koehn 2004).

    Both are computed on the same drawn units, so that what makes a unit hard for both cancels out: the interval is
    much narrower than two separate ones suggest. If it excludes 0, the sign of the difference is no accident of the
    test units, at this level.

    Args:
        a, b: row i of both belongs to unit i; otherwise as in :func:`bootstrap_interval`.

    Raises:
        ValueError: ``a`` and ``b`` have different lengths; or as in :func:`bootstrap_interval`.
    """
    a, b = _units(a), _units(b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} units and b has {len(b)}; row i of both must belong to the same unit")
    draws = [statistic(a[rows]) - statistic(b[rows]) for rows in _resamples(len(a), n, level, seed)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(statistic(a) - statistic(b)), float(low), float(high))


def score_interval(
    score: Score, *columns: ArrayLike, n: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval of ``score(*columns)``, such as ``macro_f1(labels, predictions)``.

    For scores that are no mean over units. Whole units are drawn: row i of each column belongs to unit i.

    Args:
        score: from as many arrays as there are columns to a number.
        columns: (N, ...) each: labels and predictions, or labels and probabilities.

    Raises:
        ValueError: the columns have different lengths; or as in :func:`bootstrap_interval`.
    """
    arrays = _columns(columns)
    score(*arrays)  # what is wrong with the whole is said of the whole, not of a draw
    units = np.arange(len(arrays[0]))
    return bootstrap_interval(units, lambda rows: score(*(array[rows] for array in arrays)), n, level, seed)


def score_difference(
    score: Score, labels: ArrayLike, a: ArrayLike, b: ArrayLike, n: int = 1000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Return score(labels, a) - score(labels, b) with its paired bootstrap interval, see :func:`paired_bootstrap`.

    ``score_difference(accuracy, labels, a, b)`` says by how much classifier a is more often right than b.

    Args:
        score: from labels and outputs to a number.
        labels: (N,), the same for both.
        a, b: (N, ...) predictions, or probabilities, of the two systems.

    Raises:
        ValueError: the three have different lengths; or as in :func:`bootstrap_interval`.
    """
    labels, a, b = _columns((labels, a, b))
    for output in (a, b):
        score(labels, output)  # as above
    twice, both = np.concatenate([labels, labels]), np.concatenate([a, b])
    units = np.arange(len(labels))  # b's part of ``both`` begins where a's ends
    return paired_bootstrap(
        units, units + len(units), lambda rows: score(twice[rows], both[rows]), n=n, level=level, seed=seed
    )


def _columns(columns: tuple[ArrayLike, ...]) -> list[np.ndarray]:
    arrays = [np.asarray(column) for column in columns]
    shapes = [array.shape for array in arrays]
    if not arrays or not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"got arrays of the shapes {shapes}; row i of each must belong to the same unit")
    return arrays


def _units(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 0 or len(values) < 2:
        raise ValueError(f"got values of shape {values.shape}; a bootstrap needs at least two units, one in each row")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).sum())} values are NaN; leave those units out on purpose, or find out why"
        )
    return values


def _resamples(units: int, n: int, level: float, seed: int) -> Iterator[np.ndarray]:
    """Yield ``n`` times the numbers of ``units`` drawn units; one at a time, as all of them could be gigabytes."""
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n is {n} and level {level}; pass at least one draw and a level between 0 and 1")
    generator = np.random.default_rng(seed)
    return (generator.integers(units, size=units) for _ in range(n))
