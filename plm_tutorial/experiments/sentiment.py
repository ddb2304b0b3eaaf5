"""Praise or blame: the labelled reviews as the experiments on classification use them.

In: a source of reviews and a number. Out: texts with labels, balanced and nested, so that a curve over the number of
examples never swaps the examples it began with.
"""

from __future__ import annotations

import numpy as np

from plm_tutorial.baselines import Labelled
from plm_tutorial.text import reviews

NAMES = ("negative", "positive")  # of the labels 0 and 1


def labelled_reviews(source: str, split: str, n: int | None = None, seed: int = 0) -> Labelled:
    """Return reviews of a split: all in their order, or n of them, half of each label, in an order drawn by the seed.

    With one seed, a smaller n is the beginning of a larger one.

    Raises:
        ValueError: n is odd, below 2, or more than there are.
    """
    rows = reviews(source, split)
    texts, labels = rows["text"][:], np.array(rows["label"][:], dtype=np.int64)
    if n is None:
        return Labelled(texts, labels)
    draw = np.random.default_rng(seed)
    of_label = [draw.permutation(np.flatnonzero(labels == y)) for y in (0, 1)]
    most = 2 * min(map(len, of_label))
    if n < 2 or n % 2 or n > most:
        raise ValueError(f"n is {n}; expected an even number from 2 to {most}, half of each label in {source} {split}")
    chosen = np.stack([some[: n // 2] for some in of_label], axis=1).ravel()  # by turns: balanced beginnings
    return Labelled([texts[i] for i in chosen], labels[chosen])
