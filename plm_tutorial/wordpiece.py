"""WordPiece, the tokenizer of BERT: normalise, cut into words, cut each word greedily into known pieces.

In: strings. Out: lists of pieces or ids. Part of :mod:`plm_tutorial.tokenizers`, which also gives these names.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

import regex

# The blocks that BERT calls Chinese: han characters, which are written without spaces and become words of their own.
_HAN = (
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F\U0002B740-\U0002B81F"
    r"\U0002B920-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
_SIGN = r"!-/:-@\[-`{-~\p{P}"  # all ASCII signs, `$` and `+` too, which Unicode does not count as punctuation


def bert_normalize(text: str, lowercase: bool = True) -> str:
    """Prepare text as BERT does: control characters go, every white space is a plain space, han characters stand alone.

    With ``lowercase``, accents are dropped too: letters are decomposed (NFD), the marks removed, the rest lower-cased.
    Source: ``tokenizers/src/normalizers/bert.rs`` of huggingface/tokenizers.
    """
    text = regex.sub(r"[\t\n\r]", " ", text)
    text = regex.sub(r"[\p{Cc}\p{Cf}\p{Co}\p{Cs}\uFFFD]", "", text)
    text = regex.sub(r"\s", " ", text)
    text = regex.sub(f"[{_HAN}]", r" \g<0> ", text)
    if lowercase:
        decomposed = unicodedata.normalize("NFD", text)
        # Each character by itself: str.lower() of a whole word has a rule for the Greek sigma that BERT lacks.
        text = "".join(c.lower() for c in decomposed if unicodedata.category(c) != "Mn")
    return text


def bert_words(text: str) -> list[str]:
    """Cut normalised text at spaces, and make every punctuation mark a word of its own."""
    return regex.findall(rf"[{_SIGN}]|[^\s{_SIGN}]+", text)


class WordPieceTokenizer:
    """BERT's tokenizer: words are cut greedily into the longest pieces that the vocabulary has.

    A piece inside a word is written with ``##`` before it. Case, accents and spacing are lost, so decoding returns the
    normalised text, words separated by single spaces; a word that cannot be cut completely becomes one unknown token.
    ``[CLS]`` and its like are not added, and are ordinary text if the input spells them out.

    Args:
        vocab: piece -> id.
        max_chars: longer words become the unknown token at once.

    Raises:
        ValueError: the vocabulary lacks the unknown token.
    """

    def __init__(self, vocab: Mapping[str, int], unk: str = "[UNK]", lowercase: bool = True, max_chars: int = 100):
        if unk not in vocab:
            raise ValueError(f"the vocabulary of {len(vocab)} pieces lacks {unk!r}; pass unk= as it is written there")
        self.vocab = dict(vocab)
        self.unk, self.lowercase, self.max_chars = unk, lowercase, max_chars
        self._piece_of = {i: piece for piece, i in self.vocab.items()}

    def tokens(self, text: str) -> list[str]:
        """Cut text into pieces."""
        words = bert_words(bert_normalize(text, self.lowercase))
        return [piece for word in words for piece in self.word_tokens(word)]

    def word_tokens(self, word: str) -> list[str]:
        """Cut one normalised word: the longest piece it begins with, then the longest that continues it, and so on."""
        if len(word) > self.max_chars:
            return [self.unk]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.vocab), None)
            if end is None:  # no way back: greedy search never tries a shorter piece before
                return [self.unk]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces

    def encode(self, text: str) -> list[int]:
        """Turn text into ids, without special tokens."""
        return [self.vocab[piece] for piece in self.tokens(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into normalised text. Raises ValueError for an id that no piece has."""
        ids = [int(i) for i in ids]
        if unknown := [i for i in ids if i not in self._piece_of]:
            raise ValueError(f"no piece has id {unknown[0]}; the vocabulary has {len(self.vocab)} pieces")
        return " ".join(self._piece_of[i] for i in ids).replace(" ##", "")


def wordpiece_scores(words: Mapping[tuple[str, ...], int]) -> dict[tuple[str, str], float]:
    """Score each pair of neighbouring pieces by count(ab) / (count(a) · count(b)), weighted by the words' counts.

    WordPiece merges the pair that raises the likelihood of the text most (Schuster & Nakajima 2012); this score is how
    the Hugging Face course (chapter 6) puts it, as the original training code was not published. A rare pair whose
    parts occur nowhere else beats a frequent one. ``tokenizers`` trains differently: its WordPieceTrainer runs the BPE
    trainer, so it merges the most frequent pair (``tokenizers/src/models/wordpiece/trainer.rs``).
    """
    pieces: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for word, count in words.items():
        for piece in word:
            pieces[piece] += count
        for pair in pairwise(word):
            pairs[pair] += count
    return {(a, b): count / (pieces[a] * pieces[b]) for (a, b), count in pairs.items()}
