"""Probabilities against what happened: reliability, calibration errors, temperature scaling, decision thresholds.

In: logits or probabilities of classes, and labels. Out: numbers, and what to do with later probabilities. A temperature
or a threshold is chosen on validation data, and judged on others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks

# ---- From logits to confidence ---------------------------------------------------------------------------------------


def softmax(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Return probabilities, (N, C) float64, from logits (N, C) divided by a temperature: above 1 less certain.

    Raises:
        ValueError: logits of another shape or with NaN, a temperature that is not positive.
    """
    from scipy import special

    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature is {temperature}; expected a number above 0, such as fit_temperature returns")
    return special.softmax(checks.rows(logits, "logits") / temperature, axis=1)


def top_label(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each example's most probable class, (N,), and whether it is right, (N,) bool.

    Raises:
        ValueError: see :func:`brier_score`.
    """
    probabilities = checks.probabilities(probabilities)
    labels = checks.labels_of(labels, probabilities)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


# ---- Reliability -----------------------------------------------------------------------------------------------------


class ReliabilityBins(NamedTuple):
    """Examples sorted into bins by confidence; one entry a bin, NaN where it is empty."""

    low: np.ndarray  # a bin holds what lies above low, up to and with high; the first its low too
    high: np.ndarray
    count: np.ndarray  # int64
    confidence: np.ndarray  # mean, what was promised
    frequency: np.ndarray  # share of the bin that happened


def reliability_bins(
    confidence: ArrayLike, happened: ArrayLike, n_bins: int = 15, equal: str = "width"
) -> ReliabilityBins:
    """Return what was promised and what happened, bin by bin: the data of a reliability diagram (Guo et al. 2017).

    Args:
        confidence: (N,) probabilities of an event, such as "the predicted class is right" or "class 1".
        happened: (N,) whether it happened. :func:`top_label` gives both for the predicted class.
        n_bins: how many bins.
        equal: "width" cuts [0, 1] evenly, "mass" puts the same number of examples into each bin; equal probabilities
            stay together, so that there may be fewer bins.

    Raises:
        ValueError: nothing to sort, different lengths, NaN, no probabilities, or more bins than can be filled.
    """
    confidence, happened = checks.events(confidence, happened)
    N = len(confidence)
    if equal not in ("width", "mass"):
        raise ValueError(f'equal is {equal!r}; pass "width" or "mass"')
    if n_bins < 1 or (equal == "mass" and n_bins > N):
        raise ValueError(f"n_bins is {n_bins}, with {N} examples; pass at least 1, and for equal mass at most as many")
    if equal == "width":
        high = np.linspace(0, 1, n_bins + 1)[1:]
    else:
        last = -(-np.arange(1, n_bins + 1) * N // n_bins) - 1  # the rank of each bin's last example
        high = np.unique(np.sort(confidence)[last])
    low = np.append(0.0 if equal == "width" else confidence.min(), high[:-1])
    K = len(high)
    place = np.searchsorted(high[:-1], confidence)  # the first bin whose high is not below
    count = np.bincount(place, minlength=K)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        promised = np.bincount(place, confidence, minlength=K) / count
        found = np.bincount(place, happened, minlength=K) / count
    return ReliabilityBins(low, high, count, promised, found)


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 15, equal: str = "width"
) -> float:
    """Return the ECE: how far confidence and accuracy are apart, the mean over bins weighted by count.

    Defined by Naeini et al. 2015, in this form by Guo et al. 2017: for the predicted class, with bins of equal width.

    It is a biased estimate. A gap is counted whatever its sign, so the noise of the bins does not cancel but adds up:
    even a perfectly calibrated classifier has an ECE above 0, the larger the more bins there are and the fewer examples
    (Roelofs et al. 2022); :func:`ece_by_chance` says how large. Wide bins err the other way: within a bin, too high and
    too low confidence cancel (Kumar et al. 2019). Compare only numbers with the same bins and as many examples. A
    bootstrap adds noise of its own, so that its interval lies too high.

    Args:
        labels: (N,).
        probabilities: (N, C), rows sum to 1.
        n_bins, equal: see :func:`reliability_bins`.

    Raises:
        ValueError: see :func:`brier_score` and :func:`reliability_bins`.
    """
    return _gap(reliability_bins(*top_label(labels, probabilities), n_bins, equal))


def _gap(bins: ReliabilityBins) -> float:
    return float(np.nansum(bins.count * np.abs(bins.frequency - bins.confidence)) / bins.count.sum())


class Chance(NamedTuple):
    """What a number would be by chance alone."""

    mean: float
    low: float
    high: float


def ece_by_chance(
    probabilities: ArrayLike,
    n_bins: int = 15,
    equal: str = "width",
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Chance:
    """Return the ECE that a perfectly calibrated classifier with these probabilities would show: the floor of the ECE.

    Whether each predicted class is right is drawn with just the promised probability, again and again, after the
    consistency resampling of Bröcker and Smith 2007. An ECE within these bounds is no sign of bad calibration.

    Args:
        probabilities: (N, C), rows sum to 1.
        n_bins, equal: see :func:`reliability_bins`.
        n: how many times; the bounds hold the middle ``level`` of them.

    Raises:
        ValueError: no draw, a level outside (0, 1), or see :func:`expected_calibration_error`.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n is {n} and level {level}; pass at least one draw and a level between 0 and 1")
    confidence = checks.probabilities(probabilities).max(axis=1)
    generator = np.random.default_rng(seed)
    draws = [
        _gap(reliability_bins(confidence, generator.random(len(confidence)) < confidence, n_bins, equal))
        for _ in range(n)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Chance(float(np.mean(draws)), float(low), float(high))


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean squared distance of the probabilities from what happened, from 0 to 2 (Brier 1950).

    For each example the squares are summed over all classes: 0 for a certain and right forecast, 2 for a certain and
    wrong one, 1 - 1/C for one that does not commit itself. With two classes it is twice what is often reported (there
    only the squares of class 1 are taken). It needs no bins and is lowest in the long run for the true probabilities.

    Args:
        labels: (N,) whole numbers from 0 to C - 1.
        probabilities: (N, C), rows sum to 1.

    Raises:
        ValueError: nothing to score, different lengths, NaN, labels outside, rows that are no probabilities.
    """
    probabilities = checks.probabilities(probabilities)
    labels = checks.labels_of(labels, probabilities)
    target = np.eye(probabilities.shape[1])[labels]  # (N, C)
    return float(((probabilities - target) ** 2).sum(axis=1).mean())


# ---- Temperature scaling ---------------------------------------------------------------------------------------------


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the temperature T under which softmax(logits / T) gives these labels the lowest loss (Guo et al. 2017).

    One number for all examples and classes: dividing by it keeps the order of an example's logits, so that no
    prediction changes, only how certain it is. The mean loss, -log softmax(b * logits) of the label with b = 1 / T, is
    convex in b: it has one minimum, where its slope, the mean of E_p[logit] - logit of the label, is zero.

    Args:
        logits: (N, C) of validation examples, which the classifier was not trained on.
        labels: (N,).

    Raises:
        ValueError: there is no such T, because all predictions are right (the loss falls for ever as T goes to 0) or
            because the logits are no better than chance; NaN, different lengths, labels outside.
    """
    from scipy import optimize

    logits = checks.rows(logits, "logits")  # (N, C)
    labels = checks.labels_of(labels, logits)
    given = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]  # (N,)
    if (given == logits.max(axis=1)).all():
        raise ValueError(
            f"all {len(labels)} predictions are right, so the loss falls for ever as the temperature goes to 0; "
            "use more examples, and none that the classifier was trained on"
        )

    def slope(b: float) -> float:
        return float(((softmax(b * logits) * logits).sum(axis=1) - given).mean())

    if slope(0.0) >= 0:
        raise ValueError(
            "the logits are no better than chance: on average a label's logit is not above its row's mean; check that "
            "labels and logits belong together, and that columns and classes have the same order"
        )
    high = 1.0
    while slope(high) < 0:
        high *= 2
    return 1 / optimize.brentq(
        slope, 0.0, high, xtol=1e-300, maxiter=1000
    )  # to the last digits, however large the logits


# ---- A decision threshold --------------------------------------------------------------------------------------------


class Threshold(NamedTuple):
    """Where to say yes: to scores of at least ``threshold``; and how that went on the examples it was chosen on."""

    threshold: float  # infinite: never
    precision: float  # NaN if it never says yes
    recall: float
    cost: float  # mean, an example; NaN if no costs were given


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    precision: float | None = None,
    costs: tuple[float, float] | None = None,
) -> Threshold:
    """Return a threshold for class 1: the most recall at a wanted precision, or the lowest cost.

    Pass either ``precision`` or ``costs``. Choose on validation examples; the precision and cost told here are those of
    the best of many thresholds, and so too good: measure on others what it is worth. If the scores are calibrated
    probabilities, the cheapest threshold is in the long run f / (f + m), for costs f of a false alarm and m of a miss
    (Elkan 2001).

    Args:
        labels: (N,) 1 for what should be found, otherwise 0.
        scores: (N,) the higher, the more likely 1; such as ``probabilities[:, 1]``.
        precision: the least share of right ones among those said yes to.
        costs: of a false alarm (0 taken for 1) and of a miss (1 taken for 0).

    Raises:
        ValueError: no threshold is that precise, the labels hold one class only, NaN, different lengths, or neither or
            both of the two goals.
    """
    if (precision is None) == (costs is None):
        raise ValueError("pass either precision=0.9 or costs=(of a false alarm, of a miss)")
    if precision is not None and not 0 < precision <= 1:
        raise ValueError(f"precision is {precision}; expected a share above 0, at most 1")
    alarm, miss = (np.nan, np.nan) if costs is None else costs
    if costs is not None and not (min(alarm, miss) >= 0 and 0 < max(alarm, miss) < np.inf):
        raise ValueError(f"costs is {costs}; expected two numbers from 0 on, one of them above 0")
    labels = checks.classes(labels, "labels", 2)
    scores = checks.scores(scores, len(labels))
    if labels.min() == labels.max():
        raise ValueError(f"all {len(labels)} labels are {labels[0]}; a threshold needs examples of both classes")

    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # the last one of each score: equal ones go together
    thresholds = np.append(np.inf, scores[order][ends])
    found = np.append(0, labels[order].cumsum()[ends])  # true ones at or above each threshold
    called = np.append(0, ends + 1)
    with np.errstate(invalid="ignore"):  # never called: 0 / 0
        precisions = found / called
    recalls = found / labels.sum()
    means = (alarm * (called - found) + miss * (labels.sum() - found)) / len(labels)
    if costs is not None:
        best = int(means.argmin())
    else:
        enough = np.flatnonzero(precisions >= precision)
        if not len(enough):
            top = 1 + int(precisions[1:].argmax())
            raise ValueError(
                f"no threshold has a precision of {precision} on these {len(labels)} examples; the best is "
                f"{precisions[top]:.3f}, with a recall of {recalls[top]:.3f}"
            )
        best = enough[found[enough].argmax()]  # the first, so the most precise, of those with most recall
    return Threshold(*(float(values[best]) for values in (thresholds, precisions, recalls, means)))
