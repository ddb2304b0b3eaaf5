"""Extractive question answering: rows of a question and a passage, and the best span of an encoder's two scores.

In: questions and passages, for training also where the answer stands. Out: batches for an encoder with the head "span",
and for each question the span of its passage that the model takes for the answer. A passage that is too long is read in
windows that overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn

from plm_tutorial.objectives import LossSum, token_loss


@dataclass(frozen=True)
class Span:
    """A part of a passage."""

    start: int  # of its first character
    end: int  # behind its last
    text: str
    score: float  # the logit of its first token as a beginning, plus that of its last as an end


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    first: int  # of the window's tokens in the row
    offsets: list[tuple[int, int]]  # characters of the passage, for each of the window's tokens
    label: tuple[int, int]  # positions in the row; (0, 0), the row's [CLS]: no answer in this window


class SpanRows:
    """Rows ``[CLS] question [SEP] window of a passage [SEP]``, the second part of token type 1.

    Args:
        questions, passages: as many of both.
        answers: characters (start, end) of the answer in its passage, for training; None: not known.
        tokenizer: the encoder's own, whose template for pairs is used.
        length: the most tokens of a row.
        overlap: tokens that a window shares with the one before. An answer of at most so many tokens is whole in one of
            them.

    Attributes:
        owner: the number of each row's question, (R,).
        lengths: tokens of each row, (R,).

    Raises:
        ValueError: the numbers differ, a text is empty, an answer lies outside its passage, or a question leaves no
            room for a window.
    """

    def __init__(
        self,
        questions: Sequence[str],
        passages: Sequence[str],
        answers: Sequence[tuple[int, int]] | None,
        tokenizer: tokenizers.Tokenizer,
        length: int,
        overlap: int = 32,
    ):
        if len(questions) != len(passages) or answers is not None and len(answers) != len(questions):
            n_answers = "no" if answers is None else len(answers)
            raise ValueError(f"there are {len(questions)} questions, {len(passages)} passages, {n_answers} answers")
        if not len(questions):
            raise ValueError("there is no question")
        self.passages = list(passages)
        self.pad_id = tokenizer.token_to_id("[PAD]") or 0
        markers = [tokenizer.token_to_id(marker) for marker in ("[CLS]", "[SEP]")]
        if None in markers:
            raise ValueError("the tokenizer has no [CLS] and [SEP]; pass that of an encoder of BERT's kind")
        asked = tokenizer.encode_batch(list(questions), add_special_tokens=False)
        read = tokenizer.encode_batch(self.passages, add_special_tokens=False)
        self.rows: list[_Row] = []
        owner = []
        for i, (question, passage) in enumerate(zip(asked, read, strict=True)):
            head = [markers[0], *_kept(question).ids, markers[1]]
            answer = None if answers is None else self._tokens(i, answers[i], _kept(passage).offsets)
            for row in _windows(head, _kept(passage), markers[1], length, overlap, answer, i):
                self.rows.append(row)
                owner.append(i)
        self.owner = np.array(owner)
        self.lengths = np.array([len(row.ids) for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """Return input_ids, attention_mask, token_type_ids, each (B, T), and labels (B, 2): where the answer is."""
        chosen = [self.rows[i] for i in rows]
        T = max(len(row.ids) for row in chosen)
        ids = torch.full((len(chosen), T), self.pad_id)
        mask, kinds = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, row in enumerate(chosen):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            mask[i, : len(row.ids)] = 1
            kinds[i, row.first : len(row.ids)] = 1
        labels = torch.tensor([row.label for row in chosen])
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "labels": labels}

    def _tokens(self, i: int, answer: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the first and the last token of an answer given in characters."""
        start, end = answer
        if not 0 <= start < end <= len(self.passages[i]):
            raise ValueError(
                f"answer {i} is {answer}; expected characters of its passage, which has {len(self.passages[i])}"
            )
        inside = [t for t, (a, b) in enumerate(offsets) if a < end and b > start]
        if not inside:
            raise ValueError(f"answer {i}, {self.passages[i][start:end]!r}, has no token")
        return inside[0], inside[-1]


