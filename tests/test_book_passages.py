"""book_passages: the snapshot is the one that was recorded, and the questions point into it."""

import json
import re

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from plm_tutorial.book_passages import book_questions, passages, sections, span_questions
from plm_tutorial.records import artifacts, recorded
from plm_tutorial.retrieval import sentences, words
from plm_tutorial.runtime import file_sha256


def test_the_snapshot_is_frozen():
    record = recorded("book_passages")
    assert record.data["passages.jsonl"] == file_sha256(artifacts() / "book_passages" / "passages.jsonl")
    assert record.scores["sections"] == len(sections()) > 150
    assert record.scores["words"] == sum(len(section.text.split()) for section in sections())


def test_each_section_can_be_named_and_linked():
    assert len({section.id for section in sections()}) == len(sections())
    assert len({section.link for section in sections()}) == len(sections())
    for section in sections():
        assert re.fullmatch(r"\d\d\.\d+(\.\d+)?", section.id), section.id
        assert re.fullmatch(r"chapters/\d\d_\w+\.html#[a-z0-9-]+", section.link), section.link
        assert section.link[9:11] == section.id[:2]
        assert section.text.strip() and section.chapter and section.title


def test_the_text_is_plain():
    for section in sections():
        assert not re.search(r"\{(term|cite|eq|numref|glue)|```|:::|\$\$|\\(?!p\{)[a-z]+\{", section.text), section.id
        assert "Check yourself\n" not in section.text


@pytest.mark.parametrize("n_words", [60, 120, 240])
def test_passages_are_the_sections_in_parts(n_words):
    found = passages(n_words)
    assert sorted({passage.section for passage in found}) == list(range(len(sections())))
    for i in (0, 40, 120):
        parts = [one for passage in found if passage.section == i for one in sentences(passage.text)]
        assert parts == sentences(sections()[i].text)


def test_there_are_enough_questions_of_each_kind():
    asked = book_questions()
    assert len({one.question for one in asked}) == len(asked)
    assert sum(bool(one.sections) for one in asked) >= 100
    assert sum(not one.sections for one in asked) >= 20
    assert sum(bool(one.answers) for one in asked) >= 40
    for part in ("validation", "test"):
        some = [one for one in asked if one.part == part]
        assert len(some) > 50 and sum(not one.sections for one in some) >= 8


def test_questions_name_sections_that_exist_and_cover_all_chapters():
    known = {section.id for section in sections()}
    named = {one for question in book_questions() for one in question.sections}
    assert named <= known
    assert {one[:2] for one in named} == {one[:2] for one in known}


def test_questions_are_not_headings():
    """A question shares at most half of a heading's words that mean something, if there are two or more."""
    titles = {section.id: section.title for section in sections()}
    for question in book_questions():
        for one in question.sections:
            said = {word for word in words(titles[one]) if word not in ENGLISH_STOP_WORDS and len(word) > 3}
            if len(said) > 1:
                shared = said & set(words(question.question))
                assert len(shared) <= len(said) / 2, (question.question, titles[one])


def test_answers_of_questions_stand_in_their_sections():
    """Most short answers are words of a section that the question names; the others are other ways to say it."""
    text = {section.id: " ".join(words(section.text)) for section in sections()}
    asked = [one for one in book_questions() if one.answers]
    there = [
        any(" ".join(words(answer)) in text[name] for answer in one.answers for name in one.sections) for one in asked
    ]
    assert sum(there) >= 0.9 * len(asked)


def test_spans_stand_in_their_passages():
    asked = span_questions()
    assert len(asked) >= 60 and len({one.question for one in asked}) == len(asked)
    text = {section.id: section.text for section in sections()}
    for one in asked:
        assert all(answer in one.passage for answer in one.answers), one.question
        assert set(sentences(one.passage)) <= set(sentences(text[one.section])), one.question
        said = words(one.answers[0])
        assert not said or f" {' '.join(said)} " not in f" {' '.join(words(one.question))} ", one.question


def test_the_files_are_lines_of_json(root):
    for file in ("questions.jsonl", "spans.jsonl"):
        lines = (artifacts() / "book_questions" / file).read_text(encoding="utf-8").splitlines()
        assert all(isinstance(json.loads(line), dict) for line in lines)
