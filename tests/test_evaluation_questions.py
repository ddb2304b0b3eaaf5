"""evaluation.questions: answers are scored as SQuAD's own script scores them."""

import pytest

from plm_tutorial.evaluation import contains_answer, exact_match, normalize_answer, token_f1

# prediction, answer, exact match, F1: as computed by transformers 2.x, data/metrics/squad_metrics.py, which follows the
# official script; later versions no longer have it
CASES = [
    ("The Eiffel Tower", "Eiffel Tower!", 1, 1.0),
    ("about a billion pairs", "a billion", 0, 0.5),
    ("", "the", 1, 1.0),
    ("an", "a", 1, 1.0),
    ("65,504", "65504", 1, 1.0),
    ("the the cat sat", "cat sat", 1, 1.0),
    ("cat cat dog", "cat dog dog", 0, 0.666667),
    ("U.S.A.", "usa", 1, 1.0),
    ("15 %", "15", 1, 1.0),
    ("“quoted”", "quoted", 0, 0.0),
    ("root mean square", "the root mean square alone", 0, 0.857143),
    ("Kneser–Ney", "kneser-ney", 0, 0.0),
    ("état", "Etat", 0, 0.0),
    ("two trillion tokens", "two trillion", 0, 0.8),
    ("no", "yes", 0, 0.0),
    ("an answer, perhaps", "answer", 0, 0.666667),
]


@pytest.mark.parametrize("prediction, answer, exact, f1", CASES)
def test_scores_are_those_of_the_official_script(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1, abs=1e-6)


def test_normalizing_takes_articles_only_as_words():
    assert normalize_answer("The  Theatre, an ANT; a.b.") == "theatre ant ab"


def test_of_several_answers_the_best_counts():
    assert token_f1("two trillion tokens", ["a lot", "two trillion", "two trillion tokens"]) == 1.0
    assert exact_match("nat", ["bit", "the nat"]) == 1.0


def test_an_answer_is_found_as_whole_words():
    assert contains_answer("Rome is the capital.", ["rome"]) == 1.0
    assert contains_answer("Romeo is in Verona.", ["Rome"]) == 0.0
    assert contains_answer("It is 120.", ["12", "20"]) == 0.0
    assert contains_answer("It takes about sixteen bytes.", ["16", "sixteen"]) == 1.0


@pytest.mark.parametrize("score", [exact_match, token_f1, contains_answer])
def test_without_an_answer_there_is_nothing_to_compare_with(score):
    with pytest.raises(ValueError, match="no accepted answer"):
        score("something", [])
