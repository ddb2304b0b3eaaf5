"""Long texts in pieces: nothing is lost, nothing is too long, tokens stay, and the mean is each text's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_tutorial import load_tokenizer
from plm_tutorial.batches import TextRows
from plm_tutorial.experiments.long_texts import mean_of_pieces, split_text, split_texts
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.text import words


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("minilm")


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("length", [16, 64, 128])
def test_reviews_keep_their_tokens(tokenizer, length):
    texts = labelled_reviews("imdb", "validation", 60).texts
    pieces = split_texts(texts, tokenizer, length)
    for number, text in enumerate(texts):
        own = [piece for piece, owner in zip(pieces.texts, pieces.owner, strict=True) if owner == number]
        together = [i for piece in own for i in ids(tokenizer, piece)]
        assert together == ids(tokenizer, text)
        sizes = [len(ids(tokenizer, piece)) for piece in own]
        assert max(sizes) <= length - 2
        assert len(sizes) <= -(-sum(sizes) // (length - 2)) + 1  # a word at a border may cost one piece more
        if len(sizes) > 1:
            assert min(sizes) > 0.4 * max(sizes)
    assert TextRows(pieces.texts, None, tokenizer, length).n_cut == 0


def test_what_fits_stays_as_it_is(tokenizer):
    text = "  a  film\nlike no other "
    assert split_text(text, tokenizer, 7) == [text]  # five tokens and the two around them
    assert split_text(text, tokenizer, 6) == ["a  film\nlike", "no other"]
    assert split_text("", tokenizer, 8) == [""]


def test_a_word_is_cut_only_if_it_must_be(tokenizer):
    word = "antidisestablishmentarianism"
    n = len(ids(tokenizer, word))
    assert n > 4
    assert split_text(f"so {word} it is", tokenizer, n + 2) == ["so", word, "it is"]
    parts = split_text(word, tokenizer, 2 + 3)
    assert "".join(parts) == word and len(parts) == -(-n // 3)


WORDS = ("a", "film", "which", "unwatchable", "antidisestablishmentarianism", "don't", "--", "cineaste's", "x-y-z")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), st.integers(12, 40))
@settings(max_examples=60, deadline=None)
def test_no_token_is_lost_or_changed(tokenizer, chosen, length):
    text = " ".join(chosen)
    parts = [ids(tokenizer, part) for part in split_text(text, tokenizer, length)]
    assert [i for part in parts for i in part] == ids(tokenizer, text)
    assert max(map(len, parts)) <= length - 2


@given(st.text(max_size=200), st.integers(3, 30))
@settings(max_examples=60, deadline=None)
def test_no_letter_of_any_text_is_lost(tokenizer, text, length):
    assert "".join(words("".join(split_text(text, tokenizer, length)))) == "".join(words(text))


def test_the_mean_is_of_the_texts_own_pieces():
    values = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 4.0], [9.0, 0.0]])
    found = mean_of_pieces(values, [0, 2, 0, 1])
    np.testing.assert_array_equal(found, [[0.5, 3.5], [9.0, 0.0], [2.0, 2.0]])
    np.testing.assert_array_equal(mean_of_pieces(values[:, 0], [0, 0, 1, 1]), [1.5, 4.5])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: split_text("a film", t, 2), "more than the 2"),
        (lambda t: split_texts("a film", t, 8), "a list of texts"),
        (lambda t: split_texts([], t, 8), "a list of texts"),
        (lambda t: mean_of_pieces([[1.0]], [0, 1]), "an owner for each row"),
        (lambda t: mean_of_pieces([], []), "an owner for each row"),
        (lambda t: mean_of_pieces([1.0, 2.0], [0, 2]), "text 1 has no piece"),
    ],
)
def test_what_is_wrong_is_said(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)
