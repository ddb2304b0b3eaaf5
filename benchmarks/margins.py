"""What the studies of praise and blame share: margins, which are kept of each classifier, and what is scored of them.

A margin is the logit of praise less the logit of blame of a text. Class, probability and all scores follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from plm_tutorial.adaptation import class_logits
from plm_tutorial.batches import TextRows
from plm_tutorial.evaluation import accuracy, paired_bootstrap


def margins(model: nn.Module, rows: TextRows) -> list[float]:
    """Return the margin of each row."""
    logits = class_logits(model, rows)  # (N, 2)
    return rounded(logits[:, 1] - logits[:, 0])


def rounded(margin: Iterable[float]) -> list[float]:
    """Return margins as they are recorded, so that what is scored here is what a reader of the record scores."""
    return [round(float(value), 4) for value in margin]


def quality(labels: np.ndarray, margin: Sequence[float]) -> tuple[float, float]:
    """Return the accuracy, and minus the loss, which decides between equals."""
    margin = np.array(margin)
    return accuracy(labels, margin > 0), -float(np.logaddexp(0, np.where(labels == 1, -margin, margin)).mean())


def in_points(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return by how much a is more often right than b, in points, with the interval over the texts.

    Args:
        a, b: (N,), for each text the share of trainings that were right.
    """
    found = paired_bootstrap(a, b, n=10_000)
    return {"points": 100 * found.estimate, "low": 100 * found.low, "high": 100 * found.high}


def named(model: str) -> str:
    """Return a model's name as a part of a file's."""
    return "".join(c if c.isalnum() else "-" for c in model)


def machines(trainings: Iterable[dict]) -> str:
    """Return where trainings were done, for their study's record: not always where it is put together."""
    return " and ".join(sorted({training["machine"] for training in trainings}))
