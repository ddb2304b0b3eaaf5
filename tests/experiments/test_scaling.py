"""Scaling: counts that equal what torch counts, runs that do what their rows say, a fit that finds a known law."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial.batches import TokenFile
from plm_tutorial.experiments import scaling
from plm_tutorial.experiments.scaling import Law, bootstrap_laws, count_parameters, effective_tokens, fit_law
from plm_tutorial.layers import record
from plm_tutorial.models.decoder import Decoder, gpt2_recipe, modern_recipe

# ------------------------------------------------------------------------------------------------------------ counting


@pytest.mark.parametrize(
    "config",
    [
        scaling.recipe(32, vocab_size=50),
        modern_recipe(30, d_model=24, n_layers=3, n_heads=2, d_hidden=40, context_length=32),  # tied
        replace(scaling.recipe(16, vocab_size=20), qk_norm=False),
    ],
)
def test_formulas_equal_what_is_counted(config):
    model = Decoder(config)
    assert count_parameters(config).total == sum(parameter.numel() for parameter in model.parameters())
    ids, counter = torch.zeros(3, 20, dtype=torch.int64), FlopCounterMode(display=False)
    with record(model), counter:
        model(ids).sum().backward()
    assert 3 * scaling.forward_flops(config, 20).total * ids.numel() == counter.get_total_flops()
    assert scaling.training_flops(config, 20, ids.numel()) == counter.get_total_flops()


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="modern_recipe"):
        count_parameters(gpt2_recipe(50))


def test_the_family_contains_the_books_own_model():
    config = scaling.recipe(256)
    assert (config.d_model, config.n_layers, config.n_heads, config.d_hidden) == (256, 4, 4, 768)
    assert (config.vocab_size, config.context_length, config.tied) == (4096, 256, False)


# ------------------------------------------------------------------------------------------------------------ one run


@pytest.fixture
def file(tmp_path, monkeypatch) -> TokenFile:
    """A text of 40 tokens in which each is followed by the next but one, in rows of 16."""
    monkeypatch.setattr(scaling, "LENGTH", 16)
    tokens = np.arange(0, 2 * 6000, 2) % 41 % 40
    return TokenFile(tmp_path, tokens.astype(np.uint16), np.array([0, len(tokens)]), 40, 0, "")


def test_a_run_learns_and_says_what_it_was(file):
    model, row = scaling.train(16, 60 * 8 * 16 + 5, file, rate=4.0)
    assert row["tokens"] == 60 * 8 * 16 and row["width"] == 16 and row["rate"] == 4.0
    assert row["flops"] == scaling.training_flops(model.config, 16, row["tokens"])
    assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    found = scaling.measure(model, scaling.fixed_rows(file, 8), runs=(1, 3))
    assert set(found) == {"validation_loss", "exact_1", "exact_3"}
    assert found["validation_loss"] < 0.5 * math.log(40)
    again, _ = scaling.train(16, 60 * 8 * 16, file, rate=4.0)
    assert scaling.measure(again, scaling.fixed_rows(file, 8))["validation_loss"] == found["validation_loss"]
    other, _ = scaling.train(16, 60 * 8 * 16, file, rate=4.0, seed=1)
    assert scaling.measure(other, scaling.fixed_rows(file, 8))["validation_loss"] != found["validation_loss"]


def test_runs_right_by_hand():
    right = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    assert scaling.runs_right(right, 1) == pytest.approx(7 / 8)
    assert scaling.runs_right(right, 2) == pytest.approx(4 / 6)
    assert scaling.runs_right(right, 4) == pytest.approx(1 / 2)


def test_probe_finds_what_the_features_hold(file):
    torch.manual_seed(0)
    model = Decoder(scaling.recipe(16, vocab_size=40))
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=120).tolist()
    texts = [draw.integers(20 * label, 20 * label + 20, size=10).tolist() for label in labels]  # two halves of the ids
    assert scaling.probe(model, (texts[:80], labels[:80]), (texts[80:], labels[80:])) > 0.9
    shuffled = draw.permutation(labels).tolist()
    assert scaling.probe(model, (texts[:80], shuffled[:80]), (texts[80:], shuffled[80:])) < 0.8


# ------------------------------------------------------------------------------------------------------------- the law

TRUE = Law(E=2.4, A=25.0, alpha=0.3, B=150.0, beta=0.35)
N, D = (grid.ravel() for grid in np.meshgrid([4e4, 1e5, 2e5, 5e5, 1e6], [2.5e5, 5e5, 1e6, 2e6]))


def test_fit_finds_a_known_law():
    law = fit_law(N, D, TRUE(N, D))
    for name in ("E", "A", "alpha", "B", "beta"):
        assert getattr(law, name) == pytest.approx(getattr(TRUE, name), rel=0.02)
    assert law(1e8, 1e9) == pytest.approx(TRUE(1e8, 1e9), rel=1e-3)


def test_one_odd_run_bends_a_huber_fit_less():
    losses = TRUE(N, D)
    losses[7] *= 1.2
    robust, squares = fit_law(N, D, losses), fit_law(N, D, losses, delta=1e3)
    others = np.arange(len(N)) != 7
    gaps = [np.abs(law(N, D) / TRUE(N, D) - 1)[others].max() for law in (robust, squares)]
    assert gaps[0] < 0.003 < gaps[1]


def test_bootstrap_covers_the_truth_and_is_reproducible():
    losses = TRUE(N, D) * np.exp(np.random.default_rng(0).normal(0, 0.003, len(N)))
    laws = bootstrap_laws(N, D, losses, n=40)
    far = [float(law(5e6, 2e7)) for law in laws]
    low, high = np.quantile(far, [0.01, 0.99])
    assert low < TRUE(5e6, 2e7) < high and 0 < high - low < 0.3
    assert bootstrap_laws(N, D, losses, n=3) == laws[:3]


def test_best_is_the_lowest_point_of_an_isoflop_curve():
    for flops in (1e13, 1e20):
        n, d = TRUE.best(flops)
        assert 6 * n * d == pytest.approx(flops)
        sizes = n * np.geomspace(0.2, 5, 401)
        losses = TRUE(sizes, flops / 6 / sizes)
        assert sizes[losses.argmin()] == pytest.approx(n, rel=0.01)


@pytest.mark.parametrize(
    ("parameters", "tokens"), [([1e5] * 6, [1e5, 2e5, 3e5] * 2), ([1e5, 2e5] * 2, [1e5, 2e5, 3e5, 4e5])]
)
def test_too_few_runs(parameters, tokens):
    with pytest.raises(ValueError, match="five constants need five"):
        fit_law(parameters, tokens, TRUE(parameters, tokens))


def test_bootstrap_needs_three_of_each():
    with pytest.raises(ValueError, match="three of each"):
        bootstrap_laws([1e5, 2e5] * 3, [1e5, 2e5, 3e5] * 2, [3.0] * 6)


def test_repeated_tokens_are_worth_less_and_less():
    assert effective_tokens(5e6, 7e6) == 5e6
    assert effective_tokens(7e6, 7e6) == 7e6
    worth = [effective_tokens(epochs * 1e6, 1e6) for epochs in (1, 2, 4, 16, 1000)]
    assert np.all(np.diff(worth) > 0)
    assert worth[2] > 3.7e6  # up to four passes are nearly as good as fresh text
    assert worth[-1] == pytest.approx((1 + 15.387756) * 1e6)  # and no number of passes is worth more than this
