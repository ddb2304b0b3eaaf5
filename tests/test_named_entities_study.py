"""The study of named entities: it runs, goes on where it was stopped, and the kept model does what is recorded."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest

from plm_tutorial import load_model, load_tokenizer, records
from plm_tutorial.entities import KINDS, TaggedRows, bio_tags, illegal_places
from plm_tutorial.evaluation import entity_counts, entity_f1
from plm_tutorial.experiments.entity_model import (
    LENGTH,
    choose_tags,
    find_entities,
    load_tagger,
    masked_accuracy,
    tag_scores,
)
from plm_tutorial.experiments.entity_taggers import Dictionary
from plm_tutorial.newspaper import newspaper, newspaper_hashes
from plm_tutorial.records import artifacts
from tests.conftest import recorded_or_skip

TAGGERS = ("dictionary", "perceptron", "scratch", "pretrained", "with pairs", "both")


@pytest.fixture
def study(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "benchmarks")
    spec = importlib.util.spec_from_file_location("benchmark_named_entities", root / "benchmarks" / "named_entities.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for one in (records, module):
        monkeypatch.setattr(one, "artifacts", lambda: tmp_path / "artifacts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["named_entities", "--quick"])
    return module


def test_it_runs_and_goes_on_where_it_was(study, tmp_path, monkeypatch, capsys):
    study.main()
    record = records.recorded("named_entities")
    assert record.command == "python benchmarks/named_entities.py --quick"
    assert newspaper_hashes().items() < record.data.items() and len(record.data["tokens of train"]) == 64
    sentences, scores, seen = (record.table(name) for name in ("sentences", "scores", "seen"))
    assert sentences.split.value_counts().to_dict() == {"validation": 60, "test": 60}
    test = sentences[sentences.split == "test"]
    for name in TAGGERS:
        right, found, true = test[f"{name} right"].sum(), test[f"{name} found"].sum(), test.true.sum()
        assert record.scores[f"{name}: test F1"] == pytest.approx(2 * right / (found + true))
        rows = seen[(seen.tagger == name) & (seen.split == "test")]
        assert rows.right.sum() == right and rows.entities.sum() == true
    assert len(scores) == 6 * 2 * 4 and set(scores.kind) == {*KINDS, "all"}
    assert not seen[(seen.tagger == "dictionary") & ~seen.seen].right.any()
    choices, curves = record.table("choices"), record.table("curves")
    assert (choices.groupby("tagger").chosen.sum() == 1).all() and set(curves.tagger) == {"scratch", "pretrained"}
    assert records.recorded("newspaper_masked").scores["training steps"] == 6

    texts = "".join(one.text for one in newspaper("test")[:60])
    kept = [path for path in (tmp_path / "artifacts").rglob("*") if path.suffix in (".csv", ".json")]
    written = "".join(path.read_text() for path in kept if path.name != "tokenizer.json")
    assert not any(texts[i : i + 5] in written for i in range(0, len(texts), 5))  # no text of the newspaper is kept

    for name in ("train", "pretrain", "by_dictionary", "by_perceptron", "with_pairs", "by_both"):
        monkeypatch.setattr(study, name, lambda *_: pytest.fail("a finished run was made again"))
    study.main()
    pd.testing.assert_frame_equal(records.recorded("named_entities").table("sentences"), sentences)


def test_choices_are_made_on_validation_sentences(study, capsys):
    study.main()
    choices = records.recorded("named_entities").table("choices")
    passes = choices[choices.tagger == "perceptron"]
    scores = records.recorded("named_entities").table("scores")
    row = scores[(scores.tagger == "perceptron") & (scores.split == "validation") & (scores.kind == "all")]
    assert passes.f1.max() == passes[passes.chosen].f1.iloc[0] == pytest.approx(row.f1.iloc[0])


# ---- What is recorded ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return recorded_or_skip("named_entities")


def table_of(record, split="test"):
    table = record.table("sentences")
    return table[table.split == split]


def test_the_kept_tagger_does_what_is_recorded(record):
    """On each tenth test sentence."""
    numbers = np.arange(0, len(newspaper("test")), 10)
    some = [newspaper("test")[i] for i in numbers]
    rows = TaggedRows(some, load_tokenizer(artifacts() / "named_entities"), LENGTH)
    tagger = load_tagger(artifacts() / "named_entities", len(bio_tags()))
    counts = entity_counts([one.entities for one in some], find_entities(tagger, rows)).sum(axis=1)  # (N, 3)
    recorded = table_of(record).iloc[numbers][["pretrained right", "pretrained found", "true"]].to_numpy()
    assert (counts == recorded).all(axis=1).mean() > 0.99  # another processor may round another way
    assert entity_f1(counts) == pytest.approx(entity_f1(recorded), abs=0.005)
    assert entity_f1(counts) > 0.85
    tags = choose_tags(tag_scores(tagger, rows), bio_tags(), legal=False)
    share = record.scores["pretrained: test sentences with illegal tags"] / record.scores["test sentences"]
    assert np.mean([bool(illegal_places(row)) for row in tags]) == pytest.approx(share, abs=0.03)


def test_the_dictionary_again(record):
    test = newspaper("test")
    found = Dictionary(newspaper("train")).predict([one.text for one in test])
    f1 = entity_f1(entity_counts([one.entities for one in test], found))
    assert record.scores["dictionary: test F1"] == pytest.approx(f1)
    assert newspaper_hashes().items() < record.data.items()


def test_the_kept_encoder_finds_hidden_characters(record):
    model, tokenizer = (load(artifacts() / "newspaper_masked") for load in (load_model, load_tokenizer))
    some = [one.text for one in newspaper("validation")[:800]]
    recorded = records.recorded("newspaper_masked").scores["validation: hidden characters that are found"]
    assert masked_accuracy(model.eval(), tokenizer, some) == pytest.approx(recorded, abs=0.03)
    assert load_tokenizer(artifacts() / "named_entities").get_vocab() == tokenizer.get_vocab()


def test_what_the_chapter_says(record):
    scores = record.scores
    assert scores["pretrained less dictionary: low"] > 0.03
    assert scores["pretrained less scratch: low"] > 0
    curves = record.table("curves")
    assert (curves.groupby("tagger").f1.last() > 0.6).all()
    for name in TAGGERS:
        assert scores[f"{name}: low"] < scores[f"{name}: test F1"] < scores[f"{name}: high"]
