"""Reliability, calibration errors, temperature and thresholds: against scikit-learn, by hand, and on simulated data."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special
from sklearn import metrics
from sklearn.calibration import calibration_curve

from plm_tutorial.evaluation import (
    brier_score,
    choose_threshold,
    ece_by_chance,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    score_interval,
    softmax,
    top_label,
)


def calibrated(seed: int, n: int, C: int = 3, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C), and labels drawn with just the probabilities that they promise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, size=(n, C))
    return logits, (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def events(max_size: int = 80):
    grid = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0])  # on the borders of bins, and equal ones
    one = st.tuples(st.one_of(grid, st.floats(0, 1)), st.booleans())
    return st.lists(one, min_size=1, max_size=max_size).map(lambda rows: tuple(map(np.array, zip(*rows, strict=True))))


# ---- Softmax ---------------------------------------------------------------------------------------------------------


def test_softmax():
    logits = np.array([[0.0, math.log(3)], [1000.0, -1000.0]])
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [1, 0]])
    np.testing.assert_allclose(softmax(logits, 0.5)[0], [0.1, 0.9])
    np.testing.assert_allclose(softmax(logits[:1], 1e9), [[0.5, 0.5]])
    for wrong in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature is"):
            softmax(logits, wrong)


# ---- Reliability -----------------------------------------------------------------------------------------------------


def test_bins_by_hand():
    confidence, happened = [0.5, 0.55, 0.6, 0.75, 1.0, 1.0], [1, 0, 1, 1, 1, 0]
    bins = reliability_bins(confidence, happened, n_bins=4)
    np.testing.assert_allclose(bins.low, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(bins.high, [0.25, 0.5, 0.75, 1])
    assert bins.count.tolist() == [0, 1, 3, 2]  # 0.5 and 0.75 belong to the lower bin
    np.testing.assert_allclose(bins.confidence, [math.nan, 0.5, 1.9 / 3, 1])
    np.testing.assert_allclose(bins.frequency, [math.nan, 1, 2 / 3, 0.5])
    mass = reliability_bins(confidence, happened, n_bins=3, equal="mass")
    np.testing.assert_allclose(mass.low, [0.5, 0.55, 0.75])
    np.testing.assert_allclose(mass.high, [0.55, 0.75, 1])
    assert mass.count.tolist() == [2, 2, 2]
    np.testing.assert_allclose(mass.frequency, [0.5, 1, 0.5])


@given(events(), st.integers(1, 20))
def test_equal_width_is_scikit_learns(rows, n_bins):
    confidence, happened = rows
    bins = reliability_bins(confidence, happened, n_bins)
    full = bins.count > 0
    frequency, promised = calibration_curve(happened, confidence, pos_label=True, n_bins=n_bins)
    np.testing.assert_allclose(bins.frequency[full], frequency)
    np.testing.assert_allclose(bins.confidence[full], promised)


@given(events(), st.integers(1, 20), st.sampled_from(["width", "mass"]))
def test_bins_lose_nothing(rows, n_bins, equal):
    confidence, happened = rows
    assume(equal == "width" or n_bins <= len(confidence))
    bins = reliability_bins(confidence, happened, n_bins, equal)
    full = bins.count > 0
    assert bins.count.sum() == len(confidence)
    assert (bins.count[full] * bins.frequency[full]).sum() == pytest.approx(happened.sum())
    assert (bins.count[full] * bins.confidence[full]).sum() == pytest.approx(confidence.sum())
    assert (bins.low[1:] == bins.high[:-1]).all() and (bins.low <= bins.high).all()
    assert (bins.low[full] <= bins.confidence[full] + 1e-12).all()
    assert (bins.confidence[full] <= bins.high[full] + 1e-12).all()
    if equal == "mass":
        assert full.all()


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 5))
def test_equal_mass_is_equal(n, n_bins, seed):
    assume(n_bins <= n)
    confidence = np.random.default_rng(seed).random(n)
    count = reliability_bins(confidence, np.ones(n, int), n_bins, "mass").count
    assert len(count) == n_bins and count.max() - count.min() <= 1


def test_equal_probabilities_stay_together():
    bins = reliability_bins([0.5] * 50 + [0.9] * 30 + [1.0] * 20, [1] * 100, 10, "mass")
    assert bins.count.tolist() == [50, 30, 20]
    assert reliability_bins([0.7] * 5, [1] * 5, 5, "mass").count.tolist() == [5]


def test_top_label_is_the_predicted_class():
    confidence, right = top_label([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]])
    np.testing.assert_allclose(confidence, [0.9, 0.6, 0.8])
    assert right.tolist() == [True, True, False]


# ---- Calibration errors ----------------------------------------------------------------------------------------------


def test_ece_by_hand():
    probabilities = [[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10
    labels = [0] * 7 + [1] * 3 + [1] * 6 + [0] * 4  # promised 0.9 and 0.6, right in 0.7 and 0.6
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0.5 * 0.2)
    assert expected_calibration_error(labels, probabilities, 1) == pytest.approx(0.75 - 0.65)
    assert expected_calibration_error(labels, probabilities, 2, "mass") == pytest.approx(0.1)


def literal_ece(labels, probabilities, n_bins) -> float:
    """The definition of Guo et al. 2017 with loops: bins ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = [
            (max(p), p.index(max(p)) == y)
            for p, y in zip(probabilities, labels, strict=True)
            if (m - 1) / n_bins < max(p) <= m / n_bins
        ]
        if inside:
            mean, share = (sum(values) / len(inside) for values in zip(*inside, strict=True))
            total += len(inside) / len(labels) * abs(share - mean)
    return total


