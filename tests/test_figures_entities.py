"""Entities marked in a text: each stands once on each line, with its sign, and the text is whole."""

import re

import pytest

from plm_tutorial.entities import Entity, Sentence
from plm_tutorial.figures.entity_text import entity_text

SENTENCE = Sentence("江泽民访问<美国>", (Entity(0, 3, "PER"), Entity(6, 8, "LOC")))


def test_what_is_right_missed_and_wrong_has_its_sign():
    shown = entity_text([SENTENCE], [[Entity(0, 3, "PER"), Entity(5, 8, "LOC")]], notes=["too long"])
    assert str(shown).splitlines() == [
        "✓ right   ○ missed   ✗ wrong",
        "too long",
        "true  [江泽民 PER✓]访问<[美国 LOC○]>",
        "found [江泽民 PER✓]访问[<美国 LOC✗]>",
    ]


def test_the_html_holds_the_text_twice_and_not_colour_alone():
    html = entity_text([SENTENCE], [[]])._repr_mimebundle_()["text/html"]
    text = re.sub(r"<small.*?</small>|<p .*?</p>|<[^>]+>", "", html)
    assert text == "true江泽民访问&lt;美国&gt;found江泽民访问&lt;美国&gt;"
    assert html.count("○") == 3 and "solid" in html and "double" in html and 'lang="zh"' in html


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 sentences, 2 predictions, 1 notes"):
        entity_text([SENTENCE], [[], []])
