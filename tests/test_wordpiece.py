"""WordPiece: equal to MiniLM's own tokenizer, and to what can be worked out by hand."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from plm_tutorial import assets, text
from plm_tutorial.wordpiece import WordPieceTokenizer, bert_normalize, bert_words, wordpiece_scores

# The library's tables are older than Python's: compare on characters whose category has never changed.
STABLE = st.characters().filter(
    lambda c: unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")
)
TEXT = st.text(st.one_of(STABLE, st.sampled_from("abeinstABÉéİßΣς -'.,$#[]019\n中漢\u0301\u200d\ufffd")))
SMALL = {"[UNK]": 0, "un": 1, "##afford": 2, "##able": 3, "##a": 4, "u": 5, "!": 6, "#": 7, "##": 8, "##n": 9}


@pytest.fixture(scope="module")
def library() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(assets.path("minilm", "tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def taught(library) -> WordPieceTokenizer:
    return WordPieceTokenizer(library.get_vocab())


def test_tokens_and_ids_equal_minilm_on_reviews(taught, library):
    for review in text.reviews(split="test")["text"][:3000]:
        expected = library.encode(review, add_special_tokens=False)
        assert taught.tokens(review) == expected.tokens
        assert taught.encode(review) == expected.ids


@settings(max_examples=1500, deadline=None)
@given(TEXT)
def test_ids_equal_minilm_on_random_unicode(taught, library, string):
    assert taught.encode(string) == library.encode(string, add_special_tokens=False).ids


@settings(max_examples=300, deadline=None)
@given(TEXT, st.booleans())
def test_normalisation_and_words_equal_the_library(string, lowercase):
    normalized = bert_normalize(string, lowercase)
    assert normalized == normalizers.BertNormalizer(lowercase=lowercase).normalize_str(string)
    assert bert_words(normalized) == [w for w, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalized)]


def test_normalisation_by_hand():
    assert bert_normalize("Ça\tva\x00?\u200d ΟΔΟΣ") == "ca va? οδοσ"
    assert bert_normalize("Ça", lowercase=False) == "Ça"
    assert bert_words(bert_normalize("it's 5$ 中文")) == ["it", "'", "s", "5", "$", "中", "文"]


def test_greedy_search_by_hand():
    tokenizer = WordPieceTokenizer(SMALL, max_chars=11)
    assert tokenizer.tokens("Unaffordable!") == ["[UNK]", "!"]  # 12 characters
    assert WordPieceTokenizer(SMALL).tokens("Unaffordable!") == ["un", "##afford", "##able", "!"]
    assert tokenizer.tokens("ua") == ["u", "##a"]
    # "un" is taken since it is the longest; that "u" + "##n" + ... would not help either is not even tried.
    assert tokenizer.tokens("una unx") == ["un", "##a", "[UNK]"]
    assert tokenizer.encode("") == []


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_decoding_equals_the_library_without_clean_up(taught, string):
    tokens = taught.tokens(string)
    assert taught.decode(taught.encode(string)) == decoders.WordPiece(cleanup=False).decode(tokens)


def test_decoding_loses_case_accents_and_spacing(taught):
    assert taught.decode(taught.encode("Très   unwatchable.")) == "tres unwatchable ."
    with pytest.raises(ValueError, match="no piece has id 99999; the vocabulary has 30522 pieces"):
        taught.decode([99999])


def test_special_tokens_in_a_text_are_text(taught, library):
    assert taught.tokens("[SEP]") == ["[", "sep", "]"]
    assert library.encode("[SEP]", add_special_tokens=False).tokens == ["[SEP]"]


def test_a_vocabulary_needs_the_unknown_token():
    with pytest.raises(ValueError, match=r"vocabulary of 1 pieces lacks '\[UNK\]'"):
        WordPieceTokenizer({"a": 0})


# ---- training criteria

COUNTS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}


def _pieces(word: str) -> tuple[str, ...]:
    return (word[0], *("##" + c for c in word[1:]))


def test_scores_by_hand():
    scores = wordpiece_scores({_pieces(word): count for word, count in COUNTS.items()})
    assert scores["##g", "##s"] == 5 / (20 * 5)
    assert scores["##u", "##g"] == 20 / (36 * 20)
    assert max(scores, key=scores.get) == ("##g", "##s")  # the rarest pair of all


def _train(model, trainer) -> set[str]:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([f"{word} " * count for word, count in COUNTS.items()], trainer)
    return set(tokenizer.get_vocab())


def test_the_library_trains_wordpiece_by_counts_like_bpe():
    vocabularies = []
    for size in range(11, 20):
        options = dict(vocab_size=size, show_progress=False)
        bpe = trainers.BpeTrainer(continuing_subword_prefix="##", **options)
        vocabularies.append(_train(models.WordPiece(), trainers.WordPieceTrainer(**options)))
        assert vocabularies[-1] == _train(models.BPE(continuing_subword_prefix="##"), bpe)
    assert vocabularies[1] - vocabularies[0] == {"##ug"}  # the most frequent pair, not ##gs
