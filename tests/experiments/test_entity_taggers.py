"""A dictionary, a perceptron and Viterbi: against brute force and by hand."""

import itertools

import numpy as np
import pytest

from plm_tutorial.entities import Entity, Sentence, bio_tags, illegal_places
from plm_tutorial.evaluation import entity_counts, entity_f1
from plm_tutorial.experiments.entity_taggers import (
    Dictionary,
    Perceptron,
    counted_transitions,
    legal_transitions,
    viterbi,
)

TAGS = bio_tags(("PER", "LOC"))


def test_viterbi_finds_what_trying_all_paths_finds():
    draw = np.random.default_rng(0)
    begin, transitions = legal_transitions(TAGS)
    for length in (1, 2, 5):
        for rule in (transitions, draw.normal(size=transitions.shape), transitions + draw.normal(size=begin.shape)):
            scores = draw.normal(size=(length, len(TAGS)))

            def total(path, scores=scores, rule=rule):
                pairs = sum(rule[a, b] for a, b in itertools.pairwise(path))
                return begin[path[0]] + pairs + sum(row[k] for row, k in zip(scores, path, strict=True))

            best = max(itertools.product(range(len(TAGS)), repeat=length), key=total)
            assert viterbi(scores, begin, rule).tolist() == list(best)


def test_under_the_rule_all_paths_are_legal_and_legal_ones_stay():
    draw = np.random.default_rng(1)
    rule = legal_transitions(TAGS)
    for _ in range(100):
        scores = 3 * draw.normal(size=(9, len(TAGS)))
        path = viterbi(scores, *rule)
        assert illegal_places([TAGS[k] for k in path]) == []
        likeliest = scores.argmax(1)
        if not illegal_places([TAGS[k] for k in likeliest]):
            np.testing.assert_array_equal(path, likeliest)


def test_wrong_shapes():
    begin, transitions = legal_transitions(TAGS)
    with pytest.raises(ValueError, match="T at least 1"):
        viterbi(np.zeros((0, 5)), begin, transitions)
    with pytest.raises(ValueError, match=r"scores \(2, 4\)"):
        viterbi(np.zeros((2, 4)), begin, transitions)


def test_counted_transitions():
    some = [Sentence("abcd", (Entity(0, 2, "PER"),)), Sentence("ab", (Entity(1, 2, "LOC"),))]
    counted = counted_transitions(some, TAGS, smoothing=1.0)
    table = np.ones((5, 5))
    for a, b in (("B-PER", "I-PER"), ("I-PER", "O"), ("O", "O"), ("O", "B-LOC")):
        table[TAGS.index(a), TAGS.index(b)] += 1
    chance = table.sum(0) / table.sum()
    np.testing.assert_allclose(counted, np.log(table / table.sum(1, keepdims=True) / chance))


TRAIN = [
    Sentence("高明在北京", (Entity(0, 2, "PER"), Entity(3, 5, "LOC"))),
    Sentence("山高水高", ()),
    Sentence("高说北京大学", (Entity(0, 1, "PER"), Entity(2, 6, "ORG"))),
    Sentence("北京好", (Entity(0, 2, "LOC"),)),
]


def test_the_dictionary_keeps_names_that_are_mostly_names_and_finds_the_longest():
    found = Dictionary(TRAIN)
    assert found.kinds == {"高明": "PER", "北京": "LOC", "北京大学": "ORG"}  # 高: once of four times
    assert found.predict(["高明到北京大学", "北京大", ""]) == [
        [Entity(0, 2, "PER"), Entity(3, 7, "ORG")],
        [Entity(0, 2, "LOC")],
        [],
    ]
    assert "高" in Dictionary(TRAIN, least=0.25).kinds
    assert Dictionary(TRAIN, least=0.7).kinds == {"高明": "PER", "北京大学": "ORG"}  # 北京: two of three


@pytest.fixture(scope="module")
def generated():
    """Persons that are told by what stands before and after them alone, and places by a last character."""
    draw = np.random.default_rng(0)
    some = [chr(0x4E00 + i) for i in range(60)]
    sentences = []
    for _ in range(400):
        a, b = (int(n) for n in draw.integers(1, 4, 2))
        text = "".join(draw.choice(some, int(draw.integers(0, 5))))
        start = len(text) + 1
        name, place = "".join(draw.choice(some, a)), "".join(draw.choice(some, b)) + "市"
        entities = (Entity(start, start + a, "PER"), Entity(start + a + 1, start + a + 1 + len(place), "LOC"))
        sentences.append(Sentence(f"{text}叫{name}在{place}。", entities))
    return sentences


def test_the_perceptron_learns_what_a_dictionary_cannot(generated):
    train, test = generated[:300], generated[300:]
    tagger = Perceptron(least=1).fit(train, epochs=4)
    truth, texts = [one.entities for one in test], [one.text for one in test]
    learned = entity_f1(entity_counts(truth, tagger.predict(texts)))
    looked_up = entity_f1(entity_counts(truth, Dictionary(train).predict(texts)))
    assert learned > 0.95 > 0.4 > looked_up


def test_the_perceptron_depends_on_its_seed_alone_and_takes_any_text(generated):
    a, b = (Perceptron().fit(generated[:50], epochs=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(a.weights, b.weights)
    assert not a.weights[-1].any() and len(a.weights) == a.n_features + 1
    found = a.predict(["", "x", "Ω市市市", generated[0].text])
    assert found[0] == [] and len(found) == 4


def test_the_average_is_that_of_all_steps(generated):
    """The lazy average equals one that is kept after every sentence."""

    class Slow(Perceptron):
        def fit(self, sentences, epochs, seed=0):
            whole, generator = np.zeros(1), np.random.default_rng(seed)
            features = self._learn_features([one.text for one in sentences])
            weights = np.zeros((self.n_features + 1, len(self.tags)), np.float64)
            pairs, n = np.zeros((len(self.tags),) * 2), 0
            from plm_tutorial.entities import to_bio

            for _ in range(epochs):
                for i in generator.permutation(len(sentences)):
                    x = features[i]
                    y = [self.tags.index(tag) for tag in to_bio(len(x), sentences[i].entities)]
                    z = viterbi(weights[x].sum(axis=1), self.begin, self.legal + pairs)
                    whole = whole + weights  # the weights with which this sentence was read
                    n += 1
                    for t in range(len(x)):
                        for f in x[t]:
                            if f < self.n_features:
                                weights[f, y[t]] += 1
                                weights[f, z[t]] -= 1
                        if t:
                            pairs[y[t - 1], y[t]] += 1
                            pairs[z[t - 1], z[t]] -= 1
            self.average = (whole + weights) / (n + 1)
            return self

    fast, slow = Perceptron().fit(generated[:40], 2), Slow().fit(generated[:40], 2)
    np.testing.assert_allclose(fast.weights, slow.average, atol=1e-4)
