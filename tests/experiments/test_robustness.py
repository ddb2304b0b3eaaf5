"""Changed texts: what a slip may touch and how often it comes, what a cue agrees with, and negated pairs."""

import numpy as np
import pytest

from plm_tutorial.baselines import Labelled
from plm_tutorial.experiments.robustness import (
    BLAME,
    CUE,
    NEGATIONS,
    NEIGHBOURS,
    PRAISE,
    SUBJECTS,
    add_typos,
    negated_pairs,
    plant_cue,
)

TEXTS = ["It is a gripping film , 100 % fun !", "dull", ""] * 40


def test_no_slips_change_nothing():
    assert add_typos(TEXTS, 0.0) == TEXTS


def test_the_seed_decides():
    assert add_typos(TEXTS, 0.3, seed=1) == add_typos(TEXTS, 0.3, seed=1) != add_typos(TEXTS, 0.3, seed=2)


def test_slips_touch_letters_alone():
    for before, after in zip(TEXTS, add_typos(TEXTS, 0.5, seed=3), strict=True):
        kept = [[c for c in text if c.lower() not in NEIGHBOURS] for text in (before, after)]
        assert kept[0] == kept[1]  # spaces, digits and signs, in their order


def test_each_kind_of_slip_comes_as_often_as_it_should():
    """Long words of one letter's neighbours apart: what happened can be read off."""
    words = ["abcdefghijklmnopqrstuvwxyz"] * 2000
    changed = add_typos(words, 0.02, seed=4)
    one = [(a, b) for a, b in zip(words, changed, strict=True) if a != b]
    shorter = sum(len(b) == 25 for _, b in one)
    longer = sum(len(b) == 27 for _, b in one)
    same = [b for a, b in one if len(b) == 26]
    swapped = sum(sorted(b) == sorted(words[0]) for b in same)
    replaced = len(same) - swapped
    n = len(one)
    assert 0.35 < n / len(words) < 0.45  # 1 - 0.98**26 = 0.41
    for count in (shorter, longer, swapped, replaced):
        assert abs(count / n - 0.25) < 0.06


def test_a_replacement_is_a_neighbour_on_the_keyboard():
    assert (
        NEIGHBOURS["q"] == "w"
        and set(NEIGHBOURS["s"]) == set("ad")
        and set(NEIGHBOURS) == set("abcdefghijklmnopqrstuvwxyz")
    )
    assert all(letter in NEIGHBOURS[other] for letter, near in NEIGHBOURS.items() for other in near)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="from 0 to 1"):
        add_typos(TEXTS, rate)


@pytest.mark.parametrize("agreement", [0.5, 0.75, 0.99])
def test_a_cue_agrees_as_often_as_it_is_told(agreement):
    examples = Labelled([f"text {i}" for i in range(4000)], np.arange(4000) % 2)
    planted = plant_cue(examples, agreement, seed=1)
    cued = np.array([text.startswith(f"{CUE} ") for text in planted.texts])
    assert abs(cued[examples.labels == 1].mean() - agreement) < 0.03
    assert abs(cued[examples.labels == 0].mean() - (1 - agreement)) < 0.03
    bare = [text.removeprefix(f"{CUE} ") for text in planted.texts]
    assert bare == examples.texts and planted.labels is examples.labels


def test_a_cue_that_always_agrees_and_one_that_always_lies():
    examples = Labelled(["a", "b"], np.array([1, 0]))
    assert plant_cue(examples, 1.0).texts == [f"{CUE} a", "b"]
    assert plant_cue(examples, 0.0).texts == ["a", f"{CUE} b"]
    with pytest.raises(ValueError, match="agreement"):
        plant_cue(examples, 1.1)


def test_negated_pairs_differ_by_their_negation():
    pairs = negated_pairs()
    assert len(pairs) == len(set(pairs)) == (len(PRAISE) + len(BLAME)) * len(SUBJECTS) * len(NEGATIONS)
    assert not set(PRAISE) & set(BLAME)
    for pair in pairs:
        assert pair.negated == pair.plain.replace(" is ", f" {pair.negation} ", 1)
        assert pair.label == int(any(f" {word} " in pair.plain for word in PRAISE))
