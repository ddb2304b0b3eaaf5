"""Decoding that looks further than one token: beam search, and speculative decoding with a second, smaller model.

Token ids in and out. Like ``generation``, both go on from a prompt with a decoder, and from a start with an
encoder–decoder, whose encoder reads the input: see :class:`~plm_tutorial.generation.Continuation`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plm_tutorial.generation import Continuation, draw, process_logits

# ------------------------------------------------------------------------------------------------------- beam search


class Hypothesis(NamedTuple):
    """One answer of beam search."""

    tokens: Tensor  # (N,) int64, without prompt or start; a stop id at the end is included
    score: float  # sum of the tokens' log-probabilities, divided by N ** length_penalty


@torch.no_grad()
def beam_search(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    n_beams: int,
    *,
    n_best: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    stop_ids: Collection[int] = (),
    attention_mask: Tensor | None = None,
    start_id: int | None = None,
    use_cache: bool = True,
) -> list[list[Hypothesis]]:
    """Return for each input its best answers, the best first, found by following ``n_beams`` unfinished ones at a time.

    At each step every beam is continued by every token. Of all continuations the ``n_beams`` likeliest that are not
    finished go on; one that ends with a stop id is a finished hypothesis if it is among the ``n_beams`` likeliest of
    all, and the best ``n_beams`` of these, by score, are kept. What is left after ``max_new_tokens`` is finished too.

    The score is Σ log p(token) / N ** length_penalty, as in Transformers. N counts the new tokens, a stop id included;
    the prompt, or an encoder–decoder's start, is neither counted nor scored. It is not the penalty of Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, ((5 + N) / 6) ** α.

    Args:
        model, input_ids, max_new_tokens, attention_mask, start_id, use_cache: see
            :class:`~plm_tutorial.generation.Continuation`.
        n_beams: 1 is greedy.
        n_best: how many answers to return, at most ``n_beams``; fewer if there are not so many sequences.
        length_penalty: 0 compares log-probabilities, which favours short answers; 1 compares their mean; more favours
            long ones.
        early_stopping: when the search for an input ends, once it has ``n_beams`` finished hypotheses; the three
            rules of Transformers. True: at once. False: when the likeliest beam, scored at its present length, is not
            better than the worst of them, although with a positive penalty a beam's score may still rise. "never": when
            no beam can become better, scored at the length that would be best for it.
        stop_ids: tokens that end a hypothesis.

    Raises:
        ValueError: an option is out of range, or the input is not that of a
            :class:`~plm_tutorial.generation.Continuation`.

    Source: Sutskever et al. 2014, https://arxiv.org/abs/1409.3215; the stopping rules: Transformers.
    """
    _check_beams(n_beams, n_best, length_penalty, early_stopping)
    state = Continuation(model, input_ids, max_new_tokens, attention_mask, start_id=start_id, use_cache=use_cache)
    B, begin = state.ids.shape
    device = state.ids.device
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)  # (number of stop ids,)
    running = torch.zeros(B, 1, device=device)  # (B, W): log-probabilities of the beams, W = 1 at first
    finished: list[list[Hypothesis]] = [[] for _ in range(B)]
    searching = [True] * B
    for length in range(1, max_new_tokens + 1):
        logits = state.logits()[:, -1]  # (B W, V)
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        (_, W), V = running.shape, log_p.size(-1)
        total = (running[..., None] + log_p.view(B, W, V)).flatten(1)  # (B, W V)
        # So many that n_beams of them can go on, even if each beam's stop ids are all among them.
        total, place = total.topk(min(n_beams * (1 + len(stops)), W * V), dim=-1)  # (B, C): candidates, the best first
        row = place // V + W * torch.arange(B, device=device)[:, None]  # (B, C): the beam that each continues
        token = place % V  # (B, C)
        ends = torch.isin(token, stops) | (length == max_new_tokens)  # (B, C)
        running, kept = total.masked_fill(ends, -math.inf).topk(min(n_beams, total.size(1)), dim=-1)  # (B, W)
        for b in range(B):
            if searching[b]:
                for i in ends[b, :n_beams].nonzero().flatten().tolist():
                    tokens = torch.cat((state.ids[row[b, i], begin:], token[b, i : i + 1]))  # (N,)
                    finished[b].append(Hypothesis(tokens, total[b, i].item() / length**length_penalty))
                finished[b] = sorted((h for h in finished[b] if h.score > -math.inf), key=lambda h: -h.score)[:n_beams]
                best = running[b, 0].item()
                searching[b] = best > -math.inf and (
                    len(finished[b]) < n_beams
                    or _may_improve(best, finished[b][-1].score, length, max_new_tokens, length_penalty, early_stopping)
                )
        if not any(searching):
            break
        state.select(row.gather(1, kept).flatten())
        state.append(token.gather(1, kept).flatten()[:, None])
    return [hypotheses[:n_best] for hypotheses in finished]


def _may_improve(
    best: float, worst: float, length: int, longest: int, length_penalty: float, early_stopping: bool | str
) -> bool:
    """Return whether beams of this length, of log-probability ``best`` at most, may still beat the score ``worst``."""
    if early_stopping is True:
        return False
    hoped = longest if early_stopping == "never" and length_penalty > 0 else length
    return best / hoped**length_penalty > worst


def _check_beams(n_beams: int, n_best: int, length_penalty: float, early_stopping: bool | str) -> None:
    if n_beams < 1:
        raise ValueError(f"n_beams is {n_beams}; expected at least 1, which is greedy")
    if not 1 <= n_best <= n_beams:
        raise ValueError(
            f"n_best is {n_best}; expected 1 to n_beams, which is {n_beams}: ask for less, or search wider"
        )
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty is {length_penalty}; expected a finite number, such as 1 for the mean")
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f"early_stopping is {early_stopping!r}; expected True, False or 'never'")


# ----------------------------------------------------------------------------------------------- speculative decoding


class Speculation(NamedTuple):
    """What speculative decoding wrote, and how well the draft guessed."""

    tokens: Tensor  # (N,) int64, without prompt or start; a stop id is included
    proposed: list[int]  # for each call of the target, how many tokens the draft had proposed
    accepted: list[int]  # how many of these were kept; each call adds one more token, of the target's own

    @property
    def acceptance_rate(self) -> float:
        """The share of proposals that were accepted, of those that were put to the test; NaN if none was.

        What stands behind a rejected token is not tested. Leviathan et al. 2023 call the expected rate α.
        """
        tested = sum(min(kept + 1, n) for kept, n in zip(self.accepted, self.proposed, strict=True))
        return sum(self.accepted) / tested if tested else math.nan


def verify(
    proposed: Tensor, draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator | None = None
) -> tuple[int, Tensor]:
    """Return how many proposed tokens are kept, and the token that follows them: together, draws from the target.

    Token x is kept with probability min(1, p(x) / q(x)), where p is the target's distribution and q the draft's. At the
    first that is not, the token is drawn from max(0, p − q), scaled to sum to 1; if all are kept, one more from p. So
    each token has exactly the distribution p, whatever q is; a better q only makes it faster.

    Args:
        proposed: (N,) int64, drawn from ``draft_probs``. N may be 0.
        draft_probs: (N, V), from which each was drawn.
        target_probs: (N + 1, V), of the same positions and the one behind them.
        generator: the source of randomness; None: torch's global one.

    Returns:
        The number, 0 to N, and a scalar int64.

    Source: Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, algorithm 1; Chen et al. 2023,
    https://arxiv.org/abs/2302.01318, algorithm 2, where the letters p and q are exchanged.
    """
    n = len(proposed)
    q = draft_probs.gather(1, proposed[:, None]).flatten()  # (N,)
    p = target_probs[:n].gather(1, proposed[:, None]).flatten()  # (N,)
    # r < p / q without the division: r is below 1, so what is certain is never refused, what is impossible never kept.
    r = torch.rand(n, generator=generator, device=p.device, dtype=p.dtype)  # (N,)
    kept = int((r * q < p).cumprod(dim=0).sum())
    probs = target_probs[kept]  # (V,)
    if kept < n:
        rest = (probs - draft_probs[kept]).clamp(min=0)  # (V,)
        # Where p and q are equal but for rounding, nothing may be left of their difference.
        probs = rest if rest.sum() > 0 else probs
    return kept, draw(probs[None], generator)[0]


@torch.no_grad()
def speculate(
    target: nn.Module,
    draft: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    n_draft: int = 4,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    attention_mask: Tensor | None = None,
    start_id: int | None = None,
    use_cache: bool = True,
) -> Speculation:
    """Return what the target would write, with fewer calls of it: a draft proposes, the target verifies all at once.

    Each round the draft writes ``n_draft`` tokens, one call each; a single call of the target computes what it thinks
    of all of them, and :func:`verify` decides. A round gives 1 to n_draft + 1 tokens. At temperature 0 these are the
    target's greedy tokens (several positions at once are rounded differently from one, which can show where two logits
    are all but equal); above, they have the distribution of :func:`~plm_tutorial.generation.generate` with the same
    options, though not the same draws.

    Args:
        target, draft: two models of one kind, decoders or encoder–decoders, with the same vocabulary: the same ids must
            mean the same tokens, of which only their number can be checked.
        input_ids: (1, T) int64: one sequence, since each would be accepted to another length.
        n_draft: γ in the paper; fewer are proposed where fewer are still wanted.
        temperature, top_k, top_p, min_p, repetition_penalty: see :func:`~plm_tutorial.generation.process_logits`; they
            change the draft's distribution too, so that it stays close to the target's.
        stop_ids: the answer ends with the first of these.
        generator: the source of randomness; None: torch's global one.
        max_new_tokens, attention_mask, start_id, use_cache: see :class:`~plm_tutorial.generation.Continuation`.

    Raises:
        ValueError: the vocabularies differ in size, there is more than one sequence, the models are not of one kind, or
            an option is out of range.

    Source: Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, algorithm 1.
    """
    _check_pair(target, draft, input_ids, n_draft)
    how = {"attention_mask": attention_mask, "start_id": start_id, "use_cache": use_cache}
    large, small = (
        _begin(name, model, input_ids, max_new_tokens, **how) for name, model in (("target", target), ("draft", draft))
    )
    if not torch.equal(large.ids, small.ids):
        raise ValueError(
            f"the target begins with {large.ids[0].tolist()}, the draft with {small.ids[0].tolist()}; expected two "
            "decoders, or two encoder–decoders with the same start: pass start_id"
        )
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options["repetition_penalty"] = repetition_penalty
    begin, proposed, accepted = large.ids.size(1), [], []
    while True:
        length = large.ids.size(1)
        n = min(n_draft, begin + max_new_tokens - length - 1)  # the target adds one
        draft_probs = []
        for _ in range(n):
            logits = process_logits(small.logits()[:, -1], **options, ids=small.ids, counted=small.counted)  # (1, V)
            draft_probs.append(logits.softmax(dim=-1))
            small.append(draw(draft_probs[-1], generator)[:, None])
        guess = small.ids[:, length:]  # (1, n)
        large.append(guess)
        logits = large.logits(n + 1)[0]  # (n + 1, V)
        ids, counted = _prefixes(large, n + 1)
        target_probs = process_logits(logits, **options, ids=ids, counted=counted).softmax(dim=-1)  # (n + 1, V)
        kept, token = verify(guess[0], torch.cat((*draft_probs, target_probs[:0])), target_probs, generator)
        proposed.append(n)
        accepted.append(kept)
        for state in (large, small):
            state.cut(length + kept)
            state.append(token.view(1, 1))
        tokens = large.ids[0, begin:].tolist()
        end = next((i for i, one in enumerate(tokens) if one in stop_ids), None)
        if end is not None or len(tokens) == max_new_tokens:
            return Speculation(large.ids[0, begin:][: None if end is None else end + 1], proposed, accepted)


def _begin(name: str, model: nn.Module, input_ids: Tensor, max_new_tokens: int, **how) -> Continuation:
    try:
        return Continuation(model, input_ids, max_new_tokens, **how)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _prefixes(state: Continuation, n: int) -> tuple[Tensor, Tensor]:
    """Return what came before each of the last n logits, as ids and which of them count: (n, T) each."""
    T = state.ids.size(1)
    last = torch.arange(T - n, T, device=state.ids.device)[:, None]  # (n, 1)
    counted = torch.arange(T, device=last.device) <= last  # (n, T)
    return state.ids.expand(n, T), counted if state.counted is None else counted & state.counted.bool()


def _check_pair(target: nn.Module, draft: nn.Module, input_ids: Tensor, n_draft: int) -> None:
    sizes = [model.config.vocab_size for model in (target, draft)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the target has a vocabulary of {sizes[0]} tokens, the draft of {sizes[1]}; expected the same tokenizer: "
            "pass a draft of the same family"
        )
    if input_ids.dim() != 2 or input_ids.size(0) != 1:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; expected (1, T): of several texts each is accepted to "
            "another length, so call this once for each"
        )
    if n_draft < 1:
        raise ValueError(f"n_draft is {n_draft}; expected at least 1: without proposals use generate()")
