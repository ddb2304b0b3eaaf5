"""The folder of a run: locked while it is made, true to what it was begun with, complete when it has a config.json.

In: a folder and what the run is made of. Out: the same folder, or a message that says why it cannot be used.
Pretraining and fine-tuning from the command line keep their runs so.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from plm_tutorial import pretrained

if TYPE_CHECKING:
    import tokenizers
    from torch import nn

MARK = "run.json"  # what the run is made of


def locked(folder: Path, option: str) -> FileLock:
    """Make the run's folder and return its lock, held; use it in a ``with`` block.

    Args:
        option: what the reader set the folder by, for the messages.

    Raises:
        ValueError: the folder holds something else, or cannot be written to.
    """
    known = (folder / ".lock", folder / MARK)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()) and not any(file.exists() for file in known):
        raise ValueError(f"{option}: {folder} holds files and no run; choose another, which is made")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to: {error}; choose another") from error
    return lock


def remember(folder: Path, now: Mapping[str, Any], option: str, *, begun: bool) -> bool:
    """Write down what the run is made of, and say whether it was written anew.

    Args:
        now: setting -> value, of all that the result depends on; what JSON can hold.
        option: what the reader set the folder by, for the message.
        begun: something has been made that belongs to the settings that are written there.

    Raises:
        ValueError: something has been made with other settings.
    """
    path = folder / MARK
    then = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if then == now:
        return False
    if begun:
        key = next(key for key in then | now if then.get(key) != now.get(key))
        raise ValueError(
            f"{folder} holds a run with {key} = {then.get(key)!r}, now it is {now.get(key)!r}; restore that, or choose "
            f"another {option}"
        )
    write_json(path, now)
    return True


def keep_model(folder: Path, model: nn.Module, tokenizer: tokenizers.Tokenizer) -> None:
    """Put model, tokenizer and log into the run's folder, the configuration last: with it the model is complete."""
    for left in (folder / "export", *folder.glob(".export.*")):  # of a run that was stopped here
        shutil.rmtree(left, ignore_errors=True)
    part = pretrained.export(model, folder / "export", tokenizer)
    shutil.copyfile(folder / "checkpoints" / "log.csv", part / "log.csv")
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        os.replace(file, folder / file.name)
    part.rmdir()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def write_rows(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV that is there whole or not at all."""
    part = path.with_suffix(".part")
    with open(part, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)
    os.replace(part, path)
