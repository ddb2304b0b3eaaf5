"""The study of robustness: its splits are those of today, and its scores follow from its tables."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from plm_tutorial.experiments.robustness import negated_pairs
from plm_tutorial.text import split_hashes
from tests.conftest import recorded_or_skip


@pytest.fixture(scope="module")
def study():
    return recorded_or_skip("robustness")


def test_it_was_made_of_the_splits_that_are_here(study):
    assert split_hashes(*study.data) == study.data
    assert study.scores["pairs that differ by a negation"] == len(negated_pairs())


def test_every_run_was_scored_on_every_set(study):
    sets = study.table("sets")
    runs = sets.groupby(["model", "texts", "agreement", "seed"])["set"].nunique()
    assert (runs == sets["set"].nunique()).all()
    assert len(runs) == 2 * 3 * 10  # two models, three seeds, ten kinds of training texts
    assert sets[["accuracy", "mean confidence"]].stack().between(0, 1).all()


@pytest.mark.parametrize("model", ["MiniLM", "TF-IDF"])
def test_differences_are_those_of_the_table(study, model):
    accuracy = study.table("sets").groupby(["model", "texts", "agreement", "set"])["accuracy"].mean()

    def points(name, a, b):
        wanted = 100 * (accuracy[(model, *a)] - accuracy[(model, *b)])
        ends = ("", ", low end of the 95 % interval", ", high end of the 95 % interval")
        value, low, high = (study.scores[f"{model}, {name}, points{end}"] for end in ends)
        assert value == pytest.approx(wanted, abs=1e-6)
        assert low <= value <= high

    for rate in (0.02, 0.05, 0.1, 0.2):
        points(f"letters mistyped {rate:g}: loss", ("snippets", 0.5, "typos 0"), ("snippets", 0.5, f"typos {rate:g}"))
    points("reviews: trained on reviews minus on both", ("reviews", 0.5, "reviews"), ("both", 0.5, "reviews"))
    for agreement in (0.5, 0.6, 0.75, 0.9, 0.99):
        name = f"cue of agreement {agreement:g}: agrees minus lies"
        points(name, ("cued", agreement, "cue agrees"), ("cued", agreement, "cue lies"))


def test_a_cue_that_says_nothing_opens_no_gap_and_more_agreement_a_wider_one(study):
    for model in ("MiniLM", "TF-IDF"):
        gaps = [
            study.scores[f"{model}, cue of agreement {a:g}: agrees minus lies, points"] for a in (0.5, 0.6, 0.75, 0.9)
        ]
        assert abs(gaps[0]) < 2 and np.all(np.diff(gaps) > 0)


def test_tfidf_makes_its_row_again(study, monkeypatch):
    """The cheap half of the study, one run of it, from the texts to the accuracy."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    robustness = importlib.import_module("robustness")
    result = robustness.train(robustness.Run("snippets", 0, counted=True))
    row = study.table("sets").query("model == 'TF-IDF' and texts == 'snippets' and seed == 0").set_index("set")
    for name in ("typos 0", "typos 0.1", "cue lies", "reviews"):
        assert robustness.right(result, name).mean() == pytest.approx(row.accuracy[name], abs=0.01)
