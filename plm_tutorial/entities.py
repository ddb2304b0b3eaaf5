"""Named entities: spans in a text, the tags that spell them out, and their way through a tokenizer.

In: texts with spans of characters, and a tokenizer with offsets. Out: one tag for each character or token, batches for
a model that labels tokens, and from its tags the spans again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
import torch

from plm_tutorial.batches import Batch, LongestFirst
from plm_tutorial.objectives import IGNORED
from plm_tutorial.tokenizers import fast_characters

KINDS = ("PER", "LOC", "ORG")  # persons, places, organisations
OUTSIDE = "O"


class Entity(NamedTuple):
    """A named entity: the characters from ``start`` up to, not including, ``end``, and what it names."""

    start: int
    end: int
    kind: str


class Sentence(NamedTuple):
    """A text with its entities, which do not overlap and stand in order."""

    text: str
    entities: tuple[Entity, ...]


# ---------------------------------------------------------------------------------------------------------------- tags


def bio_tags(kinds: Sequence[str] = KINDS) -> list[str]:
    """Return all tags for these kinds, ``O`` first: the place of a tag in this list is its label."""
    return [OUTSIDE, *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]


def to_bio(length: int, entities: Iterable[Entity]) -> list[str]:
    """Return a tag for each of ``length`` places: B- where an entity begins, I- inside it, O elsewhere.

    Source: the second form of Tjong Kim Sang and Veenstra 1999, https://aclanthology.org/E99-1023; there IOB2.

    Raises:
        ValueError: an entity is empty, reaches beyond the text, or overlaps another one: no tags can say that.
    """
    tags = [OUTSIDE] * length
    for entity in entities:
        start, end, kind = entity
        if not 0 <= start < end <= length:
            raise ValueError(
                f"{entity} does not lie in a text of {length} places; expected 0 <= start < end <= {length}"
            )
        if any(tag != OUTSIDE for tag in tags[start:end]):
            raise ValueError(f"{entity} overlaps another entity; BIO tags can say only one thing of each place")
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def from_bio(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that a sequence of tags spells out, legal or not.

    An I- tag that continues nothing, or another kind, begins an entity, as in the scorer of the CoNLL tasks and in
    ``seqeval``.

    Raises:
        ValueError: something is no BIO tag.
    """
    found, start, kind = [], 0, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        mark, _, new = tag.partition("-")
        if mark not in ("B", "I", OUTSIDE) or (mark == OUTSIDE) == bool(new):
            raise ValueError(f"tag {i} is {tag!r}; expected O, or B- or I- followed by a kind")
        if kind and (mark != "I" or new != kind):
            found.append(Entity(start, i, kind))
            kind = ""
        if mark != OUTSIDE and not kind:
            start, kind = i, new
    return found


def may_follow(before: str, after: str) -> bool:
    """Say whether a tag may stand after another: an I- tag only after B- or I- of its own kind."""
    return not after.startswith("I-") or before in (f"B-{after[2:]}", after)


def illegal_places(tags: Sequence[str]) -> list[int]:
    """Return the places at which a tag may not stand after the one before it, or at the beginning."""
    return [i for i, (a, b) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)) if not may_follow(a, b)]


# ------------------------------------------------------------------------------------------------------ through tokens


def token_tags(offsets: Sequence[tuple[int, int]], entities: Iterable[Entity]) -> list[str | None]:
    """Return a tag for each token of a text whose entities are given in characters.

    A token that shares a character with an entity belongs to it, the first of these gets B-, the others I-. Tokens
    without characters, such as ``[CLS]``, get None: they have no label.

    Args:
        offsets: for each token the characters from which it was made, as ``tokenizers`` gives them.

    Raises:
        ValueError: two entities share a token, so that one of them would be lost.
    """
    tags: list[str | None] = [OUTSIDE if end > start else None for start, end in offsets]
    for entity in entities:
        mark = "B"
        for i, (start, end) in enumerate(offsets):
            if end > start and start < entity.end and end > entity.start:
                if tags[i] != OUTSIDE:
                    raise ValueError(f"{entity} shares the token of characters {start} to {end} with another entity")
                tags[i], mark = f"{mark}-{entity.kind}", "I"
    return tags


