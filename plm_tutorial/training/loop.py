"""The one training loop of the book: masked, causal, fine-tuning, on one process or many.

In: a model, batches that can be asked for by step, and a configuration. Out: the trained model, and its history.
Everything random in a step follows from seed and step, so a run that is stopped anywhere goes on to the same bits.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from plm_tutorial import runtime
from plm_tutorial.objectives import IGNORED, LossSum, predict_labels
from plm_tutorial.training import checkpoints
from plm_tutorial.training.distributed import total
from plm_tutorial.training.optimizers import SHAPES, lr_at, make_optimizers

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Batch = dict[str, Tensor]
Objective = Callable[[nn.Module, Mapping[str, Tensor]], LossSum]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what to do."""


class BatchSource(Protocol):
    """What :func:`fit` takes batches from: ``batches[step]``, such as :class:`plm_tutorial.batches.Batches`."""

    def __getitem__(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained. The defaults suit a small model on a CPU."""

    steps: int  # of the optimizer
    lr: float = 1e-3  # peak learning rate
    muon_lr: float | None = None  # peak learning rate of the matrices; None: lr
    optimizer: str = "adamw"  # or "muon"
    weight_decay: float = 0.1  # of the matrices
    warmup: int = 0  # steps
    shape: str = "cosine"  # of the learning rate; see optimizers.lr_at
    floor: float = 0.0  # of the learning rate, as a share of the peak
    decay: float = 0.2  # with shape "wsd", the share of steps in which it falls
    clip: float = 1.0  # the largest norm of the gradient; 0: no limit
    accumulate: int = 1  # parts in which a batch is computed, to save memory
    precision: str = "fp32"  # or "bf16", "fp16": of the products; weights stay as they are
    compile: bool = False  # let torch.compile rewrite the model; needs a C++ compiler
    seed: int = 0  # of dropout
    evaluate_every: int = 0  # steps; 0: at the end alone
    patience: int = 0  # evaluations without a new best after which training stops; 0: never
    checkpoint_every: int = 0  # steps; 0: at the end alone

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("lr", "weight_decay", "clip", "evaluate_every", "patience", "checkpoint_every"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number that is not negative")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; implemented here: {', '.join(PRECISIONS)}")
        if self.shape not in SHAPES:
            raise ValueError(f"shape is {self.shape!r}; implemented here: {', '.join(SHAPES)}")
        lr_at(0, self.steps, warmup=self.warmup, shape=self.shape, floor=self.floor, decay=self.decay)


@dataclass
class History:
    """What happened, one row a step: step, loss, learning rate, gradient norm, seconds, tokens; evaluations too."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        """Return a quantity at all steps that have it."""
        return [row[name] for row in self.rows if name in row]

    @property
    def steps(self) -> int:
        """The number of steps done."""
        return len(self.rows)


# ------------------------------------------------------------------------------------------------------------ a step


def split_batch(batch: Mapping[str, Tensor], parts: int) -> list[Batch]:
    """Return a batch in equal parts, by rows.

    Raises:
        ValueError: the rows cannot be split evenly.
    """
    rows = len(next(iter(batch.values())))
    if rows % parts:
        raise ValueError(f"a batch of {rows} rows cannot be computed in {parts} equal parts; change accumulate")
    chunks = {name: value.chunk(parts) for name, value in batch.items()}
    return [{name: chunk[i] for name, chunk in chunks.items()} for i in range(parts)]


def train_step(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    batch: Mapping[str, Tensor],
    objective: Objective = predict_labels,
    *,
    clip: float = 0.0,
    accumulate: int = 1,
    dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[float, float]:
    """Do one step of the optimizers; return the loss (nats per label) and the norm of the gradient before clipping.

    The loss of each part is divided by the labels of the *whole* batch, over all parts and processes. So the gradient
    is that of the mean over all labels, however the batch is cut.

    Raises:
        FloatingPointError: the loss is not finite; nothing has been changed.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    device = next(iter(batch.values())).device
    n_labels = total((batch["labels"] != IGNORED).sum())
    loss = torch.zeros((), dtype=torch.float64, device=device)
    parts = split_batch(batch, accumulate)
    for i, part in enumerate(parts):
        wait = i < len(parts) - 1 and hasattr(model, "no_sync")  # DDP: exchange gradients once, after the last part
        precision = torch.autocast(device.type, dtype) if dtype else nullcontext()
        with model.no_sync() if wait else nullcontext(), precision:
            share = objective(model, part).total / n_labels.clamp(min=1)
            # Processes average their gradients; times their number, the average becomes the sum that we want.
            scaled = share * world if scaler is None else scaler.scale(share * world)
            loss += share.detach()
            if not math.isfinite(loss.item()):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                raise FloatingPointError(f"the loss is {loss.item()}")
            scaled.backward()
    moving = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    if scaler is not None:
        for optimizer in moving:
            scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip if clip else math.inf)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP: of all parts
    for optimizer in moving:
        optimizer.step() if scaler is None else scaler.step(optimizer)  # the scaler leaves out steps that overflowed
        optimizer.zero_grad()
    if scaler is not None:
        scaler.update()
    return float(total(loss)), float(norm)


