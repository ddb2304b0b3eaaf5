"""Checkpoints that survive a kill at any moment and open on another number of processes.

In: a model, its optimizers and what a run has to remember. Out: folders ``step-00000100`` that are complete or absent:
each is written under another name, listed with the hashes of its files, and renamed last.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import Optimizer

from plm_tutorial.runtime import file_sha256

KEEP = 2  # the newest may be damaged by what stopped the run (a full disk, a power cut); the one before is not


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none can be read; the message says what to do."""


def is_first() -> bool:
    """Say whether this is the process that writes what is written once."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def save(folder: Path, step: int, model: nn.Module, optimizers: Sequence[Optimizer], memory: dict[str, Any]) -> Path:
    """Write the state after ``step`` steps and return its folder; all but the newest :data:`KEEP` are removed.

    Args:
        memory: what else a run remembers, as JSON: its history, the state of a loss scaler.

    Raises:
        CheckpointError: it cannot be written (a full disk, no permission); earlier checkpoints are intact.
    """
    final = folder / f"step-{step:08d}"
    part = folder / f".{final.name}.part"
    try:
        if is_first():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        barrier()
        weights, moments = get_state_dict(model, list(optimizers))
        _quietly(dcp.save, {"model": weights, "optimizers": moments}, part)
        barrier()
        if is_first():
            (part / "memory.json").write_text(json.dumps(memory), encoding="utf-8")
            files = {file.name: file_sha256(file) for file in sorted(part.iterdir())}
            (part / "files.json").write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
            for file in part.iterdir():
                _flush(file)
            shutil.rmtree(final, ignore_errors=True)  # left by a run that was resumed from an earlier one
            os.replace(part, final)
            _flush(folder)
            for old in sorted(folder.glob("step-*"))[:-KEEP]:
                shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # the library wraps what the system says in errors of its own
        if is_first():
            shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {final} could not be written: {error}. Free space or choose another folder, then start "
            "again with the same command: training goes on from the last checkpoint that is there"
        ) from error
    barrier()
    return final


def newest(folder: Path) -> tuple[int, Path] | None:
    """Return step and folder of the newest checkpoint that is intact, or None if there is none at all.

    A damaged one is passed over with a warning.

    Raises:
        CheckpointError: there are some, and all are damaged.
    """
    found = sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []
    for path in found:
        reason = _damage(path)
        if reason is None:
            return json.loads((path / "files.json").read_text(encoding="utf-8"))["step"], path
        if is_first():
            warnings.warn(f"the checkpoint {path} is damaged ({reason}); trying the one before", stacklevel=2)
    if found:
        raise CheckpointError(f"all checkpoints in {folder} are damaged; remove the folder to begin anew")
    return None


def load(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Put a checkpoint's state into model and optimizers, on whatever number of processes; return its memory.

    Raises:
        CheckpointError: it belongs to another model or other optimizers.
    """
    weights, moments = get_state_dict(model, list(optimizers))
    state = {"model": weights, "optimizers": moments}
    try:
        _quietly(dcp.load, state, path)
        set_state_dict(model, list(optimizers), model_state_dict=state["model"], optim_state_dict=state["optimizers"])
    except (RuntimeError, ValueError, KeyError, dcp.api.CheckpointException) as error:
        raise CheckpointError(
            f"the checkpoint {path} does not fit this model and its optimizers: {error}. If the configuration was "
            "changed, restore it, or choose another folder"
        ) from error
    return json.loads((path / "memory.json").read_text(encoding="utf-8"))


def _quietly(action: Any, state: dict[str, Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process, that the folder exists: both are meant
        action(state, checkpoint_id=str(path))


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        files = json.loads((path / "files.json").read_text(encoding="utf-8"))["files"]
        for name, sha256 in files.items():
            if file_sha256(path / name) != sha256:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


def _flush(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on the disk before it is renamed."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
