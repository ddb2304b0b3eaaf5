"""Recorded results: what takes too long for a page, made by a script of the repository and read back with its label.

In: the scores of a study, the data it used and the command that remakes it. Out: ``artifacts/<name>/record.json``, and
on a page a small table headed "recorded", with the command, the machine and the date. A page never types such numbers.
Runs and curves stand beside it as ``artifacts/<name>/<table>.csv``.
"""

from __future__ import annotations

import csv
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from plm_tutorial import runtime

if TYPE_CHECKING:
    import pandas

_PACKAGE = Path(__file__).resolve().parent


class RecordError(ValueError):
    """A record is missing or is not one; the message says which and what to do."""


@dataclass(frozen=True)
class Record:
    """One recorded study."""

    name: str
    command: str  # remakes the record, from the repository's root
    machine: str
    date: str  # ISO, of the run
    data: dict[str, str]  # what was used -> sha256
    seeds: list[int]
    scores: dict[str, float]  # what was measured, in words with units -> value

    def table(self, name: str) -> pandas.DataFrame:
        """Return a table that was recorded with the study: its runs, or a curve.

        Raises:
            RecordError: there is no such table.
        """
        import pandas

        return pandas.read_csv(artifact_file(self.name, f"{name}.csv"))

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        head = f"recorded {self.date} on {self.machine}, by: {self.command}"
        rows = [(name, f"{x:,.4g}" if isinstance(x, float) else f"{x:,}") for name, x in self.scores.items()]
        cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{value}</td></tr>" for name, value in rows)
        table = f'<table class="plm-record"><caption>{html.escape(head)}</caption><tbody>{cells}</tbody></table>'
        plain = "\n".join([head, *(f"  {name}: {value}" for name, value in rows)])
        return {"text/plain": plain, "text/html": table}


def artifacts() -> Path:
    """Return the folder of artifacts: the repository's, or the copy that an installed package carries."""
    repository = _PACKAGE.parent / "artifacts"
    return repository if repository.is_dir() else _PACKAGE / "_artifacts"


def artifact_file(name: str, file: str) -> Path:
    """Return a file that belongs to an artifact; the page that asks for it runs again when it has changed.

    Raises:
        RecordError: there is no such file.
    """
    path = artifacts() / name / file
    if not path.is_file():
        known = sorted(one.name for one in path.parent.glob("*"))
        raise RecordError(f"there is no {file!r} in artifacts/{name}; there: {', '.join(known) or 'nothing'}")
    runtime.record_read(f"artifacts/{name}/{file}", runtime.file_sha256(path))
    return path


def recorded(name: str) -> Record:
    """Return the record of a study, for display as the last line of a cell or to take its ``scores``.

    Raises:
        RecordError: there is no such record, or the file is damaged.
    """
    path = artifacts() / name / "record.json"
    if not path.is_file():
        known = sorted(folder.parent.name for folder in artifacts().glob("*/record.json"))
        raise RecordError(f"there is no record {name!r}; known: {', '.join(known) or 'none'}")
    try:
        record = Record(name=name, **json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RecordError(f"{path} is no record ({error}); restore it with: git checkout -- {path}") from error
    runtime.record_read(f"artifacts/{name}/record.json", runtime.file_sha256(path))
    return record


def write_record(
    name: str,
    scores: Mapping[str, float],
    *,
    command: str,
    data: Mapping[str, str],
    seeds: list[int],
    tables: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
    machine: str | None = None,
) -> Path:
    """Write ``artifacts/<name>/record.json`` atomically and return its path.

    Args:
        tables: name -> rows, for :meth:`Record.table`; each becomes ``<name>.csv`` beside the record. A column may be
            absent from some rows.
        machine: where the work was done, as :func:`runtime.machine` tells it; None: here.
    """
    where, when = machine or runtime.machine(), date.today().isoformat()
    record = Record(name, command, where, when, dict(data), seeds, dict(scores))
    folder = artifacts() / name
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in (tables or {}).items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with open(folder / f"{table}.csv.new", "w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(folder / f"{table}.csv.new", folder / f"{table}.csv")
    content = {key: value for key, value in asdict(record).items() if key != "name"}
    temporary = folder / "record.json.new"
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "record.json")
    return folder / "record.json"
