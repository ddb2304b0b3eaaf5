"""The scaling study: it runs, goes on where it was stopped, and what is recorded has what the chapter reads."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pandas as pd
import pytest

from plm_tutorial import records
from tests.conftest import recorded_or_skip

COLUMNS = {"role", "width", "parameters", "non_embedding", "tokens", "flops", "seed", "rate", "validation_loss"}
COLUMNS |= {"exact_1", "exact_2", "exact_4", "exact_6", "probe"}
SCORES = {
    "runs",
    "of these, to fit the law to",
    "FLOPs of the grid",
    "validation tokens",
    "learning rate, factor chosen",
    "spread over seeds, nats per token, root mean square",
    "widest model, better with half or twice the rate by, nats",
    "unique training tokens there are",
}


@pytest.fixture
def benchmark(root, tmp_path, monkeypatch):
    """The script, with a grid that takes seconds and a folder of its own."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    place = root / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("benchmark_scaling", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = records.artifact_file("reviews_causal", "tokenizer.json")
    artifacts = tmp_path / "artifacts"
    (artifacts / "reviews_causal").mkdir(parents=True)
    shutil.copy(tokenizer, artifacts / "reviews_causal")
    monkeypatch.setattr(records, "artifacts", lambda: artifacts)
    monkeypatch.setattr(module, "artifacts", lambda: artifacts)
    monkeypatch.chdir(tmp_path)
    tiny = {"GRID": {8: (1, 2), 16: (1, 2)}, "HELD_OUT": ((16, 2),), "RATES": (2.0, 4.0), "CHOSEN_AT": (8, 2)}
    tiny |= {"CHECKED_AT": (16, 1), "REPEATED": ((8, 1),), "SEEDS": (0, 1)}
    for name, value in tiny.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(sys, "argv", ["scaling", "--quick"])
    return module


def test_it_runs_and_goes_on_where_it_was(benchmark, monkeypatch, capsys):
    benchmark.main()
    record = records.recorded("scaling_quick")
    assert record.scores.keys() == SCORES and record.command.startswith("python benchmarks/scaling.py")
    runs = record.table("runs")
    assert set(runs.columns) == COLUMNS
    assert runs.role.value_counts().to_dict() == {"fit": 4, "rate": 3, "held out": 1}
    assert record.scores["runs"] == len(runs) and record.scores["of these, to fit the law to"] == 4
    assert (runs.tokens % benchmark.STEP == 0).all() and (runs.validation_loss > 0).all()
    assert "reviews_causal is not there" in capsys.readouterr().out

    def train(*_, **__):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(benchmark, "train", train)
    benchmark.main()
    pd.testing.assert_frame_equal(records.recorded("scaling_quick").table("runs"), runs)


def test_what_is_recorded_has_what_the_chapter_reads():
    record = recorded_or_skip("scaling")
    runs = record.table("runs")
    assert record.scores.keys() == SCORES and set(runs.columns) == COLUMNS
    assert runs.role.value_counts()["held out"] == 2 and runs.role.value_counts()["far"] == 1
    assert runs[runs.role == "fit"].flops.max() < runs[runs.role == "held out"].flops.min()
