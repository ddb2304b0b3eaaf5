"""Adapting a trained model: which parameters move, how far each may move, and LoRA, which moves few.

In: a model. Out: the same model, some of its parameters frozen, or small trainable matrices beside frozen ones. How an
adapter is kept as a file stands in :mod:`plm_tutorial.adapter_files`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from plm_tutorial.layers import Block, Linear, linear

# --------------------------------------------------------------------------------------------- names, depths, counts


def find_names(names: Collection[str], patterns: Sequence[str], what: str = "parameter") -> list[str]:
    """Return the names that one of the patterns fits, in their order.

    A pattern is a part of a dotted name, or several in a row: ``attention`` fits all that belongs to any attention,
    ``layers.0`` the first block, ``layers.*.attention.query`` the queries of all blocks; ``*`` stands for anything
    within one part.

    Args:
        what: the names are of, for the message.

    Raises:
        ValueError: nothing fits a pattern; the message names the nearest parts.
    """
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if _fits(pattern, name)}
        if not fitting:
            parts = sorted({part for name in names for part in (*name.split("."), *_beginnings(name))})
            near = difflib.get_close_matches(pattern, parts, n=3) or sorted({name.split(".")[0] for name in names})
            raise ValueError(f"no {what} has {pattern!r} in its name; near it: {', '.join(map(repr, near)) or 'none'}")
        found |= fitting
    return [name for name in names if name in found]


def _fits(pattern: str, name: str) -> bool:
    wanted, parts = pattern.split("."), name.split(".")
    rows = (parts[i : i + len(wanted)] for i in range(len(parts) - len(wanted) + 1))
    return any(all(map(fnmatchcase, row, wanted)) for row in rows)


def _beginnings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def depths(model: nn.Module) -> dict[str, int]:
    """Return how deep each parameter lies in a model of L blocks: name -> depth.

    0 comes before the first block (embeddings), 1 is the first block, L the last one, L + 1 comes behind it (a last
    norm, a head). What stands between two blocks has the depth of the block before it: the first norm of a T5's
    decoder is as deep as the last block of its encoder.

    Raises:
        ValueError: the model has no blocks.
    """
    blocks = [f"{name}." for name, module in model.named_modules() if isinstance(module, Block)]
    if not blocks:
        raise ValueError(f"a {type(model).__name__} has no blocks to count; freeze by name instead")
    found, below = {}, 0
    for name, _ in model.named_parameters():  # in the order in which the model was put together
        inside = next((i for i, block in enumerate(blocks) if name.startswith(block)), None)
        below = below if inside is None else inside + 1
        found[name] = len(blocks) + 1 if inside is None and below == len(blocks) else below
    return found


class ParameterCounts(NamedTuple):
    """How many numbers of a model are trained, and how many it has."""

    trained: int
    total: int


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Return how many numbers of a model are trained, and how many it has; tied ones count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCounts(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))


# ----------------------------------------------------------------------------------------------------------- freezing


def freeze(model: nn.Module, *patterns: str, until: int | str | None = None) -> None:
    """Keep parameters from being trained: those whose names fit, or all up to a depth.

    Frozen parts are still computed, dropout included; no gradient goes below the lowest part that is trained.

    Args:
        patterns: of names, see :func:`find_names`; without any, and without ``until``, all parameters.
        until: the number of blocks from below, which are frozen with all that comes before them: 0 freezes the
            embeddings alone. ``"head"``: everything but what comes behind the last block.

    Raises:
        ValueError: nothing fits a pattern, or there are not so many blocks.
    """
    _set(model, patterns, until, trained=False)


def unfreeze(model: nn.Module, *patterns: str) -> None:
    """Let parameters be trained again: those whose names fit, or all. See :func:`freeze`."""
    _set(model, patterns, None, trained=True)


def _set(model: nn.Module, patterns: Sequence[str], until: int | str | None, trained: bool) -> None:
    parameters = dict(model.named_parameters())
    if until is not None and patterns:
        raise ValueError("both patterns and until are given; freeze by name and by depth in two calls")
    names: Collection[str] = find_names(parameters, patterns) if patterns else parameters
    if until is not None:
        depth = depths(model)
        n_blocks = len([module for module in model.modules() if isinstance(module, Block)])
        limit = n_blocks if until == "head" else until
        if not (type(limit) is int and 0 <= limit <= n_blocks):
            raise ValueError(f"until is {until!r}; this model has {n_blocks} blocks: pass 0 to {n_blocks}, or 'head'")
        names = [name for name in parameters if depth[name] <= limit]
    for name in names:
        parameters[name].requires_grad_(trained)


def layer_decay(model: nn.Module, factor: float) -> dict[str, float]:
    """Return a factor on the learning rate for each parameter: 1 behind the last block, smaller the lower it lies.

    Each step down multiplies it by ``factor``: lower layers hold what is more general and should change less. Pass the
    result as ``lr_scales`` to ``fit``. Source: Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, "discriminative
    fine-tuning", with a factor of 1/2.6; Sun et al. 2019, https://arxiv.org/abs/1905.05583, equation 2 and section
    5.3.4, with 0.95 for BERT.

    Raises:
        ValueError: the factor is not above 0 and at most 1, or the model has no blocks.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"factor is {factor}; expected a number above 0 and at most 1, such as 0.9")
    depth = depths(model)
    top = len([module for module in model.modules() if isinstance(module, Block)]) + 1
    return {name: factor ** (top - level) for name, level in depth.items()}


