"""The study of reading before answering: it runs, and what is recorded follows from its table and is scored again."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from plm_tutorial import load_model, load_tokenizer, records
from plm_tutorial.evaluation import paired_bootstrap, score_texts
from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.pretrained import export
from tests.conftest import recorded_or_skip


@pytest.fixture
def study(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    spec = importlib.util.spec_from_file_location("benchmark_reading", root / "benchmarks" / "dialogue_reading.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_study_runs_and_does_nothing_twice(study, tmp_path, monkeypatch):
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_hidden": 16}
    model = Llama(LlamaConfig(vocab_size=49152, context_length=1_024, **shape))
    tiny = export(model, tmp_path / "hub" / "tiny-llama", load_tokenizer("smollm2"))
    monkeypatch.setattr(study, "MODEL", str(tiny))
    monkeypatch.setattr(study, "Study", lambda *_: study.QUICK)
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dialogue_reading"])
    study.main()
    record = records.recorded(study.NAME)
    assert record.command == "python benchmarks/dialogue_reading.py"
    assert len(record.table("snippets")) == 4
    assert record.scores["reading: tokens"] == 16 * 2 * record.scores["reading: steps"]

    def refuse(*_):
        raise AssertionError("a finished run was done again")

    for name in ("texts_of", "reading", "asked"):
        monkeypatch.setattr(study, name, refuse)
    study.main()
    assert records.recorded(study.NAME).scores == record.scores


def test_an_adapter_that_has_read_goes_on_from_where_it_was(study, tmp_path, monkeypatch):
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_head": 8, "d_hidden": 16}
    model = Llama(LlamaConfig(vocab_size=49152, context_length=1_024, **shape))
    tiny = export(model, tmp_path / "hub" / "tiny-llama", load_tokenizer("smollm2"))
    monkeypatch.setattr(study, "MODEL", str(tiny))
    monkeypatch.chdir(tmp_path)
    study.reading(study.QUICK, "reading")
    new, read = (study.started(study.QUICK, 0, flag) for flag in (None, "reading"))
    trained = [{name for name, p in one.named_parameters() if p.requires_grad} for one in (new, read)]
    assert trained[0] == trained[1] and all(name.endswith(("lora_a", "lora_b")) for name in trained[0])
    assert all(p.abs().sum() == 0 for name, p in new.named_parameters() if name.endswith("lora_b"))
    assert any(p.abs().sum() > 0 for name, p in read.named_parameters() if name.endswith("lora_b"))


# ---- what is recorded


def test_the_gains_follow_from_the_margins(study):
    record = recorded_or_skip("dialogue_reading")
    table = record.table("snippets")
    labels = (table.label == 1).to_numpy()
    means = {
        arm: np.mean([(table[f"{arm} {seed}"] > 0) == labels for seed in record.seeds], axis=0) for arm in study.ARMS
    }
    assert record.scores["read first: accuracy"] == pytest.approx(means["read first"].mean())
    gain = paired_bootstrap(means["read first"], means["questions alone"])
    assert record.scores["read first: gain"] == pytest.approx(gain.estimate)
    assert record.scores["read first: gain, low"] == pytest.approx(gain.low)


def test_what_the_published_model_pays_for_snippets_is_scored_again(study):
    record = recorded_or_skip("dialogue_reading")
    texts = study.labelled_reviews("rotten_tomatoes", "test", study.Study().n_texts).texts
    found = score_texts(load_model("smollm2", device="cpu"), study.tokenizer(), texts, 1_024)
    bits = found.nats.sum() / found.n_bytes.sum() / np.log(2)
    assert bits == pytest.approx(record.scores["before: bits per byte of snippets"], rel=1e-3)
