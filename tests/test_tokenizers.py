"""Byte-level BPE: equal to the `tokenizers` library, to its own naive form, and to what can be worked out by hand."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from plm_tutorial import assets, text
from plm_tutorial.tokenizers import (
    BPETokenizer,
    apply_merges,
    bytes_to_unicode,
    count_pairs,
    count_words,
    merge_pair,
    pretokenize,
    printable,
    train_bpe,
    train_bpe_naive,
    train_fast_bpe,
)

SPECIAL = ("<|end|>", "<|end|>|>", "<|pad|>")
# Python, `regex` and the library know different versions of Unicode; they agree on what Python 3.11 knows.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))
TEXT = st.text(st.one_of(ASSIGNED, st.sampled_from(" \n\t'sdtlveram019.,!?_é中"))) | st.text("a b'")
QUICK = settings(max_examples=200, deadline=None)


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    return list(text.reviews(split="train")["text"])


@pytest.fixture(scope="module")
def taught(reviews) -> BPETokenizer:
    start = time.process_time()
    tokenizer = train_bpe(reviews, 4096, SPECIAL)
    assert time.process_time() - start < 90
    return tokenizer


@pytest.fixture(scope="module")
def fast(reviews) -> Tokenizer:
    return train_fast_bpe(reviews, 4096, SPECIAL)


# ---- pieces and bytes


def test_pieces_are_cut_as_gpt2_cuts_them():
    assert pretokenize("We're 2nd,  don't\n\n  go!") == [
        "We",
        "'re",
        " 2",
        "nd",
        ",",
        " ",
        " don",
        "'t",
        "\n\n ",
        " go",
        "!",
    ]


@QUICK
@given(st.text())
def test_pieces_joined_are_the_text(string):
    assert "".join(pretokenize(string)) == string


@QUICK
@given(TEXT)
def test_pieces_equal_the_library(string):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    assert pretokenize(string) == [string[start:end] for _, (start, end) in byte_level.pre_tokenize_str(string)]


def test_every_byte_has_a_printable_character_of_its_own():
    characters = bytes_to_unicode()
    assert sorted(characters) == list(range(256))
    assert set(characters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert all(c.isprintable() and not c.isspace() for c in characters.values())
    assert printable(" é\n".encode()) == "ĠÃ©Ċ"


# ---- training


def test_counting_and_merging_by_hand():
    words = count_words(["no no", "", "on"])
    assert words == {(b"n", b"o"): 1, (b" ", b"n", b"o"): 1, (b"o", b"n"): 1}
    assert count_pairs(words) == {(b"n", b"o"): 2, (b" ", b"n"): 1, (b"o", b"n"): 1}
    assert merge_pair((b"a",) * 5, (b"a", b"a")) == (b"aa", b"aa", b"a")
    assert merge_pair((b"a", b"b", b"ab", b"a"), (b"a", b"b")) == (b"ab", b"ab", b"a")


@pytest.mark.parametrize("train", [train_bpe, train_bpe_naive])
def test_training_by_hand(train):
    # Pairs of "abab" and " abab": ab four times, ba twice, " a" once; then abab twice; then " abab"; then nothing.
    tokenizer = train(["abab abab"], 1000)
    assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"ab"), (b" ", b"abab")]
    assert tokenizer.vocab_size == 259
    assert tokenizer.vocab[b" abab"] == 258
    assert tokenizer.tokens("abab ababab") == [b"abab", b" abab", b"ab"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab c\n") | st.text("a", max_size=20) | st.text("xyé.", max_size=9), min_size=1).filter(any),
    st.integers(258, 290),
)
def test_naive_incremental_and_library_training_agree(texts, vocab_size):
    """Short words over few letters: nearly every choice is a tie, and many words repeat one letter."""
    special = ["<|end|>", "<s>"]
    taught = train_bpe(texts, vocab_size, special)
    assert taught.merges == train_bpe_naive(texts, vocab_size, special).merges
    library = train_fast_bpe(iter(texts), vocab_size, special)
    assert taught.to_library().get_vocab() == library.get_vocab()
    assert BPETokenizer.from_library(library).merges == taught.merges


def test_naive_training_agrees_on_real_text(reviews):
    assert train_bpe_naive(reviews[:40], 330).merges == train_bpe(reviews[:40], 330).merges


def test_merges_and_ids_equal_the_library_on_all_training_reviews(taught, fast):
    assert taught.vocab_size == 4096
    assert taught.to_library().get_vocab() == fast.get_vocab()
    merges = json.loads(fast.to_str())["model"]["merges"]
    assert [[printable(left), printable(right)] for left, right in taught.merges] == merges


@pytest.mark.parametrize("train", [train_bpe, train_bpe_naive, train_fast_bpe])
@pytest.mark.parametrize(
    ("texts", "vocab_size", "special", "message"),
    [
        ("one text", 300, (), "one string, 'one text'"),
        ([], 300, (), "no text"),
        (["", ""], 300, (), "no text"),
        (["a", None], 300, (), "number 1 is of type NoneType"),
        (["a", "b\ud800"], 300, (), r"number 1 holds half of a surrogate pair, U\+D800, at position 1"),
        (["a"], 255, (), "vocab_size is 255.* need 256"),
        (["a"], 257, SPECIAL, "vocab_size is 257.* need 259"),
        (["a"], 300, "<|end|>", "special_tokens is the string"),
        (["a"], 300, ["<|end|>", "<|end|>"], "twice"),
        (["a"], 300, [""], "special token ''"),
        (["a"], 300, ["PAD"], "special token 'PAD'"),
        (["a"], 300, ["«end»"], "special token '«end»'"),
    ],
)
def test_training_refuses(train, texts, vocab_size, special, message):
    with pytest.raises(ValueError, match=message):
        train(texts, vocab_size, special)


def test_why_a_word_is_refused_as_special_token():
    """The library takes it, and the merge of its letters gets its id: plain text then holds a special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["ab ab"], trainers.BpeTrainer(special_tokens=["ab"], show_progress=False))
    tokenizer.encode_special_tokens = True  # special tokens spelled out in a text are to be ordinary text
    assert tokenizer.encode("ab").ids == [0] == [tokenizer.token_to_id("ab")]