class GradualUnfreezing:
    """A callback of ``fit`` that trains the head first and lets one more layer be trained each ``every`` steps.

    What is trained in the end is what requires a gradient when ``fit`` begins; afterwards it is so again. What is
    trained at a step follows from its number alone, so a run that was stopped goes on with the same bits. Source:
    Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, "gradual unfreezing", where ``every`` is an epoch.

    Args:
        every: steps between one layer and the next.
    """

    def __init__(self, every: int):
        if every < 1:
            raise ValueError(f"every is {every}; expected at least 1 step")
        self.every = every
        self.stages: list[list[nn.Parameter]] = []  # what is trained, from the top down

    def begin(self, model: nn.Module, history: Any) -> None:
        """Freeze what is not yet to be trained. Called by ``fit`` before the first step, with the steps done so far.

        Raises:
            ValueError: nothing is to be trained, or there are several processes.
        """
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise ValueError("several processes agree on what is trained before the first step: unfreeze on one alone")
        depth, by_depth = depths(model), {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                by_depth.setdefault(depth[name], []).append(parameter)
        if not by_depth:
            raise ValueError("no parameter requires a gradient, so there is nothing to unfreeze step by step")
        self.stages = [by_depth[level] for level in sorted(by_depth, reverse=True)]
        self(model, history)

    def __call__(self, model: nn.Module, history: Any) -> None:
        reached = history.steps // self.every
        for stage, parameters in enumerate(self.stages):
            for parameter in parameters:
                parameter.requires_grad_(stage <= reached)

    def end(self, model: nn.Module, history: Any) -> None:
        """Let all be trained again. Called by ``fit`` when it ends, however it ends."""
        for parameters in self.stages:
            for parameter in parameters:
                parameter.requires_grad_(True)


# --------------------------------------------------------------------------------------------------- what comes of it


@torch.no_grad()
def class_logits(model: nn.Module, rows: Any, *, size: int = 64) -> Tensor:
    """Return the logits of all texts, (N, C) float32 on the CPU, in the order of the rows and in eval mode.

    Args:
        model: one vector of logits for each text, such as a ``Bert`` with the head "sequence".
        rows: such as :class:`plm_tutorial.batches.TextRows`.
        size: texts computed at a time; those of similar length go together.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    chosen, found = [], []
    for numbers, batch in rows.by_length(size):
        inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        found.append(model(**inputs).float().cpu())  # (B, C)
        chosen.append(torch.from_numpy(numbers))
    model.train(training)
    return torch.cat(found)[torch.cat(chosen).argsort()]


# --------------------------------------------------------------------------------------------------------------- LoRA


@dataclass(frozen=True)
class LoraConfig:
    """Which linear layers get an update of low rank, and what is trained whole beside it."""

    rank: int = 8  # r: rows of A, columns of B
    alpha: float = 16.0  # the update is multiplied by alpha / rank
    targets: tuple[str, ...] = ("query", "value")  # patterns of names of linear layers; see find_names
    dropout: float = 0.0  # in training: of the update's input
    trained: tuple[str, ...] | None = None  # patterns of parameters trained whole; None: a head, unless it names tokens

    def __post_init__(self) -> None:
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"rank is {self.rank}, alpha {self.alpha}, dropout {self.dropout}; expected a rank of at least 1, an "
                "alpha above 0 and a dropout from 0 to less than 1"
            )
        if isinstance(self.targets, str) or isinstance(self.trained, str):
            raise ValueError("targets and trained are tuples of patterns, such as targets=('query', 'value')")


class LoraLinear(Linear):
    """A frozen linear layer with a trainable update of low rank: y = W x + b + (alpha / r) B A x.

    W keeps its name, ``weight``; A (r, in) is ``lora_a`` and B (out, r) is ``lora_b``. B begins at 0, so the layer
    begins as what it was. A is drawn as in the published code and in peft, uniformly; the paper says normally. A and B
    have float32 at least: steps of training are too small for bfloat16. Source: Hu et al. 2021,
    https://arxiv.org/abs/2106.09685, section 4.1, equation 3.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float = 0.0):
        nn.Module.__init__(self)  # takes over the layer's parameters instead of making its own
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.rank, self.scale = rank, scale
        self.dropout = nn.Dropout(dropout)
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        made = {"device": layer.weight.device, "dtype": dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, **made))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, **made))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.kept: tuple[Tensor, nn.Parameter, nn.Parameter] | None = None  # while merged: the weight before, A, B

    def forward(self, x: Tensor) -> Tensor:
        out = linear(x, self.weight, self.bias)  # (..., out)
        if self.kept is not None:
            return out
        narrow = F.linear(self.dropout(x).to(self.lora_a.dtype), self.lora_a)  # (..., r)
        return out + (self.scale * F.linear(narrow, self.lora_b)).to(out.dtype)  # (..., out)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r), merged or not."""
        return (self.lora_a, self.lora_b) if self.kept is None else self.kept[1:]

    def merge(self) -> None:
        """Add the update to the weight; from now on this is a linear layer like any other."""
        a, b = self.factors
        with torch.no_grad():
            merged = (self.weight + self.scale * (b @ a)).to(self.weight.dtype)  # rounded once
        self.kept = (self.weight.data, a, b)
        del self.lora_a, self.lora_b
        self.weight.data = merged

    def unmerge(self) -> None:
        """Put the weight back as it was, bit by bit, and the update beside it."""
        weight, a, b = self.kept
        self.weight.data, self.kept = weight.to(self.weight), None
        a.data, b.data = a.data.to(self.weight.device), b.data.to(self.weight.device)
        self.lora_a, self.lora_b = a, b

    def extra_repr(self) -> str:
        merged = ", merged" if self.kept is not None else ""
        return f"{super().extra_repr()}, rank={self.rank}, scale={self.scale:g}{merged}"


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the layers of a model that have a LoRA update, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def inject(model: nn.Module, config: LoraConfig) -> nn.Module:
    """Freeze a model and give its target layers a trainable update of low rank, in place; return the model.

    Names of parameters stay, ``lora_a`` and ``lora_b`` come beside them. The configuration is kept as
    ``model.adapter``. Checkpoints of ``fit`` hold the whole model; inject the same before going on from one.

    Raises:
        ValueError: nothing fits a pattern, the model has an adapter, or a pattern fits embeddings or an output layer
            over the vocabulary.
    """
    if hasattr(model, "adapter"):
        raise ValueError("this model has an adapter already; load it anew for another one")
    parameters = dict(model.named_parameters())
    whole = _trained_whole(model, config, parameters)
    layers = {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Linear)}
    free = [name for name in layers if f"{name}.weight" not in whole and f"{name}.weight" in parameters]
    targets = find_names(free, config.targets, "linear layer that can be adapted")
    _refuse(_of_vocabulary(model).intersection(f"{name}.weight" for name in targets))
    model.requires_grad_(False)
    for name in targets:
        put(model, name, LoraLinear(layers[name], config.rank, config.alpha / config.rank, config.dropout))
    for name in whole:
        parameters[name].requires_grad_(True)
    model.adapter = config
    return model


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a module of a model in place of the one that has this name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module.train(model.training))


