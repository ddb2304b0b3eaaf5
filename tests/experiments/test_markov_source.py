"""The known entropy rate: exact in small cases, met by the true model, beaten by none."""

from __future__ import annotations

import numpy as np
import pytest

from plm_tutorial.experiments.markov_source import MarkovSource
from plm_tutorial.ngram import NGram


def standard_error(values: np.ndarray, batches: int = 200) -> float:
    """Of the mean of a correlated sequence: the batches are long enough to be nearly independent of each other."""
    means = [batch.mean() for batch in np.array_split(values, batches)]
    return float(np.std(means, ddof=1) / np.sqrt(batches))


def test_two_states_by_hand():
    source = MarkovSource(2, 1)
    source.table = np.array([[0.9, 0.1], [0.3, 0.7]])  # pi = (0.75, 0.25)
    source.stationary = source._stationary()
    np.testing.assert_allclose(source.stationary, [0.75, 0.25], atol=1e-14)
    rows = [-(p * np.log(p)).sum() for p in source.table]
    assert source.entropy_rate() == pytest.approx(0.75 * rows[0] + 0.25 * rows[1], abs=1e-14)
    np.testing.assert_allclose(source.log_probs([0, 0, 1]), np.log([0.75, 0.9, 0.1]))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_stationary_means_that_a_step_changes_nothing(order):
    source = MarkovSource(4, order, concentration=0.3, seed=order)
    np.testing.assert_allclose(source.table.sum(axis=-1), 1)
    assert source.stationary.sum() == pytest.approx(1)
    after = (source.stationary[..., None] * source.table).sum(axis=0)  # (b, c) from all (a, b)
    np.testing.assert_allclose(after, source.stationary, atol=1e-13)


def test_probabilities_of_all_sequences_sum_to_one():
    source = MarkovSource(2, 3, seed=1)
    every = [[(i >> b) & 1 for b in range(5)] for i in range(32)]
    assert sum(np.exp(source.log_probs(s).sum()) for s in every) == pytest.approx(1)
    # Shorter than the order.
    assert sum(np.exp(source.log_probs(s[:2]).sum()) for s in every) == pytest.approx(8)
    assert len(source.log_probs([])) == 0


@pytest.mark.parametrize(("order", "concentration"), [(1, 1.0), (2, 0.5), (3, 0.2)])
def test_the_true_model_costs_the_entropy_rate(order, concentration):
    source = MarkovSource(6, order, concentration, seed=order)
    costs = -source.log_probs(source.sample(200_000, np.random.default_rng(7)))
    assert abs(costs.mean() - source.entropy_rate()) < 4 * standard_error(costs)
    assert standard_error(costs) < 0.01  # else the line above says nothing


def test_no_ngram_model_beats_the_source():
    source = MarkovSource(8, 2, concentration=0.3, seed=0)
    train, test = source.sample(200_000, 1), source.sample(50_000, 2)
    true = -source.log_probs(test)
    gaps = {}
    for order in (1, 2, 3, 4):
        for smoothing in ("modified_kneser_ney", "kneser_ney", "add_k"):
            excess = -NGram(order, 8, smoothing).fit(train).log_probs(test) - true
            assert excess.mean() > -3 * standard_error(excess)
            gaps[order, smoothing] = excess.mean()
    # An order below the source's own misses something; the source's own comes within a hundredth of a nat.
    assert gaps[1, "add_k"] > gaps[2, "add_k"] > 0.05
    assert gaps[3, "add_k"] < 0.01


def test_samples_are_reproducible_and_begin_anywhere():
    source = MarkovSource(5, 2, seed=3)
    np.testing.assert_array_equal(source.sample(100, 4), source.sample(100, np.random.default_rng(4)))
    np.testing.assert_array_equal(source.table, MarkovSource(5, 2, seed=3).table)
    assert [len(source.sample(n)) for n in (0, 1, 2, 3)] == [0, 1, 2, 3]
    starts = np.array([source.sample(2, seed) for seed in range(3000)])
    share = np.bincount(starts[:, 0] * 5 + starts[:, 1], minlength=25) / 3000
    p = source.stationary.ravel()
    assert (np.abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / 3000)).all()


def test_concentration_decides_how_predictable_it_is():
    rates = [MarkovSource(8, 2, c).entropy_rate() for c in (0.1, 1.0, 100.0)]
    assert rates[0] < rates[1] < rates[2] < np.log(8)
    assert rates[2] > 0.99 * np.log(8)


@pytest.mark.parametrize("arguments", [(1, 1), (4, 0), (4, 4), (17, 3), (4, 1, 0.0), (4, 1, -1.0), (8, 2, 1e-4)])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="pass"):
        MarkovSource(*arguments)


def test_wrong_symbols():
    source = MarkovSource(3, 1)
    with pytest.raises(ValueError, match="from 0 to 2"):
        source.log_probs([0, 3])
    with pytest.raises(ValueError, match="0 or more"):
        source.sample(-1)
