"""A text coloured by surprise: every token is written once, in order, and the colour follows the bits."""

import matplotlib.pyplot as plt
import pytest

from plm_tutorial.figures.surprise import lines_of, surprise_map


def test_lines_are_filled_and_no_token_is_cut():
    assert lines_of(["abc", " de", " f", " ghij"], columns=8) == [(0, 0), (0, 3), (0, 6), (1, 0)]
    assert lines_of(["a" * 10, "b"], columns=8) == [(0, 0), (1, 0)]


def test_what_is_drawn():
    fig, ax = plt.subplots()
    tokens = ["The", " film", " was", " Godot"]
    assert surprise_map(ax, tokens, [0.0, 2.0, 2.0, 30.0]) is ax
    assert [text.get_text() for text in ax.texts] == tokens
    lightness = [sum(patch.get_facecolor()[:3]) for patch in ax.patches]
    assert lightness[0] > lightness[1] == lightness[2] > lightness[3]
    assert [patch.get_width() for patch in ax.patches] == [3, 5, 4, 6]
    assert ax.texts[0].get_color() == "black" and ax.texts[3].get_color() == "white"
    plt.close(fig)


@pytest.mark.parametrize(("tokens", "bits"), [(["a"], [1.0, 2.0]), (["a", ""], [1.0, 2.0])])
def test_what_does_not_fit_is_refused(tokens, bits):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match="one each"):
        surprise_map(ax, tokens, bits)
    plt.close(fig)