def _kept(encoding: tokenizers.Encoding) -> tokenizers.Encoding:
    """Return an encoding without the padding that a tokenizer may add to a batch."""
    n = sum(encoding.attention_mask)
    if n < len(encoding.ids):
        encoding.truncate(n)
    return encoding


def _windows(head, passage, sep, length, overlap, answer, i):
    room = length - len(head) - 1
    if not passage.ids:
        raise ValueError(f"passage {i} is empty")
    if room <= overlap:
        raise ValueError(
            f"question {i} has {len(head)} tokens with its markers; rows of {length} leave no room for windows that "
            f"overlap by {overlap}: make the rows longer"
        )
    starts = [0]
    while starts[-1] + room < len(passage.ids):
        starts.append(starts[-1] + room - overlap)
    for start in starts:
        ids = passage.ids[start : start + room]
        label = (0, 0)
        if answer is not None and start <= answer[0] and answer[1] < start + len(ids):
            label = (len(head) + answer[0] - start, len(head) + answer[1] - start)
        offsets = passage.offsets[start : start + room]
        yield _Row([*head, *ids, sep], len(head), offsets, label)


def predict_spans(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
    """Return the loss of an encoder with the head "span": minus log of the probability of the right beginning and end.

    Each is a choice among the positions of the row, padding excluded; a row counts two labels. Source: Devlin et al.
    2019, https://arxiv.org/abs/1810.04805, section 4.2.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs)  # (B, T, 2)
    hidden = batch["attention_mask"][..., None] == 0  # (B, T, 1)
    logits = logits.float().masked_fill(hidden, torch.finfo(torch.float32).min)
    return token_loss(logits.transpose(1, 2), batch["labels"])  # (B, 2, T), (B, 2)


def best_span(starts: Tensor, ends: Tensor, max_tokens: int) -> tuple[int, int, float]:
    """Return the legal span with the highest sum of logits: (first, last, score), first ≤ last < first + max_tokens.

    Args:
        starts, ends: the logits of each token as the beginning and as the end of the answer, (S,).

    Raises:
        ValueError: there is no token, the lengths differ, or ``max_tokens`` is less than 1.
    """
    if starts.dim() != 1 or starts.shape != ends.shape or not len(starts):
        raise ValueError(
            f"starts and ends have the shapes {tuple(starts.shape)}, {tuple(ends.shape)}; expected (S,) twice"
        )
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; expected at least 1")
    S = len(starts)
    legal = torch.ones(S, S, dtype=torch.bool, device=starts.device).triu().tril(max_tokens - 1)  # (S, S)
    scores = (starts[:, None] + ends[None, :]).masked_fill(~legal, -torch.inf)  # (S, S), a row a beginning
    best = int(scores.argmax())
    return best // S, best % S, float(scores.flatten()[best])


@torch.no_grad()
def find_spans(model: nn.Module, rows: SpanRows, max_tokens: int = 12, size: int = 32) -> list[Span]:
    """Return for each question the best span over all windows of its passage.

    Args:
        model: an encoder with the head "span", in eval mode.
        max_tokens: the most tokens of an answer.
        size: windows of a batch.
    """
    device = next(model.parameters()).device
    best: dict[int, Span] = {}
    order = np.argsort(rows.lengths, kind="stable")
    for chunk in np.array_split(order, -(-len(order) // size)):
        batch = {name: value.to(device) for name, value in rows.batch(chunk).items() if name != "labels"}
        logits = model(**batch).float().cpu()  # (B, T, 2)
        for i, scores in zip(chunk.tolist(), logits, strict=True):
            row, owner = rows.rows[i], int(rows.owner[i])
            window = scores[row.first : row.first + len(row.offsets)]  # (S, 2)
            first, last, score = best_span(window[:, 0], window[:, 1], max_tokens)
            start, end = row.offsets[first][0], row.offsets[last][1]
            if owner not in best or score > best[owner].score:
                best[owner] = Span(start, end, rows.passages[owner][start:end], score)
    return [best[i] for i in range(len(rows.passages))]
