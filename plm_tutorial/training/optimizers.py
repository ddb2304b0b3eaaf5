"""Optimizers and learning rates: which parameter is moved by which rule, and how far at each step.

In: a model and a step number. Out: an object with ``step`` and ``zero_grad``, and a factor for the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------------ learning rate

SHAPES = ("cosine", "wsd", "constant")


def lr_at(
    step: int, steps: int, *, warmup: int = 0, shape: str = "cosine", floor: float = 0.0, decay: float = 0.2
) -> float:
    """Return the factor on the peak learning rate at a step, counted from 0: a pure function.

    Args:
        steps: of the whole run.
        warmup: steps in which it rises in a straight line; at step ``warmup`` it has reached 1.
        shape: ``cosine`` falls along half a wave until the end; ``wsd`` (warm-up, stable, decay) stays, and falls in a
            straight line over the last part; ``constant`` stays.
        floor: the factor at the end.
        decay: with ``wsd``, the share of all steps in which it falls.

    Source: Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983, equation 5 (cosine, here without restarts);
    Hu et al. 2024, https://arxiv.org/abs/2404.06395, section 4 (wsd).

    Raises:
        ValueError: an unknown shape, or numbers out of range.
    """
    if shape not in SHAPES:
        raise ValueError(f"the shape of the learning rate is {shape!r}; implemented here: {', '.join(SHAPES)}")
    if not (0 <= warmup < max(steps, 1) and 0 <= floor <= 1 and 0 < decay <= 1):
        raise ValueError(
            f"warmup is {warmup} of {steps} steps, floor {floor}, decay {decay}; expected fewer steps of warm-up than "
            "there are, a floor from 0 to 1 and a decay above 0 and at most 1"
        )
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        progress = (step - warmup) / max(1, steps - 1 - warmup)  # 0 to 1
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    first = steps - max(1, round(decay * steps))  # the last step at the peak
    return 1.0 if step <= first else floor + (1 - floor) * (steps - step) / (steps - first)


# --------------------------------------------------------------------------------------------------------------- Muon


def orthogonalize(matrix: Tensor, iterations: int = 5, eps: float = 1e-7) -> Tensor:
    """Return roughly U Vᵀ for a matrix U S Vᵀ: the same directions, all with about the same strength.

    The Newton–Schulz iteration with coefficients chosen to lift small singular values fast; they end between about 0.7
    and 1.2, which is close enough. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.

    Args:
        matrix: (M, N); computed in bfloat16 on a GPU, in its own precision elsewhere.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x.T if matrix.size(0) > matrix.size(1) else x  # the smaller square is cheaper
    x = x / (x.norm() + eps)  # all singular values at most 1
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if matrix.size(0) > matrix.size(1) else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the weight matrices inside a model.

    A matrix acts on all its inputs at once, and gradients of such matrices tend to be dominated by few directions;
    Muon gives the rare ones the same length. The update is scaled to the size that AdamW's usually has (root mean
    square 0.2), so that both can share a learning rate: Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2.
    Not for embeddings, output layers and vectors: those are lists of rows, not maps.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon got a parameter of shape {tuple(parameter.shape)}; it moves matrices alone")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average, beta = state["momentum"], group["momentum"]
                average.lerp_(parameter.grad, 1 - beta)
                update = _whole(parameter.grad.lerp(average, beta))  # Nesterov: one look ahead
                size = 0.2 * math.sqrt(max(update.shape))
                update = _parts_like(parameter, orthogonalize(update) * size)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is spread over processes as one: the update of a part depends on all parts."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _parts_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    if not hasattr(parameter, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


# --------------------------------------------------------------------------------------------------- who moves what


def split_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the trained parameters of a model in three groups, by what they are.

    ``matrices`` map vectors to vectors; ``tables`` are embeddings and output layers (named ``head``), with a row for
    each token or class; ``vectors`` are biases and the scales of norms.
    """
    rows = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "tables": [], "vectors": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = id(parameter) in rows or "head" in name.split(".")
        groups["vectors" if parameter.ndim < 2 else "tables" if table else "matrices"].append(parameter)
    return groups


def make_optimizers(
    model: nn.Module,
    kind: str = "adamw",
    *,
    lr: float,
    muon_lr: float | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    lr_scales: Mapping[str, float] | None = None,
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model: AdamW for all, or Muon for the matrices and AdamW for the rest.

    Weight decay acts on matrices alone: it keeps maps small; a token's row or a norm's scale is not better for being
    small. AdamW: Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101.

    Args:
        lr_scales: factors on the learning rate, by a parameter's name; 1 for those that are not named.

    Raises:
        ValueError: an unknown kind, nothing to train, or a factor for what is no parameter.
    """
    scales = _by_parameter(model, lr_scales or {})

    def split(parameters: list[nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
        """Return the groups of one learning rate each."""
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in parameters:
            parts.setdefault(scales.get(parameter, 1.0), []).append(parameter)
        return [{"params": part, "lr": rate * scale, "weight_decay": decay} for scale, part in parts.items()]

    groups = split_parameters(model)
    if not any(groups.values()):
        raise ValueError(f"this {type(model).__name__} has no parameter that requires a gradient; unfreeze some")
    rest = split(groups["tables"], lr, 0.0) + split(groups["vectors"], lr, 0.0)
    matrices = split(groups["matrices"], (muon_lr or lr) if kind == "muon" else lr, weight_decay)
    if kind == "adamw":
        made = [torch.optim.AdamW(matrices + rest, lr=lr, betas=betas, eps=eps)]
    elif kind == "muon":
        made = [torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps)] if rest else []
        made += [Muon(matrices, lr=muon_lr or lr)] if matrices else []
    else:
        raise ValueError(f"the optimizer is {kind!r}; implemented here: adamw, muon")
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return made


def _by_parameter(model: nn.Module, lr_scales: Mapping[str, float]) -> dict[nn.Parameter, float]:
    parameters = dict(model.named_parameters())
    for name, scale in lr_scales.items():
        if name not in parameters:
            raise ValueError(f"lr_scales names {name!r}, which is no parameter of this {type(model).__name__}")
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"lr_scales has {scale} for {name!r}; expected a number that is not negative")
    return {parameters[name]: scale for name, scale in lr_scales.items()}