# ---------------------------------------------------------------------------------------------------------- the loop


def fit(
    model: nn.Module,
    batches: BatchSource,
    config: TrainingConfig,
    *,
    objective: Objective = predict_labels,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    folder: str | Path | None = None,
    callbacks: Sequence[Callable[[nn.Module, History], None]] = (),
    progress: bool = True,
    lr_scales: Mapping[str, float] | None = None,
) -> History:
    """Train a model in place, from the newest checkpoint in ``folder`` if there is one.

    What requires a gradient when it begins is trained.

    Args:
        model: in any of the forms of :func:`plm_tutorial.training.distributed.spread`.
        batches: ``batches[step]``; this process's part of the batch.
        evaluate: called in eval mode; the first of the numbers that it returns decides about stopping early, less is
            better.
        folder: where checkpoints and ``log.csv`` go; None: nothing is kept.
        callbacks: called after each step with the model and the history, which ends with this step's row. One that has
            ``begin(model, history)`` or ``end(model, history)`` is also called so before the first step, when a
            checkpoint has been loaded, and when training ends, however it ends.
        progress: show a line with loss, tokens per second and time left.
        lr_scales: factors on the learning rate, by a parameter's name; 1 for those that are not named.

    Raises:
        TrainingError: the loss is not finite. The last good checkpoint stays.
        CheckpointError: a checkpoint cannot be written or does not fit.
    """
    folder = Path(folder) if folder is not None else None
    device = next(model.parameters()).device
    if device.type == "cpu":
        runtime.keep_freed_memory()
    optimizers = make_optimizers(
        _inner(model),
        config.optimizer,
        lr=config.lr,
        muon_lr=config.muon_lr,
        weight_decay=config.weight_decay,
        lr_scales=lr_scales,
    )
    dtype = PRECISIONS[config.precision]
    scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
    history = _resume(folder, model, optimizers, scaler, config)
    running = torch.compile(model) if config.compile else model
    log = _Log(folder, history)
    bar = _bar(config.steps, history.steps) if progress and checkpoints.is_first() else None
    saved = history.steps
    try:
        _tell(callbacks, "begin", model, history)
        while history.steps < config.steps and not _stalled(history, config.patience):
            step, begun = history.steps, time.perf_counter()
            batch = {name: value.to(device, non_blocking=True) for name, value in batches[step].items()}
            _set_rates(optimizers, config, step)
            torch.manual_seed(_step_seed(config.seed, step))
            model.train()
            try:
                loss, norm = train_step(
                    running,
                    optimizers,
                    batch,
                    objective,
                    clip=config.clip,
                    accumulate=config.accumulate,
                    dtype=dtype,
                    scaler=scaler,
                )
            except FloatingPointError as error:
                raise TrainingError(_advice(error, step, folder)) from error
            tokens = _n_tokens(batch) * (dist.get_world_size() if dist.is_initialized() else 1)
            rate = max(group["lr"] for group in optimizers[0].param_groups)
            row = {"step": step + 1, "loss": loss, "lr": rate, "grad_norm": norm}
            row |= {"tokens": tokens, "seconds": time.perf_counter() - begun}
            last = step + 1 == config.steps
            if evaluate is not None and (last or config.evaluate_every and (step + 1) % config.evaluate_every == 0):
                row |= _evaluated(model, evaluate)
            history.rows.append(row)
            log.write(row)
            for callback in callbacks:
                callback(model, history)
            if folder is not None and config.checkpoint_every and (step + 1) % config.checkpoint_every == 0:
                _save(folder, model, optimizers, scaler, history, config)
                saved = history.steps
            if bar is not None:
                bar.set_postfix_str(f"loss {loss:.3f}, {tokens / row['seconds']:,.0f} tokens/s")
                bar.update()
        if folder is not None and saved < history.steps:
            _save(folder, model, optimizers, scaler, history, config)
    finally:
        log.close()
        if bar is not None:
            bar.close()
        _tell(callbacks, "end", model, history)
    model.eval()
    return history


