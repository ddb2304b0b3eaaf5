"""From texts to batches of token ids: files of tokens, rows of equal or own length, masking, span corruption.

In: texts and a tokenizer. Out: dicts of tensors with ``input_ids``, ``labels`` and, where needed, ``attention_mask``.
Which rows form a batch, and what is masked in them, is a function of seed and step alone. So training can stop at any
step and go on with the same batches, on any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
import torch
from torch import Tensor

from plm_tutorial.objectives import IGNORED

Batch = dict[str, Tensor]

# ------------------------------------------------------------------------------------------------- the file of tokens


@dataclass(frozen=True)
class TokenFile:
    """Documents as one long array of token ids on disk, of which only what is used is read into memory."""

    path: Path
    tokens: np.ndarray  # (N,) uint16 or uint32, memory-mapped; each document ends with end_id
    starts: np.ndarray  # (documents + 1,) int64: where each begins, and N
    vocab_size: int
    end_id: int
    sha256: str  # of the tokens

    @classmethod
    def open(cls, path: str | Path) -> TokenFile:
        """Open what :func:`write_tokens` wrote.

        Raises:
            ValueError: the folder is no file of tokens, or is damaged.
        """
        path = Path(path)
        try:
            about = json.loads((path / "tokens.json").read_text(encoding="utf-8"))
            tokens = np.memmap(path / "tokens.bin", dtype=about["dtype"], mode="r")
            starts = np.load(path / "documents.npy", allow_pickle=False)
            opened = cls(path, tokens, starts, about["vocab_size"], about["end_id"], about["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of tokens ({error}); make it again with write_tokens") from error
        if len(tokens) != about["n_tokens"] or len(starts) != about["n_documents"] + 1 or starts[-1] != len(tokens):
            raise ValueError(
                f"{path} should hold {about['n_tokens']} tokens of {about['n_documents']} documents and has "
                f"{len(tokens)} of {len(starts) - 1}: it is damaged; make it again with write_tokens"
            )
        return opened


def write_tokens(
    texts: Iterable[str], tokenizer: tokenizers.Tokenizer, path: str | Path, *, end_id: int, at_once: int = 1000
) -> TokenFile:
    """Tokenize texts, a part at a time, into a new folder; nothing is left behind if it is interrupted.

    Args:
        texts: the documents, in the order in which they are stored; may be a generator.
        tokenizer: called without its special tokens.
        path: the folder to make. An existing file of tokens is replaced, anything else is refused.
        end_id: the id that ends each document.
        at_once: texts held in memory at a time.

    Raises:
        ValueError: there is no text, ``end_id`` is no token of the tokenizer, or ``path`` is something else.
    """
    path, vocab_size = Path(path), tokenizer.get_vocab_size()
    if not 0 <= end_id < vocab_size:
        raise ValueError(f"end_id is {end_id}; the tokenizer's ids go from 0 to {vocab_size - 1}")
    if path.exists() and not (path / "tokens.json").is_file():
        raise ValueError(f"{path} exists and is no file of tokens; pass another folder, or remove it first")
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        starts, digest = [0], hashlib.sha256()
        with open(part / "tokens.bin", "wb") as stream:
            for some in _parts(texts, at_once):
                for encoding in tokenizer.encode_batch(some, add_special_tokens=False):
                    data = np.array([*encoding.ids, end_id], dtype).tobytes()
                    starts.append(starts[-1] + len(data) // dtype.itemsize)
                    digest.update(data)
                    stream.write(data)
        if len(starts) == 1:
            raise ValueError("there are no texts to tokenize; pass at least one document")
        np.save(part / "documents.npy", np.array(starts, np.int64))
        about = {"n_tokens": starts[-1], "n_documents": len(starts) - 1, "dtype": dtype.name, "end_id": end_id}
        about |= {"vocab_size": vocab_size, "sha256": digest.hexdigest()}
        (part / "tokens.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return TokenFile.open(path)


def _parts(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    texts = iter(texts)
    while part := list(islice(texts, size)):
        yield part


# --------------------------------------------------------------------------------------------------- rows and batches


class PackedRows:
    """Rows of equal length, cut from the documents laid end to end, for the prediction of the next token.

    Row i holds ``length`` tokens and their successors. What is left over at the end, less than a row, is not used.

    Args:
        separate: keep the documents of a row apart. No position looks into another document (``attention_mask``
            becomes (B, T, T)), and none is asked for the first token of the next one. Without it the model must find
            out by itself, from the token that ends a document, that what comes before does not matter.

    Raises:
        ValueError: there are not enough tokens for a row.
    """

    def __init__(self, file: TokenFile, length: int, *, separate: bool = False):
        if length < 1 or len(file.tokens) <= length:
            raise ValueError(f"rows of {length} tokens cannot be cut from {len(file.tokens)}; expected 1 to fewer")
        self.file, self.length, self.separate = file, length, separate

    def __len__(self) -> int:
        return (len(self.file.tokens) - 1) // self.length

    def batch(self, rows: np.ndarray) -> Batch:
        """Return rows (B,) as ``input_ids`` and ``labels``, (B, T) int64 each, and with ``separate`` a mask."""
        at = rows[:, None] * self.length + np.arange(self.length + 1)  # (B, T + 1)
        tokens = torch.from_numpy(self.file.tokens[at].astype(np.int64))
        batch = {"input_ids": tokens[:, :-1].clone(), "labels": tokens[:, 1:].clone()}
        if self.separate:
            document = torch.from_numpy(np.searchsorted(self.file.starts, at, side="right"))  # (B, T + 1)
            batch["labels"] = batch["labels"].masked_fill(document[:, 1:] != document[:, :-1], IGNORED)
            batch["attention_mask"] = (document[:, :-1, None] == document[:, None, :-1]).long()  # (B, T, T)
        return batch


CUTS = ("head", "tail", "both")  # what is kept of a text that is too long


class LongestFirst:
    """What rows of own lengths share: they can be gone through without much padding."""

    lengths: np.ndarray  # (N,)

    def by_length(self, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield all rows once, the longest first, as their numbers (B,) and a batch: for evaluation, little padding."""
        order = np.argsort(-self.lengths, kind="stable")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows, self.batch(rows)


