"""Confusion matrices and their scores against scikit-learn, McNemar's test against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from plm_tutorial.evaluation import (
    accuracy,
    bootstrap_interval,
    class_scores,
    confusion_matrix,
    macro_f1,
    mcnemar,
    paired_bootstrap,
    score_difference,
    score_interval,
)

LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
PREDICTIONS = [0, 0, 1, 2, 1, 1, 0, 2, 2, 2]


def pairs(n_classes: int = 4):
    one = st.tuples(st.integers(0, n_classes - 1), st.integers(0, n_classes - 1))
    return st.lists(one, min_size=1, max_size=60).map(lambda rows: np.array(rows).T)


# ---- One classifier --------------------------------------------------------------------------------------------------


def test_by_hand():
    assert confusion_matrix(LABELS, PREDICTIONS).tolist() == [[2, 1, 1], [1, 2, 0], [0, 0, 3]]
    assert accuracy(LABELS, PREDICTIONS) == 0.7
    scores = class_scores(LABELS, PREDICTIONS)
    np.testing.assert_allclose(scores.precision, [2 / 3, 2 / 3, 3 / 4])
    np.testing.assert_allclose(scores.recall, [2 / 4, 2 / 3, 3 / 3])
    np.testing.assert_allclose(scores.f1, [4 / 7, 2 / 3, 6 / 7])
    assert scores.support.tolist() == [4, 3, 3]
    assert scores.accuracy == 0.7
    assert scores.macro_f1 == macro_f1(LABELS, PREDICTIONS) == pytest.approx((4 / 7 + 2 / 3 + 6 / 7) / 3)


@given(pairs())
@settings(deadline=None)
def test_equal_to_scikit_learn(rows):
    labels, predictions = rows
    np.testing.assert_array_equal(
        confusion_matrix(labels, predictions, 4), metrics.confusion_matrix(labels, predictions, labels=range(4))
    )
    assert accuracy(labels, predictions) == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert macro_f1(labels, predictions) == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))
    assert macro_f1(labels, predictions, 4) == pytest.approx(macro_f1(labels, predictions))
    if len(set(labels)) > 1:
        scores = class_scores(labels, predictions, 4)
        expected = metrics.precision_recall_fscore_support(labels, predictions, labels=range(4), zero_division=math.nan)
        for ours, theirs in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
            np.testing.assert_allclose(ours, theirs)


@given(pairs(), st.permutations(range(4)))
def test_neither_order_nor_numbering_counts(rows, numbering):
    labels, predictions = rows
    assert macro_f1(labels[::-1], predictions[::-1]) == pytest.approx(macro_f1(labels, predictions))
    renamed = np.array(numbering)[rows]
    assert macro_f1(*renamed) == pytest.approx(macro_f1(labels, predictions))
    matrix, other = confusion_matrix(labels, predictions, 4), confusion_matrix(*renamed, 4)
    np.testing.assert_array_equal(other[np.ix_(numbering, numbering)], matrix)
    np.testing.assert_array_equal(confusion_matrix(predictions, labels, 4), matrix.T)


def test_what_is_undefined_is_nan_and_not_zero():
    scores = class_scores([0, 0, 1], [0, 0, 2], 4)
    np.testing.assert_allclose(scores.precision, [1, math.nan, 0, math.nan])
    np.testing.assert_allclose(scores.recall, [1, 0, math.nan, math.nan])
    np.testing.assert_allclose(scores.f1, [1, 0, 0, math.nan])
    assert scores.macro_f1 == pytest.approx(1 / 3)  # the fourth class is not there


def test_macro_f1_sees_what_accuracy_does_not():
    labels, lazy = [0] * 95 + [1] * 5, [0] * 100
    assert accuracy(labels, lazy) == 0.95
    assert macro_f1(labels, lazy) == pytest.approx(0.5 * 2 * 95 / (95 + 100))


def test_the_table_has_a_row_a_class():
    table = class_scores(LABELS, PREDICTIONS).table(["bad", "fair", "good"])
    assert table.index.tolist() == ["bad", "fair", "good"]
    assert table.loc["good", "support"] == 3 and table.loc["good", "F1"] == pytest.approx(6 / 7)
    assert class_scores(LABELS, PREDICTIONS).table().index.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"got 2 names, \['bad', 'good'\], for 3 classes"):
        class_scores(LABELS, PREDICTIONS).table(["bad", "good"])


def test_arrays_of_any_whole_numbers_will_do():
    import torch

    for kind in (np.uint8, np.int32, np.int64):
        assert confusion_matrix(np.array(LABELS, kind), np.array(PREDICTIONS, kind)).sum() == 10
    large = np.full(3, 200, np.uint8)
    assert confusion_matrix(large, large)[200, 200] == 3  # 200 * 201 does not fit into a byte
    assert accuracy(torch.tensor(LABELS), torch.tensor(PREDICTIONS)) == 0.7
    assert accuracy(np.array([True, False]), np.array([True, True])) == 0.5


@pytest.mark.parametrize(
    ("labels", "predictions", "n_classes", "message"),
    [
        ([], [], None, "labels is empty"),
        ([0, 1], [], None, "predictions is empty"),
        ([0, 1], [0, 1, 1], None, "there are 2 labels and 3 predictions"),
        ([0, 3], [0, 1], 3, "labels: 3 at place 1 is no class; they are numbered from 0 to 2"),
        ([0, 1], [0, 5], 2, "predictions: 5 at place 1 is no class; they are numbered from 0 to 1"),
        ([0, -100], [0, 1], None, "labels: -100 at place 1 is no class; they are numbered from 0 on"),
        ([0.0, math.nan], [0, 1], None, "labels: 1 are NaN, the first at place 1"),
        ([0, 1], [0.2, 0.8], None, "predictions are float64, np.float64(0.2) the first; number the classes"),
        (["pos", "neg"], [0, 1], None, "labels are <U3"),
        ([None, 1], [0, 1], None, "labels are object, None the first"),
        ([0, 1], [[0.2, 0.8], [0.7, 0.3]], None, r"the shape (2, 2); expected (N,), a class for each example; of sco"),
        (3, [0], None, "labels has the shape ()"),
    ],
)
def test_wrong_input(labels, predictions, n_classes, message):
    import re

    for call in (confusion_matrix, class_scores, macro_f1):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(labels, predictions, n_classes)
    if n_classes is None:
        with pytest.raises(ValueError, match=re.escape(message)):
            accuracy(labels, predictions)
        with pytest.raises(ValueError, match=re.escape(message.replace("predictions", "b"))):
            mcnemar(labels, labels if np.ndim(labels) else [0], predictions)


def test_a_single_class_is_refused_where_it_says_nothing():
    with pytest.raises(ValueError, match="all 3 labels are 1: with one class alone, precision and F1 say nothing"):
        class_scores([1, 1, 1], [1, 0, 1])
    assert macro_f1([1, 1, 1], [1, 1, 1]) == 1.0  # as a bootstrap may draw it
    assert accuracy([1, 1, 1], [1, 0, 1]) == pytest.approx(2 / 3)


# ---- Intervals -------------------------------------------------------------------------------------------------------


def simulated(seed: int, n: int, skill: tuple[float, ...] = (0.8, 0.7)) -> tuple[np.ndarray, ...]:
    """Labels, and predictions of classifiers that are right with the given probabilities, and often together."""
    rng = np.random.default_rng(seed)
    labels, hard = rng.integers(2, size=n), rng.random(n)
    return labels, *(np.where(0.7 * hard + 0.3 * rng.random(n) < share, labels, 1 - labels) for share in skill)


def test_a_score_interval_draws_units_whole():
    labels, a, _ = simulated(0, 400)
    right = (labels == a).astype(float)
    assert score_interval(accuracy, labels, a) == bootstrap_interval(right)
    low, high = score_interval(macro_f1, labels, a, n=300, level=0.9, seed=3)
    assert low < macro_f1(labels, a) < high
    assert high - low == pytest.approx(2 * 1.645 * math.sqrt(right.mean() * (1 - right.mean()) / 400), rel=0.15)


def test_an_interval_of_a_rare_class_survives_draws_without_it():
    labels = np.array([0] * 60 + [1] * 2)
    low, high = score_interval(macro_f1, labels, np.append(labels[:-1], 0), n=200)
    assert 0 < low < high <= 1


def test_a_difference_of_accuracies_is_paired():
    labels, a, b = simulated(1, 500)
    found = score_difference(accuracy, labels, a, b)
    assert found.estimate == pytest.approx(accuracy(labels, a) - accuracy(labels, b))
    np.testing.assert_allclose(found, paired_bootstrap(labels == a, labels == b))
    apart = score_interval(accuracy, labels, a), score_interval(accuracy, labels, b)
    assert found.high - found.low < 0.9 * max(high - low for low, high in apart) * math.sqrt(2)
    np.testing.assert_array_equal(score_difference(macro_f1, labels, a, a), [0, 0, 0])
    assert score_difference(macro_f1, labels, b, a).estimate == -score_difference(macro_f1, labels, a, b).estimate


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0, 1], [0, 1, 1]), r"shapes \[\(2,\), \(3,\)\]; row i of each must belong to the same unit"),
        ((), "shapes \\[\\]"),
        ((3, 4), r"shapes \[\(\), \(\)\]"),
        (([0], [0]), "at least two units"),
    ],
)
def test_wrong_columns(columns, message):
    with pytest.raises(ValueError, match=message):
        score_interval(accuracy, *columns)


def test_what_the_score_refuses_the_interval_refuses():
    with pytest.raises(ValueError, match="1 are NaN"):
        score_interval(accuracy, [0, 1], [0.0, math.nan])
    with pytest.raises(ValueError, match="row i of each must belong to the same unit"):
        score_difference(accuracy, [0, 1], [0, 1], [0])
    with pytest.raises(ValueError, match="level 95"):
        score_difference(accuracy, [0, 1], [0, 1], [0, 0], level=95)


# ---- McNemar ---------------------------------------------------------------------------------------------------------


def predictions_with(both: int, a_only: int, b_only: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = np.ones(both + a_only + b_only + neither, dtype=int)
    a = np.repeat([1, 1, 0, 0], [both, a_only, b_only, neither])
    b = np.repeat([1, 0, 1, 0], [both, a_only, b_only, neither])
    return labels, a, b


def test_mcnemar_by_hand():
    """Two media for one culture, 12 against 2 (Armitage and Berry 1994, as StatsDirect's manual gives it)."""
    found = mcnemar(*predictions_with(20, 12, 2, 16))
    assert (found.a_only, found.b_only) == (12, 2)
    assert found.p_exact == pytest.approx(0.0129, abs=5e-5)
    assert found.p_exact == pytest.approx(2 * (1 + 14 + 14 * 13 / 2) / 2**14)
    assert found.chi2 == pytest.approx(5.785714, abs=1e-6) == (12 - 2 - 1) ** 2 / 14
    assert found.p_chi2 == pytest.approx(0.0162, abs=5e-5)


@given(*[st.integers(0, 80)] * 4)
@settings(deadline=None)
def test_mcnemar_against_its_definition(both, a_only, b_only, neither):
    if both + a_only + b_only + neither == 0:
        return
    labels, a, b = predictions_with(both, a_only, b_only, neither)
    found = mcnemar(labels, a, b)
    assert (found.a_only, found.b_only) == (a_only, b_only)
    differing = a_only + b_only
    # The formulas of statsmodels' contingency_tables.mcnemar, which divides by zero where nothing differs.
    exact = min(1.0, 2 * stats.binom.cdf(min(a_only, b_only), differing, 0.5))
    assert found.p_exact == pytest.approx(exact)
    if a_only != b_only:
        assert found.chi2 == pytest.approx((abs(a_only - b_only) - 1) ** 2 / differing)
        assert found.p_chi2 == pytest.approx(stats.chi2.sf(found.chi2, 1))
    else:
        assert found.chi2 == 0 and found.p_chi2 == 1 == found.p_exact
    other = mcnemar(labels, b, a)
    assert (other.a_only, other.b_only, other[2:]) == (b_only, a_only, pytest.approx(found[2:]))


def test_mcnemar_is_indifferent_to_what_both_get_right():
    assert mcnemar(*predictions_with(0, 12, 2, 0)) == mcnemar(*predictions_with(5000, 12, 2, 300))


def test_mcnemar_finds_no_more_than_it_should():
    """Equally good classifiers are called different in at most 5 % of trials; unequal ones mostly."""
    equal = [mcnemar(*simulated(seed, 300, (0.75, 0.75))).p_exact < 0.05 for seed in range(300)]
    assert np.mean(equal) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    unequal = [mcnemar(*simulated(seed, 300, (0.8, 0.65))).p_exact < 0.05 for seed in range(100)]
    assert np.mean(unequal) > 0.9


def test_mcnemar_and_the_interval_of_the_difference_agree():
    for seed in range(20):
        labels, a, b = simulated(seed, 400)
        test, interval = mcnemar(labels, a, b), score_difference(accuracy, labels, a, b, n=300)
        if not 0.02 < test.p_exact < 0.1:  # near the border they may differ
            assert (test.p_exact < 0.05) == (interval.low > 0 or interval.high < 0)
