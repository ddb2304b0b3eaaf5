"""Instruments for a training or a model that runs and is wrong: each answers one question with one measurement.

In: a model, and a function of it, such as a loss; any PyTorch module will do. Out: a number or a small table. The
model is left as it was: instruments that train work on a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import pandas as pd
    import tokenizers


def side_by_side(inputs: Tensor, labels: Tensor, decode: Callable[[int], Any] = int) -> pd.DataFrame:
    """Show what one row of a batch reads and what it is asked for: a column for each position.

    Args:
        inputs: (T,) token ids.
        labels: (T,); the labels -100, which are left out of a loss, are shown as "·".
        decode: from an id to what is shown.

    Raises:
        ValueError: the two are no rows of one length.
    """
    import pandas as pd

    if inputs.dim() != 1 or inputs.shape != labels.shape:
        raise ValueError(f"got shapes {tuple(inputs.shape)}, {tuple(labels.shape)}; pass one row of each, equally long")
    rows = [["·" if i == -100 else decode(i) for i in row.tolist()] for row in (inputs, labels)]
    return pd.DataFrame(rows, index=["reads", "is asked for"])


def loss_at_start(loss: float | Tensor, n_classes: int) -> tuple[float, float]:
    """Return the loss of an untrained model beside log(n_classes), the loss of saying that all are equally probable.

    With small weights the two are near each other. Far above: the weights are too large, or the model is sure of
    something that it cannot know. Far below: it sees the answer.

    Raises:
        ValueError: fewer than two classes, or a loss that is no number.
    """
    value = float(loss.detach() if isinstance(loss, Tensor) else loss)
    if n_classes < 2 or math.isnan(value):
        raise ValueError(f"got the loss {value} and {n_classes} classes; pass a number and at least 2 classes")
    return value, math.log(n_classes)


def overfit(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], *, steps: int = 200, lr: float = 0.01
) -> list[float]:
    """Return the losses of training a copy of the model on one batch again and again.

    What can be learned by heart has loss 0, so a curve that levels off above it says that model, loss and optimizer do
    not fit together, whatever the data. (A model that sees n positions alone of a text cannot tell texts apart that
    begin alike: there the limit is a little above 0.)

    Args:
        model: left as it is.
        loss: from a model to the loss of the batch.
        steps: of Adam, with learning rate lr.
        lr: the learning rate.
    """
    model, losses = deepcopy(model), []
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def influence(model: Callable[[Tensor], Tensor], ids: Tensor, other: int) -> np.ndarray:
    """Change one token at a time and return how much each position's output changes, (T, T).

    Row i: how far the outputs at each position move, at most over the features, when token i is changed. Above 0 left
    of the diagonal, that is at a position before i: the model sees the future. Call it in eval mode.

    Args:
        model: from ids (B, T) to (B, T, ...).
        ids: (T,), one text.
        other: the id that is put in place of each token (or ids[i] + 1 modulo other, where it stands already).

    Raises:
        ValueError: ``ids`` is no single text.
    """
    if ids.dim() != 1 or not len(ids):
        raise ValueError(f"ids has shape {tuple(ids.shape)}; pass one text, (T,)")
    n = len(ids)
    changed = ids.repeat(n, 1)  # (T, T)
    changed.fill_diagonal_(other)
    same = ids == other
    changed[same, same.nonzero()[:, 0]] = (ids[same] + 1) % max(other, 2)
    with torch.no_grad():
        gap = (model(changed) - model(ids[None])).abs()  # (T, T, ...)
    return gap.flatten(2).amax(dim=2).numpy()


def sees_future(model: Callable[[Tensor], Tensor], ids: Tensor, other: int) -> float:
    """Return the largest :func:`influence` of a token on a position before it: 0 for a causal model."""
    return float(np.tril(influence(model, ids, other), -1).max())


@contextmanager
def _put_back(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give the parameters as they are, by name, and in the end put them back; not those that were exchanged."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    yield before
    for name, p in model.named_parameters():
        if name in before and before[name].shape == p.shape:
            p.data.copy_(before[name])


def step_report(model: nn.Module, step: Callable[[], Any]) -> pd.DataFrame:
    """Make one training step and return what it did to each parameter; then put the parameters back.

    A line for each parameter: its size, the norm of its gradient (NaN: it has none), and how far it moved. A gradient
    and no move: the optimizer does not know it. No gradient: it is frozen, or cut off from the loss. (The optimizer's
    own state is not put back.)
    """
    import pandas as pd

    rows = {}
    with _put_back(model) as before:
        step()
        for name, p in model.named_parameters():
            gradient = math.nan if p.grad is None else p.grad.norm().item()
            if name in before and before[name].shape == p.shape:
                rows[name] = (p.numel(), gradient, (p.detach() - before[name]).norm().item())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weights", "gradient", "moved"])


def repeated_gradients(model: nn.Module, step: Callable[[], Any], n: int = 3) -> list[float]:
    """Make the same step ``n`` times from the same parameters and return the norm of the gradient after each.

    They are equal if each step begins from an empty gradient. Without dropout, and with one and the same batch.
    """
    norms = []
    for _ in range(n):
        gradients = step_report(model, step)["gradient"]
        norms.append(float(np.sqrt(np.nansum(gradients**2))))
    return norms


def gradient_gap(model: nn.Module, one: Callable[[], Any], other: Callable[[], Any]) -> float:
    """Return how much two ways of computing a gradient differ: ``|a - b| / |a|``, 0 if they agree.

    Args:
        model: its gradients are emptied before each, and at the end.
        one: what leaves the gradients ``a`` in the parameters; may move the parameters, which are put back.
        other: the same for ``b``.
    """
    found = []
    for run in (one, other):
        model.zero_grad()
        with _put_back(model):
            run()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    return ((found[0] - found[1]).norm() / found[0].norm()).item()


def padding_effect(score: Callable[[Tensor], Any], ids: Tensor, pad_id: int, n: int = 16) -> float:
    """Return by how much a score of a batch changes when ``n`` columns of padding are added on its right.

    0, up to rounding, for whatever is a statement about texts.

    Args:
        score: from ids (B, T) to a number.
        ids: (B, T).
        pad_id: what fills rows.
        n: how many columns.
    """
    more = torch.cat([ids, torch.full((len(ids), n), pad_id)], dim=1)
    with torch.no_grad():
        return abs(float(score(more)) - float(score(ids)))


def spread(score: Callable[[], float], n: int = 5) -> float:
    """Call a score ``n`` times and return its largest minus its smallest value: 0 if nothing is drawn at random."""
    scores = [float(score()) for _ in range(n)]
    return max(scores) - min(scores)


def shared_parameters(model: nn.Module) -> list[list[str]]:
    """Return the names of parameters that are one and the same, in groups of two or more."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def failed_round_trips(tokenizer: tokenizers.Tokenizer, texts: Iterable[str]) -> list[str]:
    """Return the texts that are not the same after encoding and decoding.

    None fails for a byte-level tokenizer. That says nothing about whether a model was trained with it.
    """
    return [text for text in texts if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) != text]


