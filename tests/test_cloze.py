"""experiments.cloze: generated questions hold their promises, whatever the text and the noise."""

import random

import pytest

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.experiments.cloze import (
    NO_NOISE,
    Noise,
    clause_around,
    guess_from_sentence,
    kind_of,
    make_questions,
    similar_words,
    spans_of,
)

TEXT = (
    "Kneser and Ney derived it in 1995, and the trick spread fast. The table has 30,522 rows of numbers. In the first "
    "layer of MiniLM a head looks at the previous token, while the second layer mixes twelve heads."
)


def test_candidates_are_names_numbers_and_phrases():
    found = [TEXT[a:b] for a, b in spans_of(TEXT)]
    assert {"Ney", "1995", "30,522", "MiniLM", "twelve", "previous token"} <= set(found)
    assert not {"the", "In", "spread fast"} & set(found)


@pytest.mark.parametrize(
    "answer, kind",
    [("1995", "year"), ("30,522", "number"), ("twelve heads", "number"), ("Ney", "name"), ("previous token", "thing")],
)
def test_kinds(answer, kind):
    assert kind_of(answer) == kind


def test_the_clause_ends_at_commas():
    start = TEXT.index("1995")
    sentence = "Kneser and Ney derived it long ago in 1995, and the trick spread fast."
    start = sentence.index("1995")
    assert clause_around(sentence, start, start + 4) == ("Kneser and Ney derived it long ago in ", "")


@pytest.mark.parametrize("noise", [Noise(), NO_NOISE, Noise(drop=0.6, move=6)])
def test_questions_point_at_their_answer_and_do_not_hold_it(noise):
    found = [q for seed in range(30) for q in make_questions(TEXT, 5, noise, random.Random(seed))]
    assert len(found) > 50
    for question in found:
        a, b = question.answer
        assert TEXT[a:b] == question.answer_text and TEXT.count(question.answer_text) >= 1
        assert question.question.endswith("?")
        if question.answer_text[0].isdigit():
            assert question.answer_text not in question.question


def test_without_noise_only_the_answer_is_missing():
    text = "The small table of the first model has 30,522 rows of numbers"
    (question,) = [q for q in make_questions(text, 20, NO_NOISE, random.Random(0)) if q.answer_text == "30,522 rows"]
    kept = question.question.rstrip("?")
    assert kept.startswith("The small table of the first model has ") and kept.endswith(" of numbers")


def test_noise_changes_the_words_and_is_drawn_from_the_generator():
    quiet = [q.question for q in make_questions(TEXT, 5, NO_NOISE, random.Random(1))]
    noisy = [q.question for q in make_questions(TEXT, 5, Noise(), random.Random(1))]
    assert noisy != quiet
    assert noisy == [q.question for q in make_questions(TEXT, 5, Noise(), random.Random(1))]
    assert noisy != [q.question for q in make_questions(TEXT, 5, Noise(), random.Random(2))]


def test_an_answer_that_occurs_twice_is_not_asked_for():
    text = "The reader saw 12 films in the first summer. The writer saw 12 films in the second winter."
    found = {q.answer_text for seed in range(20) for q in make_questions(text, 9, NO_NOISE, random.Random(seed))}
    assert found and not {"12", "12 films"} & found


def test_similar_words_are_neighbours_in_the_token_table():
    found = similar_words(load_model("minilm").embeddings.tokens.weight, load_tokenizer("minilm"))
    assert "movie" in found["film"] and "film" not in found["film"]
    assert all(len(others) <= 3 for others in found.values())


@pytest.mark.parametrize(
    "question, sentence, guess",
    [
        ("How many rows has the table?", "The table has 514 rows.", "514"),
        ("Who derived the trick?", "In those days Kneser derived the trick.", "Kneser"),
        ("What does the head look at?", "The head looks at the previous token of the text.", "previous token"),
        ("What is it?", "It is.", "It is."),
    ],
)
def test_the_guess_follows_the_question_word(question, sentence, guess):
    assert guess_from_sentence(question, sentence) == guess