def test_ece_equals_the_definition():
    logits, labels = calibrated(0, 500)
    probabilities = softmax(logits, 0.5)
    for n_bins in (1, 7, 15):
        assert expected_calibration_error(labels, probabilities, n_bins) == pytest.approx(
            literal_ece(labels.tolist(), probabilities.tolist(), n_bins)
        )


def test_ece_is_biased_and_chance_says_how_much():
    """Calibrated by construction, and yet above 0: the more so with few examples and many bins."""
    mean = {}
    for n in (100, 1600):
        for n_bins in (5, 20):
            draws = [calibrated(seed, n) for seed in range(60)]
            mean[n, n_bins] = np.mean([expected_calibration_error(y, softmax(z), n_bins) for z, y in draws])
            expected = ece_by_chance(softmax(draws[0][0]), n_bins, n=200)
            assert expected.mean == pytest.approx(mean[n, n_bins], rel=0.2)
            inside = [
                expected.low <= expected_calibration_error(y, softmax(z), n_bins) <= expected.high for z, y in draws
            ]
            assert np.mean(inside) > 0.8  # the bounds are those of the first set's probabilities
    assert mean[100, 20] > 1.5 * mean[100, 5] > 0.03
    assert mean[100, 20] == pytest.approx(4 * mean[1600, 20], rel=0.3)  # as 1 / sqrt(N)


def test_what_is_overconfident_is_beyond_chance():
    logits, labels = calibrated(1, 1000)
    sharp = softmax(logits, 0.4)
    assert expected_calibration_error(labels, sharp) > 2 * ece_by_chance(sharp, n=200).high
    assert expected_calibration_error(labels, sharp, equal="mass") > 2 * ece_by_chance(sharp, equal="mass", n=200).high


def test_one_bin_hides_what_two_show():
    """Too sure of half, too unsure of the other half: in one bin they cancel."""
    probabilities = [[0.95, 0.05]] * 20 + [[0.55, 0.45]] * 20
    labels = [0] * 15 + [1] * 5 + [0] * 15 + [1] * 5  # 0.75 right in both
    assert expected_calibration_error(labels, probabilities, 1) == pytest.approx(0)
    assert expected_calibration_error(labels, probabilities, 10) == pytest.approx(0.2)


def test_a_bootstrap_of_the_ece_lies_too_high():
    logits, labels = calibrated(2, 300)
    low, high = score_interval(expected_calibration_error, labels, softmax(logits), n=300)
    assert (low + high) / 2 > expected_calibration_error(labels, softmax(logits))


def test_brier_by_hand():
    assert brier_score([0, 1], [[1, 0], [0, 1]]) == 0
    assert brier_score([0, 1], [[0, 1], [1, 0]]) == 2
    assert brier_score([0, 1, 2], np.full((3, 3), 1 / 3)) == pytest.approx(2 / 3)
    assert brier_score([1], [[0.3, 0.7]]) == pytest.approx(2 * 0.3**2)


