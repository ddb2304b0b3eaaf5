"""Every exercise: the answers that are right pass, plausible wrong ones do not and are told why, no answer is silent.

The answers stand in the topic's own module beside this one: RIGHT holds (label, answer), WRONG (label, answer, part of
the message).
"""

import pkgutil
from importlib import import_module

import pytest

from plm_tutorial import exercises

TOPICS = {
    import_module(f"plm_tutorial.exercises.{name}"): import_module(f"tests.exercises.test_{name}")
    for _, name, _ in pkgutil.iter_modules(exercises.__path__)
}
RIGHT = [(topic, *case) for topic, answers in TOPICS.items() for case in answers.RIGHT]
WRONG = [(topic, *case) for topic, answers in TOPICS.items() for case in answers.WRONG]
LABELS = [(topic, label) for topic in TOPICS for label in topic.exercises.labels]


@pytest.mark.parametrize("topic, label, answer", RIGHT)
def test_right(topic, label, answer):
    result = topic.check(label, answer)
    assert result, result.message


@pytest.mark.parametrize("topic, label, answer, message", WRONG)
def test_wrong(topic, label, answer, message):
    result = topic.check(label, answer)
    assert result.outcome == "wrong"
    assert message in result.message


def test_every_exercise_has_a_right_and_a_wrong_answer():
    assert {case[:2] for case in RIGHT} == {case[:2] for case in WRONG} == set(LABELS)


def blank(x): ...


@pytest.mark.parametrize("answer", [None, ..., blank])
@pytest.mark.parametrize("topic, label", LABELS)
def test_unanswered_is_silent(topic, label, answer):
    assert topic.check(label, answer).outcome == "unanswered"
