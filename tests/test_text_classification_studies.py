"""The studies of text classification: they run, go on where they were stopped, choose on validation alone, and what is
recorded says what the chapter says. They run here with a tiny BERT from a folder, as they would with one of the hub."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from plm_tutorial import load_model, load_tokenizer, records
from plm_tutorial.adaptation import count_parameters, inject
from plm_tutorial.evaluation import accuracy, paired_bootstrap
from plm_tutorial.experiments.long_texts import mean_of_pieces
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.models import Bert
from plm_tutorial.models.bert import BertConfig
from plm_tutorial.pretrained import export
from tests.conftest import recorded_or_skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A BERT with random weights, in the hub's form, with the head it was pretrained with."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 32, "context_length": 512}
    model = Bert(BertConfig(**shape, head="mlm"))
    return str(export(model, tmp_path_factory.mktemp("hub") / "tiny-bert", load_tokenizer("minilm")))


def load(root, monkeypatch, name):
    monkeypatch.syspath_prepend(root / "benchmarks")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", root / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def short(root, monkeypatch):
    return load(root, monkeypatch, "rotten_tomatoes")


@pytest.fixture
def long(root, monkeypatch):
    return load(root, monkeypatch, "long_reviews")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where records and finished runs go in a test."""
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)


def refuse(*_, **__):
    raise AssertionError("a finished run was trained again")


# ---- Short reviews ---------------------------------------------------------------------------------------------------