def neighbours(
    table: Tensor, tokenizer: tokenizers.Tokenizer, words: Sequence[str], n: int = 5, common: int | None = None
) -> pd.DataFrame:
    """Return the tokens whose vectors are nearest, by cosine, to those of some words: a line for each word.

    Args:
        table: token embeddings, (V, D).
        tokenizer: what names the rows of the table.
        words: each one token of the tokenizer; a space before it belongs to it.
        n: how many.
        common: only among the first so many ids.

    Raises:
        ValueError: a word is more than one token.
    """
    import pandas as pd

    table = nn.functional.normalize(table.detach()[:common], dim=1)
    rows = {}
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        if len(ids) != 1 or ids[0] >= len(table):
            raise ValueError(f"{word!r} is the tokens {ids}; pass words that are one token each")
        near = (table @ table[ids[0]]).topk(n + 1).indices.tolist()
        rows[word] = [tokenizer.decode([i]) for i in near if i != ids[0]][:n]
    return pd.DataFrame.from_dict(rows, orient="index")


def shuffled_label_scores(
    score: Callable[[np.ndarray], float],
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n: int = 5,
    seed: int = 0,
) -> list[float]:
    """Train and test ``n`` times with labels that were shuffled, so that there is nothing to be learned.

    Scores above chance are a leak from training to test.

    Args:
        score: from labels (N,) to the score of a model trained and tested with them.
        labels: (N,).
        groups: (N,) whole numbers from 0: what belongs together keeps one label; None: each for itself.
        n: how often.
        seed: of the shuffling.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    draw, first = np.random.default_rng(seed), np.unique(groups, return_index=True)[1]
    return [float(score(draw.permutation(labels[first])[groups])) for _ in range(n)]
