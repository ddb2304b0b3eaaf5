"""Conversations to learn from: short dialogues with a program, and questions about reviews with answers to check.

In: the files of ChatterBot's corpus, or labelled reviews. Out: conversations as lists of messages, dicts with ``role``
and ``content``, in splits that share neither a prompt nor a reply of some length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import yaml
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from plm_tutorial import assets
from plm_tutorial.text import normal_form, split_by_hash, words

ASSET = "chatterbot_corpus"
SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
ALTERNATIVES = ("computers.yml", "emotion.yml")  # what follows the first turn are several answers to it
MOST_TURNS = 6  # what comes later is left out: the longest "conversation" recites the Zen of Python
SHARED_WORDS = 5  # a reply of so many words in two conversations puts them into one split

# Left out although the file is kept: what is about death, violence, sex or drugs, and turns that break off.
_HARSH = re.compile(
    r"\b(die|dies|dead(?! sea)|death\w*|suicide|kill\w*|shot|hitler|fascist|crash|terminated|mate|testicles|drunk|"
    r"tipsy|pleasure bot|bend over|intoxicated|sinsemillia|boyfriend)\b",
    re.IGNORECASE,
)
_BROKEN = {
    *("it", "xfindspiderman", "ishal", "doyouthinkhal", "whendidteknolust", "queveutdirehal", "doesthatmakeyou"),
    *("eachyearinprobaseballthe", "ifyouareridingfakieinside", "areyouafootball"),
}


@dataclass(frozen=True)
class Dialogue:
    """A conversation of the corpus."""

    topic: str  # the name of its file
    turns: tuple[str, ...]  # the user's and the program's by turns; the user begins, the program ends
    split: str  # "train", "validation" or "test"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as messages of a chat."""
        return as_messages(self.turns)


def as_messages(turns: Sequence[str]) -> list[dict[str, str]]:
    """Return turns, the user's first, as messages with ``role`` and ``content``."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def dialogues(split: str | None = None) -> list[Dialogue]:
    """Return the filtered dialogues: of one split, or all, in the order of the files; copies are there once.

    Conversations with the same prompt, another turn of the user's, or a reply of five words or more in common are a
    group, and a group is in one split, by the hash of its texts: neither order nor seed counts.

    Raises:
        ValueError: there is no such split.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; there are: {', '.join(SPLITS)}, or None for all")
    return [one for one in _all() if split in (None, one.split)]


@cache
def _all() -> tuple[Dialogue, ...]:
    found = [(topic, turns) for topic, turns in _conversations() if _harmless(turns)]
    found = list(dict.fromkeys(found))
    return tuple(
        Dialogue(topic, turns, split)
        for (topic, turns), split in zip(found, _splits([turns for _, turns in found]), strict=True)
    )


def _conversations() -> list[tuple[str, tuple[str, ...]]]:
    """Return topic and turns of all conversations in the files, an alternative answer a conversation of its own."""
    found = []
    for file in assets.get(ASSET).files:
        content = yaml.safe_load(assets.path(ASSET, file.name).read_text(encoding="utf-8"))
        topic = file.name.removesuffix(".yml")
        for row in content["conversations"]:
            if not isinstance(row, list):  # a line whose dash is missing
                continue
            turns = [" ".join(str(turn).split()) for turn in row]
            if file.name in ALTERNATIVES:
                found += [(topic, (turns[0], answer)) for answer in turns[1:]]
            else:
                turns = turns[:MOST_TURNS]
                found.append((topic, tuple(turns[: len(turns) // 2 * 2])))
    return found


def _harmless(turns: Sequence[str]) -> bool:
    return all(normal_form(turn) not in _BROKEN | {""} and not _HARSH.search(turn) for turn in turns)


def _splits(conversations: Sequence[Sequence[str]]) -> list[str]:
    """Return the split of each conversation; those that share a key, directly or by others, have the same."""
    keys: dict[str, int] = {}
    rows, columns = [], []
    for row, turns in enumerate(conversations):
        shared = [turn for i, turn in enumerate(turns) if i % 2 == 0 or len(words(turn)) >= SHARED_WORDS]
        for key in map(normal_form, shared):
            rows.append(row)
            columns.append(len(conversations) + keys.setdefault(key, len(keys)))
    n = len(conversations) + len(keys)
    group = connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n)), directed=False)[1]
    names: dict[int, str] = {}
    for row, turns in enumerate(conversations):
        name = normal_form(turns[0])
        names[group[row]] = min(names.get(group[row], name), name)
    return [split_by_hash(f"dialogues 1\n{names[group[row]]}", SPLITS) for row in range(len(conversations))]


def dialogue_table() -> list[dict]:
    """Return a row for each split: conversations, different prompts, replies, words of replies, and a hash."""
    rows = []
    for split in SPLITS:
        some = dialogues(split)
        replies = [turn for one in some for turn in one.turns[1::2]]
        digest = hashlib.sha256("\n".join("\t".join(one.turns) for one in some).encode()).hexdigest()
        rows.append(
            {
                "split": split,
                "conversations": len(some),
                "prompts": len({one.turns[0] for one in some}),
                "replies": len(replies),
                "words of a reply": float(np.mean([len(words(reply)) for reply in replies])),
                "sha256": digest,
            }
        )
    return rows


# -------------------------------------------------------------------------------------- replies that can be checked

JUDGE = "You judge film reviews."  # the system's message; short, because each conversation pays for it
QUESTION = "Did the author of this review like the film? Answer yes or no."
ANSWERS = ("No.", "Yes.")  # by the review's label


def review_chat(text: str, label: int | None = None) -> list[dict[str, str]]:
    """Return a conversation in which the user shows a review and asks what its author thought.

    Args:
        label: 0 blame, 1 praise; the reply says so. None: the reply is still to come.
    """
    asked = [{"role": "system", "content": JUDGE}, {"role": "user", "content": f"{text}\n\n{QUESTION}"}]
    return asked if label is None else [*asked, {"role": "assistant", "content": ANSWERS[label]}]


def said(reply: str) -> int | None:
    """Return what a reply says: 1 for yes, 0 for no, None if it says neither.

    Counted is a first word "yes" or "no", and else a sentence that says "liked" or "did not like", which is how an
    untrained model answers.
    """
    found = words(reply)
    if found[:1] in (["yes"], ["no"]):
        return int(found[0] == "yes")
    text = " ".join(found)
    if re.search(r"\b(not|didn t|never) (really |particularly )?like|\bdisliked?\b", text):
        return 0
    return 1 if re.search(r"\b(liked|did like|loved|enjoyed)\b", text) else None
