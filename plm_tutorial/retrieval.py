"""Finding the passage that answers a question: by counted words, by vectors, and by both.

In: passages and a question. Out: a score for each passage, the higher the better, and how good a ranking is. ``BM25``
counts words, ``DenseIndex`` compares sentence vectors, ``fuse`` puts rankings together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from numpy.typing import ArrayLike
from torch import nn

_WORD = re.compile(r"[^\W_]+(?:[’'][^\W_]+)?")
_SENTENCE_END = re.compile(r"[.!?…][”\")]*\s+(?=[\"“(`]*[A-Z0-9`])")


def words(text: str, stem: bool = True) -> list[str]:
    """Return the words of a text in lower case, as an index counts them.

    Args:
        stem: take off *'s* and the endings of plurals, so that *heads* finds *head*: *-ies* becomes *-y*, *-s* goes,
            but not of *-ss*, *-us* and *-is*. Much like the S stemmer of Harman 1991, "How Effective Is Suffixing?"
    """
    found = _WORD.findall(text.lower())
    return [_singular(word) for word in found] if stem else found


def _singular(word: str) -> str:
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each line cut where a full stop and a capital letter (or a digit) meet."""
    found = []
    for line in text.splitlines():
        borders = [0, *(end.end() for end in _SENTENCE_END.finditer(line)), len(line)]
        found += [line[a:b].strip() for a, b in zip(borders, borders[1:], strict=False) if line[a:b].strip()]
    return found


