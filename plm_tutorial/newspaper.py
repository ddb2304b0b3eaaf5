"""The tagged newspaper: Chinese sentences with persons, places and organisations, split by the day they were printed.

In: the file ``word/tag  word/tag …`` from :mod:`plm_tutorial.assets`. Out: sentences with entities, in train,
validation and test parts that share no sentence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache

from plm_tutorial.entities import Entity, Sentence
from plm_tutorial.text import SPLIT_NAMES

_ASSET, _FILE = "peoples_daily", "199801.txt"
_WORD_KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}  # tags of the file -> kinds
# Family names of two characters; all others that the file writes as a word of their own have one.
_DOUBLE_NAMES = set("欧阳 诸葛 司马 司徒 南宫 令狐 上官 皇甫 尉迟 公孙 慕容 夏侯 端木".split())
LONGEST = 120  # characters of a sentence; longer ones are cut at a comma
# By position in the file, and so in the month: what is tested was printed after everything that is trained on.
NEWSPAPER_SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_ENDS = re.compile(r"[^。！？]*[。！？]+[”’』」）》]*|[^。！？]+")


def read_line(line: str) -> Sentence:
    """Return the text and the entities of a line ``word/tag  word/tag …`` of the newspaper.

    The file writes a Chinese person as two words, family name and given name: two ``nr`` in a row, the first of one
    character (or a double name such as 欧阳), are one person. Names of other forms are one word.

    Raises:
        ValueError: something is no ``word/tag``.
    """
    text, found, family = "", [], False  # family: the word before was a family name
    for token in line.split():
        word, slash, tag = token.rpartition("/")
        if not slash or not word or not tag:
            raise ValueError(f"{token!r} is not of the form word/tag")
        kind, start = _WORD_KINDS.get(tag), len(text)
        text += word
        if kind == "PER" and family:
            found[-1], family = found[-1]._replace(end=len(text)), False
        else:
            family = kind == "PER" and (len(word) == 1 or word in _DOUBLE_NAMES)
            if kind is not None:
                found.append(Entity(start, len(text), kind))
    return Sentence(text, tuple(found))


def cut_sentences(line: Sentence, longest: int = LONGEST) -> Iterator[Sentence]:
    """Yield the sentences of a line: cut behind 。！？, and where one is longer than ``longest`` behind a comma."""
    start = 0
    for piece in _ENDS.findall(line.text):
        while piece:
            size = len(piece)
            if size > longest:
                size = max(piece.rfind(mark, 0, longest) for mark in "，、；：") + 1 or longest
            end = start + size
            inside = [one for one in line.entities if start <= one.start and one.end <= end]
            yield Sentence(piece[:size], tuple(Entity(a - start, b - start, kind) for a, b, kind in inside))
            piece, start = piece[size:], end


@lru_cache(maxsize=1)
def _newspaper() -> dict[str, list[Sentence]]:
    from plm_tutorial import assets

    with open(assets.path(_ASSET, _FILE), encoding="utf-8") as stream:
        lines = [read_line(line) for line in stream]
    parts, seen, end = {}, set(), len(lines)
    for name in reversed(SPLIT_NAMES):  # the last first: a sentence that is tested is nowhere else
        start = end - round(NEWSPAPER_SPLITS[name] * len(lines)) if name != SPLIT_NAMES[0] else 0
        sentences = [sentence for line in lines[start:end] for sentence in cut_sentences(line)]
        parts[name] = [one for one in sentences if not (one.text in seen or seen.add(one.text))]
        end = start
    return parts


def newspaper(split: str) -> list[Sentence]:
    """Return the sentences of a split of the newspaper, in the order in which they were printed.

    The splits lie one after the other in the month. A sentence that occurs in a later split is not in an earlier one,
    and none occurs twice.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLIT_NAMES:
        raise ValueError(f"unknown split {split!r}; known are {', '.join(SPLIT_NAMES)}")
    return list(_newspaper()[split])


def newspaper_hashes() -> dict[str, str]:
    """Return the hash of each split, over its texts and entities: "peoples_daily/train" -> SHA-256."""
    found = {}
    for split in SPLIT_NAMES:
        digest = hashlib.sha256()
        for text, entities in newspaper(split):
            digest.update(f"{text}\t{[tuple(one) for one in entities]}\0".encode())
        found[f"{_ASSET}/{split}"] = digest.hexdigest()
    return found
