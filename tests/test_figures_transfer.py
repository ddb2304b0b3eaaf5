"""What the figures about adapting a model show: every way in its own colour, every part, every point."""

import math
import re

import numpy as np
import pytest

from plm_tutorial.figures import COLOURS
from plm_tutorial.figures.transfer import draw_balance, draw_cost, draw_parts
from tests.conftest import words


def test_costs_and_scores_are_one_line_a_way(ax):
    costs = {"probe": [1, 10], "TF-IDF": [math.nan, math.nan], "full": [100, 1000]}
    scores = {"probe": [0.6, 0.7], "TF-IDF": [0.5, 0.6], "full": [0.65, math.nan]}
    labels = {"xlabel": "FLOPs", "ylabel": "accuracy"}
    assert draw_cost(ax, costs, scores, **labels, notes=["16", "64"], noted="probe") is ax
    probe, full = ax.lines
    np.testing.assert_allclose(probe.get_xydata(), [(1, 0.6), (10, 0.7)])
    np.testing.assert_allclose(full.get_xydata(), [(100, 0.65)])
    assert (probe.get_color(), full.get_color()) == (COLOURS[0], COLOURS[2]), "who is left out keeps its colour"
    assert words(ax) == ["16", "64"] and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["probe", "full"]
    ax.figure.canvas.draw()


def test_costs_must_fit_the_scores(ax):
    with pytest.raises(ValueError, match=re.escape("'full' has costs of shape (1,) and scores of shape (2,)")):
        draw_cost(ax, {"full": [1]}, {"full": [1, 2]}, xlabel="", ylabel="")


def test_bars_are_made_of_their_parts(ax):
    table = {"LoRA": {"weights": 90, "gradients": 1}, "full": {"weights": 91, "gradients": 91}}
    assert draw_parts(ax, table, xlabel="MB") is ax
    found = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert found == [(0, 90), (0, 91), (90, 1), (91, 91)]
    assert words(ax) == ["91", "182"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["weights", "gradients"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize("table", [{}, {"a": {"x": 1}, "b": {"y": 1}}, {"a": dict.fromkeys("abcde", 1)}])
def test_bars_of_different_parts_are_refused(ax, table):
    with pytest.raises(ValueError, match="expected the same parts, one to 4, for each name"):
        draw_parts(ax, table, xlabel="MB")


def test_learned_and_kept(ax):
    points = {"TF-IDF": (0.7, math.nan), "probe": (0.7, 0.5), "full": (0.8, 0.2)}
    assert draw_balance(ax, points, 0.5, xlabel="accuracy", ylabel="found") is ax
    *dots, line = ax.lines
    assert [tuple(dot.get_xydata()[0]) for dot in dots] == [(0.7, 0.5), (0.8, 0.2)]
    assert [dot.get_color() for dot in dots] == COLOURS[1:3]
    assert set(line.get_ydata()) == {0.5}
    assert words(ax) == ["probe", "full", "before"]
    ax.figure.canvas.draw()
