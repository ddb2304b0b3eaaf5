"""Scores of entities: those of seqeval, from counts that a bootstrap can draw from."""

import math
import random

import numpy as np
import pytest
from seqeval import metrics

from plm_tutorial.entities import KINDS, Entity, from_bio, to_bio
from plm_tutorial.evaluation import EntityScores, bootstrap_interval, entity_counts, entity_f1, entity_scores
from tests.test_entities import TAGS, random_entities


@pytest.fixture(scope="module")
def corpus():
    """True tags, and predicted ones, legal or not, that are often right."""
    draw = random.Random(0)
    truth = [to_bio(12, random_entities(draw, 12)) for _ in range(60)]
    predicted = [[draw.choice(TAGS) if draw.random() < 0.2 else tag for tag in tags] for tags in truth]
    return truth, predicted


def test_scores_are_those_of_seqeval(corpus):
    truth, predicted = corpus
    ours = entity_scores([from_bio(tags) for tags in truth], [from_bio(tags) for tags in predicted])
    for name in ("precision", "recall", "f1"):
        theirs = getattr(metrics, f"{name}_score")(truth, predicted, average=None)  # in the order of the kinds' names
        np.testing.assert_allclose(getattr(ours, name)[np.argsort(KINDS)], theirs)
    assert ours.micro_f1 == pytest.approx(metrics.f1_score(truth, predicted))
    assert ours.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    table = ours.table()
    assert table.loc["all", "precision"] == pytest.approx(metrics.precision_score(truth, predicted))
    assert table.loc["all", "recall"] == pytest.approx(metrics.recall_score(truth, predicted))
    assert table.entities["all"] == sum(map(len, map(from_bio, truth)))


def test_only_the_same_beginning_end_and_kind_is_right():
    truth = [[Entity(0, 3, "PER"), Entity(5, 7, "LOC")]]
    assert entity_counts(truth, [[Entity(0, 2, "PER"), Entity(5, 7, "ORG")]])[0].tolist() == [
        [0, 1, 1],
        [0, 0, 1],
        [0, 1, 0],
    ]
    assert entity_f1(entity_counts(truth, truth)) == 1
    assert entity_counts(truth, [[(0, 3, "PER"), (0, 3, "PER")]])[0, 0].tolist() == [1, 1, 1]  # said twice counts once


def test_undefined_is_nan():
    scores = entity_scores([[Entity(0, 1, "PER")], []], [[], []])
    assert math.isnan(scores.precision[0]) and scores.recall[0] == scores.f1[0] == 0 and math.isnan(scores.f1[1])
    assert scores.macro_f1 == 0 and math.isnan(entity_f1(np.zeros((2, 3, 3))))


def test_counts_of_sentences_can_be_drawn_from(corpus):
    counts = entity_counts(*([from_bio(tags) for tags in some] for some in corpus))
    assert counts.shape == (60, 3, 3)
    low, high = bootstrap_interval(counts, entity_f1, n=200)
    assert low < entity_f1(counts) < high
    assert EntityScores(KINDS, counts.sum(axis=0)).micro_f1 == entity_f1(counts)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([[]], [], "1 texts and 0 predictions"),
        ([], [], "at least one"),
        ([[]], [[Entity(0, 1, "DATE")]], "another kind than PER, LOC, ORG"),
    ],
)
def test_what_cannot_be_scored(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        entity_counts(truth, predicted)
