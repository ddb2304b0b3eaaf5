"""What texts cost under a language model: bits per byte, perplexity, scoring of whole texts.

In: log-probabilities, or a model that returns logits. Out: numbers, one a text or one for all. Costs are in nats
(natural logarithm) until the last step, positive, the lower the better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

# ---- Cost of a text --------------------------------------------------------------------------------------------------


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Return the cost of a text in bits for each byte of its UTF-8 form: total_nats / (ln 2 * n_bytes).

    Tokens differ from model to model and bytes do not, so this compares models with different tokenizers. It is what a
    file compressed with the model would take, against the 8 bits a byte that it takes now.

    Args:
        total_nats: -sum of log p over all tokens of the text.
        n_bytes: ``len(text.encode())``, summed over the texts.

    Raises:
        ValueError: no byte, or a negative cost (a sum of log-probabilities whose sign was not turned).
    """
    if n_bytes < 1:
        raise ValueError(f"n_bytes is {n_bytes}; a text of at least one byte is needed")
    if not total_nats >= 0:
        raise ValueError(f"total_nats is {total_nats}; pass -sum(log p), which is never negative")
    return total_nats / (math.log(2) * n_bytes)


def perplexity(mean_nats: float) -> float:
    """Return exp(mean cost of a token): the size of a uniform choice that is as hard. Depends on the tokenizer.

    Raises:
        ValueError: the cost is negative.
    """
    if not mean_nats >= 0:
        raise ValueError(f"mean_nats is {mean_nats}; pass -mean(log p), which is never negative")
    return float(np.exp(mean_nats))


def corpus_bits_per_byte(rows: np.ndarray) -> float:
    """Return the bits per byte of all texts together, from rows of (nats, bytes), (N, 2): a statistic to bootstrap.

    Not the mean of the texts' own ratios: in that mean a review of one line counts as much as one of two pages.
    """
    nats, n_bytes = np.asarray(rows).sum(axis=0)
    return bits_per_byte(nats, n_bytes)


# ---- Scoring texts with a neural model -------------------------------------------------------------------------------


class TextScores(NamedTuple):
    """What each text cost; the arrays have one entry a text."""

    nats: np.ndarray  # float64, -sum log p of the text's tokens
    n_bytes: np.ndarray  # int64, of the UTF-8 form
    n_tokens: np.ndarray  # int64


class Window(NamedTuple):
    """A stretch of one text that the model sees at once."""

    text: int  # which text
    inputs: np.ndarray  # (T,) ids
    targets: np.ndarray  # (T,) ids: the one that follows each input
    n_context: int  # the first targets, which an earlier window has scored


