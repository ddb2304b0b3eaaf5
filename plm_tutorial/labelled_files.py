"""The reader's own labelled texts: from a CSV, JSON lines or Parquet file to splits that share no text.

In: a file and the names of its columns. Out: texts and labels, each with the number of its row in the file, and three
splits. What cannot be used is named by its row: left out if it is one row, refused if it is the file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plm_tutorial.text import SPLIT_NAMES, normal_form

if TYPE_CHECKING:
    import datasets

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
HELD_OUT = {"validation": 0.1, "test": 0.1}  # share of a class's different texts; the rest is for training
MANY = 100  # classes; a column with more than this, and more than a tenth as many as rows, holds no classes


@dataclass(frozen=True)
class LabelledFile:
    """The usable rows of a file."""

    path: Path
    texts: list[str]
    labels: list[str] | None  # None: no column of labels was asked for
    rows: np.ndarray  # (N,) numbers, as a spreadsheet shows them: the first row below the names of a CSV is 2, else 1
    skipped: dict[str, list[int]]  # why -> numbers of the rows that were left out

    @cached_property
    def names(self) -> list[str]:
        """The classes, in order; numbers by their size."""
        found = set(self.labels or ())
        return sorted(found, key=int) if all(re.fullmatch(r"-?\d{1,9}", name) for name in found) else sorted(found)


def read_labelled(path: str | Path, text: str, label: str | None = None) -> LabelledFile:
    """Read the texts, and the labels if a column is named, of a CSV, JSON lines or Parquet file.

    Rows without a text or label are left out and listed. Texts and labels of a CSV are taken as they are written:
    ``01`` and ``NA`` are labels like any others. Blanks around a label do not count.

    Raises:
        ValueError: the file is absent, empty, damaged, not UTF-8, or lacks a column; a text is none; the labels are no
            classes. The message names the row where there is one.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}; paths begin at the folder you are in, {Path.cwd()}")
    kind = FORMATS[path.suffix.lower()]
    table = _load(path, kind, [text] if label is None else [text, label])
    first = 2 if kind == "csv" else 1
    for name in filter(None, (text, label)):
        if name not in table.column_names:
            near = difflib.get_close_matches(name, table.column_names, n=1)
            raise ValueError(
                f"{path} has no column {name!r}{f'; did you mean {near[0]!r}?' if near else ';'} "
                f"It has: {', '.join(map(repr, table.column_names))}"
            )
    texts = table[text][:]
    labels = [None] * len(texts) if label is None else _label_names(table, label, path, first)
    kept, skipped = [], {"without a text": [], "without a label": []}
    for i, (one, name) in enumerate(zip(texts, labels, strict=True)):
        if one is None or isinstance(one, str) and not one.strip():
            skipped["without a text"].append(i + first)
        elif not isinstance(one, str):
            raise ValueError(f"{path}, row {i + first}: {text!r} is {one!r:.60}; expected a text")
        elif label is not None and not name:
            skipped["without a label"].append(i + first)
        else:
            kept.append(i)
    skipped = {why: rows for why, rows in skipped.items() if rows}
    if not kept:
        raise ValueError(f"{path} has no row that can be used: {describe_skipped(skipped) or 'it is empty'}")
    found = LabelledFile(
        path,
        [texts[i] for i in kept],
        None if label is None else [labels[i] for i in kept],
        np.array(kept) + first,
        skipped,
    )
    if label is not None and len(found.names) > max(MANY, len(kept) // 10):
        raise ValueError(
            f"{path}: the column {label!r} has {len(found.names)} different values in {len(kept)} rows, such as "
            f"{', '.join(map(repr, found.names[:3]))}; expected a class, which many rows share. Name another column"
        )
    return found


def describe_skipped(skipped: dict[str, list[int]]) -> str:
    """Say which rows were left out, and why: "3 rows without a text (4, 9, 12)"."""
    parts = []
    for why, rows in skipped.items():
        some = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        parts.append(f"{len(rows)} row{'s' * (len(rows) > 1)} {why} ({some})")
    return "; ".join(parts)


# -------------------------------------------------------------------------------------------------------- one file


def _load(path: Path, kind: str, columns: list[str]) -> datasets.Dataset:
    """Open a file as a table, or say what is wrong with it and where."""
    import datasets

    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    options: dict[str, Any] = {}
    if kind == "csv":
        _check_utf8(path)
        # As it is written: no number, no missing value is read into a cell, and blank lines count as rows.
        options = {"sep": _separator(path), "na_filter": False, "skip_blank_lines": False}
        options |= {"converters": dict.fromkeys(columns, str)}
    elif kind == "json":
        _check_utf8(path)
    read = getattr(datasets.Dataset, f"from_{kind}")
    with tempfile.TemporaryDirectory() as cache, _quiet(datasets):
        try:
            return read(str(path), cache_dir=cache, keep_in_memory=True, **options)
        except Exception as error:  # of several libraries below; the first cause says what was wrong
            causes = [error]
            while causes[-1].__cause__ is not None:
                causes.append(causes[-1].__cause__)
            raise ValueError(f"{path} cannot be read: {_reason(path, kind, str(causes[-1]).strip())}") from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Let ``datasets`` show no bars and log no errors: what is wrong is raised."""
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _check_utf8(path: Path) -> None:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte, before = line[error.start], line[max(0, error.start - 20) : error.start]
                raise ValueError(
                    f"{path}, line {number} holds a byte that is not UTF-8, 0x{byte:02x} after "
                    f"{before.decode('utf-8', 'replace')!r}. Save the file as UTF-8, such as by: "
                    f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new{path.suffix}"
                ) from None


def _separator(path: Path) -> str:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        names = stream.readline()
    return max(",", ";", "\t", key=names.count)  # the first of equals


def _reason(path: Path, kind: str, message: str) -> str:
    """Say what a library's message means, with the number of the row."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        expected, line, seen = found.groups()
        return (
            f"row {line} has {seen} cells, the first one {expected}; a text that holds the separator or a line break "
            'stands in "quotes", a quotation mark in it is doubled'
        )
    if found := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"a quotation mark is opened in row {int(found[1]) + 1} and never closed"
    if "No columns to parse" in message:
        return "it has no columns"
    if "corresponds to no data" in message:
        return "it has names of columns and no rows"
    if kind == "json":
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    if line.strip() and not isinstance(row := json.loads(line), dict):
                        return f'line {number} is {row!r:.40}; expected an object such as {{"text": "…", "label": "…"}}'
                except ValueError as error:
                    return f"line {number} is not JSON: {error}"
                if re.search(r"[\ud800-\udfff]", json.dumps(line.strip() and row, ensure_ascii=False)):
                    return f"line {number} holds half of a surrogate pair, a character that cannot be written"
    return message or "it is damaged"


def _label_names(table: datasets.Dataset, label: str, path: Path, first: int) -> list[str]:
    """Return the labels as they will be called; "" where there is none."""
    values, feature = table[label][:], table.features[label]
    if hasattr(feature, "int2str"):  # a file that `datasets` wrote, with names for its numbers
        return ["" if value is None or value < 0 else feature.int2str(value) for value in values]
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, (str, int, float)):
            raise ValueError(
                f"{path}, row {i + first}: {label!r} is {value!r:.60}; expected one class, as a text or a number"
            )
    whole = all(value is None or float(value).is_integer() for value in values if not isinstance(value, str))
    return ["" if v is None else str(int(v) if isinstance(v, float) and whole else v).strip() for v in values]


