"""Texts longer than a model may read, or should: cut into pieces that fit, and one answer put together from theirs.

In: texts and a tokenizer; later the logits of all pieces. Out: the pieces, with the number of the text that each comes
from; later one row of logits for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from numpy.typing import ArrayLike


class Pieces(NamedTuple):
    """Pieces of texts, those of a text in their order."""

    texts: list[str]
    owner: np.ndarray  # (N,) int64: the number of the text that each piece comes from


def split_text(text: str, tokenizer: tokenizers.Tokenizer, length: int) -> list[str]:
    """Return a text in as few pieces as possible, about equally long, of at most ``length`` tokens each.

    What the tokenizer puts around a text, such as ``[CLS]`` and ``[SEP]``, is counted, as ``TextRows`` does. The pieces
    do not overlap. They are cut between words, so that a WordPiece tokenizer gives a piece the tokens that it had in
    the text; only a word that is longer than a piece is cut itself. Between pieces white space is lost.

    Args:
        tokenizer: with truncation and padding switched off, as ``load_tokenizer`` gives it.

    Raises:
        ValueError: there is no room for a token beside the template.
    """
    room = length - tokenizer.num_special_tokens_to_add(False)
    if room < 1:
        raise ValueError(f"length is {length}; expected more than the {length - room} that the tokenizer adds")
    encoding = tokenizer.encode(text, add_special_tokens=False)
    N = len(encoding.ids)
    if N <= room:
        return [text]
    word = encoding.word_ids
    begins = np.array([i for i in range(1, N) if word[i] is None or word[i] != word[i - 1]])
    borders = [0]
    while (left := N - borders[-1]) > room:
        share = -(-left // -(-left // room))  # of what is left, if it is cut evenly into as few pieces as possible
        target = borders[-1] + share
        possible = begins[(begins > borders[-1]) & (begins <= borders[-1] + room)]
        before, after = possible[possible <= target], possible[possible > target]
        borders.append(int(before[-1] if len(before) else after[0] if len(after) else target))
    ends = [*borders[1:], N]
    return [text[encoding.offsets[a][0] : encoding.offsets[b - 1][1]] for a, b in zip(borders, ends, strict=True)]


def split_texts(texts: Sequence[str], tokenizer: tokenizers.Tokenizer, length: int) -> Pieces:
    """Return the pieces of several texts, see :func:`split_text`, one after the other.

    Raises:
        ValueError: there are no texts, or a piece has no room.
    """
    if isinstance(texts, str) or len(texts) == 0:
        raise ValueError("texts is a single str, or empty; expected a list of texts: split_texts([text], …)")
    parts = [split_text(text, tokenizer, length) for text in texts]
    owner = np.repeat(np.arange(len(parts)), [len(some) for some in parts])
    return Pieces([piece for some in parts for piece in some], owner)


def mean_of_pieces(values: ArrayLike, owner: ArrayLike) -> np.ndarray:
    """Return for each text the mean of what its pieces have, (M, ...) float64.

    Of logits: softmax of their mean is the normalized geometric mean of the pieces' probabilities. A piece that is sure
    counts more than one that is not.

    Args:
        values: (N, ...), a row for each piece.
        owner: (N,), see :class:`Pieces`.

    Raises:
        ValueError: the lengths differ, or a text has no piece.
    """
    values, owner = np.asarray(values, dtype=np.float64), np.asarray(owner)
    if values.ndim == 0 or owner.shape != values.shape[:1] or not len(owner):
        raise ValueError(f"values has the shape {values.shape}, owner {owner.shape}; expected an owner for each row")
    count = np.bincount(owner)  # (M,)
    if not count.all():
        raise ValueError(f"text {count.argmin()} has no piece; number the texts from 0, without gaps")
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, owner, values)
    return total / count.reshape(-1, *[1] * (values.ndim - 1))
