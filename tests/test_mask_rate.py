"""The study of the mask rate: it runs at a tiny size, goes on where it was, and judges all models by the same rows."""

import pytest
import torch

from plm_tutorial.objectives import IGNORED
from tests.conftest import recorded_or_skip

MEASURES = {
    "nats per hidden token",
    "top-1 at hidden tokens",
    "nats per seen token",
    "top-1 at seen tokens",
    "nats per exchanged token",
    "top-1 at exchanged tokens",
    "probe, layer 0",
}


@pytest.fixture
def study(study_script):
    """Return the script as a function of its arguments; its runs and its record go to a folder of their own."""
    return study_script("mask_rate")


def test_it_runs_and_records(study, capsys):
    record = study("--quick")
    runs, curves = record.table("runs"), record.table("curves")
    assert len(runs) == record.scores["runs"] == 27
    assert runs.columns.tolist()[:3] == ["rate", "mask/random/unchanged", "seed"] and set(runs.columns) >= MEASURES
    assert runs["rate"].nunique() == 6 and runs["mask/random/unchanged"].nunique() == 4
    assert (runs[["nats per hidden token", "nats per seen token"]] > 0).all(axis=None)
    assert set(curves["step"]) == set(range(1, 7))
    assert record.data.keys() == {"imdb/train", "imdb/validation"}
    printed = capsys.readouterr().out
    assert printed.count("mask_rate_quick: 0.15-80-10-10-seed0") == 1
    study("--quick")
    assert "seed0" not in capsys.readouterr().out  # all runs were kept


def test_all_models_are_asked_for_the_same_tokens(study):
    script = study.script
    hidden = script["judged"](script["masking"](0.15), 16)
    exchanged = script["judged"](script["masking"](0.15, random=1.0), 16)
    assert torch.equal(hidden[0]["labels"], exchanged[0]["labels"])
    asked = hidden[0]["labels"] != IGNORED
    assert 0.08 < asked.float().mean() < 0.22
    assert (hidden[0]["input_ids"][asked] == script["vocabulary"]()[1]).all()
    assert (exchanged[0]["input_ids"][asked] != hidden[0]["labels"][asked]).float().mean() > 0.95


def test_the_probe_sees_the_ends_of_reviews(study):
    script = study.script
    ids, labels = script["last_tokens"]("validation", 20)
    assert ids.shape == (20, script["LENGTH"]) and labels.sum() == 10
    end_id = script["vocabulary"]()[2][0]
    assert (ids != end_id).all()


def test_what_is_recorded_has_all_runs():
    record = recorded_or_skip("mask_rate")
    runs = record.table("runs")
    assert runs.groupby(["rate", "mask/random/unchanged"]).size().eq(3).all() and set(runs.columns) >= MEASURES
