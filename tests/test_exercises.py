"""exercises: an answer is unanswered, wrong (saying why) or right."""

import pytest
from IPython.utils.capture import capture_output

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal, is_blank

exercises = Exercises()


@exercises.add("ex-double")
def _double(answer):
    expect(callable(answer), "expected a function")
    expect_equal(answer(3), 6, "double(3)")


def test_right_answer():
    result = exercises.check("ex-double", lambda x: 2 * x)
    assert result and str(result) == "✓ right"


def test_wrong_answer_names_call_and_expectation():
    result = exercises.check("ex-double", lambda x: x + 2)
    assert not result
    assert result.message == "double(3) gave 5, expected 6"


def test_answer_that_raises_is_reported_not_raised():
    result = exercises.check("ex-double", lambda: 0)
    assert result.outcome == "wrong" and "your answer raised TypeError" in result.message


def blank(x): ...


def blank_with_doc(x):
    """Say what to do."""
    ...


def returns_ellipsis(x):
    return ...


@pytest.mark.parametrize("answer", [..., None, blank, blank_with_doc])
def test_blank_answers_are_silent(answer):
    result = exercises.check("ex-double", answer)
    assert result.outcome == "unanswered" and not result
    with capture_output() as shown:
        result._ipython_display_()
    assert not shown.outputs and not shown.stdout


@pytest.mark.parametrize("answer", [0, [], returns_ellipsis, lambda x: 5, len])
def test_answers_that_only_look_blank_are_checked(answer):
    assert not is_blank(answer)


def test_unknown_label_lists_the_known():
    with pytest.raises(ValueError, match="no exercise 'ex-half' here; there are: ex-double"):
        exercises.check("ex-half", 1)


def test_defining_an_exercise_twice_is_an_error():
    with pytest.raises(ValueError, match="'ex-double' is defined twice"):
        exercises.add("ex-double")(lambda answer: None)


def test_long_values_are_shortened():
    with pytest.raises(Wrong) as wrong:
        expect_equal("x" * 1000, "", "f()")
    assert len(str(wrong.value)) < 200