def score_texts(
    model: Callable[[torch.Tensor], torch.Tensor],
    tokenizer: Any,
    texts: Sequence[str],
    context_length: int,
    stride: int | None = None,
    *,
    bos_id: int | None = None,
    batch_tokens: int = 2048,
    device: str | torch.device | None = None,
) -> TextScores:
    """Return what each text costs under a causal model, every token scored exactly once.

    A text that does not fit is read in windows of ``context_length`` ids that start ``stride`` ids apart; each window
    scores only what the one before did not, so that every token but the first ones is predicted from more than
    ``context_length - stride`` ids. A small stride costs time and lowers the result; report it with the number.

    The first token has nothing before it. With ``bos_id`` it is predicted from that token, which itself costs nothing;
    without, it costs log V, as if drawn from the uniform distribution: leaving it out would leave its bytes unpaid.

    Args:
        model: called as ``model(ids)`` with (B, T) int64, returns logits (B, T, V); position t must not see what
            comes after t, since shorter windows are padded on the right. A module is put in eval mode meanwhile.
        tokenizer: ``encode(text)`` and ``decode(ids)`` of ours or of the ``tokenizers`` library. It must be lossless:
            a lower-casing tokenizer would be paid for bytes that it never had to predict.
        context_length: the longest input the model is given.
        stride: from 1 to ``context_length``; half of it by default.
        batch_tokens: how many ids, padding included, are scored at once; memory for about three times batch_tokens * V
            floats is needed.
        device: where the ids are put; where the module's weights are by default.

    Raises:
        ValueError: no text, an empty text, a text that the tokenizer does not give back, a stride out of range.
    """
    stride = max(1, context_length // 2) if stride is None else stride
    if not 1 <= stride <= context_length:
        raise ValueError(f"stride is {stride} and context_length {context_length}; need 1 <= stride <= context_length")
    ids = _encode(tokenizer, texts)
    windows = [w for i, text_ids in enumerate(ids) for w in split_windows(i, text_ids, context_length, stride, bos_id)]
    nats = np.zeros(len(texts))
    vocab_size = None
    for batch in _batches(windows, batch_tokens):
        costs, vocab_size = _score_windows(model, batch, device)
        np.add.at(nats, [window.text for window in batch], costs)
    if bos_id is None:
        nats += math.log(vocab_size if vocab_size is not None else _vocab_size(model, ids[0], device))
    return TextScores(nats, np.array([len(t.encode()) for t in texts]), np.array([len(i) for i in ids]))


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, no special tokens added, after checking that they say all of it."""
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts is {texts!r:.60}; pass a list of at least one text")
    # The library's tokenizers add special tokens, and drop them from what they decode, unless told otherwise.
    library = type(tokenizer).__module__.startswith("tokenizers")
    ids = []
    for number, text in enumerate(texts):
        if not text:
            raise ValueError(f"text {number} is empty, so it has no cost for a byte; leave empty texts out")
        found = tokenizer.encode(text, add_special_tokens=False).ids if library else list(tokenizer.encode(text))
        back = tokenizer.decode(found, skip_special_tokens=False) if library else tokenizer.decode(found)
        if back != text:
            raise ValueError(
                f"text {number} is {text!r:.60}, but its ids decode to {back!r:.60}; bits per byte need a "
                "tokenizer that loses nothing, such as a byte-level BPE"
            )
        ids.append(found)
    return ids


def split_windows(
    text: int, ids: Sequence[int], context_length: int, stride: int, bos_id: int | None = None
) -> list[Window]:
    """Cut one text into windows so that each of its ids, but the first if there is no BOS, is a target once.

    The first window scores all its targets, each later one its last ``stride``, or what is left.
    """
    sequence = np.array([*([] if bos_id is None else [bos_id]), *ids], dtype=np.int64)
    windows, scored, start = [], 1, 0  # sequence[0] is given, or paid for elsewhere
    while scored < len(sequence):
        end = min(start + context_length, len(sequence) - 1)
        windows.append(Window(text, sequence[start:end], sequence[start + 1 : end + 1], scored - 1 - start))
        scored, start = end + 1, start + stride
    return windows


def _batches(windows: Iterable[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Yield groups of windows of similar length, the longest first: if memory runs out, it does so at once."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: -len(w.inputs)):
        if batch and (len(batch) + 1) * len(batch[0].inputs) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score_windows(model: Callable, batch: list[Window], device: Any) -> tuple[np.ndarray, int]:
    """Return the cost in nats of what each window has to score, and V."""
    import torch

    inputs = np.zeros((len(batch), len(batch[0].inputs)), dtype=np.int64)  # what stands in the padding is never seen
    targets = np.full_like(inputs, -100)
    for row, window in enumerate(batch):
        inputs[row, : len(window.inputs)] = window.inputs
        targets[row, window.n_context : len(window.targets)] = window.targets[window.n_context :]
    logits = _logits(model, inputs, device)  # (B, T, V)
    wanted = torch.from_numpy(targets).to(logits.device)
    kept = wanted != -100
    scored = logits[kept].to(torch.promote_types(logits.dtype, torch.float32))  # half precision would round the costs
    costs = torch.nn.functional.cross_entropy(scored, wanted[kept], reduction="none")
    table = np.zeros(inputs.shape)
    table[targets != -100] = costs.cpu().double().numpy()
    return table.sum(axis=1), logits.shape[-1]


def _logits(model: Callable, inputs: np.ndarray, device: Any) -> torch.Tensor:
    import torch

    module = model if isinstance(model, torch.nn.Module) else None
    if device is None and module is not None:
        device = next((p.device for p in module.parameters()), None)
    was_training = module is not None and module.training
    if was_training:
        module.eval()
    try:
        with torch.inference_mode():
            return model(torch.from_numpy(inputs).to(device))
    finally:
        if was_training:
            module.train()


def _vocab_size(model: Callable, ids: Sequence[int], device: Any) -> int:
    """Return V by asking the model: needed only if each text is a single token, and none was predicted."""
    return _logits(model, np.array([ids[:1]]), device).shape[-1]
