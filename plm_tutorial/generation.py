"""From logits to text: choosing the next token, again and again. Token ids in and out, never text.

The pieces are pure functions of logits (B, V): ``penalize_repeats`` and ``keep_*`` change them, ``process_logits`` does
all that in one order, ``choose`` picks. ``Continuation`` holds sequences that grow, of a decoder or an encoder–decoder.
``stream`` puts both in a loop, ``generate`` collects what it yields. Loops that look further ahead are in ``decoding``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

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


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Return logits (B, V) with all set to -inf that are less than p times as probable as the likeliest.

    Source: Nguyen et al. 2024, https://arxiv.org/abs/2407.01082, section 3.1.

    Raises:
        ValueError: p is not above 0 and at most 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"min_p is {p}; expected a share above 0 and at most 1, such as 0.1, or None for no limit")
    probs = logits.softmax(dim=-1)  # (B, V)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), float("-inf"))  # (B, V)


def penalize_repeats(logits: Tensor, ids: Tensor, penalty: float, counted: Tensor | None = None) -> Tensor:
    """Return logits (B, V) in which tokens that have occurred are less likely: x / penalty, or x · penalty if x < 0.

    The paper always divides, which would make a negative logit larger; the second case is that of Transformers. How
    often a token has occurred does not matter.

    Args:
        ids: (B, T) int64, the tokens so far, of prompt and answer.
        penalty: above 1 discourages, 1 changes nothing, below 1 encourages. The paper has 1.2.
        counted: (B, T), 1 = has occurred, 0 = does not count, such as padding. None counts all.

    Source: Keskar et al. 2019, https://arxiv.org/abs/1909.05858.

    Raises:
        ValueError: the penalty is not a positive number, or there are not as many rows of ids as of logits.
    """
    if not 0 < penalty < float("inf"):
        raise ValueError(f"repetition_penalty is {penalty}; expected a positive number such as 1.2, or None for none")
    if ids.dim() != 2 or ids.size(0) != logits.size(0):
        raise ValueError(
            f"ids have shape {tuple(ids.shape)}, logits {tuple(logits.shape)}; expected (B, T) and (B, V): the tokens "
            "that came before each row of logits"
        )
    once = torch.ones_like(ids) if counted is None else counted
    seen = torch.zeros_like(logits).scatter_add(-1, ids, once.to(logits.dtype)) > 0  # (B, V)
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)  # (B, V)


def process_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    *,
    ids: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the logits (B, V) from whose softmax the next token is drawn; ``.softmax(dim=-1)`` has the probabilities.

    The order is that of Transformers: repetition penalty, temperature, top-k, top-p, min-p. Each filter sees the
    probabilities that those before it leave.

    Args:
        logits: (B, V), of any floating type; computed in float32 at least.
        temperature: divides the logits. 0 is its limit: all probability is the likeliest token's.
        top_k, top_p, min_p: filters; see :func:`keep_top_k`, :func:`keep_top_p`, :func:`keep_min_p`. None: no limit.
        repetition_penalty, ids, counted: see :func:`penalize_repeats`. None: no penalty, and no ids are needed.

    Raises:
        ValueError: an option is out of range, or there is a penalty without ids.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; expected 0 (greedy) or a positive number, such as 0.7")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # (B, V)
    if repetition_penalty is not None:
        if ids is None:
            raise ValueError(f"repetition_penalty is {repetition_penalty}, but ids is None; pass the tokens so far")
        logits = penalize_repeats(logits, ids, repetition_penalty, counted)
    if temperature == 0:
        others = torch.ones_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), False)
        logits = logits.masked_fill(others, float("-inf"))  # no filter below takes away the one that is left
    else:
        logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits


def draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one token id for each row of probabilities (B, V), drawn by them: (B,) int64."""
    return torch.multinomial(probs, 1, generator=generator).squeeze(-1)