def test_short_runs_and_goes_on_where_it_was(short, tiny, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rotten_tomatoes", "--quick", "--model", tiny, "--name", "other"])
    short.main()
    record = records.recorded("other")
    assert record.command.startswith("python benchmarks/rotten_tomatoes.py --model") and record.seeds == [0, 1]
    assert set(record.data) == {f"rotten_tomatoes/{split}" for split in ("train", "validation", "test")}
    margins, runs, choices = (record.table(name) for name in ("margins", "runs", "choices"))
    names = ["TF-IDF", "probe", "full 0", "full 1", "LoRA 0", "LoRA 1"]
    assert list(margins.columns) == ["split", "number", "label", *names]
    assert margins.split.value_counts().to_dict() == {"validation": 40, "test": 40}
    assert len(runs) == 4 and len(choices) == 8 + 8 and choices.chosen.sum() == 2
    assert (choices.groupby("method").epochs.value_counts().unstack() == [4, 2, 2]).all(axis=None)

    test = margins[margins.split == "test"]
    rights = {name: (test[name] > 0).to_numpy() == test.label.to_numpy() for name in names}
    full = np.mean([rights["full 0"], rights["full 1"]], axis=0)
    assert record.scores["full: test accuracy"] == pytest.approx(full.mean())
    assert record.scores["probe: test accuracy"] == pytest.approx(rights["probe"].mean())
    assert record.scores["full less TF-IDF, points"] == pytest.approx(100 * (full - rights["TF-IDF"]).mean())
    low, high = (record.scores[f"full less TF-IDF, {end}"] for end in ("low", "high"))
    assert low <= record.scores["full less TF-IDF, points"] <= high
    chosen = choices[(choices.method == "full") & choices.chosen].iloc[0]
    assert (runs[runs.method == "full"].lr == chosen.lr).all() and record.scores["full: epochs"] == chosen.epochs
    labels = margins[margins.split == "validation"].label
    assert chosen["validation accuracy"] == pytest.approx(
        ((margins[margins.split == "validation"]["full 0"] > 0) == labels).mean()
    )

    capsys.readouterr()
    for name in ("train", "counted_words", "probe"):
        monkeypatch.setattr(short, name, refuse)
    short.main()
    pd.testing.assert_frame_equal(records.recorded("other").table("margins"), margins)


def test_short_chooses_without_the_test_snippets(short, monkeypatch):
    study = short.Study(n_train=8, n_held_out=4)
    labels = short.texts_of(study, "validation").labels
    right = {(5e-5, 1): 2, (1e-4, 1): 4, (2e-4, 1): 4, (4e-4, 1): 3}
    right |= {(rate, epochs): 3 for rate in (1e-4, 2e-4) for epochs in (2, 3)}
    sure = {(5e-5, 1): 1.0, (1e-4, 1): 1.0, (2e-4, 1): 2.0}

    def run(study, method, rate, epochs, seed):
        assert seed == study.seeds[0]
        margin = np.where(labels == 1, 1.0, -1.0) * sure.get((rate, epochs), 1.0)
        margin[right[rate, epochs] :] *= -1
        return {"validation": margin.tolist()}  # there is nothing else to look at

    monkeypatch.setattr(short, "run", run)
    rate, epochs, rows = short.choose(study, "full")
    assert (rate, epochs) == (2e-4, 1)  # as often right as 1e-4, with the lower loss
    assert [(row["lr"], row["epochs"]) for row in rows if row["chosen"]] == [(2e-4, 1)]
    assert {(row["lr"], row["epochs"]) for row in rows} == set(right)  # the best two rates go on


def test_short_lora_is_small(short):
    model = inject(load_model("minilm", head="sequence", n_labels=2, pooling="mean"), short.LORA)
    counts = count_parameters(model)
    assert counts.trained < 0.02 * counts.total
    assert 4 * counts.trained < 2e6  # bytes of an adapter's file


def test_short_comparison_is_paired(short):
    labels = np.array([1, 1, 0, 0] * 25)
    a = [np.where(labels == 1, 1.0, -1.0)] * 2
    b = [np.where(np.arange(100) < 10, -1, 1) * a[0], a[0]]  # one of two trainings is wrong on ten
    found = short.compare(labels, a, b)
    assert found["points"] == pytest.approx(5.0) and 0 < found["low"] < 5 < found["high"]
    assert short.compare(labels, a, a) == {"points": 0.0, "low": 0.0, "high": 0.0}


def test_what_is_recorded_of_short_reviews():
    record = recorded_or_skip("rotten_tomatoes")
    margins = record.table("margins")
    for split in ("validation", "test"):
        found = margins[margins.split == split]
        np.testing.assert_array_equal(found.label, labelled_reviews("rotten_tomatoes", split).labels)
    labels = found.label.to_numpy()
    shares = {
        method: np.mean([(found[f"{method} {seed}"] > 0) == labels for seed in record.seeds], axis=0)
        for method in ("full", "LoRA")
    }
    for method, share in shares.items():
        assert record.scores[f"{method}: test accuracy"] == pytest.approx(share.mean())
    assert len(record.seeds) >= 3 and record.scores["LoRA: share of parameters trained"] < 0.02
    again = paired_bootstrap(shares["LoRA"], shares["full"], n=10_000)
    assert record.scores["LoRA less full, low"] == pytest.approx(100 * again.low)
    assert accuracy(labels, found["TF-IDF"] > 0) == pytest.approx(record.scores["TF-IDF: test accuracy"])


# ---- Long reviews ----------------------------------------------------------------------------------------------------


def test_long_runs_and_goes_on_where_it_was(long, tiny, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["long_reviews", "--quick", "--model", tiny, "--name", "other"])
    long.main()
    record = records.recorded("other")
    reviews, pieces, runs = (record.table(name) for name in ("reviews", "pieces", "runs"))
    readings = ["TF-IDF", "head", "head, then pieces", "tail", "both", "pieces"]
    assert set(reviews.columns) == {"label"} | {f"{reading} {seed}" for reading in readings for seed in (0, 1)}
    assert list(pieces.columns) == ["review", "tokens", "head 0", "pieces 0", "head 1", "pieces 1"]
    assert len(reviews) == 24 and set(pieces.review) == set(range(24)) and pieces.tokens.max() <= 48
    for column, whole in (("pieces 0", "pieces 0"), ("head 1", "head, then pieces 1")):
        np.testing.assert_allclose(mean_of_pieces(pieces[column], pieces.review), reviews[whole], atol=1e-4)
    one_piece = pieces.groupby("review").size() == 1
    assert one_piece.sum() < 24
    for reading in readings:
        own = [accuracy(reviews.label, reviews[f"{reading} {seed}"] > 0) for seed in (0, 1)]
        assert record.scores[f"{reading}: test accuracy"] == pytest.approx(np.mean(own))
    assert len(runs) == 2 * len(readings)
    assert record.scores["tail less head, points"] == pytest.approx(
        100 * (record.scores["tail: test accuracy"] - record.scores["head: test accuracy"])
    )
    assert len(record.table("choices")) == 3

    capsys.readouterr()
    for name in ("train", "counted_words"):
        monkeypatch.setattr(long, name, refuse)
    long.main()
    pd.testing.assert_frame_equal(records.recorded("other").table("reviews"), reviews)


def test_long_rows_are_of_the_same_reviews(long):
    study = long.Study(n_train=6, n_test=4, length=64)
    ids = {}
    for reading in long.READINGS:
        rows, owner = long.rows_of(study, "train", reading, 3)
        assert rows.lengths.max() <= 64 and len(owner) == len(rows)
        np.testing.assert_array_equal(rows.labels, long.texts_of(study, "train", 3).labels[owner])
        ids[reading] = rows
    assert len(ids["pieces"]) > 6 and ids["pieces"].n_cut == 0
    first = ids["head"].batch(np.array([0]))["input_ids"][0]
    last = ids["tail"].batch(np.array([0]))["input_ids"][0]
    both = ids["both"].batch(np.array([0]))["input_ids"][0]
    assert torch.equal(both[:16], first[:16]) and torch.equal(both[17:], last[17:])  # 62 // 4 = 15 from the beginning
    other = long.texts_of(study, "train", 4).texts
    assert other != long.texts_of(study, "train", 3).texts
    assert long.texts_of(study, "test", 4) is not None and long.texts_of(study, "test").texts == (
        labelled_reviews("imdb", "test", 4).texts
    )


def test_what_is_recorded_of_long_reviews():
    record = recorded_or_skip("long_reviews")
    reviews, pieces = record.table("reviews"), record.table("pieces")
    n = int(record.scores["test reviews"])
    np.testing.assert_array_equal(reviews.label, labelled_reviews("imdb", "test", n).labels)
    for seed in record.seeds:
        again = mean_of_pieces(pieces[f"pieces {seed}"], pieces.review)
        np.testing.assert_allclose(again, reviews[f"pieces {seed}"], atol=1e-3)
    for reading in ("tail", "both", "pieces"):
        low, points, high = (record.scores[f"{reading} less head, {name}"] for name in ("low", "points", "high"))
        assert low <= points <= high
