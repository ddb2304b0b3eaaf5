"""Texts to vectors: the mean of an encoder's hidden states, in batches with little padding.

In: an encoder, its tokenizer and texts. Out: a vector for each text, (N, D), in the order of the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tokenizers
import torch
from torch import Tensor, nn


@torch.no_grad()
def embed(
    model: nn.Module,
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    *,
    batch_tokens: int = 1024,
    normalize: bool = True,
) -> Tensor:
    """Return a vector for each text, (N, D) float32 on the model's device: the mean of its tokens' hidden states.

    Texts of similar length share a batch, so that little is computed for padding. A text longer than the model's
    context is cut: its vector knows nothing of the rest. Source: Reimers and Gurevych 2019,
    https://arxiv.org/abs/1908.10084, section 3.

    Args:
        model: an encoder in eval mode, such as ``load_model("minilm")``.
        tokenizer: the model's own.
        texts: none of them empty.
        batch_tokens: the most tokens in a batch, padding included; a longer text is a batch of its own. Hidden states
            of 1024 tokens stay in the cache of a CPU; a GPU wants tens of thousands.
        normalize: scale each vector to length 1, so that dot products are cosines.

    Raises:
        ValueError: there is no text, one is empty, or the model is no encoder.
    """
    _check(model, texts, batch_tokens)
    device = next(model.parameters()).device
    rows = _token_ids(tokenizer, texts, model.config.context_length)
    vectors: list[Tensor] = [torch.empty(0)] * len(rows)  # (D,) each
    for batch in _batches([len(row) for row in rows], batch_tokens):
        T = len(rows[batch[-1]])  # the longest comes last
        ids = torch.tensor([rows[i] + [0] * (T - len(rows[i])) for i in batch], device=device)  # (B, T)
        lengths = torch.tensor([len(rows[i]) for i in batch], device=device)  # (B,)
        mask = torch.arange(T, device=device) < lengths[:, None]  # (B, T), True = a token
        padded = len(rows[batch[0]]) < T  # the shortest comes first; without padding no mask is needed
        hidden = model(ids, attention_mask=mask if padded else None).float()  # (B, T, D)
        means = (hidden * mask[..., None]).sum(1) / lengths[:, None]  # (B, D)
        for i, mean in zip(batch, means, strict=True):
            vectors[i] = mean
    stacked = torch.stack(vectors)  # (N, D)
    return nn.functional.normalize(stacked, dim=-1) if normalize else stacked


def _token_ids(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], context: int) -> list[list[int]]:
    """Return the ids of each text with its special tokens, without padding, at most ``context`` of them."""
    room = context - tokenizer.num_special_tokens_to_add(False)
    rows = []
    for text, encoding in zip(texts, tokenizer.encode_batch(list(texts)), strict=True):
        ids = [i for i, keep in zip(encoding.ids, encoding.attention_mask, strict=True) if keep]
        if len(ids) > context:  # cut before the special tokens are added, so that they stay
            encoding = tokenizer.encode(text, add_special_tokens=False)
            encoding.truncate(room)
            ids = tokenizer.post_process(encoding).ids
        rows.append(ids)
    return rows


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of all texts, shortest first, in batches of at most ``batch_tokens`` with padding."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _check(model: nn.Module, texts: Sequence[str], batch_tokens: int) -> None:
    if hasattr(model, "new_cache") or not hasattr(getattr(model, "config", None), "context_length"):
        raise ValueError(f"a {type(model).__name__} is no encoder of this package; pass one such as 'minilm'")
    if isinstance(texts, str):
        raise ValueError("texts is a single str; expected a list of texts: embed(model, tokenizer, [text])")
    if len(texts) == 0:
        raise ValueError("there is no text to embed: the list is empty")
    for i, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {i} is empty: it has no tokens to average; leave out such texts first")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; expected at least 1")