class TextRows(LongestFirst):
    """A text a row, each as long as it is, with its label: what a classifier is trained on.

    The tokenizer's own template is put around each text, such as ``[CLS]`` and ``[SEP]``, after it has been cut. A text
    without any token is a row of the template alone.

    Args:
        labels: a class for each text, or -100 to leave it out of the loss; None: batches have no labels.
        tokenizer: with truncation and padding switched off, as ``load_tokenizer`` gives it.
        length: the most tokens of a row, template included; at most the model's context.
        cut: which part of a longer text is kept: "head", its beginning; "tail", its end; "both", a quarter from the
            beginning and the rest from the end, as in Sun et al. 2019, https://arxiv.org/abs/1905.05583, section 5.3.1.
        pad_id: stands behind shorter texts of a batch; None: the id of ``[PAD]`` or ``<pad>``, or 0.

    Raises:
        ValueError: there are no texts, not as many labels as texts, a row has no token, or a number makes no sense.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[int] | None,
        tokenizer: tokenizers.Tokenizer,
        length: int,
        *,
        cut: str = "head",
        pad_id: int | None = None,
    ):
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError("texts is a single str, or empty; expected a list of texts: TextRows([text], [label], …)")
        if cut not in CUTS:
            raise ValueError(f"cut is {cut!r}; implemented here: {', '.join(CUTS)}")
        if tokenizer.truncation is not None or tokenizer.padding is not None:
            raise ValueError("this tokenizer cuts or pads by itself; first tokenizer.no_truncation() and .no_padding()")
        before, after = _template(tokenizer)
        if (room := length - len(before) - len(after)) < 1:
            raise ValueError(f"length is {length}; expected more than the {len(before) + len(after)} of the template")
        if pad_id is None:
            known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
            pad_id = next((i for i in known if i is not None), 0)
        self.pad_id, self.labels = pad_id, None if labels is None else _class_labels(labels, len(texts))
        parts, self.n_cut = [], 0
        for some in _parts(texts, 1000):
            for encoding in tokenizer.encode_batch(some, add_special_tokens=False):
                self.n_cut += len(encoding.ids) > room
                parts.append(np.array([*before, *_cut(encoding.ids, room, cut), *after], np.int32))
        self.lengths = np.array([len(part) for part in parts])  # (N,) tokens, template included
        if not self.lengths.all():
            raise ValueError(f"text {self.lengths.argmin()} has no tokens, and the tokenizer adds none: leave it out")
        self.tokens, self.starts = np.concatenate(parts), np.concatenate([[0], self.lengths.cumsum()])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return rows (B,) as ``input_ids`` and ``attention_mask``, (B, T) int64, padded on the right to the longest.

        With labels also ``labels``, (B,).
        """
        lengths = torch.from_numpy(self.lengths[rows])  # (B,)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
        ids = torch.full(mask.shape, self.pad_id)
        texts = [self.tokens[self.starts[i] : self.starts[i + 1]] for i in rows]
        ids[mask] = torch.from_numpy(np.concatenate(texts)).long()  # row after row, as the mask has them
        batch = {"input_ids": ids, "attention_mask": mask.long()}
        return batch if self.labels is None else batch | {"labels": torch.from_numpy(self.labels[rows])}


