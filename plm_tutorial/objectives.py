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
    wide = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))  # (N, V)
    flat = labels.flatten()  # (N,)
    total = F.cross_entropy(wide, flat, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return LossSum(total, kept.sum())


def predict_labels(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Return the loss of a model on a batch: its other entries are the model's arguments, ``labels`` the targets.

    This one objective serves masked, causal and span-corruption training: they differ in how the batch is made.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return token_loss(model(**inputs), batch["labels"])


@torch.no_grad()
def token_accuracy(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return how many labels that are not IGNORED are the likeliest class, and how many there are."""
    kept = labels != IGNORED
    return int((logits.argmax(-1) == labels)[kept].sum()), int(kept.sum())
