"""Recipes, altered texts, rare classes: as promised, and the study runs and holds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from plm_tutorial import load_tokenizer
from plm_tutorial.baselines import Labelled
from plm_tutorial.experiments import advice
from plm_tutorial.experiments.advice import Recipe

TEXTS = ["a b c d e f g h i j", "one", "two words", ""]


def test_a_recipe_says_which_losses_and_alterations_there_are():
    with pytest.raises(ValueError, match="loss is 'hinge'; expected one of 'plain', 'class weights'"):
        Recipe(loss="hinge")
    with pytest.raises(ValueError, match="augmentation is 'shout'"):
        Recipe(augmentation="shout")
    assert Recipe(epochs=3).steps(64) == 6 and Recipe(epochs=3).steps(8) == 3


@given(st.integers(0, 1000), st.floats(0, 1))
def test_altered_texts_keep_their_words(seed, share):
    fewer = advice.augment(TEXTS, "delete words", share, seed)
    for text, changed in zip(TEXTS, fewer, strict=True):
        words = text.split()
        assert [word for word in words if word in changed.split()] == changed.split()  # in order, none is new
        assert len(changed.split()) >= min(1, len(words))
    swapped = advice.augment(TEXTS, "swap words", share, seed)
    assert [sorted(text.split()) for text in swapped] == [sorted(text.split()) for text in TEXTS]
    assert swapped[0] != TEXTS[0] or share > 0.15  # one pair is swapped at least; several may undo each other
    assert advice.augment(TEXTS, "swap words", share, seed) == swapped
    with pytest.raises(ValueError, match="share 2"):
        advice.augment(TEXTS, "swap words", 2)


def test_rare_repeated_and_flipped():
    some = Labelled([f"{i}" for i in range(40)], np.arange(40) % 2)
    rare = advice.make_rare(some, 15, 3, seed=1)
    assert np.bincount(rare.labels).tolist() == [15, 3] and len(set(rare.texts)) == 18
    assert all(int(text) % 2 == label for text, label in zip(*rare, strict=True))
    even = advice.repeat_rare(rare)
    assert np.bincount(even.labels).tolist() == [15, 15] and set(even.texts) == set(rare.texts)
    flipped = advice.flip_labels(some, 0.3, seed=2)
    assert (flipped.labels != some.labels).sum() == 12 and flipped.texts == some.texts
    with pytest.raises(ValueError, match="21 texts of label 1 are wanted; expected 1 to 20"):
        advice.make_rare(some, 3, 21)


def test_scores_of_a_rare_class_are_those_of_texts_repeated_to_its_prevalence():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    scores = generator.normal(size=60) + labels
    got = advice.rare_scores(labels, scores, 1 / 11, threshold=0.3)
    repeated = np.concatenate([np.repeat(np.flatnonzero(labels == 0), 10), np.flatnonzero(labels == 1)])
    y, called = labels[repeated], scores[repeated] > 0.3
    assert got.precision == pytest.approx(precision_score(y, called))
    assert got.recall == pytest.approx(recall_score(y, called))
    assert got.f1 == pytest.approx(f1_score(y, called))
    best = advice.best_threshold(labels, scores, 1 / 11)
    tried = [advice.rare_scores(labels, scores, 1 / 11, at).f1 for at in [*scores, *(scores + 1e-9), *(scores - 1e-9)]]
    assert advice.rare_scores(labels, scores, 1 / 11, best).f1 == pytest.approx(max(tried))
    assert advice.rare_scores(labels, scores, 1 / 11, 99.0)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="0% of the labels are 1"):
        advice.rare_scores(np.zeros(4, dtype=int), np.arange(4.0), 0.1)


def test_a_recipe_trains_what_it_says():
    few = Labelled(["good", "bad", "fine", "dull"], np.array([1, 0, 1, 0]))
    tokenizer = load_tokenizer("minilm")
    recipe = Recipe(lr=1e-3, epochs=2, frozen=5, loss="class weights", augmentation="swap words", size=2)
    model, history = advice.fine_tune(few, recipe, tokenizer, seed=3)
    assert len(history.column("loss")) == 4
    start = advice.classifier("full fine-tuning", 3).state_dict()
    changed = {name for name, value in model.state_dict().items() if not value.equal(start[name])}
    assert changed and not any(name.startswith(("embeddings", "layers.4")) for name in changed)


def test_the_recorded_study_says_what_the_page_says():
    from plm_tutorial.records import recorded

    record = recorded("advice")
    runs = record.table("runs")
    assert len(runs) == record.scores["runs"]
    grid = runs.query("part == 'grid'").pivot_table(index="lr", columns="epochs", values="test accuracy")
    assert grid.max().max() == pd.Series(grid.loc[1e-4]).max()
    assert (
        record.scores["2048 labels, all blocks frozen minus nothing frozen, points, high end of the 95 % interval"] < -3
    )