def cut(text: str, n_words: int) -> list[str]:
    """Return a text as passages of at most ``n_words`` words, cut between sentences, of about equal length.

    A sentence that is longer stays whole. Lines stay lines.

    Raises:
        ValueError: ``n_words`` is less than 1, or there is nothing to cut.
    """
    if n_words < 1:
        raise ValueError(f"n_words is {n_words}; expected at least 1")
    lines = [sentences(line) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("the text is empty; there is nothing to cut")
    pieces = [(one, i) for i, line in enumerate(lines) for one in line]
    lengths = [len(one.split()) for one, _ in pieces]
    room = max(n_words, 1)
    count = -(-sum(lengths) // room)
    aim = min(room, -(-sum(lengths) // count))  # so that the last passage is no mere scrap
    passages, passage, size = [], [], 0
    for (sentence, line), length in zip(pieces, lengths, strict=True):
        if passage and (size + length > room or size >= aim):
            passages.append(passage)
            passage, size = [], 0
        passage.append((sentence, line))
        size += length
    passages.append(passage)
    return [_joined(one) for one in passages]


def _joined(passage: Sequence[tuple[str, int]]) -> str:
    text = passage[0][0]
    for (_, before), (sentence, line) in zip(passage, passage[1:], strict=False):
        text += (" " if line == before else "\n") + sentence
    return text


class BM25:
    """Scores documents by the words that they share with a query: rare words count more, repeats less and less.

    A word w of the query, in a document of n words where it stands c times, adds

        log(1 + (N - N_w + 1/2) / (N_w + 1/2)) · c (k1 + 1) / (c + k1 (1 - b + b n / mean n)),

    where N_w of the N documents have it. Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework:
    BM25 and Beyond", section 3.4; the 1 in the logarithm, which keeps it positive, is that of Lucene.

    Args:
        documents: the words of each, as :func:`words` finds them.
        k1: how slowly repeats of a word stop to count, at least 0; with 0 they count nothing.
        b: how much long documents are marked down, from 0, not at all, to 1.

    Raises:
        ValueError: there is no document or none has a word, or a number is out of range.
    """

    def __init__(self, documents: Sequence[Sequence[str]], k1: float = 1.2, b: float = 0.75):
        if not any(documents):
            raise ValueError("there is no word in any document; pass the words of each, such as words(text)")
        if any(isinstance(document, str) for document in documents):
            raise ValueError("a document is a single str; pass its words: [words(text) for text in texts]")
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 is {k1}, b {b}; expected at least 0, and from 0 to 1")
        self.k1, self.b, self.n_documents = k1, b, len(documents)
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        self._norm = k1 * (1 - b + b * lengths / lengths.mean())  # (N,)
        found: dict[str, tuple[list[int], list[int]]] = {}
        for i, document in enumerate(documents):
            for word, count in Counter(document).items():
                places, counts = found.setdefault(word, ([], []))
                places.append(i)
                counts.append(count)
        self._postings = {word: (np.array(i), np.array(c, dtype=np.float64)) for word, (i, c) in found.items()}

    def idf(self, word: str) -> float:
        """Return how much a word counts: more, the fewer documents have it; 0 for a word that none has."""
        if word not in self._postings:
            return 0.0
        n_with = len(self._postings[word][0])
        return float(np.log(1 + (self.n_documents - n_with + 0.5) / (n_with + 0.5)))

    def scores(self, query: Iterable[str]) -> np.ndarray:
        """Return the score of each document, (N,), at least 0. A word that the query has twice counts twice."""
        total = np.zeros(self.n_documents)
        for word in query:
            if word in self._postings:
                places, counts = self._postings[word]
                total[places] += self.idf(word) * counts * (self.k1 + 1) / (counts + self._norm[places])
        return total


class DenseIndex:
    """Scores passages by the cosine between their sentence vectors and that of a query.

    Args:
        model, tokenizer: an encoder such as ``load_model("minilm")``, and its own tokenizer.
        vectors: of the passages, (N, D), each of length 1, as :func:`plm_tutorial.embedding.embed` makes them with this
            model.
    """

    def __init__(self, model: nn.Module, tokenizer: tokenizers.Tokenizer, vectors: ArrayLike):
        self.model, self.tokenizer = model, tokenizer
        self.vectors = np.asarray(vectors, dtype=np.float32)
        if self.vectors.ndim != 2 or not len(self.vectors):
            raise ValueError(f"vectors have the shape {self.vectors.shape}; expected (N, D), one for each passage")

    @classmethod
    def of(cls, model: nn.Module, tokenizer: tokenizers.Tokenizer, passages: Sequence[str]) -> DenseIndex:
        """Return the index of passages, whose vectors are computed here."""
        from plm_tutorial.embedding import embed

        return cls(model, tokenizer, embed(model, tokenizer, passages).cpu().numpy())

    def scores(self, query: str) -> np.ndarray:
        """Return the cosine of each passage with the query, (N,)."""
        return self.score_all([query])[0]

    def score_all(self, queries: Sequence[str]) -> np.ndarray:
        """Return the cosines of several queries at once, (Q, N)."""
        from plm_tutorial.embedding import embed

        return embed(self.model, self.tokenizer, queries).cpu().numpy() @ self.vectors.T


def ranks(scores: ArrayLike) -> np.ndarray:
    """Return the rank of each score, (N,) int64: 1 for the highest. Of equal scores the earlier one is first."""
    scores = np.asarray(scores)
    found = np.empty(len(scores), dtype=np.int64)
    found[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return found


def fuse(score_lists: Sequence[ArrayLike], constant: float = 60.0) -> np.ndarray:
    """Return one score for each document from several rankings, (N,): the sum over rankings of 1 / (constant + rank).

    Only ranks count, so that scores of different kinds can be put together. Source: Cormack, Clarke and Buettcher
    2009, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", whose constant is 60.

    Args:
        score_lists: for each way of ranking, a score for each of the same N documents.
        constant: the larger, the less the first ranks stand out.

    Raises:
        ValueError: there is no ranking, they differ in length, or the constant is negative.
    """
    lists = [np.asarray(scores, dtype=np.float64) for scores in score_lists]
    if len({len(scores) for scores in lists}) != 1:
        raise ValueError(
            f"there are scores for {[len(s) for s in lists]} documents; expected the same for each ranking"
        )
    if constant < 0:
        raise ValueError(f"constant is {constant}; expected 0 or more")
    return sum(1 / (constant + ranks(scores)) for scores in lists)


def best_of_groups(scores: ArrayLike, groups: ArrayLike, n_groups: int | None = None) -> np.ndarray:
    """Return the best score of each group, (G,): a section is as good as its best passage.

    Args:
        scores: of the passages, (N,).
        groups: the number of each passage's group, (N,), from 0.
    """
    scores, groups = np.asarray(scores, dtype=np.float64), np.asarray(groups)
    best = np.full(n_groups or int(groups.max()) + 1, -np.inf)
    np.maximum.at(best, groups, scores)
    return best


def first_right(scores: ArrayLike, right: Iterable[int]) -> int:
    """Return the rank of the best document that is right, 1 for the first place.

    Raises:
        ValueError: no document is right.
    """
    right = list(right)
    if not right:
        raise ValueError("no document answers this query; leave such queries out, or measure when to stay silent")
    return int(ranks(scores)[right].min())


def recall_at(first: ArrayLike, k: int) -> float:
    """Return the share of queries with a right document among the first ``k``.

    Args:
        first: the rank of the first right document for each query, (Q,), from 1; see :func:`first_right`.
    """
    return float((_checked(first) <= k).mean())


def mean_reciprocal_rank(first: ArrayLike) -> float:
    """Return the mean over queries of 1 / rank of the first right document: 1 if it is always first."""
    return float((1 / _checked(first)).mean())


def _checked(first: ArrayLike) -> np.ndarray:
    first = np.asarray(first)
    if first.ndim != 1 or not len(first) or (first < 1).any():
        raise ValueError("expected the rank of the first right document for each query, (Q,), from 1")
    return first