def _tell(callbacks: Sequence[Any], moment: str, model: nn.Module, history: History) -> None:
    for callback in callbacks:
        getattr(callback, moment, lambda *_: None)(model, history)


def _n_tokens(batch: Batch) -> int:
    """Return the tokens of a batch, padding included: its labels, or its input if a label is a whole text's."""
    return (batch["labels"] if batch["labels"].dim() > 1 else batch.get("input_ids", batch["labels"])).numel()


def _bar(steps: int, done: int) -> tqdm:
    # On stdout, one line that is written over: pages of the book keep stderr for what went wrong.
    return tqdm(total=steps, initial=done, unit="step", file=sys.stdout, dynamic_ncols=True, mininterval=0.5)


def _set_rates(optimizers: Sequence[Optimizer], config: TrainingConfig, step: int) -> None:
    factor = lr_at(step, config.steps, warmup=config.warmup, shape=config.shape, floor=config.floor, decay=config.decay)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["peak_lr"] * factor


def _step_seed(seed: int, step: int) -> int:
    rank = dist.get_rank() if dist.is_initialized() else 0
    return (seed * 1_000_003 + step) * 1_009 + rank


def _evaluated(model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return {name: float(value) for name, value in evaluate(model).items()}


def _stalled(history: History, patience: int) -> bool:
    """Say whether the last ``patience`` evaluations brought no new best."""
    if not patience:
        return False
    known = {"step", "loss", "lr", "grad_norm", "tokens", "seconds"}
    scores = [next(v for k, v in row.items() if k not in known) for row in history.rows if row.keys() - known]
    return len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])


def _advice(error: FloatingPointError, step: int, folder: Path | None) -> str:
    kept = checkpoints.newest(folder) if folder is not None else None
    good = f"the last good state is {kept[1]}" if kept else "no checkpoint was kept"
    return (
        f"{error} at step {step + 1}; {good}. Lower the learning rate, lengthen the warm-up, clip the gradient, or use "
        "bf16 instead of fp16, then start again"
    )


# ------------------------------------------------------------------------------------------- what outlives the process


def _save(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    scaler: torch.amp.GradScaler | None,
    history: History,
    config: TrainingConfig,
) -> None:
    memory = {"rows": history.rows, "scaler": scaler.state_dict() if scaler else None, "config": asdict(config)}
    memory |= {"peak_lr": _peaks(model, optimizers), "moved": sorted(_moved(model, optimizers))}
    checkpoints.save(folder, history.steps, _inner(model), optimizers, memory)


