"""The decision chart: its HTML has every answer, its text too, and advice is found by answers."""

import pytest

from plm_tutorial.figures.decision import Decision

CHART = Decision(
    "Text or labels?", {"text <new>": "a decoder", "labels": Decision("Many?", {"yes": "train", "no": "probe"})}
)


def test_every_answer_is_in_the_html_and_escaped():
    html = CHART._repr_html_()
    assert html.count("<details") == html.count("</details>") == 4
    assert "text &lt;new&gt;" in html and "<new>" not in html
    assert all(word in html for word in ("Text or labels?", "Many?", "a decoder", "train", "probe"))


def test_the_text_has_the_same():
    lines = str(CHART).splitlines()
    assert lines[0] == "Text or labels?" and "- text <new>: a decoder" in lines and "    - yes: train" in lines


def test_advice():
    assert CHART.advice("labels", "no") == "probe"
    assert CHART.advice("labels").question == "Many?"
    with pytest.raises(ValueError, match="no answer 'perhaps'; there are: yes, no"):
        CHART.advice("labels", "perhaps")
    with pytest.raises(ValueError, match="the advice was given"):
        CHART.advice("text <new>", "yes")


def test_one_answer_is_no_question():
    with pytest.raises(ValueError, match="expected two or more"):
        Decision("Really?", {"yes": "then"})