# ---- use


def test_ids_equal_the_library_on_reviews(taught, fast):
    for review in text.reviews(split="test")["text"][:1500]:
        assert taught.encode(review) == fast.encode(review).ids


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_ids_equal_the_library_on_random_unicode(taught, fast, string):
    assert taught.encode(string) == fast.encode(string).ids


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))) | TEXT)
def test_any_text_comes_back(taught, string):
    assert taught.decode(taught.encode(string)) == string
    assert b"".join(taught.tokens(string)) == string.encode()


@QUICK
@given(st.lists(st.integers(0, 4095)))
def test_any_ids_decode_as_in_the_library(taught, fast, ids):
    assert taught.decode(ids) == fast.decode(ids, skip_special_tokens=False)


def test_cut_characters_decode_to_replacement_characters():
    tokenizer = BPETokenizer([])
    assert tokenizer.decode(tokenizer.encode("é!")[1:]) == "\ufffd!"


def test_merges_apply_in_the_order_of_learning():
    ranks = {(b"b", b"c"): 0, (b"a", b"b"): 1, (b"a", b"bc"): 2}
    assert apply_merges(b"abcab", ranks) == (b"abc", b"ab")
    assert apply_merges(b"", ranks) == ()


@pytest.mark.parametrize("ids", [[-1], [5, 4096]])
def test_unknown_id_is_refused(taught, ids):
    with pytest.raises(ValueError, match=f"no token has id {ids[-1]}; ids go from 0 to 4095"):
        taught.decode(ids)


@pytest.mark.parametrize("allow_special", [False, True])
def test_half_a_surrogate_pair_is_refused(taught, allow_special):
    with pytest.raises(ValueError, match=r"U\+DC80, at position 2"):
        taught.encode("ab\udc80", allow_special)
    with pytest.raises(ValueError, match="type bytes"):
        taught.encode(b"ab", allow_special)


def test_special_tokens_are_text_unless_allowed(taught, fast):
    string = "Bad.<|end|><|pad|>Good<|end|>|>"
    assert not set(taught.encode(string)) & {0, 1, 2}
    assert taught.decode(taught.encode(string)) == string

    allowed = taught.encode(string, allow_special=True)
    assert [i for i in allowed if i < 3] == [0, 2, 1]  # the longer of two that match wins
    assert taught.decode(allowed) == string
    assert allowed == fast.encode(string).ids == taught.to_library().encode(string).ids
    ordinary = taught.to_library()
    ordinary.encode_special_tokens = True
    assert taught.encode(string) == ordinary.encode(string).ids
    assert BPETokenizer([]).encode("<|end|>", allow_special=True) == BPETokenizer([]).encode("<|end|>")


def test_merges_must_build_on_each_other():
    with pytest.raises(ValueError, match=r"merge b'ab' \+ b'c'"):
        BPETokenizer([(b"ab", b"c"), (b"a", b"b")])


def test_two_merges_with_one_result_share_an_id():
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc")]
    tokenizer = BPETokenizer(merges)
    assert tokenizer.vocab_size == 259
    assert tokenizer.to_library().get_vocab()["abc"] == tokenizer.vocab[b"abc"] == 258


def test_saved_tokenizer_comes_back(taught, fast, tmp_path):
    taught.save(tmp_path / "taught.json")
    fast.save(str(tmp_path / "fast.json"))
    string = "Not bad at all. <|pad|> Was it 2½ hours? ¡Sí!"
    assert Tokenizer.from_file(str(tmp_path / "taught.json")).encode(string).ids == fast.encode(string).ids
    for file in ("taught.json", "fast.json"):
        loaded = BPETokenizer.load(tmp_path / file)
        assert (loaded.merges, loaded.special_tokens, loaded.vocab) == (taught.merges, SPECIAL, taught.vocab)
        assert loaded.encode(string, allow_special=True) == taught.encode(string, allow_special=True)


def test_other_tokenizers_are_not_loaded(taught):
    with pytest.raises(ValueError, match="expected a BPE model .* got a WordPiece model"):
        BPETokenizer.load(assets.path("minilm", "tokenizer.json"))
    other = taught.to_library()
    other.add_tokens(["<|later|>"])
    with pytest.raises(ValueError, match="ids are not in the order"):
        BPETokenizer.from_library(other)


def test_a_piece_from_the_cache_is_cut_the_same(taught):
    fresh = BPETokenizer(taught.merges, SPECIAL)
    first = fresh.tokens("unfilmable")
    assert len(first) > 1
    assert fresh.tokens("unfilmable") == first == taught.tokens("unfilmable")