@pytest.mark.parametrize("C", [2, 3, 5])
def test_brier_is_scikit_learns(C):
    logits, labels = calibrated(C, 200, C)
    p = softmax(logits)
    theirs = metrics.brier_score_loss(labels, p, labels=list(range(C)), scale_by_half=False)
    assert brier_score(labels, p) == pytest.approx(theirs)
    if C == 2:
        assert brier_score(labels, p) == pytest.approx(2 * metrics.brier_score_loss(labels, p[:, 1]))


def test_brier_is_lowest_for_the_truth():
    logits, labels = calibrated(4, 20_000)
    honest = brier_score(labels, softmax(logits))
    for wrong in (0.5, 0.8, 1.25, 2.0):
        assert brier_score(labels, softmax(logits, wrong)) > honest


# ---- Temperature -----------------------------------------------------------------------------------------------------


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return -special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def test_the_temperature_comes_back():
    logits, labels = calibrated(0, 20_000)
    for planted in (0.25, 1.0, 3.0, 1e-6, 1e6):
        assert fit_temperature(planted * logits, labels) == pytest.approx(planted, rel=0.03)


@given(st.integers(0, 1000), st.integers(2, 5), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_no_other_temperature_is_better(seed, C, spread):
    logits, labels = calibrated(seed, 40, C, spread)
    try:
        best = fit_temperature(logits, labels)
    except ValueError as error:
        assert "no better than chance" in str(error) or "predictions are right" in str(error)
        return
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0):
        assert loss(logits / best, labels) <= loss(logits / (factor * best), labels) + 1e-12
    assert fit_temperature(logits * 10, labels) == pytest.approx(10 * best, rel=1e-6)
    assert fit_temperature(logits + 7, labels) == pytest.approx(best, rel=1e-6)  # a shift changes no probability


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 5)), elements=st.floats(-50, 50)),
    st.floats(1e-3, 1e3),
)
def test_a_temperature_never_changes_the_prediction(logits, temperature):
    found = softmax(logits, temperature)
    predicted = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    assert (found[rows, predicted] == found.max(axis=1)).all()  # two that differ by a rounding may become equal
    order = np.argsort(logits, axis=1)
    assert (np.diff(np.take_along_axis(found, order, axis=1), axis=1) >= 0).all()


def test_scaling_repairs_calibration_on_other_data():
    logits, labels = calibrated(5, 4000)
    sharp = 3 * logits
    T = fit_temperature(sharp[:2000], labels[:2000])
    after = expected_calibration_error(labels[2000:], softmax(sharp[2000:], T))
    assert after < 0.3 * expected_calibration_error(labels[2000:], softmax(sharp[2000:]))
    assert after < ece_by_chance(softmax(sharp[2000:], T), n=200, level=0.99).high


