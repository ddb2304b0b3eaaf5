"""What training makes small: losses on labels. Imports nothing of ours.

In: logits (B, T, V) and labels (B, T), where labels[b, t] is what the output at position t should be. Out: the loss as
a sum and a count, so that batches, processes and evaluations of different size can be put together without error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100  # a label that is left out of the loss


@dataclass(frozen=True)
class LossSum:
    """The loss of some labels, in nats: their sum and their number."""

    total: Tensor  # scalar, in float32 at least
    count: Tensor  # scalar int64: labels that are not IGNORED

    @property
    def mean(self) -> Tensor:
        """Nats per label; 0 if there are none."""
        return self.total / self.count.clamp(min=1)

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.total + other.total, self.count + other.count)


def token_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> LossSum:
    """Return -log p(label) summed over all labels that are not :data:`IGNORED`.

    Args:
        logits: (..., V), of any floating type; the softmax is computed in float32 at least.
        labels: (...,) int64, the shape of the logits without the last dimension.
        label_smoothing: the share of each target that is spread evenly over all V classes.

    Raises:
        ValueError: the shapes do not fit, or a label is no class.
    """
    kept = _checked(logits, labels)
    wide = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))  # (N, V)
    flat = labels.flatten()  # (N,)
    total = F.cross_entropy(wide, flat, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return LossSum(total, kept.sum())


def _checked(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which labels count, after a check that there is a row of logits for each, and that each is a class."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, labels {tuple(labels.shape)}; expected a label for each row of "
            "logits. Labels stand where they are predicted: for a causal model they are the input, shifted by one"
        )
    kept = labels != IGNORED
    if labels.device.type == "cpu" and kept.any():  # on a GPU the question would wait for all work before it
        lowest, highest = int(labels[kept].min()), int(labels.max())
        if lowest < 0 or highest >= logits.size(-1):
            raise ValueError(f"labels go from {lowest} to {highest}; expected 0 to {logits.size(-1) - 1}, or {IGNORED}")
    return kept


def predict_labels(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Return the loss of a model on a batch: its other entries are the model's arguments, ``labels`` the targets.

    This one objective serves masked, causal and span-corruption training: they differ in how the batch is made.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return token_loss(model(**inputs), batch["labels"])


def predict_hidden(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Return the same loss for a model that can be asked for some logits alone, by ``keep``: those with a label.

    Of a masked row one token in seven has a label, and the output layer is a large part of a small model.
    """
    kept = batch["labels"] != IGNORED  # (B, T)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return token_loss(model(**inputs, keep=kept), batch["labels"][kept])


def class_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Return the loss of labels from few classes, summed over all that are not :data:`IGNORED`.

    Of a label y with probabilities p and targets q: - sum over classes c of q_c w_c (1 - p_c)^γ log p_c, where q is 1
    at y, or smoothed. With γ = 0 the total is that of ``F.cross_entropy(..., reduction="sum")``. Without smoothing it
    is the focal loss of Lin et al. 2017, https://arxiv.org/abs/1708.02002: what is surely right already counts less.
    The mean is per label; that of ``F.cross_entropy`` divides by the labels' weights instead.

    Args:
        logits: (..., C), of any floating type; the softmax is computed in float32 at least.
        labels: (...,) int64, the shape of the logits without the last dimension.
        weights: (C,), of each class; see :func:`class_weights`. None: 1.
        gamma: γ, at least 0; 2 in the paper.
        label_smoothing: the share of each target that is spread evenly over all C classes.

    Raises:
        ValueError: the shapes do not fit, a label is no class, or a number is out of range.
    """
    n_classes = logits.size(-1)
    kept = _checked(logits, labels)
    if gamma < 0 or not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"gamma is {gamma}, label_smoothing {label_smoothing}; expected at least 0, and a share from 0 to 1"
        )
    if weights is not None and (weights.shape != (n_classes,) or not bool((weights >= 0).all())):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; expected ({n_classes},): for each class a number that is not "
            "negative"
        )
    log_p = logits[kept].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)  # (N, C)
    terms = -log_p
    if gamma:
        # 1 - p, exact where p is near 1; never 0, whose power has no finite gradient for gamma below 1
        terms = terms * (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny) ** gamma
    if weights is not None:
        terms = terms * weights.to(terms)
    of_label = terms.gather(1, labels[kept][:, None]).sum()
    total = (1 - label_smoothing) * of_label + label_smoothing / n_classes * terms.sum()
    return LossSum(total, kept.sum())


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Return a weight for each class, (C,) float32, with which all classes together count the same.

    N / (C n_c) for a class with n_c of the N labels: over the labels the weights are 1 in the mean, so a learning rate
    keeps its meaning.

    Raises:
        ValueError: a class has no label.
    """
    counts = torch.bincount(labels[labels != IGNORED].flatten(), minlength=n_classes)
    if len(counts) != n_classes or not bool(counts.all()):
        raise ValueError(
            f"the classes 0 to {len(counts) - 1} have {counts.tolist()} labels; expected {n_classes} classes with at "
            "least one each: a class that is never seen cannot be weighted"
        )
    return counts.sum() / (n_classes * counts.float())


def predict_classes(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    weights: Tensor | None = None,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Return :func:`class_loss` of a model on a batch: its other entries are the model's arguments.

    Pass ``functools.partial(predict_classes, gamma=2.0)`` as the objective of ``fit``.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return class_loss(model(**inputs), batch["labels"], weights=weights, gamma=gamma, label_smoothing=label_smoothing)


@torch.no_grad()
def token_accuracy(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return how many labels that are not IGNORED are the likeliest class, and how many there are."""
    kept = labels != IGNORED
    return int((logits.argmax(-1) == labels)[kept].sum()), int(kept.sum())
