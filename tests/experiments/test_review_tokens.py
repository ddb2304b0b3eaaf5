"""The reviews as tokens: nothing lost, the same ids with and without a mask token, made once."""

import numpy as np
import pytest

from plm_tutorial.experiments.review_tokens import END, MASK, review_bytes, review_tokenizer, review_tokens
from plm_tutorial.text import reviews


def test_tokens_of_a_split_are_its_reviews():
    file, texts = review_tokens("validation"), reviews("imdb", "validation")["text"][:]
    assert len(file.starts) == len(texts) + 1
    tokenizer = review_tokenizer()
    for i in (0, 7, len(texts) - 1):
        ids = file.tokens[file.starts[i] : file.starts[i + 1]]
        assert tokenizer.decode(ids[:-1].astype(np.int64), skip_special_tokens=False) == texts[i]
        assert ids[-1] == file.end_id == tokenizer.token_to_id(END)
    assert review_bytes("validation") == sum(len(text.encode()) for text in texts)


def test_the_second_call_opens_what_the_first_made():
    first = review_tokens("validation")
    made = (first.path / "tokens.bin").stat().st_mtime_ns
    assert (review_tokens("validation").path / "tokens.bin").stat().st_mtime_ns == made


def test_the_mask_is_one_token_more():
    plain, masked = review_tokenizer(), review_tokenizer(mask=True)
    assert plain.get_vocab_size() == 4096 and masked.get_vocab_size() == 4097
    assert masked.token_to_id(MASK) == 4096
    text = f"A film with {END} and {MASK} in its title, and naïve é 🎬."
    assert masked.encode(text).ids == plain.encode(text).ids
    assert max(masked.encode(text).ids) < 4096


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        review_tokens("trian")
