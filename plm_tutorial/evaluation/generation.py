"""How varied generated text is, and how well a model foresees given text: numbers that compare ways of decoding.

In: sequences of token ids, or of words. Out: shares between 0 and 1, and nats. No number here says whether a text is
good: greedy loops score best on likelihood, random letters on variety. Read them beside those of human text.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from plm_tutorial.batches import MarkedRows


def n_grams(sequence: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """Return all runs of n successive elements of a sequence, in order; none if it is shorter.

    Raises:
        ValueError: n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Return the share of n-grams that are different, over all sequences together: variety among texts.

    It falls with the amount of text, since words recur: compare equal amounts.

    Source: Li et al. 2016, https://arxiv.org/abs/1510.03055, section 5, which divides by the number of tokens instead;
    for n > 1 that is slightly less.

    Raises:
        ValueError: no sequence has n elements, or n is less than 1.
    """
    found = [gram for sequence in _many(sequences) for gram in n_grams(sequence, n)]
    if not found:
        raise ValueError(f"no sequence has {n} elements, so there is no {n}-gram to count")
    return len(set(found)) / len(found)


def repetition(sequences: Sequence[Sequence[Hashable]], n: int = 4) -> float:
    """Return the mean share of a sequence's n-grams that have occurred in it before; shorter sequences are left out.

    Source: Welleck et al. 2020, https://arxiv.org/abs/1908.04319, section 6, seq-rep-n.

    Raises:
        ValueError: no sequence has n elements, or n is less than 1.
    """
    found = [grams for sequence in _many(sequences) if (grams := n_grams(sequence, n))]
    if not found:
        raise ValueError(f"no sequence has {n} elements, so there is no {n}-gram that could occur again")
    return float(np.mean([1 - len(set(grams)) / len(grams) for grams in found]))


def _many(sequences: Sequence[Sequence[Hashable]]) -> Sequence[Sequence[Hashable]]:
    if isinstance(sequences, str) or any(isinstance(one, str) for one in sequences):
        raise ValueError("a text is given as a str; pass a list of sequences of token ids, or of words: text.split()")
    return sequences


class RowScores(NamedTuple):
    """What the labelled tokens of each row cost a model."""

    nats: np.ndarray  # (N,) -log p of a row's labels, summed
    n_tokens: np.ndarray  # (N,) int64: labels of each row

    @property
    def mean_nats(self) -> float:
        """Nats per token, over all rows together; its exponential is the perplexity."""
        return float(self.nats.sum() / self.n_tokens.sum())


def score_rows(model: nn.Module, rows: MarkedRows, size: int = 16) -> RowScores:
    """Return what a model makes of the labelled tokens of rows: of replies, or of continuations.

    Args:
        model: a decoder that takes ``keep``; it is put in eval mode meanwhile.
        rows: see :class:`plm_tutorial.batches.MarkedRows` and :func:`plm_tutorial.dialogue.chat_rows`.
        size: rows of a batch.
    """
    import torch

    from plm_tutorial.objectives import IGNORED

    device, training = next(model.parameters()).device, model.training
    nats, n_tokens = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    model.eval()
    with torch.inference_mode():
        for numbers, batch in rows.by_length(size):
            batch = {name: value.to(device) for name, value in batch.items()}
            labels = batch.pop("labels")
            kept = labels != IGNORED  # (B, T)
            logits = model(**batch, keep=kept)  # (N, V)
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            costs = torch.nn.functional.cross_entropy(wide, labels[kept], reduction="none")  # (N,)
            of_row = kept.nonzero()[:, 0].cpu().numpy()  # (N,)
            np.add.at(nats, numbers[of_row], costs.cpu().double().numpy())
            np.add.at(n_tokens, numbers[of_row], 1)
    model.train(training)
    return RowScores(nats, n_tokens)