def _resume(
    folder: Path | None,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    scaler: torch.amp.GradScaler | None,
    config: TrainingConfig,
) -> History:
    if folder is None:
        return History()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise checkpoints.CheckpointError(f"the folder {folder} cannot be made: {error}; choose another") from error
    if not os.access(folder, os.W_OK):
        raise checkpoints.CheckpointError(f"the folder {folder} cannot be written to; choose another")
    found = checkpoints.newest(folder)
    if found is None:
        return History()
    memory = json.loads((found[1] / "memory.json").read_text(encoding="utf-8"))
    then, now = memory["config"], asdict(config)
    if changed := [name for name in now if then.get(name) != now[name] and name not in _MAY_CHANGE]:
        was, is_ = (", ".join(f"{name} = {values.get(name)!r}" for name in changed) for values in (then, now))
        raise checkpoints.CheckpointError(
            f"{found[1]} was trained with {was}, now it is {is_}; restore that, or choose another folder"
        )
    _check_peaks(memory.get("peak_lr"), _peaks(model, optimizers), _inner(model), found[1])
    with _as_moved(memory.get("moved"), model):
        checkpoints.load(found[1], _inner(model), optimizers)
    if scaler is not None and memory["scaler"]:
        scaler.load_state_dict(memory["scaler"])
    return History(memory["rows"])


def _peaks(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """Return the peak learning rate of each parameter that is, or will be, trained."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = {parameter: group["peak_lr"] for group in groups for parameter in group["params"]}
    return {name: rates[parameter] for name, parameter in _inner(model).named_parameters() if parameter in rates}


def _check_peaks(then: dict[str, float] | None, now: dict[str, float], model: nn.Module, path: Path) -> None:
    """Refuse to go on with other parameters, or other learning rates, than before; None: that was not noted."""
    if then is None:
        return
    if lacking := sorted(then.keys() - dict(model.named_parameters()).keys()):
        raise checkpoints.CheckpointError(
            f"the checkpoint {path} does not fit this model and its optimizers: it trained {lacking[0]}, which is not "
            "there. Build the model as then, an adapter included, or choose another folder"
        )
    for name in sorted(then | now):
        if then.get(name) != now.get(name):
            was, is_ = (f"trained at {rates[name]:g}" if name in rates else "frozen" for rates in (then, now))
            raise checkpoints.CheckpointError(
                f"in {path} {name} was {was}, now it is {is_}; freeze, unfreeze and scale learning rates as then, or "
                "choose another folder"
            )


def _moved(model: nn.Module, optimizers: Sequence[Optimizer]) -> set[str]:
    """Return the names of the parameters that an optimizer has moved so far: not of those still frozen."""
    known = {parameter for optimizer in optimizers for parameter in optimizer.state}
    return {name for name, parameter in _inner(model).named_parameters() if parameter in known}


@contextmanager
def _as_moved(moved: Sequence[str] | None, model: nn.Module) -> Iterator[None]:
    """Let just those parameters require a gradient that have a state of the optimizer in a checkpoint; None: all.

    The others were frozen until then, and for them there is nothing to be loaded.
    """
    trained = [(name, p) for name, p in _inner(model).named_parameters() if p.requires_grad]
    for name, parameter in trained:
        parameter.requires_grad_(moved is None or name in moved)
    try:
        yield
    finally:
        for _, parameter in trained:
            parameter.requires_grad_(True)


# What does not change the numbers of the steps still to come.
_MAY_CHANGE = {"evaluate_every", "patience", "checkpoint_every", "accumulate", "compile"}


def _inner(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, so that a checkpoint's names do not depend on the strategy."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


class _Log:
    """``log.csv``, a row a step; when a run is resumed, it begins anew with the rows of the checkpoint."""

    def __init__(self, folder: Path | None, history: History):
        self.stream, self.names = None, []
        if folder is None or not checkpoints.is_first():
            return
        self.path = folder / "log.csv"
        self.rows = list(history.rows)
        self._begin()

    def write(self, row: Mapping[str, Any]) -> None:
        if self.stream is None:
            return
        self.rows.append(dict(row))
        if set(row) <= set(self.names):
            self.writer.writerow(row)
            self.stream.flush()
        else:  # the first evaluation brings new columns
            self._begin()

    def _begin(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.names = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step", "loss"]
        part = self.path.with_suffix(".csv.part")
        with open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.names)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(part, self.path)
        self.stream = open(self.path, "a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.stream, self.names)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