def _template(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text."""
    for probe in ("a", "1", "the"):  # any text that has a token
        bare, whole = (tokenizer.encode(probe, add_special_tokens=add).ids for add in (False, True))
        for at in range(len(whole) - len(bare) + 1):
            if bare and whole[at : at + len(bare)] == bare:
                return whole[:at], whole[at + len(bare) :]
    raise ValueError("the tokenizer has no token for 'a', '1' or 'the': what does it put around a text?")


def _cut(ids: list[int], room: int, cut: str) -> list[int]:
    if len(ids) <= room:
        return ids
    from_start = {"head": room, "tail": 0, "both": room // 4}[cut]
    return ids[:from_start] + ids[len(ids) - (room - from_start) :]


def _class_labels(labels: Sequence[int], n: int) -> np.ndarray:
    made = np.asarray(labels)
    if made.shape != (n,) or made.dtype.kind not in "iub":
        raise ValueError(f"labels have shape {made.shape} and type {made.dtype}; expected {n} whole numbers")
    if wrong := [i for i, label in enumerate(made.tolist()) if label < 0 and label != IGNORED]:
        raise ValueError(f"label {wrong[0]} is {made[wrong[0]]}; expected a class, 0 or more, or {IGNORED}")
    return made.astype(np.int64)


class MarkedRows(LongestFirst):
    """Token rows of own length, with a loss on some of their tokens alone: on replies, but not on what was asked.

    Args:
        ids: the tokens of each row.
        marked: for each row as many bools, True for the tokens that the model should learn to write. The first token
            of a row has nothing before it from which it could be predicted, and never counts.
        length: rows that are longer are left out, whole; ``n_left_out`` says how many.
        pad_id: stands behind shorter rows of a batch.

    Raises:
        ValueError: there are no rows, ids and marks do not fit, or no row that is short enough has a marked token.
    """

    def __init__(self, ids: Sequence[Sequence[int]], marked: Sequence[Sequence[bool]], length: int, *, pad_id: int = 0):
        if [len(row) for row in ids] != [len(row) for row in marked]:
            raise ValueError("ids and marked differ in shape; expected a bool for each token of each row")
        self.pad_id = pad_id
        rows = [(row, marks) for row, marks in zip(ids, marked, strict=True) if 2 <= len(row) <= length]
        self.n_left_out = len(ids) - len(rows)
        self.rows = [(torch.tensor(row), torch.tensor(marks)) for row, marks in rows]
        self.lengths = np.array([len(row) - 1 for row, _ in rows])  # (N,) tokens that are read
        if not any(marks[1:].any() for _, marks in self.rows):
            raise ValueError(
                f"of {len(ids)} rows none with 2 to {length} tokens has one that is marked and can be predicted"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return rows (B,) as ``input_ids``, ``attention_mask`` and ``labels``, (B, T) int64, padded on the right.

        T is one less than the longest row has tokens: its last one is only predicted.
        """
        shape = len(rows), int(self.lengths[rows].max())
        batch = {"input_ids": torch.full(shape, self.pad_id), "attention_mask": torch.zeros(shape, dtype=torch.int64)}
        batch["labels"] = torch.full(shape, IGNORED)
        for at, i in enumerate(rows):
            ids, marks = self.rows[i]
            n = len(ids) - 1
            batch["input_ids"][at, :n] = ids[:-1]
            batch["attention_mask"][at, :n] = 1
            batch["labels"][at, :n] = ids[1:].masked_fill(~marks[1:], IGNORED)
        return batch


class Rows(Protocol):
    """What :class:`Batches` takes rows from; with ``lengths`` they can be put into buckets."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray) -> Batch: ...


class Batches:
    """The batches of a training run: ``batches[step]``, a function of seed and step alone.

    Each epoch goes once through the rows in a new random order. Batches may cross the border between epochs, so that
    all have the same size.

    Args:
        rows: has a length and ``batch(rows) -> Batch``, such as :class:`PackedRows` or :class:`TextRows`.
        size: rows of a batch, over all processes together.
        seed: of the order, and of the generator that ``change`` draws from.
        change: what is done to each batch, such as masking: (batch, generator) -> batch.
        rank, world: this process gets the rank-th of ``world`` equal parts of each batch.
        bucket: sort the rows of so many batches by length, so that rows of a batch are about equally long and little is
            padding; then mix the batches. 0: batches are formed of any rows, as an epoch's random order has them. The
            more, the less padding, and the less random are the batches.
    """

    def __init__(
        self,
        rows: Rows,
        size: int,
        *,
        seed: int = 0,
        change: Callable[[Batch, torch.Generator], Batch] | None = None,
        rank: int = 0,
        world: int = 1,
        bucket: int = 0,
    ):
        if size < 1 or size % world:
            raise ValueError(f"a batch of {size} rows cannot be split evenly over {world} processes")
        if bucket < 0 or bucket and not hasattr(rows, "lengths"):
            raise ValueError(f"bucket is {bucket}; expected 0 or more, and 0 for rows that are all equally long")
        self.rows, self.size, self.seed, self.change, self.bucket = rows, size, seed, change, bucket
        self.rank, self.world = rank, world
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, step: int) -> Batch:
        positions = np.arange(step * self.size, (step + 1) * self.size)
        chosen = np.array([self._epoch(i // len(self.rows))[i % len(self.rows)] for i in positions])
        batch = self.rows.batch(chosen)
        if self.change is not None:  # of the whole batch, so that its draws do not depend on the number of processes
            batch = self.change(batch, torch.Generator().manual_seed(_mix(self.seed, step)))
        part = self.size // self.world
        return {name: value[self.rank * part : (self.rank + 1) * part] for name, value in batch.items()}

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            order = generator.permutation(len(self.rows))
            self._order = (epoch, self._bucketed(order, epoch, generator) if self.bucket else order)
        return self._order[1]

    def _bucketed(self, order: np.ndarray, epoch: int, generator: np.random.Generator) -> np.ndarray:
        """Return an epoch's order with rows of about equal length together, where its batches begin and end."""
        first = min(-epoch * len(order) % self.size, len(order))  # rows that fill up the last batch of the epoch before
        begin, rest = order[:first], order[first:]
        pools = [rest[i : i + self.bucket * self.size] for i in range(0, len(rest), self.bucket * self.size)]
        pools = [pool[np.argsort(self.rows.lengths[pool], kind="stable")] for pool in pools]
        batches = [pool[i : i + self.size] for pool in pools for i in range(0, len(pool), self.size)]
        last = [batches.pop()] if batches and len(batches[-1]) < self.size else []  # goes on in the next epoch
        mixed = [batches[i] for i in generator.permutation(len(batches))]
        return np.concatenate([begin, *mixed, *last])


def _mix(*numbers: int) -> int:
    """Return one seed for several numbers, so that neighbours do not get related streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ------------------------------------------------------------------------------------------------------------ masking


@dataclass(frozen=True)
class Masking:
    """Hide some tokens of each row; the labels are the hidden ones, all others are IGNORED.

    Of the chosen positions, ``keep`` stay as they are, ``random`` get a random token, the rest the mask. Source:
    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1. Called anew for each batch, this is the dynamic
    masking of Liu et al. 2019, https://arxiv.org/abs/1907.11692, section 4.1.
    """

    mask_id: int
    vocab_size: int
    special_ids: Collection[int] = ()  # never chosen, never put in
    rate: float = 0.15
    keep: float = 0.1
    random: float = 0.1
    continues: Tensor | None = None  # (V,) bool, True if a token continues a word: then whole words are chosen

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and 0 <= self.keep and 0 <= self.random and self.keep + self.random <= 1):
            raise ValueError(
                f"rate is {self.rate}, keep {self.keep}, random {self.random}; expected a rate above 0 and at most 1, "
                "and two shares that are not negative and add up to at most 1"
            )
        if self.continues is not None and self.continues.shape != (self.vocab_size,):
            raise ValueError(f"continues has shape {tuple(self.continues.shape)}; expected ({self.vocab_size},)")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with tokens hidden, as drawn by the generator, and labels (B, T)."""
        ids = batch["input_ids"]  # (B, T)
        special = torch.tensor(sorted(self.special_ids), dtype=torch.int64)
        free = ~torch.isin(ids, special)
        if "attention_mask" in batch and batch["attention_mask"].dim() == 2:
            free &= batch["attention_mask"].bool()
        chosen = self._draw(ids, generator) & free  # (B, T)
        fate = torch.rand(ids.shape, generator=generator)  # (B, T)
        ordinary = torch.ones(self.vocab_size, dtype=torch.bool)
        ordinary[special] = False
        candidates = ordinary.nonzero().squeeze(1)  # ids that may be put in
        other = candidates[torch.randint(len(candidates), ids.shape, generator=generator)]  # (B, T)
        hidden = torch.where(fate < self.keep, ids, torch.where(fate < self.keep + self.random, other, self.mask_id))
        return batch | {
            "input_ids": torch.where(chosen, hidden, ids),
            "labels": torch.where(chosen, ids, IGNORED),
        }

    def _draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return which positions (B, T) are drawn, special ones included: each word, or token, with the same chance."""
        if self.continues is None:
            return torch.rand(ids.shape, generator=generator) < self.rate
        begins = ~self.continues[ids]  # (B, T)
        begins[:, 0] = True
        word = begins.cumsum(1) - 1  # (B, T): number of the word that a token belongs to
        return (torch.rand(ids.shape, generator=generator) < self.rate).gather(1, word)


# ----------------------------------------------------------------------------------------------------- span corruption


@dataclass(frozen=True)
class SpanCorruption:
    """Replace spans of each row by one sentinel each; the target names the sentinels and what they stand for.

    The number of spans and of noise tokens depends on the row's length alone, so that all rows stay equally long.
    Source: Raffel et al. 2019, https://arxiv.org/abs/1910.10683, section 3.1.4, and the code published with it.
    """

    sentinel_ids: tuple[int, ...]  # in the order of their use
    end_id: int  # ends input and target
    start_id: int  # begins the decoder's input
    rate: float = 0.15
    mean_length: float = 3.0

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return input_ids (B, T'), decoder_input_ids (B, U) and labels (B, U), with spans drawn by the generator."""
        rows = [self._corrupt(row, generator) for row in batch["input_ids"]]
        inputs, labels = (torch.stack(part) for part in zip(*rows, strict=True))  # (B, T'), (B, U)
        start = torch.full((len(labels), 1), self.start_id)
        return {
            "input_ids": inputs,
            "decoder_input_ids": torch.cat((start, labels[:, :-1]), dim=1),  # (B, U): the target, shifted right
            "labels": labels,
        }

    def _corrupt(self, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(ids)
        noise = min(max(round(n * self.rate), 1), n - 1)
        spans = min(max(round(noise / self.mean_length), 1), noise, n - noise)
        if spans > len(self.sentinel_ids):
            raise ValueError(
                f"a row of {n} tokens needs {spans} sentinels, {len(self.sentinel_ids)} are there; shorten the rows"
            )
        kept_lengths, noise_lengths = _pieces(n - noise, spans, generator), _pieces(noise, spans, generator)
        inputs, target, at = [], [], 0
        for sentinel, kept, hidden in zip(self.sentinel_ids, kept_lengths, noise_lengths, strict=False):
            mark = torch.tensor([sentinel])
            inputs += [ids[at : at + kept], mark]
            target += [mark, ids[at + kept : at + kept + hidden]]
            at += kept + hidden
        end = torch.tensor([self.end_id])
        return torch.cat([*inputs, end]), torch.cat([*target, end])


def _pieces(total: int, n: int, generator: torch.Generator) -> list[int]:
    """Cut a length into n pieces of at least 1, every way of doing so being equally likely."""
    cuts = torch.randperm(total - 1, generator=generator)[: n - 1].sort().values + 1
    bounds = [0, *cuts.tolist(), total]
    return [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
