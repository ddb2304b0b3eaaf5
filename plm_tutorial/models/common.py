"""What all model families share: checks of configurations and of input, and reading published options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

TokenId = int  # the type of a configuration's fields that are no size: it may be 0, and must be in the vocabulary


def check_config(config: Any) -> None:
    """Check that each int of a configuration is a size and each float a number, neither of them absurd.

    A field that may be None, such as ``int | None``, is checked if it is not.

    Raises:
        ValueError: naming the field, what it is and what was expected.
    """
    for one in fields(config):
        value, kind = getattr(config, one.name), str(one.type)
        if kind.endswith(" | None"):
            if value is None:
                continue
            kind = kind.removesuffix(" | None")
        if kind == "int" and not (type(value) is int and 0 < value < 2**31):
            raise ValueError(f"{one.name} is {value!r}; expected a whole number from 1 to {2**31 - 1}")
        if kind == "TokenId" and not (type(value) is int and 0 <= value < config.vocab_size):
            raise ValueError(f"{one.name} is {value!r}; expected the id of a token, 0 to {config.vocab_size - 1}")
        if kind == "float" and not (type(value) in (int, float) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{one.name} is {value!r}; expected a number that is not negative")
        if kind == "bool" and type(value) is not bool:
            raise ValueError(f"{one.name} is {value!r}; expected true or false")


def required(values: Mapping[str, Any], key: str) -> Any:
    """Return ``values[key]``.

    Raises:
        ValueError: it is not there.
    """
    if key not in values:
        raise ValueError(f"it has no {key}, without which the model cannot be built")
    return values[key]


def only(values: Mapping[str, Any], key: str, *implemented: Any) -> None:
    """Check that an option is absent or has a value that is implemented.

    Raises:
        ValueError: naming the option, its value and those implemented.
    """
    if key in values and values[key] not in implemented:
        raise ValueError(f"its {key} is {values[key]!r}; implemented here: {', '.join(map(repr, implemented))}")


def check_input(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    context: int,
    vocab_size: int,
    past: int = 0,
    *,
    documents: bool = False,
) -> None:
    """Refuse input that a model cannot take: wrong shape or type, empty, too long, ids that it does not have.

    Args:
        input_ids: should be (B, T) int64 with ids below ``vocab_size``.
        attention_mask: should be None or (B, past + T).
        context: the most positions that the model handles.
        past: positions that a cache holds already.
        documents: without a cache, the mask may also be (B, T, T), a row of 1 and 0 for each position.

    Raises:
        ValueError: with what was given and what was expected.
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and type {input_ids.dtype}; expected whole numbers of shape "
            "(B, T): B sequences of T token ids, so torch.tensor([ids]) for a single one"
        )
    total = past + input_ids.size(1)
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids is empty, with shape {tuple(input_ids.shape)}; pass at least one token")
    if total > context:
        raise ValueError(
            f"the text is {total} tokens long, this model's context is {context}: cut the text to {context} tokens, "
            "split it into several, or use a model with a longer context"
        )
    shapes = [(input_ids.size(0), total)]
    if documents and not past:
        shapes.append((input_ids.size(0), total, total))
    if attention_mask is not None and attention_mask.shape not in shapes:
        cached = f" ({past} in the cache and {total - past} new)" if past else ""
        more = f". Documents that share a row and must not see each other: {shapes[1]}" if shapes[1:] else ""
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected {shapes[0]}: "
            f"1 or 0 for each of the {total} positions{cached} of each sequence{more}"
        )
    # On a GPU this question would wait for all work before it; there the lookup itself fails.
    if input_ids.device.type == "cpu" and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocab_size:
        raise ValueError(
            f"input_ids holds ids from {int(input_ids.min())} to {int(input_ids.max())}; this model knows 0 to "
            f"{vocab_size - 1}. Does the tokenizer belong to this model?"
        )


def check_keep(keep: Tensor | None, input_ids: Tensor) -> None:
    """Refuse what does not choose among the positions of ``input_ids``: expected is a bool for each, or None.

    Raises:
        ValueError: with what was given and what was expected.
    """
    if keep is not None and (keep.shape != input_ids.shape or keep.dtype != torch.bool):
        raise ValueError(
            f"keep has shape {tuple(keep.shape)} and type {keep.dtype}; expected bool of the shape of input_ids, "
            f"{tuple(input_ids.shape)}: True where logits are wanted"
        )


def check_memory(decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor | None) -> None:
    """Refuse what a decoder cannot look at: expected are ids (B, T), memory (B, S, D) and a mask (B, S), or None.

    Raises:
        ValueError: with what was given and what was expected.
    """
    if memory.dim() != 3 or memory.size(0) != decoder_input_ids.size(0):
        raise ValueError(
            f"memory has shape {tuple(memory.shape)} and decoder_input_ids {tuple(decoder_input_ids.shape)}; expected "
            "(B, S, D) and (B, T): as many encoded texts as the decoder has sequences"
        )
    if attention_mask is not None and attention_mask.shape != memory.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected {tuple(memory.shape[:2])}: 1 or 0 for "
            "each position of the source, as encode() was given; the decoder's own tokens need none"
        )


def count_positions(attention_mask: Tensor) -> Tensor:
    """Return the position of each token, (B, T) int64: how many tokens before it may be looked at.

    So padding on the left does not count, (B, T), and positions begin anew with each document of a row, (B, T, T).
    """
    mask = attention_mask.long()
    seen = mask.cumsum(dim=-1) if mask.dim() == 2 else mask.tril().sum(dim=-1)  # its own included
    return (seen - 1).clamp(min=0)