def test_a_nearly_separable_set_has_a_temperature():
    logits = np.array([[1.0, 0.0]] * 50 + [[0.0, 1e-3]])
    T = fit_temperature(logits, np.zeros(51, int))  # one is wrong, by a hair: a very sharp one is best
    assert loss(logits / T, np.zeros(51, int)) < min(loss(logits / t, np.zeros(51, int)) for t in (T / 2, T * 2))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[2.0, 1.0], [0.0, 1.0]], [0, 1], "all 2 predictions are right, so the loss falls for ever"),
        ([[2.0, 1.0], [0.0, 1.0]], [1, 0], "no better than chance"),
        ([[1.0, 1.0], [1.0, 1.0]], [1, 0], "all 2 predictions are right"),
        ([[2.0, 1.0], [0.0, math.nan]], [1, 0], "logits: nan in row 1"),
        ([[2.0, 1.0]], [1, 0], "there are 2 labels and 1 rows"),
        ([[2.0, 1.0]], [2], "labels: 2 at place 0 is no class; they are numbered from 0 to 1"),
        ([2.0, 1.0], [0, 1], r"logits has the shape (2,); expected (N, C)"),
        (np.zeros((0, 2)), [], "logits is empty"),
    ],
)
def test_no_temperature(logits, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_temperature(logits, labels)


# ---- Thresholds ------------------------------------------------------------------------------------------------------

SCORES = [0.9, 0.8, 0.7, 0.7, 0.6, 0.4, 0.3, 0.1]
TRUE = [1, 1, 0, 1, 1, 0, 1, 0]  # precision from the top: 1, 1, 3/4 (two together), 4/5, 4/6, 5/7, 5/8


def test_thresholds_by_hand():
    assert choose_threshold(TRUE, SCORES, precision=1.0)[:3] == (0.8, 1.0, 2 / 5)
    assert choose_threshold(TRUE, SCORES, precision=0.78)[:3] == (0.6, 4 / 5, 4 / 5)
    assert choose_threshold(TRUE, SCORES, precision=0.7)[:3] == (0.3, 5 / 7, 1.0)
    assert choose_threshold(TRUE, SCORES, precision=0.1)[:3] == (0.3, 5 / 7, 1.0)  # all found: no need to go lower
    assert math.isnan(choose_threshold(TRUE, SCORES, precision=0.7).cost)
    cheap = choose_threshold(TRUE, SCORES, costs=(1, 1))
    assert cheap == (0.6, 4 / 5, 4 / 5, 2 / 8)
    assert choose_threshold(TRUE, SCORES, costs=(1, 10)).threshold == 0.3
    assert choose_threshold(TRUE, SCORES, costs=(10, 1)).threshold == 0.8
    assert choose_threshold(TRUE, SCORES, costs=(0, 1)).recall == 1
    never = choose_threshold([0, 0, 1], [0.9, 0.8, 0.7], costs=(1, 1))
    assert never.threshold == math.inf and never.recall == 0 and math.isnan(never.precision)


def outcomes(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float, int, int]:
    called = scores >= threshold
    right = (called & (labels == 1)).sum()
    precision = right / called.sum() if called.any() else math.nan
    return precision, right / labels.sum(), int((called & (labels == 0)).sum()), int((~called & (labels == 1)).sum())


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(np.linspace(0, 1, 9).tolist())), min_size=2, max_size=40),
    st.floats(0.05, 1),
    st.tuples(st.integers(0, 5), st.integers(1, 5)),
)
@settings(deadline=None)
def test_no_other_threshold_is_better(rows, wanted, costs):
    labels, scores = map(np.array, zip(*rows, strict=True))
    assume(0 < labels.sum() < len(labels))
    every = [outcomes(labels, scores, t) for t in [math.inf, *scores]]

    found = choose_threshold(labels, scores, costs=costs)
    precision, recall, alarms, misses = outcomes(labels, scores, found.threshold)
    assert found.cost == pytest.approx((costs[0] * alarms + costs[1] * misses) / len(labels))
    assert found.cost == pytest.approx(min(costs[0] * a + costs[1] * m for _, _, a, m in every) / len(labels))
    np.testing.assert_allclose(found[1:3], (precision, recall))

    reached = [r for p, r, _, _ in every if p >= wanted]
    if reached:
        found = choose_threshold(labels, scores, precision=wanted)
        assert found.precision >= wanted and found.recall == pytest.approx(max(reached))
        np.testing.assert_allclose(found[1:3], outcomes(labels, scores, found.threshold)[:2])
    else:
        with pytest.raises(ValueError, match="no threshold has a precision of"):
            choose_threshold(labels, scores, precision=wanted)


def test_the_cheapest_threshold_of_calibrated_probabilities_is_known():
    logits, labels = calibrated(6, 50_000, 2)
    scores = softmax(logits)[:, 1]
    for alarm, miss in ((1, 1), (1, 4), (3, 1)):
        found = choose_threshold(labels, scores, costs=(alarm, miss))
        assert found.threshold == pytest.approx(alarm / (alarm + miss), abs=0.06)


def test_a_chosen_precision_is_too_good():
    """On the examples it was chosen on a threshold is precise enough; on others, more often than not, it is not."""
    gaps = []
    for seed in range(40):
        logits, labels = calibrated(seed, 400, 2, 1.0)
        scores = softmax(logits)[:, 1]
        try:
            chosen = choose_threshold(labels[:200], scores[:200], precision=0.85)
        except ValueError:
            continue
        assert chosen.precision >= 0.85
        gaps.append(outcomes(labels[200:], scores[200:], chosen.threshold)[0] - chosen.precision)
    assert len(gaps) > 30 and np.nanmean(gaps) < -0.02


def test_scores_in_single_precision_meet_their_own_threshold():
    rng = np.random.default_rng(0)
    scores = rng.random(200).astype(np.float32)
    labels = (rng.random(200) < scores).astype(int)
    found = choose_threshold(labels, scores, precision=0.7)
    assert (labels[scores >= found.threshold] == 1).mean() == found.precision


