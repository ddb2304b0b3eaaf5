"""From logits to text: choosing the next token, again and again. Token ids in and out, never text.

The pieces are pure functions of logits (B, V): ``keep_*`` filter, ``choose`` picks. ``stream`` puts them in a loop
around a decoder, ``generate`` collects what it yields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------ filters and choice


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Return logits (B, V) with all but the k highest set to -inf. Those equal to the k-th stay too.

    Source: Fan et al. 2018, https://arxiv.org/abs/1805.04833, section 5.

    Raises:
        ValueError: k is less than 1.
    """
    if k < 1:
        raise ValueError(f"top_k is {k}; expected at least 1, or None for no limit")
    lowest = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < lowest, float("-inf"))  # (B, V)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Return logits (B, V) with all set to -inf but the fewest tokens, likeliest first, that reach probability p.

    Source: Holtzman et al. 2019, https://arxiv.org/abs/1904.09751, section 3.1.

    Raises:
        ValueError: p is not above 0 and at most 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}; expected a probability above 0 and at most 1, or None for no limit")
    ranked, order = logits.sort(dim=-1, descending=True)  # (B, V) each
    probs = ranked.softmax(dim=-1)  # (B, V)
    before = probs.cumsum(dim=-1) - probs  # (B, V): of all likelier tokens; 0 for the first, so that one always stays
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)  # (B, V), in the order of ids
    return logits.masked_fill(drop, float("-inf"))  # (B, V)


def choose(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return one token id for each row of logits (B, V): the likeliest, or one drawn by softmax(logits / temperature).

    Args:
        temperature: 0 is greedy: the likeliest token, the filters do not matter. 1 draws from the model's own
            distribution; less sharpens it, more flattens it.
        top_k, top_p: filters, applied in this order after the temperature.
        generator: the source of randomness, for repeatable draws; None: torch's global one.

    Returns:
        (B,) int64.

    Raises:
        ValueError: an option is out of range.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; expected 0 (greedy) or a positive number, such as 0.7")
    if temperature == 0:
        return logits.argmax(dim=-1)  # (B,)
    logits = logits / temperature  # (B, V)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)  # (B,)


# ---------------------------------------------------------------------------------------------------------- the loop


@torch.no_grad()
def stream(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    attention_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the tokens that follow, one position at a time: (B,) int64.

    Args:
        model: a decoder, with ``new_cache()`` and ``config.context_length``.
        input_ids: the prompts, (B, T) int64. Prompts of different length are padded on the left.
        max_new_tokens: stop after so many.
        temperature, top_k, top_p, generator: see :func:`choose`.
        stop_ids: a sequence that has produced one of these is finished: it repeats this id until all are, which ends
            the stream.
        use_cache: keep keys and values of earlier positions; False computes everything again at each step.
        attention_mask: (B, T), 1 = keep, 0 = padding; None keeps all.

    Raises:
        ValueError: the prompt is empty, prompt and new tokens are longer than the context, the model is no decoder, or
            an option is out of range.
    """
    _check(model, input_ids, max_new_tokens)
    cache = model.new_cache() if use_cache else None
    ids, new = input_ids, input_ids  # (B, T): all tokens so far; those that the model has not been given yet
    done = torch.zeros(ids.size(0), dtype=torch.bool, device=ids.device)  # (B,)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=ids.device)  # (number of stop ids,)
    for _ in range(max_new_tokens):
        logits = model(new, attention_mask=attention_mask, cache=cache, last_only=True)[:, -1]  # (B, V)
        token = choose(logits, temperature, top_k, top_p, generator)  # (B,)
        token = torch.where(done, ids[:, -1], token)  # (B,): finished sequences repeat their last
        yield token
        done = done | torch.isin(token, stops)
        if len(stops) and done.all():
            return
        ids = torch.cat((ids, token[:, None]), dim=1)  # (B, T + 1)
        new = ids if cache is None else token[:, None]
        if attention_mask is not None:
            attention_mask = torch.cat((attention_mask, attention_mask.new_ones(len(token), 1)), dim=1)  # (B, T + 1)


def generate(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Return the new tokens, without the prompt: (B, N) int64, N ≤ ``max_new_tokens``; a stop id is included.

    The arguments and errors are those of :func:`stream`.
    """
    options = (temperature, top_k, top_p, stop_ids, generator, use_cache, attention_mask)
    return torch.stack(list(stream(model, input_ids, max_new_tokens, *options)), dim=1)  # (B, N)


def _check(model: nn.Module, input_ids: Tensor, max_new_tokens: int) -> None:
    if not hasattr(model, "new_cache"):
        raise ValueError(f"a {type(model).__name__} does not predict the next token; pass a decoder such as 'smollm2'")
    if input_ids.numel() == 0:
        raise ValueError("the prompt is empty; pass at least one token, such as the one that begins a text")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    length, context = input_ids.size(-1), model.config.context_length
    if length + max_new_tokens > context:
        cure = "cut the prompt" if length >= context else f"cut the prompt, or ask for at most {context - length}"
        raise ValueError(
            f"the prompt is {length} tokens long and {max_new_tokens} more are asked for; the context of this model "
            f"is {context} tokens: {cure}"
        )
