"""Checks of the exercises on masked pretraining.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal, expect_number, expect_tensor
from plm_tutorial.objectives import IGNORED

exercises = Exercises()
check = exercises.check


@exercises.add("ex-masked-hide")
def _hide(answer):
    cases = [
        ([[5, 6, 7, 8]], [[0, 1, 0, 0]], 99),
        ([[5, 6], [7, 8]], [[1, 1], [0, 0]], 3),
        ([[1, 0, 2], [0, 0, 4]], [[0, 1, 1], [1, 0, 1]], 9),
    ]
    for ids, chosen, mask_id in cases:
        call = f"hide({ids}, {[[bool(x) for x in row] for row in chosen]}, mask_id={mask_id})"
        given, picked = torch.tensor(ids), torch.tensor(chosen).bool()
        got = answer(given, picked, mask_id)
        expect(given.tolist() == ids, f"{call} changed the ids themselves; work on a copy")
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} must give two things: input_ids and labels")
        inputs, labels = (expect_tensor(part, given.shape, f"{call}[{i}]") for i, part in enumerate(got))
        kinds = " and ".join({str(part.dtype).removeprefix("torch.") for part in (inputs, labels)})
        expect(kinds == "int64", f"{call} gave tensors of type {kinds}; ids and labels are whole numbers, int64")
        expect(
            not torch.equal(labels, given) or bool(picked.all()),
            f"{call}: the labels hold all tokens, so the loss would be mostly about tokens that can be seen",
        )
        expect(
            not torch.equal(labels, torch.where(picked, IGNORED, given)),
            f"{call}: the labels are the wrong way round; what was hidden is to be predicted, the rest is {IGNORED}",
        )
        expect_equal(inputs.tolist(), torch.where(picked, mask_id, given).tolist(), f"{call}[0]")
        expect_equal(labels.tolist(), torch.where(picked, given, IGNORED).tolist(), f"{call}[1]")


@exercises.add("ex-masked-loss")
def _loss(answer):
    draw = torch.Generator().manual_seed(0)
    cases = [
        [[2, IGNORED, 0]],
        [[2, IGNORED, IGNORED, 1], [3, 0, 1, IGNORED]],
        [[IGNORED, IGNORED], [4, IGNORED], [1, 2]],
    ]
    for rows in cases:
        labels = torch.tensor(rows)
        logits = 2 * torch.randn(*labels.shape, 5, generator=draw)
        call = f"masked_loss(logits, {rows})"
        got = expect_number(answer(logits.clone(), labels.clone()), call)
        nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        hidden = labels != IGNORED
        wanted = float(nats[hidden].mean())
        per_row = [float(nats[b][hidden[b]].mean()) for b in range(len(rows)) if hidden[b].any()]
        wrong = {
            "that is the sum over the hidden tokens; divide by their number": float(nats.sum()),
            "the sum is divided by all positions; visible tokens have no loss and must not count": float(nats.mean()),
            "the sum is divided by the number of rows": float(nats.sum()) / len(rows),
            "a mean of the rows' means: a row with one hidden token would count as much as a row with ten": sum(per_row)
            / len(per_row),
            "the sign is the wrong way round": -wanted,
        }
        if not math.isclose(got, wanted, rel_tol=1e-4):
            for reason, other in wrong.items():
                expect(not math.isclose(got, other, rel_tol=1e-4), f"{call} gave {got:.4f}: {reason}")
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-masked-words")
def _words(answer):
    # "un ##believ ##able , I said": which tokens continue a word, and which positions were drawn.
    cases = [
        ([[0, 1, 1, 0, 0, 0]], [[1, 0, 0, 0, 0, 1]]),
        ([[0, 1, 1, 0, 0, 0]], [[0, 1, 1, 1, 0, 0]]),
        ([[0, 0, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]]),
        ([[1, 1, 0, 1]], [[1, 0, 0, 1]]),
        ([[1, 0, 1, 1]], [[0, 0, 1, 0]]),
        ([[1, 0, 0]], [[0, 0, 1]]),  # the row's last token is not the one before its first
        ([[1, 1, 0]], [[1, 0, 0]]),
    ]
    for continues, drawn in cases:
        a, b = torch.tensor(continues).bool(), torch.tensor(drawn).bool()
        call = f"whole_words(continues={continues}, drawn={drawn})"
        got = expect_tensor(answer(a.clone(), b.clone()), a.shape, call).bool().int().tolist()
        wanted, any_token = [], []
        for row, draws in zip(continues, drawn, strict=True):
            starts = [t for t, c in enumerate(row) if t == 0 or not c] + [len(row)]
            words = list(zip(starts, starts[1:], strict=False))
            wanted.append([draws[s] for s, e in words for _ in range(s, e)])
            any_token.append([max(draws[s:e]) for s, e in words for _ in range(s, e)])
        if got != wanted:
            expect(
                got != any_token,
                f"{call} gave {got}: a word is hidden if any of its tokens was drawn, so that long words are hidden "
                "more often; only the draw at its first token counts",
            )
            expect(got != drawn, f"{call} gave the draws themselves: single tokens, not whole words")
            expect(
                not any(row[0] for row in continues),
                f"{call} gave {got}, expected {wanted}: a row may be cut in the middle of a word; what is left of it "
                "is a word here",
            )
        expect_equal(got, wanted, call)


@exercises.add("ex-masked-rate")
def _rate(answer):
    for k, keep in ((3, 0.0), (3, 0.1), (1, 0.0), (10, 0.2), (1, 0.8)):
        call = f"best_rate({k}, keep={keep})"
        got = expect_number(answer(k, keep), call)
        wanted = min(1.0, 1 / ((1 - keep) * (2 * k + 1)))
        close = {
            "a token that is kept does not spoil its neighbours' view": 1 / (2 * k + 1),
            "there are k neighbours on each side": min(1.0, 1 / ((1 - keep) * (k + 1))),
            "the hidden token itself adds a factor r, whose derivative counts too": min(1.0, 1 / ((1 - keep) * 2 * k)),
        }
        if not math.isclose(got, wanted, rel_tol=2e-3):
            for reason, other in close.items():
                expect(not math.isclose(got, other, rel_tol=2e-3), f"{call} gave {got:.4f}: {reason}")
            expect(0 < got <= 1, f"{call} gave {got:.4f}; a rate is above 0 and at most 1")
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-masked-pll")
def _pll(answer):
    V, mask_id = 6, 5
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(4, V, V, generator=draw)  # what a neighbour at this distance says

    def log_probs(ids: Tensor) -> Tensor:  # (N, T) -> (N, T, V): a position looks at all tokens, its own included
        expect(ids.dim() == 2, f"log_probs was given ids of shape {tuple(ids.shape)}; it wants rows, (N, T)")
        T = ids.size(1)
        scores = torch.zeros(*ids.shape, V)
        for t in range(T):
            for s in range(T):
                scores[:, t] += table[abs(t - s)][ids[:, s]] * (3 if s == t else 1)
        return scores.log_softmax(-1)

    for ids in ([0, 1, 2], [3, 3, 1, 0], [4]):
        text = torch.tensor(ids)
        call = f"pseudo_log_likelihood(log_probs, {ids}, mask_id={mask_id})"
        got = expect_number(answer(log_probs, text.clone(), mask_id), call)
        rows = text.repeat(len(ids), 1)
        rows.fill_diagonal_(mask_id)
        at = torch.arange(len(ids))
        wanted = float(log_probs(rows)[at, at, text].sum())
        together = log_probs(torch.full((1, len(ids)), mask_id))[0]
        unmasked = log_probs(text[None])[0]
        wrong = {
            "nothing was hidden: each token was asked for while it could be seen": float(unmasked[at, text].sum()),
            "all tokens were hidden at once; hide one at a time": float(together[at, text].sum()),
            "that is the mean over the tokens; the sum is asked for": wanted / len(ids),
            "the sum runs over all tokens of each row; only the hidden one counts": float(
                log_probs(rows).gather(2, text.repeat(len(ids), 1)[..., None]).sum()
            ),
            "the sign is the wrong way round: log-probabilities are negative": -wanted,
        }
        if not math.isclose(got, wanted, rel_tol=1e-4):
            for reason, other in wrong.items():
                expect(not math.isclose(got, other, rel_tol=1e-4), f"{call} gave {got:.4f}: {reason}")
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-masked-total")
def _total(answer):
    draw = torch.Generator().manual_seed(0)
    free = torch.rand(3, generator=draw)[:, None] * torch.rand(4, generator=draw)
    cases = {
        "two coins that always agree": torch.tensor([[0.5, 0.0], [0.0, 0.5]]),
        "two fair coins, thrown apart": torch.full((2, 2), 0.25),
        "unrelated tokens": free / free.sum(),
        "[[0.4, 0.1], [0.1, 0.4]]": torch.tensor([[0.4, 0.1], [0.1, 0.4]]),
        "[[0.5, 0.2], [0.0, 0.3]]": torch.tensor([[0.5, 0.2], [0.0, 0.3]]),
    }
    for name, joint in cases.items():
        call = f"pseudo_total of {name}"
        got = expect_number(answer(joint.clone()), call, finite=False)
        first = joint / joint.sum(0)  # P(x1 | x2): columns add up to 1
        second = joint / joint.sum(1, keepdim=True)  # P(x2 | x1): rows do
        wanted = float((first * second).sum())
        if not math.isclose(got, wanted, rel_tol=1e-4):
            expect(not math.isnan(got), f"{call} gave nan; do not take the logarithm of a probability of 0")
            expect(
                not math.isclose(got, 1.0, rel_tol=1e-4),
                f"{call} gave 1, as the chain rule does; here each token is given the other",
            )
            expect(
                not math.isclose(got, float((first + second).sum()), rel_tol=1e-4),
                f"{call} gave {got:.4f}: the two probabilities of a text are multiplied, not added",
            )
            raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")
