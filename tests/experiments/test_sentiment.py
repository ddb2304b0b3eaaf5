"""The labelled reviews of the classification experiments, and the TF-IDF baseline."""

import numpy as np
import pytest

from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.text import reviews


def test_all_reviews_come_in_their_order():
    found, rows = labelled_reviews("rotten_tomatoes", "validation"), reviews("rotten_tomatoes", "validation")
    assert found.texts == rows["text"][:] and found.labels.tolist() == rows["label"][:]


def test_draws_are_balanced_nested_and_follow_the_seed():
    large, small = (labelled_reviews("rotten_tomatoes", "train", n, seed=3) for n in (64, 16))
    assert small.texts == large.texts[:16]
    assert small.labels.sum() == 8 and large.labels.sum() == 32
    assert len(set(large.texts)) == 64
    assert labelled_reviews("rotten_tomatoes", "train", 64, seed=4).texts != large.texts
    truth = dict(zip(*[reviews("rotten_tomatoes", "train")[name][:] for name in ("text", "label")], strict=True))
    assert [truth[text] for text in large.texts] == large.labels.tolist()


@pytest.mark.parametrize("n", [0, 7, 10**6])
def test_draws_that_are_refused(n):
    with pytest.raises(ValueError, match=r"expected an even number from 2 to \d+"):
        labelled_reviews("rotten_tomatoes", "train", n)


def test_the_baseline_learns_words_and_pairs_and_takes_the_best_strength():
    texts = ["a good film", "very good fun", "all good", "not good at all", "good fun"]
    train = Labelled(texts * 5, np.array([1, 1, 1, 0, 1] * 5))
    model = tfidf_classifier(train, train, strengths=(1e-9, 100.0))
    assert model[-1].C == 100.0  # the other one sees only that most texts are praise
    assert model.predict(["good film", "not good"]).tolist() == [1, 0]
    assert tfidf_classifier(train, train, strengths=(100.0, 300.0))[-1].C == 100.0
