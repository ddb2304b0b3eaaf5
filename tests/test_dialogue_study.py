"""The study of decoding and replies: it runs, goes on where it was stopped, and what is recorded is scored again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_tutorial import load_model, load_tokenizer, records
from plm_tutorial.evaluation import paired_bootstrap, score_rows, score_texts
from plm_tutorial.experiments.conversations import dialogue_table
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.pretrained import export
from plm_tutorial.records import artifacts
from tests.conftest import recorded_or_skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A Llama with random weights and SmolLM2's tokenizer."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_hidden": 16}
    model = Llama(LlamaConfig(vocab_size=49152, context_length=1_024, **shape))
    return str(export(model, tmp_path_factory.mktemp("hub") / "tiny-llama", load_tokenizer("smollm2")))


@pytest.fixture
def study(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    spec = importlib.util.spec_from_file_location("benchmark_dialogue", root / "benchmarks" / "dialogue.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_study_runs_and_goes_on_where_it_was(study, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MODEL", tiny)
    monkeypatch.setattr(study, "Study", lambda: study.QUICK)
    for module in (records, study):
        monkeypatch.setattr(module, "artifacts", lambda: tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dialogue", "--minutes", "0"])
    with pytest.raises(SystemExit, match="the time is up"):
        study.main()
    assert not Path("runs").exists()
    monkeypatch.setattr(sys, "argv", ["dialogue"])
    study.main()
    record = records.recorded("dialogue")
    scores = record.scores
    assert record.command == "python benchmarks/dialogue.py" and record.seeds == [0, 1]
    assert set(record.data) == {
        "imdb/test",
        *(
            f"{source}/{split}"
            for source in ("rotten_tomatoes", "dialogues")
            for split in ("train", "validation", "test")
        ),
    }
    assert list(record.table("decoding").strategy) == ["human", *study.STRATEGIES]
    assert len(record.table("continuations")) == 2 * (1 + len(study.STRATEGIES))
    assert len(record.table("runs")) == 5 and len(record.table("snippets")) == 8
    for task in ("chat", "reviews"):
        assert scores[f"{task}: learning rate"] in study.RATES
        assert scores[f"{task}: fall, low"] <= scores[f"{task}: fall of it"] <= scores[f"{task}: fall, high"]
        adapted = load_model(tiny, adapter=tmp_path / "artifacts" / f"dialogue_{task}")
        found = records.recorded(f"dialogue_{task}")
        assert any(name.endswith("/train") for name in found.data) and found.scores["steps"] >= 1
        if task == "chat":
            rows = study.dialogue_rows(study.QUICK, "test")
            again = score_rows(adapted, rows).nats
            np.testing.assert_allclose(again, record.table("dialogues")["chat 0"], rtol=1e-4)
    table = record.table("snippets")
    right = np.mean([(table[f"reviews {seed}"] > 0) == (table.label == 1) for seed in (0, 1)], axis=0)
    before = ((table.before > 0) == (table.label == 1)).to_numpy(float)
    assert scores["reviews: accuracy, yes against no"] == pytest.approx(right.mean())
    assert scores["reviews less before"] == pytest.approx((right - before).mean())

    def refuse(*_):
        raise AssertionError("a finished run was done again")

    for name in ("train", "scores_of", "continued"):
        monkeypatch.setattr(study, name, refuse)
    study.main()
    assert records.recorded("dialogue").scores == scores


# ---- what is recorded


def test_the_record_was_made_of_the_data_as_they_are():
    data = recorded_or_skip("dialogue").data
    assert {row["split"]: row["sha256"] for row in dialogue_table()} == {
        name.removeprefix("dialogues/"): sha256 for name, sha256 in data.items() if name.startswith("dialogues/")
    }


def test_fine_tuning_did_what_the_chapter_says():
    scores = recorded_or_skip("dialogue").scores
    assert scores["chat: fall, low"] > 0.2
    assert scores["reviews less before, low"] > 0.1
    for task in ("chat", "reviews"):
        assert scores[f"{task}: rise, high"] < 0.05


@pytest.mark.parametrize("task", ["chat", "reviews"])
def test_adapters_are_small(task):
    recorded_or_skip("dialogue")
    assert sum(path.stat().st_size for path in (artifacts() / f"dialogue_{task}").iterdir()) < 2e6


def test_a_part_of_the_record_is_scored_again(study):
    record = recorded_or_skip("dialogue")
    seed = record.seeds[0]
    chat = load_model("smollm2", adapter=artifacts() / "dialogue_chat", device="cpu")
    rows = study.dialogue_rows(study.Study(n_dialogues=10), "test")
    again = score_rows(chat, rows).nats
    np.testing.assert_allclose(again, record.table("dialogues")[f"chat {seed}"][:10], rtol=2e-3, atol=2e-3)

    judge = load_model("smollm2", adapter=artifacts() / "dialogue_reviews", device="cpu")
    texts = labelled_reviews("rotten_tomatoes", "test", study.Study().n_test).texts[:10]
    margins = study.margins(judge, texts)
    np.testing.assert_allclose(margins, record.table("snippets")[f"reviews {seed}"][:10], atol=5e-3)
    running = score_texts(judge, study.tokenizer(), study.running_text(study.Study())[:1], 1_024)
    np.testing.assert_allclose(running.nats, record.table("running")[f"reviews {seed}"][:1], rtol=1e-3)


def test_continuations_cost_what_was_recorded(study):
    table = recorded_or_skip("dialogue").table("continuations")
    some = table[table.number < 1]
    given, new = ([[int(i) for i in row.split()] for row in some[name]] for name in ("given", "new"))
    nats = score_rows(load_model("smollm2", device="cpu"), study.continuation_rows(given, new)).nats
    np.testing.assert_allclose(nats, some.nats, rtol=2e-3)


def test_the_accuracy_follows_from_the_margins():
    record = recorded_or_skip("dialogue")
    table = record.table("snippets")
    labels = (table.label == 1).to_numpy()
    right = np.mean([(table[f"reviews {seed}"] > 0) == labels for seed in record.seeds], axis=0)
    before = ((table.before > 0) == labels).to_numpy(float)
    assert record.scores["reviews less before"] == pytest.approx((right - before).mean())
    again = paired_bootstrap(right, before)
    assert record.scores["reviews less before, low"] == pytest.approx(again.low)
