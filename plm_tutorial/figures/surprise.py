"""A text in which each token is coloured by how surprising it is to a model.

In: tokens and a number of bits for each. Out: the ``Axes``.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

COLUMNS = 84  # characters of a line


def lines_of(tokens: Sequence[str], columns: int = COLUMNS) -> list[tuple[int, int]]:
    """Return for each token its line and its first column, when lines are filled up to ``columns`` characters."""
    places, line, column = [], 0, 0
    for token in tokens:
        if column and column + len(token) > columns:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(token)
    return places


def surprise_map(
    ax: Axes, tokens: Sequence[str], bits: Sequence[float], *, most: float = 12.0, columns: int = COLUMNS
) -> Axes:
    """Write a text, each token on a ground that is the darker the more bits it costs.

    Args:
        tokens: as they are to be read; a blank before a word belongs to its first token.
        bits: for each token, -log2 of the probability that a model gives it.
        most: the bits from which on the ground is darkest.

    Raises:
        ValueError: there is not one number for each token, or a token is empty.
    """
    if len(tokens) != len(bits) or not all(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(bits)} numbers: expected one each, and no empty token")
    colours, places = colormaps["YlOrRd"], lines_of(tokens, columns)
    points = ax.figure.get_figwidth() * 72 / columns / 0.62  # a letter of a monospaced font is about 0.6 of its size
    for token, cost, (line, column) in zip(tokens, bits, places, strict=True):
        share = min(max(cost / most, 0.0), 1.0)
        ax.add_patch(Rectangle((column, line), len(token), 0.86, color=colours(0.85 * share), lw=0))
        ink = "white" if share > 0.75 else "black"
        where = {"va": "center", "ha": "left", "family": "monospace", "fontsize": points, "color": ink}
        ax.text(column, line + 0.43, token, **where)
    ax.set(xlim=(0, columns), ylim=(places[-1][0] + 1, 0))
    ax.set_axis_off()
    return ax