def choose(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    *,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    ids: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return one token id for each row of logits (B, V): the likeliest, or one drawn by softmax(logits / temperature).

    Args:
        temperature: 0 is greedy: the likeliest token, the filters do not matter. 1 draws from the model's own
            distribution; less sharpens it, more flattens it.
        generator: the source of randomness, for repeatable draws; None: torch's global one.
        top_k, top_p, min_p, repetition_penalty, ids, counted: see :func:`process_logits`.

    Returns:
        (B,) int64.

    Raises:
        ValueError: an option is out of range.
    """
    logits = process_logits(
        logits, temperature, top_k, top_p, min_p, repetition_penalty, ids=ids, counted=counted
    )  # (B, V)
    return logits.argmax(dim=-1) if temperature == 0 else draw(logits.softmax(dim=-1), generator)  # (B,)


# ----------------------------------------------------------------------------------------------- sequences that grow


class Continuation:
    """Sequences that grow, and what a model predicts next: one interface to decoders and encoder–decoders.

    A decoder's sequences begin with ``input_ids``. An encoder–decoder reads these once, with its encoder; its sequences
    begin with ``start_id``.

    Attributes:
        ids: (B, T) int64, the sequences so far; appended tokens included.
        counted: (B, T), 0 where a decoder's prompt is padding, 1 elsewhere; None if there is none.

    Args:
        model: a decoder, or an encoder–decoder with ``encode`` and ``decode``; both have ``new_cache()``.
        input_ids: (B, T) int64: the prompts, or what the encoder reads.
        max_new_tokens: how many will be appended at most; refused now if they do not fit.
        attention_mask: (B, T), of ``input_ids``: 1 = keep, 0 = padding. None keeps all.
        start_id: with which an encoder–decoder's sequences begin; None: ``config.decoder_start_id``.
        use_cache: keep keys and values of earlier positions; False computes everything again at each step.

    Raises:
        ValueError: the model predicts no next token, the input is empty, input and new tokens are longer than the
            context, or there is no start.
    """

    def __init__(
        self,
        model: nn.Module,
        input_ids: Tensor,
        max_new_tokens: int,
        attention_mask: Tensor | None = None,
        *,
        start_id: int | None = None,
        use_cache: bool = True,
    ):
        _check(model, input_ids, max_new_tokens, start_id)
        self.model, self.mask = model, attention_mask
        self.cache = model.new_cache() if use_cache else None
        self.memory, self.ids = None, input_ids
        if hasattr(model, "encode"):
            self.memory = model.encode(input_ids, attention_mask)  # (B, S, D)
            start_id = model.config.decoder_start_id if start_id is None else start_id
            self.ids = input_ids.new_full((input_ids.size(0), 1), start_id)  # (B, 1)

    @property
    def counted(self) -> Tensor | None:
        return self.mask if self.memory is None else None

    def logits(self, last: int = 1) -> Tensor:
        """Return what follows each of the ``last`` positions, (B, last, V). With a cache these must be new to it."""
        new = self.ids if self.cache is None else self.ids[:, self.cache.length :]
        how = {"attention_mask": self.mask, "cache": self.cache, "last_only": last == 1}
        out = self.model(new, **how) if self.memory is None else self.model.decode(new, self.memory, **how)
        return out[:, -last:]

    def append(self, tokens: Tensor) -> None:
        """Make each sequence longer by its row of tokens, (B, N)."""
        self.ids = torch.cat((self.ids, tokens), dim=1)
        if self.counted is not None:
            self.mask = torch.cat((self.mask, self.mask.new_ones(tokens.shape)), dim=1)

    def cut(self, length: int) -> None:
        """Forget what stands behind the first ``length`` positions."""
        self.ids = self.ids[:, :length]
        if self.counted is not None:
            self.mask = self.mask[:, :length]
        if self.cache is not None:
            self.cache.length = min(self.cache.length, length)  # what lies behind is written over

    def select(self, rows: Tensor) -> None:
        """Make sequence i what sequence rows[i] was; rows (B',) may repeat some and leave out others."""
        if torch.equal(rows, torch.arange(self.ids.size(0), device=rows.device)):
            return
        self.ids = self.ids[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.memory = None if self.memory is None else self.memory[rows]
        if self.cache is not None:
            self.cache.select(rows)


def _check(model: nn.Module, input_ids: Tensor, max_new_tokens: int, start_id: int | None) -> None:
    if not hasattr(model, "new_cache"):
        raise ValueError(f"a {type(model).__name__} does not predict the next token; pass a decoder such as 'smollm2'")
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and type {input_ids.dtype}; expected whole numbers of shape "
            "(B, T): torch.tensor([ids]) for a single sequence"
        )
    if input_ids.numel() == 0:
        raise ValueError("the prompt is empty; pass at least one token, such as the one that begins a text")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    length, what, reads = input_ids.size(1), "the prompt is", hasattr(model, "encode")
    if reads:
        length, what = 1, "the start is"
        if start_id is None and not hasattr(model.config, "decoder_start_id"):
            raise ValueError(
                f"start_id is None, and the configuration of this {type(model).__name__} has no decoder_start_id; pass "
                "the id of the token that its targets began with in training"
            )
    elif start_id is not None:
        raise ValueError(f"start_id is {start_id}, but a {type(model).__name__} goes on from its prompt; leave it out")
    context = model.new_cache().max_length  # None: no limit
    if context is not None and length + max_new_tokens > context:
        cut = [] if reads else ["cut the prompt"]
        ask = [] if length >= context else [f"ask for at most {context - length}"]
        tokens = "token" if length == 1 else "tokens"
        raise ValueError(
            f"{what} {length} {tokens} long and {max_new_tokens} more are asked for; the context of this model "
            f"is {context} tokens: {', or '.join(cut + ask)}"
        )


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
    *,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    start_id: int | None = None,
) -> Iterator[Tensor]:
    """Yield the tokens that follow, one position at a time: (B,) int64.

    Args:
        model: a decoder, which goes on from ``input_ids``; or an encoder–decoder, whose encoder reads them and whose
            decoder goes on from ``start_id``.
        input_ids: (B, T) int64. A decoder's prompts of different length are padded on the left.
        max_new_tokens: stop after so many.
        temperature, top_k, top_p, generator, min_p, repetition_penalty: see :func:`choose`. What counts as repeated is
            what the decoder has read: the prompt without its padding, and the tokens since; not an encoder's input.
        stop_ids: a sequence that has produced one of these is finished: it repeats this id until all are, which ends
            the stream.
        use_cache, attention_mask, start_id: see :class:`Continuation`.

    Raises:
        ValueError: the prompt is empty, prompt and new tokens are longer than the context, the model does not predict
            the next token, or an option is out of range.
    """
    state = Continuation(model, input_ids, max_new_tokens, attention_mask, start_id=start_id, use_cache=use_cache)
    done = torch.zeros(input_ids.size(0), dtype=torch.bool, device=input_ids.device)  # (B,)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=input_ids.device)  # (number of stop ids,)
    options = {"min_p": min_p, "repetition_penalty": repetition_penalty}
    for _ in range(max_new_tokens):
        logits = state.logits()[:, -1]  # (B, V)
        seen = {"ids": state.ids, "counted": state.counted}
        token = choose(logits, temperature, top_k, top_p, generator, **options, **seen)  # (B,)
        token = torch.where(done, state.ids[:, -1], token)  # (B,): finished sequences repeat their last
        yield token
        done = done | torch.isin(token, stops)
        if len(stops) and done.all():
            return
        state.append(token[:, None])


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
    *,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    start_id: int | None = None,
) -> Tensor:
    """Return the new tokens, without prompt or start: (B, N) int64, N ≤ ``max_new_tokens``; a stop id is included.

    The arguments and errors are those of :func:`stream`.
    """
    options = (temperature, top_k, top_p, stop_ids, generator, use_cache, attention_mask)
    named = {"min_p": min_p, "repetition_penalty": repetition_penalty, "start_id": start_id}
    return torch.stack(list(stream(model, input_ids, max_new_tokens, *options, **named)), dim=1)  # (B, N)


def until(ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """Return the ids that stand before the first stop id."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))
    return list(ids[:end])
