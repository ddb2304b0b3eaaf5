"""Ask this book: the sections that answer a question, and an answer that a small decoder writes from them.

In: a question. Out: the best sections of the book's snapshot with chapter, link and an extract, whether they are likely
to answer at all, and, if asked for, an answer by SmolLM2 that has the extracts before it. How the index is made (length
of passages, constants, threshold) was chosen by ``benchmarks/questions.py`` and is read from ``artifacts/book_index``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import tokenizers
from torch import nn

from plm_tutorial.book_passages import Passage, Section, passages, sections
from plm_tutorial.dialogue import stream_reply
from plm_tutorial.records import artifact_file
from plm_tutorial.retrieval import BM25, DenseIndex, best_of_groups, fuse, sentences, words

UNGROUNDED = "Answer the question in one short sentence.\n\nQuestion: {question}"
PROMPT = (
    "Answer the question in one short sentence, with the help of this text from a book.\n\n{text}\n\n"
    "Question: {question}"
)


@dataclass(frozen=True)
class Settings:
    """How the index is made and read."""

    n_words: int  # the most words of a passage
    titled: bool  # whether a passage is indexed behind the titles of its chapter and section
    k1: float  # of BM25
    b: float
    constant: float  # of reciprocal rank fusion
    threshold: float  # the cosine of the best passage from which on the book is likely to answer; chosen on validation


@dataclass(frozen=True)
class Hit:
    """A section that may answer a question."""

    section: Section
    passage: str  # its best
    extract: str  # the sentences of the passage that are nearest to the question
    score: float  # of the fusion of both rankings


@dataclass(frozen=True)
class Found:
    """What the book has to say."""

    hits: list[Hit]  # best first
    cosine: float  # of the question and its nearest passage
    likely: bool  # whether this reaches the threshold


def indexed_text(passage: Passage, titled: bool) -> str:
    """Return what is indexed of a passage."""
    section = sections()[passage.section]
    return f"{section.chapter.split(':')[0]}. {section.title}\n{passage.text}" if titled else passage.text


class BookIndex:
    """An index of the book's passages, by words and by vectors.

    Args:
        model, tokenizer: the encoder whose vectors of the passages are given.
        vectors: of the passages as :func:`indexed_text` has them, (N, D), each of length 1.
    """

    def __init__(self, settings: Settings, model: nn.Module, tokenizer: tokenizers.Tokenizer, vectors: np.ndarray):
        self.settings = settings
        self.passages = passages(settings.n_words)
        if len(vectors) != len(self.passages):
            raise ValueError(
                f"there are {len(vectors)} vectors for {len(self.passages)} passages of {settings.n_words} words"
            )
        self.owner = np.array([passage.section for passage in self.passages])
        texts = [indexed_text(passage, settings.titled) for passage in self.passages]
        self.words = BM25([words(text) for text in texts], settings.k1, settings.b)
        self.dense = DenseIndex(model, tokenizer, vectors)

    @classmethod
    def load(cls) -> BookIndex:
        """Return the index that comes with the package."""
        from safetensors.numpy import load_file

        from plm_tutorial import load_model, load_tokenizer

        settings = read_settings()
        vectors = load_file(artifact_file("book_index", "vectors.safetensors"))["vectors"].astype(np.float32)
        return cls(settings, load_model("minilm"), load_tokenizer("minilm"), vectors)

    def ask(self, question: str, n: int = 3) -> Found:
        """Return the ``n`` best sections.

        Raises:
            ValueError: the question is empty, or ``n`` less than 1.
        """
        if not question.strip():
            raise ValueError('the question is empty; ask something, such as "why are scores divided by a square root?"')
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1 section")
        by_words, by_vectors = self.words.scores(words(question)), self.dense.scores(question)  # (N,)
        fused = fuse([best_of_groups(scores, self.owner) for scores in (by_words, by_vectors)], self.settings.constant)
        passage_scores = fuse([by_words, by_vectors], self.settings.constant)  # (N,)
        best = np.argsort(-fused, kind="stable")[:n]
        chosen = [int(max(np.flatnonzero(self.owner == s), key=lambda i: passage_scores[i])) for s in best]
        extracts = self._extracts(question, [self.passages[i].text for i in chosen])
        hits = [
            Hit(sections()[s], self.passages[i].text, extract, float(fused[s]))
            for s, i, extract in zip(best, chosen, extracts, strict=True)
        ]
        cosine = float(by_vectors.max())
        return Found(hits, cosine, cosine >= self.settings.threshold)

    def _extracts(self, question: str, texts: list[str], most_words: int = 45) -> list[str]:
        """Return the part of each text around the sentence that is nearest to the question."""
        from plm_tutorial.embedding import embed

        cut = [sentences(text) for text in texts]
        everything = [question, *(sentence for one in cut for sentence in one)]
        vectors = embed(self.dense.model, self.dense.tokenizer, everything).cpu().numpy()
        near, extracts, place = vectors[1:] @ vectors[0], [], 0
        for one in cut:
            first = last = int(np.argmax(near[place : place + len(one)]))
            place += len(one)
            while last + 1 < len(one) and len(" ".join(one[first : last + 2]).split()) <= most_words:
                last += 1
            extracts.append(" ".join(one[first : last + 1]))
        return extracts


@cache
def read_settings() -> Settings:
    """Return what was chosen on validation questions."""
    return Settings(**json.loads(artifact_file("book_index", "settings.json").read_text(encoding="utf-8")))


def answer(
    model: nn.Module, tokenizer: tokenizers.Tokenizer, question: str, text: str | None, n: int = 48
) -> Iterator[str]:
    """Yield an answer piece by piece, greedily written.

    Args:
        model, tokenizer: a decoder that was tuned for conversation, such as "smollm2".
        text: what is put before the question; None: nothing, the decoder answers from memory.
        n: the most tokens.
    """
    message = UNGROUNDED.format(question=question) if text is None else PROMPT.format(text=text, question=question)
    yield from stream_reply(model, tokenizer, [{"role": "user", "content": message}], n, system=None)
