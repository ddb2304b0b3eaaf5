"""Figures about generated text: what is drawn is what was measured."""

import pandas as pd
import pytest

from plm_tutorial.figures.generation import draw_strategies
from tests.conftest import words

TABLE = pd.DataFrame({"perplexity": [30.0, 3.0, 20.0], "distinct-2": [0.9, 0.2, 0.8]}, ["human", "greedy", "top-p 0.9"])


def test_each_strategy_is_a_point_with_its_name(ax):
    assert draw_strategies(ax, TABLE) is ax
    assert set(words(ax)) == set(TABLE.index)
    points = {tuple(line.get_xydata()[0]) for line in ax.lines if len(line.get_xydata()) == 1}
    assert points == set(map(tuple, TABLE.to_numpy()))
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "perplexity" and ax.get_ylabel() == "distinct-2"


def test_human_text_is_a_star(ax):
    draw_strategies(ax, TABLE)
    stars = [line for line in ax.lines if line.get_marker() == "*"]
    assert len(stars) == 1 and tuple(stars[0].get_xydata()[0]) == (30.0, 0.9)


def test_what_cannot_be_drawn_is_refused(ax):
    with pytest.raises(ValueError, match="no row 'human', only greedy"):
        draw_strategies(ax, TABLE.iloc[1:])
    with pytest.raises(ValueError, match="'magic' begins with none of greedy, beam"):
        draw_strategies(ax, TABLE.rename(index={"greedy": "magic"}))