# ----------------------------------------------------------------------------------------------------------- splits


def text_key(text: str) -> str:
    """Return what copies of a text have in common: a hash of its letters and digits, or of itself if it has none."""
    return hashlib.sha256((normal_form(text) or text.strip()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Splits:
    """Which of the texts are for what; copies of a text are together."""

    where: np.ndarray  # (N,) "train", "validation" or "test", for each text of the file
    keys: list[str]  # see text_key; copies have the same
    contradictions: list[tuple[int, int]]  # rows of copies with different labels: the first, and one that differs
    rare: dict[str, int]  # classes that are only learned from -> a row of theirs

    @cached_property
    def indices(self) -> dict[str, np.ndarray]:
        """Of each split the positions of its texts in the file, (n,)."""
        return {name: np.flatnonzero(self.where == name) for name in SPLIT_NAMES}

    @property
    def copies(self) -> int:
        """How many texts repeat an earlier one."""
        return len(self.keys) - len(set(self.keys))

    def check(self, names: Sequence[str]) -> None:
        """Refuse splits from which nothing can be learned or measured.

        Raises:
            ValueError: fewer than two classes are in all three.
        """
        if len(names) - len(self.rare) < 2:
            raise ValueError(
                "at least two classes need three different texts each, to learn from, to choose by and to test on; of "
                f"these {len(names)} classes {len(names) - len(self.rare)} have them. Add texts"
            )


def split(file: LabelledFile, seed: int = 0) -> Splits:
    """Return splits of about 80, 10 and 10 % of each class, chosen by the hash of the texts.

    Copies, also such as differ in case, punctuation and blanks alone, are together in one split. A class with fewer
    than three different texts is in ``train`` alone.
    """
    keys = [text_key(text) for text in file.texts]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    of_class: dict[str, list[str]] = defaultdict(list)
    for key, members in groups.items():
        of_class[file.labels[members[0]]].append(key)
    place = dict.fromkeys(groups, "train")
    rare = {}
    for name, members in of_class.items():
        ordered = sorted(members, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
        if len(ordered) < 3:
            rare[name] = int(file.rows[groups[ordered[0]][0]])
            continue
        begin = 0
        for where, share in HELD_OUT.items():
            end = begin + max(1, round(share * len(ordered)))
            place |= dict.fromkeys(ordered[begin:end], where)
            begin = end
    differ = [
        (int(file.rows[members[0]]), int(file.rows[i]))
        for members in groups.values()
        for i in members
        if file.labels[i] != file.labels[members[0]]
    ]
    return Splits(np.array([place[key] for key in keys]), keys, differ, rare)


def class_counts(labels: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return how often each class occurs."""
    counts = Counter(labels)
    return {name: counts[name] for name in names}
