"""The study of recurrent networks and Transformers: it runs, goes on where it was, and its record follows from it."""

import numpy as np
import pytest

from plm_tutorial import records
from tests.conftest import recorded_or_skip


@pytest.fixture
def study(study_script):
    """Return the script as a function of its arguments; its runs and its record go to a folder of their own."""
    return study_script("recurrent")


def test_it_runs_and_records(study, capsys):
    record = study("--setting", "quick")
    assert record.command == "python benchmarks/recurrent.py --setting quick" and record.seeds == [0, 1, 2]
    assert record.data.keys() == {"imdb/train", "imdb/validation", "imdb/test"}
    read, recall, timed = (record.table(name) for name in ("read", "recall", "time"))
    assert len(read) == 3 * 3 * 2 and len(recall) == 3 * (2 * 5 + 2) and len(timed) == 2 * 2
    sizes = read.groupby("model")["parameters"].first()
    assert sizes.max() / sizes.min() < 1.02
    assert recall["recalled"].between(0, 1).all() and (timed["seconds"] > 0).all()
    assert set(record.table("positions").columns) == {"model", "rate", "seed", "trained", "position", "nats"}
    assert record.table("gradients")["trained"].any() and not record.table("gradients")["trained"].all()
    capsys.readouterr()
    study("--setting", "quick")
    assert "recurrent_quick" not in capsys.readouterr().out  # all runs were kept


def test_a_share_does_its_part_and_writes_no_record(study, capsys):
    with pytest.raises(records.RecordError):
        study("--setting", "quick", "--share", "0/40")
    assert 1 <= capsys.readouterr().out.count("recurrent_quick") <= 3


# ---- what is recorded


@pytest.fixture
def done():
    """Return the record and its tables; to be asked for before the script, which has a folder of its own."""
    record = recorded_or_skip("recurrent")
    return record, {name: record.table(name) for name in ("read", "recall", "time", "gradients")}


def test_what_is_recorded_has_all_runs_and_its_scores_follow_from_them(done, study):
    record, tables = done
    assert tables["read"].groupby(["model", "rate"]).size().eq(3).all()
    assert tables["recall"].groupby(["model", "distance", "items"]).size().eq(3).all()
    for name, value in study.script["summary"]({"read": tables["read"].to_dict("records")}).items():
        assert record.scores[name] == pytest.approx(value), name


def test_the_gradient_of_a_fresh_model_is_measured_again(done, study):
    record, tables = done
    setting = next(one for name, one in study.script["SETTINGS"].items() if record.command.endswith(name))
    noted = tables["gradients"]
    noted = noted[~noted["trained"] & (noted["model"] == "LSTM") & (noted["seed"] == 0)]
    again = np.array(study.script["start_run"]("LSTM", 0, setting)["gradient"])[noted["distance"]]
    np.testing.assert_allclose(again, noted["gradient"], rtol=0.05, atol=1e-6)