@pytest.mark.parametrize(
    ("labels", "scores", "goal", "message"),
    [
        (TRUE, SCORES, {}, "pass either precision=0.9 or costs="),
        (TRUE, SCORES, {"precision": 0.9, "costs": (1, 1)}, "pass either"),
        (TRUE, SCORES, {"precision": 90}, "precision is 90; expected a share"),
        (TRUE, SCORES, {"precision": math.nan}, "precision is nan"),
        (TRUE, SCORES, {"costs": (-1, 1)}, "costs is (-1, 1)"),
        (TRUE, SCORES, {"costs": (0, 0)}, "costs is (0, 0)"),
        (TRUE, SCORES, {"costs": (math.nan, 1)}, "costs is (nan, 1)"),
        ([0, 0, 1], [0.9, 0.8, 0.1], {"precision": 0.9}, "the best is 0.333, with a recall of 1.000"),
        ([1, 1], [0.9, 0.8], {"precision": 0.9}, "all 2 labels are 1; a threshold needs examples of both classes"),
        ([0, 0], [0.9, 0.8], {"costs": (1, 1)}, "all 2 labels are 0"),
        ([0, 1], [0.9, math.nan], {"precision": 0.9}, "scores: nan in place 1"),
        ([0, 1], [0.9], {"precision": 0.9}, "scores has the shape (1,); expected (2,)"),
        ([0, 1], [[0.1, 0.9], [0.9, 0.1]], {"precision": 0.9}, "scores has the shape (2, 2)"),
        ([0, 2], [0.9, 0.1], {"precision": 0.9}, "labels: 2 at place 1 is no class; they are numbered from 0 to 1"),
        ([], [], {"precision": 0.9}, "labels is empty"),
    ],
)
def test_wrong_thresholds(labels, scores, goal, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_threshold(labels, scores, **goal)


# ---- Wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "there are 2 labels and 1 rows"),
        ([0, 2], [[0.5, 0.5]] * 2, "labels: 2 at place 1 is no class; they are numbered from 0 to 1"),
        ([0, 1], [[0.5, 0.5], [0.5, math.nan]], "probabilities: nan in row 1"),
        ([0, 1], [[3.0, -1.0]] * 2, "probabilities go from -1 to 3 and rows sum to 2 ... 2; expected 1. Of logits"),
        ([0, 1], [0.5, 0.7], "probabilities has the shape (2,)"),
        ([0, 1], [[1.0], [1.0]], "probabilities has the shape (2, 1)"),
        ([], np.zeros((0, 2)), "probabilities is empty"),
    ],
)
def test_wrong_probabilities(labels, probabilities, message):
    for call in (brier_score, expected_calibration_error, top_label):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(labels, probabilities)


def test_rounded_probabilities_are_accepted():
    logits, labels = calibrated(0, 50)
    exact, half = softmax(logits), softmax(logits).astype(np.float16)
    assert brier_score(labels, half) == pytest.approx(brier_score(labels, exact), abs=1e-3)
    assert expected_calibration_error(labels, half) == pytest.approx(
        expected_calibration_error(labels, exact), abs=0.02
    )


@pytest.mark.parametrize(
    ("confidence", "happened", "settings", "message"),
    [
        ([], [], {}, "happened is empty"),
        ([0.5], [1, 0], {}, "confidence has the shape (1,)"),
        ([0.5, 1.5], [1, 0], {}, "confidence goes from 0.5 to 1.5"),
        ([0.5, math.nan], [1, 0], {}, "confidence: nan in place 1"),
        ([0.5, 0.6], [1, 2], {}, "happened: 2 at place 1 is no class"),
        ([0.5, 0.6], [1, 0], {"n_bins": 0}, "n_bins is 0"),
        ([0.5, 0.6], [1, 0], {"n_bins": 3, "equal": "mass"}, "n_bins is 3, with 2 examples"),
        ([0.5, 0.6], [1, 0], {"equal": "size"}, "equal is 'size'"),
    ],
)
def test_wrong_bins(confidence, happened, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        reliability_bins(confidence, happened, **settings)


def test_wrong_chances():
    with pytest.raises(ValueError, match="n is 0"):
        ece_by_chance([[0.5, 0.5]], n=0)
    with pytest.raises(ValueError, match="level 95"):
        ece_by_chance([[0.5, 0.5]], level=95)
