"""Every exercise: the answers that are right pass, plausible wrong ones do not and are told why, no answer is silent.

The answers stand in the topic's own module beside this one: RIGHT holds (label, answer), WRONG (label, answer, part of
the message).
"""

import pytest

from plm_tutorial.exercises import (
    attention,
    autoregressive,
    frameworks,
    language_models,
    masked,
    named_entities,
    preface,
    pretrained_models,
    scaling,
    scaling_out,
    tokenization,
    transformer,
)
from tests.exercises import (
    test_attention,
    test_autoregressive,
    test_frameworks,
    test_language_models,
    test_masked,
    test_named_entities,
    test_preface,
    test_pretrained_models,
    test_scaling,
    test_scaling_out,
    test_tokenization,
    test_transformer,
)

TOPICS = {
    preface: test_preface,
    language_models: test_language_models,
    tokenization: test_tokenization,
    attention: test_attention,
    transformer: test_transformer,
    masked: test_masked,
    autoregressive: test_autoregressive,
    pretrained_models: test_pretrained_models,
    frameworks: test_frameworks,
    scaling: test_scaling,
    scaling_out: test_scaling_out,
    named_entities: test_named_entities,
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
