"""Predicted classes against true ones: accuracy, confusion matrix, precision, recall, F1, and which of two is better.

In: labels and predictions, whole numbers from 0, one a text. Out: numbers. Everything is read off the confusion matrix,
in a few steps of numpy, so that a bootstrap can do it thousands of times; scikit-learn's numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks

if TYPE_CHECKING:
    import pandas

# ---- What is right ---------------------------------------------------------------------------------------------------


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of predictions that are right.

    Raises:
        ValueError: see :func:`confusion_matrix`.
    """
    labels, predictions = checks.pair(labels, predictions)
    return float((labels == predictions).mean())


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, n_classes: int | None = None) -> np.ndarray:
    """Return how often each class was taken for which, (C, C) int64: a row a true class, a column a predicted one.

    Args:
        labels, predictions: (N,) whole numbers from 0.
        n_classes: C; by default one more than the largest number that occurs.

    Raises:
        ValueError: they are empty, of different lengths, no whole numbers, or outside 0 ... C - 1.
    """
    labels, predictions = checks.pair(labels, predictions, n_classes)
    C = n_classes or 1 + int(max(labels.max(), predictions.max()))
    return np.bincount(labels * C + predictions, minlength=C * C).reshape(C, C)


# ---- Class by class --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassScores:
    """What a classifier does with each class; the arrays have one entry a class. What is undefined is NaN."""

    matrix: np.ndarray  # (C, C) int64, see confusion_matrix
    precision: np.ndarray  # of what was called so, the share that is so; undefined if nothing was
    recall: np.ndarray  # of what is so, the share that was called so; undefined if nothing is
    f1: np.ndarray  # harmonic mean of the two; undefined if the class neither occurs nor was predicted
    support: np.ndarray  # int64, how often the class occurs
    accuracy: float
    macro_f1: float

    def table(self, names: Sequence[str] | None = None) -> pandas.DataFrame:
        """Return a row a class, with its name, for display.

        Raises:
            ValueError: there are more or fewer names than classes.
        """
        import pandas

        names = list(range(len(self.f1))) if names is None else list(names)
        if len(names) != len(self.f1):
            raise ValueError(f"got {len(names)} names, {names!r:.60}, for {len(self.f1)} classes; pass one for each")
        columns = {"precision": self.precision, "recall": self.recall, "F1": self.f1, "support": self.support}
        return pandas.DataFrame(columns, index=pandas.Index(names, name="class"))


def class_scores(labels: ArrayLike, predictions: ArrayLike, n_classes: int | None = None) -> ClassScores:
    """Return precision, recall and F1 of each class, with accuracy and macro-F1; arguments as for the confusion matrix.

    Raises:
        ValueError: the labels hold a single class; or see :func:`confusion_matrix`.
    """
    matrix = confusion_matrix(labels, predictions, n_classes)
    right, called, support = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)  # (C,) each
    if (support > 0).sum() == 1:
        raise ValueError(
            f"all {matrix.sum()} labels are {support.argmax()}: with one class alone, precision and F1 say nothing; "
            "check how the examples were chosen, or report the accuracy only"
        )
    with np.errstate(invalid="ignore"):  # 0 / 0
        precision, recall = right / called, right / support
    f1 = _f1(matrix)
    share = float(right.sum() / matrix.sum())
    return ClassScores(matrix, precision, recall, f1, support, share, float(np.nanmean(f1)))


def macro_f1(labels: ArrayLike, predictions: ArrayLike, n_classes: int | None = None) -> float:
    """Return the mean of the classes' F1: each class counts the same, however rare it is.

    A class that neither occurs nor is predicted is left out. Labels of a single class are accepted here, because a
    bootstrap may draw such a set.

    Raises:
        ValueError: see :func:`confusion_matrix`.
    """
    return float(np.nanmean(_f1(confusion_matrix(labels, predictions, n_classes))))


def _f1(matrix: np.ndarray) -> np.ndarray:
    """Return 2PR / (P + R) of each class, written with counts: right twice, over how often it is called or is so."""
    with np.errstate(invalid="ignore"):
        return 2 * matrix.diagonal() / (matrix.sum(axis=0) + matrix.sum(axis=1))


# ---- Two classifiers -------------------------------------------------------------------------------------------------


class McNemar(NamedTuple):
    """The examples on which two classifiers differ, and how likely so uneven a split is if they are equally good."""

    a_only: int  # right by a alone
    b_only: int  # right by b alone
    p_exact: float  # two-sided, binomial
    chi2: float  # with Edwards's correction, one degree of freedom
    p_chi2: float  # approximates p_exact where they differ on many examples


def mcnemar(labels: ArrayLike, a: ArrayLike, b: ArrayLike) -> McNemar:
    """Return McNemar's test of two classifiers that met the same examples (McNemar 1947; Dietterich 1998).

    Where both are right, or both wrong, nothing tells them apart. If they are equally good, an example on which only
    one is right falls to either side like a fair coin. It compares these two trained classifiers; that one *method*
    is better than another takes several trainings.

    Args:
        labels: (N,).
        a, b: (N,) predictions.

    Raises:
        ValueError: see :func:`confusion_matrix`.
    """
    from scipy import stats

    labels, a = checks.pair(labels, a, name="a")
    _, b = checks.pair(labels, b, name="b")
    a_only = int(((a == labels) & (b != labels)).sum())
    b_only = int(((a != labels) & (b == labels)).sum())
    differing = a_only + b_only
    if not differing:
        return McNemar(0, 0, 1.0, 0.0, 1.0)
    chi2 = max(abs(a_only - b_only) - 1, 0) ** 2 / differing  # Edwards 1948
    exact = stats.binomtest(a_only, differing, 0.5).pvalue
    return McNemar(a_only, b_only, float(exact), chi2, float(stats.chi2.sf(chi2, df=1)))
