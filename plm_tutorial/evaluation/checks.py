"""What an evaluation is given, as arrays, or a ValueError that says what is wrong with it and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def classes(values: ArrayLike, name: str, n_classes: int | None = None) -> np.ndarray:
    """Return one class an example, (N,) int64, each from 0 to ``n_classes`` - 1."""
    values = np.asarray(values)
    if values.ndim != 1:
        hint = "; of scores take argmax(-1)" if values.ndim == 2 else ""
        raise ValueError(f"{name} has the shape {values.shape}; expected (N,), a class for each example{hint}")
    if not len(values):
        raise ValueError(f"{name} is empty; there is nothing to evaluate")
    if values.dtype.kind == "f" and (lost := np.isnan(values)).any():
        raise ValueError(f"{name}: {lost.sum()} are NaN, the first at place {lost.argmax()}; find out why")
    if values.dtype.kind not in "iub":
        raise ValueError(f"{name} are {values.dtype}, {values[0]!r} the first; number the classes from 0, as integers")
    values = values.astype(np.int64)
    outside = (values < 0) | (values >= (n_classes or np.inf))
    if outside.any():
        place, known = outside.argmax(), f"from 0 to {n_classes - 1}" if n_classes else "from 0 on"
        raise ValueError(f"{name}: {values[place]} at place {place} is no class; they are numbered {known}")
    return values


def pair(
    labels: ArrayLike, predictions: ArrayLike, n_classes: int | None = None, name: str = "predictions"
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions, (N,) int64 each."""
    labels, predictions = classes(labels, "labels", n_classes), classes(predictions, name, n_classes)
    if len(labels) != len(predictions):
        raise ValueError(f"there are {len(labels)} labels and {len(predictions)} {name}; pass one for each example")
    return labels, predictions


def scores(values: ArrayLike, count: int, name: str = "scores") -> np.ndarray:
    """Return one finite number an example, (N,) float64."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (count,):
        raise ValueError(f"{name} has the shape {values.shape}; expected ({count},), one for each label")
    _finite(values, name)
    return values


def rows(values: ArrayLike, name: str) -> np.ndarray:
    """Return one row of C finite numbers an example, (N, C) float64."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"{name} has the shape {values.shape}; expected (N, C), a column for each of C >= 2 classes")
    if not len(values):
        raise ValueError(f"{name} is empty; there is nothing to evaluate")
    _finite(values, name)
    return values


def probabilities(values: ArrayLike) -> np.ndarray:
    """Return one distribution an example, (N, C) float64."""
    values = rows(values, "probabilities")
    sums = values.sum(axis=1)
    if values.min() < 0 or np.abs(sums - 1).max() > 0.01:  # in half precision they miss 1 by some 0.005
        raise ValueError(
            f"probabilities go from {values.min():.3g} to {values.max():.3g} and rows sum to {sums.min():.3g} ... "
            f"{sums.max():.3g}; expected 1. Of logits take softmax(logits) first"
        )
    return values / sums[:, None]


def labels_of(labels: ArrayLike, values: np.ndarray) -> np.ndarray:
    """Return the label of each row of ``values`` (N, C), (N,) int64."""
    labels = classes(labels, "labels", values.shape[1])
    if len(labels) != len(values):
        raise ValueError(f"there are {len(labels)} labels and {len(values)} rows; pass one of each for an example")
    return labels


def events(confidence: ArrayLike, happened: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N,) float64, and whether it happened, (N,) int64."""
    happened = classes(happened, "happened", 2)
    confidence = scores(confidence, len(happened), "confidence")
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError(
            f"confidence goes from {confidence.min():.3g} to {confidence.max():.3g}; expected probabilities"
        )
    return confidence, happened


def _finite(values: np.ndarray, name: str) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        where = f"place {place[0]}" if len(place) == 1 else f"row {place[0]}"
        raise ValueError(f"{name}: {values[tuple(place)]} in {where}; expected finite numbers")
