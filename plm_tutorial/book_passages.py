"""The book's own text, frozen, and questions about it: what the chapter on question answering reads.

In: the files that travel with the package. Out: sections with their links, passages of any length, and questions that
people asked and answered by hand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache

from plm_tutorial.records import artifact_file
from plm_tutorial.retrieval import cut


@dataclass(frozen=True)
class Section:
    """A section of the book, as it stood when the snapshot was made."""

    id: str  # "03.7.1": chapter, section, subsection
    chapter: str  # its title
    title: str
    link: str  # "chapters/03_attention.html#padding", from the book's root
    text: str  # paragraphs as lines; without code, outputs, quizzes and exercises


@dataclass(frozen=True)
class Passage:
    """A part of a section that is short enough to be read by a small model."""

    section: int  # its number in sections()
    text: str


@dataclass(frozen=True)
class BookQuestion:
    """A question about the book."""

    question: str
    sections: tuple[str, ...]  # ids of those that answer it; empty: the book does not
    answers: tuple[str, ...] = ()  # short ones that are accepted, for some questions

    @property
    def part(self) -> str:
        """Return "validation", on which choices are made, or "test": a third and two thirds, by the question's hash."""
        digest = hashlib.sha256(self.question.encode()).digest()
        return "validation" if digest[0] % 3 == 0 else "test"


@dataclass(frozen=True)
class SpanQuestion:
    """A question whose answer is a span of a passage."""

    question: str
    section: str
    passage: str
    answers: tuple[str, ...]  # each a span of the passage


@cache
def sections() -> tuple[Section, ...]:
    """Return the sections of the snapshot, in the order of the book."""
    return tuple(Section(**row) for row in _rows("book_passages", "passages.jsonl"))


def passages(n_words: int) -> list[Passage]:
    """Return all sections as passages of at most ``n_words`` words, cut between sentences."""
    return [Passage(i, text) for i, section in enumerate(sections()) for text in cut(section.text, n_words)]


@cache
def book_questions() -> tuple[BookQuestion, ...]:
    """Return questions about the book, with the sections that answer them."""
    rows = _rows("book_questions", "questions.jsonl")
    return tuple(BookQuestion(r["question"], tuple(r["sections"]), tuple(r.get("answers", ()))) for r in rows)


@cache
def span_questions() -> tuple[SpanQuestion, ...]:
    """Return questions with a passage of the book in which the answer stands."""
    rows = _rows("book_questions", "spans.jsonl")
    return tuple(SpanQuestion(r["question"], r["section"], r["passage"], tuple(r["answers"])) for r in rows)


def _rows(artifact: str, file: str) -> list[dict]:
    return [json.loads(line) for line in artifact_file(artifact, file).read_text(encoding="utf-8").splitlines()]
