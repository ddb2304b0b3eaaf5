"""Persons in English reviews: the hand-tagged set is the one that was tagged, and the rules do what they say."""

import pytest

from plm_tutorial.evaluation import entity_scores
from plm_tutorial.experiments import english_persons
from plm_tutorial.experiments.english_persons import (
    HAND_TAGGED,
    PERSON,
    NameList,
    by_capitals,
    english_sentences,
    hand_tagged,
    weak_sentences,
)
from plm_tutorial.text import reviews


def found(find, text):
    return [text[start:end] for start, end, _ in find(text)]


def test_sentences():
    text = 'Bad. "Why?" he said\nDr.Cox was bald... No'
    assert [text[a:b] for a, b in english_sentences(text)] == ["Bad.", '"Why?" he said', "Dr.Cox was bald...", "No"]


def test_the_hand_tagged_set():
    sentences = hand_tagged()
    assert len(sentences) == len(HAND_TAGGED) == 58 and sum(len(one.entities) for one in sentences) == 52
    names = {one.text[start:end] for one in sentences for start, end, _ in one.entities}
    assert {"Tom Hanks", "O'Brien", "Kurosawa", "Missy"} <= names
    assert all(name[0].isupper() and not name.endswith(("'s", " ")) for name in names)


def test_other_reviews_are_noticed(monkeypatch):
    monkeypatch.setattr(english_persons, "HAND_TAGGED", ((0, 0, 10, "00000000", ()),))
    with pytest.raises(ValueError, match="review 0 is not the one that was tagged"):
        hand_tagged()


def test_capitals():
    assert found(by_capitals, "We saw Scott Glenn and O'Brien in New York.") == ["Scott Glenn", "O'Brien", "New York"]
    assert found(by_capitals, "Then we left") == [] and found(by_capitals, "Tom Hanks left") == ["Tom Hanks"]


def test_a_name_list_from_what_reviewers_introduce():
    texts = ["directed by Woody Allen", "actress Diane Keaton", "the actor Woody Guthrie", "written by Tim Allen"]
    names = NameList(texts, least=2)
    assert names.first == {"Woody"} and names.last == {"Allen"}
    assert found(names.find, "I like Woody Harrelson, Allen and New York") == ["Woody Harrelson", "Allen"]
    assert found(names.agree, "a film with Woody Allen") == ["Woody Allen"] and names.agree("nobody") == []
    assert names.agree("I like Woody Harrelson and New York") is None
    assert found(names.find, "Allen left") == []  # at the beginning every word has a capital


def test_weak_sentences_come_from_training_reviews_and_half_hold_a_person():
    some = weak_sentences(by_capitals, 40, seed=1)
    assert len(some) == 40 and sum(bool(one.entities) for one in some) == 20
    assert some == weak_sentences(by_capitals, 40, seed=1) != weak_sentences(by_capitals, 40, seed=2)
    train = "\n".join(reviews("imdb", "train")["text"][:])
    assert all(one.text in train for one in some)


def test_the_two_rules_fail_in_opposite_ways():
    sentences = hand_tagged()
    truth = [one.entities for one in sentences]
    names = NameList(reviews("imdb", "train")["text"][:])
    capitals, listed = (
        entity_scores(truth, [find(one.text) for one in sentences], PERSON) for find in (by_capitals, names.find)
    )
    assert capitals.recall[0] > 0.7 > 0.6 > capitals.precision[0]
    assert listed.precision[0] > 0.7 > 0.5 > listed.recall[0]