def token_entities(offsets: Sequence[tuple[int, int]], tags: Sequence[str | None]) -> list[Entity]:
    """Return the entities, in characters, that tags of tokens spell out; tags of tokens without characters are ignored.

    Raises:
        ValueError: there is not one tag for each token.
    """
    if len(offsets) != len(tags):
        raise ValueError(f"{len(tags)} tags for {len(offsets)} tokens; expected one each")
    kept = [(place, tag) for place, tag in zip(offsets, tags, strict=True) if place[1] > place[0] and tag is not None]
    places = [place for place, _ in kept]
    found = from_bio([tag for _, tag in kept])
    return [Entity(places[one.start][0], places[one.end - 1][1], one.kind) for one in found]


def whole_words(text: str, entities: Iterable[Entity]) -> list[Entity]:
    """Return the entities, each grown to the letters around it, so that no word is half inside; the first one wins.

    For texts with blanks between words, after a model has decided about each piece of a word by itself.
    """
    grown: list[Entity] = []
    for start, end, kind in sorted(entities):
        while start > 0 and text[start].isalnum() and text[start - 1].isalnum():
            start -= 1
        while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
            end += 1
        if not grown or start >= grown[-1].end:
            grown.append(Entity(start, end, kind))
        else:
            grown[-1] = grown[-1]._replace(end=max(end, grown[-1].end))
    return grown


class TaggedRows(LongestFirst):
    """A sentence a row, with a label for each token: what a model that labels tokens is trained on.

    Args:
        sentences: texts with their entities.
        tokenizer: with truncation and padding switched off.
        length: the most tokens of a row, template included; at most the model's context.
        kinds: of entities; the labels are the places in :func:`bio_tags` of these.
        special: put the tokenizer's template, such as ``[CLS]`` and ``[SEP]``, around each text.

    Raises:
        ValueError: there are no sentences, one is empty or too long, or an entity has another kind.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        tokenizer: tokenizers.Tokenizer,
        length: int,
        *,
        kinds: Sequence[str] = KINDS,
        special: bool = False,
    ):
        if len(sentences) == 0:
            raise ValueError("there are no sentences; expected at least one")
        if tokenizer.truncation is not None or tokenizer.padding is not None:
            raise ValueError("this tokenizer cuts or pads by itself; first tokenizer.no_truncation() and .no_padding()")
        self.tags = bio_tags(kinds)
        label = {tag: i for i, tag in enumerate(self.tags)} | {None: IGNORED}
        found = tokenizer.encode_batch([one.text for one in sentences], add_special_tokens=special)
        self.offsets = [encoding.offsets for encoding in found]  # of each token, in characters
        self.lengths = np.array([len(encoding.ids) for encoding in found])  # (N,) tokens
        for i in (self.lengths.argmin(), self.lengths.argmax()):
            if not 0 < self.lengths[i] <= length:
                raise ValueError(
                    f"sentence {i} has {self.lengths[i]} tokens; expected 1 to {length}: leave it out, or cut it"
                )
        if unknown := {one.kind for sentence in sentences for one in sentence.entities} - set(kinds):
            raise ValueError(f"there are entities of kind {sorted(unknown)[0]!r}; known are {', '.join(kinds)}")
        self.starts = np.concatenate([[0], self.lengths.cumsum()])
        self.ids = np.concatenate([np.array(encoding.ids, np.int32) for encoding in found])
        tags = (token_tags(at, one.entities) for at, one in zip(self.offsets, sentences, strict=True))
        self.labels = np.array([label[tag] for row in tags for tag in row], np.int16)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return rows (B,) as ``input_ids``, ``attention_mask`` and ``labels``, (B, T) int64, padded on the right."""
        lengths = torch.from_numpy(self.lengths[rows])  # (B,)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
        batch = {"input_ids": torch.zeros(mask.shape, dtype=torch.int64), "attention_mask": mask.long()}
        batch["labels"] = torch.full(mask.shape, IGNORED)
        at = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in rows])  # as the mask has them
        batch["input_ids"][mask] = torch.from_numpy(self.ids[at]).long()
        batch["labels"][mask] = torch.from_numpy(self.labels[at]).long()
        return batch


def character_tokenizer(texts: Iterable[str], least: int = 2) -> tokenizers.Tokenizer:
    """Return a tokenizer whose tokens are characters: those that occur ``least`` times, the most frequent first.

    Its first ids are ``[PAD]``, ``[UNK]``, ``[MASK]`` and ``[END]``. All other characters are ``[UNK]``.
    """
    counts = Counter(character for text in texts for character in text)
    kept = sorted((c for c, n in counts.items() if n >= least), key=lambda c: (-counts[c], c))
    specials = ["[PAD]", "[UNK]", "[MASK]", "[END]"]
    return fast_characters(kept, specials, "[UNK]")
