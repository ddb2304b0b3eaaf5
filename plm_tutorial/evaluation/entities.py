"""Found entities against true ones: precision, recall and F1, of each kind and of all together.

In: for each text the true and the predicted entities. Out: counts, one row a text, from which every score follows in a
step of numpy, so that a bootstrap over texts can do it thousands of times. The numbers are those of ``seqeval``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plm_tutorial.entities import KINDS, Entity

if TYPE_CHECKING:
    import pandas


def entity_counts(
    truth: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]], kinds: Sequence[str] = KINDS
) -> np.ndarray:
    """Return for each text and kind how many entities are right, predicted, and true: (N, K, 3) int64.

    An entity is right if a true one has the same beginning, the same end and the same kind. Nothing else counts: of
    a name that is found but for one character, one entity is missing and one is wrong.

    Raises:
        ValueError: there are no texts, not as many predictions as texts, or an entity is of another kind.
    """
    if len(truth) != len(predicted) or not len(truth):
        raise ValueError(f"{len(truth)} texts and {len(predicted)} predictions; expected one each, and at least one")
    column = {kind: k for k, kind in enumerate(kinds)}
    counts = np.zeros((len(truth), len(kinds), 3), np.int64)
    for row, pair in zip(counts, zip(truth, predicted, strict=True), strict=True):
        true, found = (set(map(tuple, entities)) for entities in pair)
        for place, entities in enumerate((true & found, found, true)):
            for entity in entities:
                if entity[2] not in column:
                    raise ValueError(f"{entity} has another kind than {', '.join(kinds)}; pass kinds=")
                row[column[entity[2]], place] += 1
    return counts


def entity_f1(counts: np.ndarray) -> float:
    """Return the F1 of all entities together ("micro"), 2 · right / (predicted + true), from counts (..., 3).

    The statistic of :func:`~plm_tutorial.evaluation.intervals.bootstrap_interval` over rows of :func:`entity_counts`.
    It is NaN if there is no entity, neither true nor predicted.
    """
    right, found, true = np.asarray(counts).reshape(-1, 3).sum(axis=0)
    return float(2 * right / (found + true)) if found + true else float("nan")


@dataclass(frozen=True)
class EntityScores:
    """What a tagger does with each kind of entity, and with all together. What is undefined is NaN."""

    kinds: tuple[str, ...]
    counts: np.ndarray  # (K, 3) int64: right, predicted, true

    @property
    def precision(self) -> np.ndarray:
        """Of the entities that were predicted, the share that is right, (K,)."""
        return _ratio(self.counts[:, 0], self.counts[:, 1])

    @property
    def recall(self) -> np.ndarray:
        """Of the true entities, the share that was found, (K,)."""
        return _ratio(self.counts[:, 0], self.counts[:, 2])

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of the two, (K,)."""
        return _ratio(2 * self.counts[:, 0], self.counts[:, 1] + self.counts[:, 2])

    @property
    def micro_f1(self) -> float:
        """F1 of all entities together."""
        return entity_f1(self.counts)

    @property
    def macro_f1(self) -> float:
        """The mean of the kinds' F1, each counting the same, those left out that neither occur nor are predicted."""
        return float(np.nanmean(self.f1))

    def table(self) -> pandas.DataFrame:
        """Return a row for each kind and one for all: precision, recall, F1, and how many there are."""
        import pandas

        whole = EntityScores(("all",), self.counts.sum(axis=0, keepdims=True))
        columns = {name: [*getattr(self, name), *getattr(whole, name)] for name in ("precision", "recall", "f1")} | {
            "entities": [*self.counts[:, 2], *whole.counts[:, 2]]
        }
        return pandas.DataFrame(columns, index=[*self.kinds, "all"])


def entity_scores(
    truth: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]], kinds: Sequence[str] = KINDS
) -> EntityScores:
    """Return the scores of predicted entities; see :func:`entity_counts`."""
    return EntityScores(tuple(kinds), entity_counts(truth, predicted, kinds).sum(axis=0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