def trained_whole(model: nn.Module) -> list[str]:
    """Return the names of the parameters that are trained whole beside the updates of an adapter.

    Raises:
        ValueError: the model has no adapter.
    """
    if not hasattr(model, "adapter"):
        raise ValueError(f"this {type(model).__name__} has no adapter; make one by inject(model, LoraConfig())")
    names = {name: p for name, p in model.named_parameters() if not name.endswith((".lora_a", ".lora_b"))}
    return _trained_whole(model, model.adapter, names)


def _trained_whole(model: nn.Module, config: LoraConfig, parameters: dict[str, nn.Parameter]) -> list[str]:
    of_tokens = _of_vocabulary(model)
    if config.trained is None:
        head = [name for name in parameters if name.startswith("head.")]
        return [] if of_tokens.intersection(head) else head
    names = find_names(parameters, config.trained)
    _refuse(of_tokens.intersection(names))
    return names


def _of_vocabulary(model: nn.Module) -> set[str]:
    """Return the names of parameters with a row for each token: embeddings, and an output layer with its bias."""
    of_embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    config = getattr(model, "config", None)
    size = None if getattr(config, "n_labels", None) else getattr(config, "vocab_size", None)
    in_head = {name for name, p in model.named_parameters() if name.startswith("head.") and p.size(0) == size}
    return of_embeddings | in_head


def _refuse(names: Collection[str]) -> None:
    if names:
        raise ValueError(
            f"{min(names)} has a row for each token or position: an adapter leaves embeddings and output layers as "
            "they are, for they are large and often the same tensor. Name others, or train without an adapter"
        )


def merge(model: nn.Module) -> nn.Module:
    """Add all updates to the weights they belong to, in place; return the model, which computes the same, and faster.

    It then exports, and decodes, like one that never had an adapter. In float32 outputs stay within rounding; a weight
    of 16 bits is rounded to them, and with it the update.

    Raises:
        ValueError: there is nothing to merge.
    """
    waiting = [layer for layer in lora_layers(model).values() if layer.kept is None]
    if not waiting:
        raise ValueError("there is no update to merge: the model has no adapter, or it is merged already")
    for layer in waiting:
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Undo :func:`merge`: the weights are what they were, bit by bit.

    Raises:
        ValueError: nothing is merged.
    """
    merged = [layer for layer in lora_layers(model).values() if layer.kept is not None]
    if not merged:
        raise ValueError("nothing is merged in this model")
    for layer in merged:
        layer.unmerge()
    return model
