"""Unigram: the dynamic programmes against all segmentations, and against the `tokenizers` library."""

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from plm_tutorial import text
from plm_tutorial.unigram import unigram_em_step, viterbi

PIECES = ["a", "b", "ab", "ba", "aa", "aba", "bb", "abab"]
LOGP = st.tuples(*[st.floats(-6, -0.5)] * len(PIECES)).map(lambda scores: dict(zip(PIECES, scores, strict=True)))


def _segmentations(word: str, logp: dict[str, float]) -> dict[tuple[str, ...], float]:
    """Return each way to cut the word into known pieces, with its log probability."""
    found = {}
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        pieces = tuple(word[i:j] for i, j in zip([0, *ends], ends, strict=False))
        if all(piece in logp for piece in pieces):
            found[pieces] = sum(logp[piece] for piece in pieces)
    return found


def _log_likelihood(words: dict[str, int], logp: dict[str, float]) -> float:
    return sum(n * math.log(sum(map(math.exp, _segmentations(word, logp).values()))) for word, n in words.items())


@settings(max_examples=200, deadline=None)
@given(st.text("ab", min_size=1, max_size=9), LOGP)
def test_viterbi_finds_the_best_of_all_segmentations(word, logp):
    pieces, score = viterbi(word, logp)
    segmentations = _segmentations(word, logp)
    assert score == pytest.approx(max(segmentations.values()))
    assert segmentations[tuple(pieces)] == pytest.approx(score)


def test_viterbi_by_hand():
    logp = {
        piece: math.log(p) for piece, p in {"h": 0.1, "u": 0.1, "g": 0.1, "hu": 0.2, "ug": 0.3, "hug": 0.05}.items()
    }
    assert viterbi("hug", logp) == (["hug"], math.log(0.05))
    assert viterbi("hughu", logp)[0] == ["hug", "hu"]
    assert viterbi("", logp) == ([], 0.0)
    with pytest.raises(
        ValueError, match=r"'huh\?' cannot be cut into known pieces; logp lacks the characters \['\?'\]"
    ):
        viterbi("huh?", logp)


@pytest.fixture(scope="module")
def words() -> list[str]:
    reviews = text.reviews(source="rotten_tomatoes", split="train")["text"]
    return [w for review in reviews[:2000] for w, _ in pre_tokenizers.Whitespace().pre_tokenize_str(review)]


@pytest.fixture(scope="module")
def library(words) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=1000, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


def test_viterbi_equals_the_library_on_a_trained_model(library, words):
    logp = {piece: score for piece, score in json.loads(library.to_str())["model"]["vocab"] if piece != "<unk>"}
    distinct = sorted(set(words))
    assert len(distinct) > 5000
    same = 0
    for word in distinct:
        pieces, score = viterbi(word, logp)
        expected = [token.value for token in library.model.tokenize(word)]
        assert score == pytest.approx(sum(logp[piece] for piece in expected), abs=1e-9)
        same += pieces == expected
    assert same >= 0.999 * len(distinct)  # the rest are ties


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1, max_size=7), st.integers(1, 9), min_size=1, max_size=5), LOGP)
def test_em_step_equals_the_sum_over_all_segmentations(words, logp):
    expected = dict.fromkeys(PIECES, 0.0)
    for word, count in words.items():
        segmentations = _segmentations(word, logp)
        total = sum(map(math.exp, segmentations.values()))
        for pieces, score in segmentations.items():
            for piece in pieces:
                expected[piece] += count * math.exp(score) / total
    new = unigram_em_step(words, logp)
    assert sum(map(math.exp, new.values())) == pytest.approx(1)
    assert set(new) == {piece for piece, uses in expected.items() if uses > 0}
    for piece, value in new.items():
        assert value == pytest.approx(math.log(expected[piece] / sum(expected.values())))


def test_em_raises_the_likelihood_until_it_stands_still():
    words = {"abab": 9, "ab": 4, "ba": 1, "aab": 2}
    logp = {piece: -math.log(len(PIECES)) for piece in PIECES}
    history = [_log_likelihood(words, logp)]
    for _ in range(60):
        logp = unigram_em_step(words, logp)
        history.append(_log_likelihood(words, logp))
    assert all(new >= old - 1e-9 for old, new in itertools.pairwise(history))
    assert history[1] > history[0] + 1
    assert history[-1] == pytest.approx(history[-2], abs=1e-6)


def test_em_step_on_a_word_whose_probability_underflows():
    word = "ab" * 400  # about e^-2400, which a float cannot hold
    new = unigram_em_step({word: 1}, {"a": -3.0, "b": -3.0})
    assert new == {"a": pytest.approx(math.log(0.5)), "b": pytest.approx(math.log(0.5))}


def test_em_step_refuses_a_word_it_cannot_cut():
    with pytest.raises(ValueError, match="word 'ac' cannot be cut"):
        unigram_em_step({"ac": 1}, {"a": -1.0})
