"""From texts to batches of token ids: a file of tokens, rows of equal length, masking, span corruption.

In: texts and a tokenizer. Out: dicts of tensors with ``input_ids``, ``labels`` and, where needed, ``attention_mask``.
Which rows form a batch, and what is masked in them, is a function of seed and step alone. So training can stop at any
step and go on with the same batches, on any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

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


class Batches:
    """The batches of a training run: ``batches[step]``, a function of seed and step alone.

    Each epoch goes once through the rows in a new random order. Batches may cross the border between epochs, so that
    all have the same size.

    Args:
        rows: has a length and ``batch(rows) -> Batch``, such as :class:`PackedRows`.
        size: rows of a batch, over all processes together.
        seed: of the order, and of the generator that ``change`` draws from.
        change: what is done to each batch, such as masking: (batch, generator) -> batch.
        rank, world: this process gets the rank-th of ``world`` equal parts of each batch.
    """

    def __init__(
        self,
        rows: PackedRows,
        size: int,
        *,
        seed: int = 0,
        change: Callable[[Batch, torch.Generator], Batch] | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        if size < 1 or size % world:
            raise ValueError(f"a batch of {size} rows cannot be split evenly over {world} processes")
        self.rows, self.size, self.seed, self.change = rows, size, seed, change
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
            self._order = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.rows)))
        return self._order[1]


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
