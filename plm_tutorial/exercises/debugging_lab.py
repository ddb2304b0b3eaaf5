"""Checks of the exercises of the debugging lab: each is a repaired part of one of the programs in ``planted_bugs``.

In: the reader's repaired function. Out: "right", or what is still wrong with it, measured.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from plm_tutorial.diagnosis import padding_effect, shared_parameters
from plm_tutorial.exercises import Exercises, Wrong, expect, expect_number
from plm_tutorial.experiments import planted_bugs as lab

exercises = Exercises()
check = exercises.check


def _model(seed: int = 0, std: float = 0.3, **options: object) -> lab.TinyModel:
    """Return a tiny model with weights large enough that no two mistakes give one number."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = lab.TinyModel(**options)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=std)
    return model


def _ids(rows: int = 5, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(lab.SYMBOLS, (rows, length), generator=torch.Generator().manual_seed(seed))


def _padded() -> Tensor:
    ids = _ids(8, 12)
    for row, length in enumerate((12, 3, 9, 5, 2, 12, 4, 2)):
        ids[row, length:] = lab.PAD
    return ids


def _expect_loss(got: object, wanted: Tensor, reasons: list[tuple[Tensor, str]]) -> None:
    """Raise Wrong unless the loss is ``wanted``; known wrong values are told with their reason. Also gradients."""
    value = expect_number(got, "your function")
    if not math.isclose(value, wanted.item(), rel_tol=1e-4, abs_tol=1e-5):
        for known, reason in reasons:
            expect(not math.isclose(value, known.item(), rel_tol=1e-4), f"the loss is {value:.4f}: {reason}")
        raise Wrong(f"the loss is {value:.4f}, expected {wanted.item():.4f} for this model and batch")
    keeps = isinstance(got, Tensor) and got.requires_grad
    expect(keeps, "the number is right, but it has no gradient; return the tensor, not a float")


@exercises.add("ex-lab-start")
def _start(answer):
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = lab.TinyModel()
        lab.fresh_weights(model)
        answer(model)
        expect(shared_parameters(model) != [], "the head no longer uses the token table; only the numbers were wrong")
        ids = _ids(16, 33)
        loss = lab.next_loss(model, ids)
        expect(
            abs(loss.item() - math.log(lab.VOCABULARY)) < 0.2,
            f"the first loss is {loss.item():.2f}; log V is {math.log(lab.VOCABULARY):.2f}",
        )
        loss.backward()
        stuck = [name for name in ("tokens.weight", "look.weight", "think.0.weight") if not _moves(model, name)]
        expect(not stuck, f"the first loss is right, but {stuck} get no gradient: too many weights are zero")


def _moves(model: nn.Module, name: str) -> bool:
    gradient = model.get_parameter(name).grad
    return gradient is not None and gradient.norm().item() > 0


@exercises.add("ex-lab-warmup")
def _warmup(answer):
    for peak, warmup in ((0.01, 8), (1.0, 1), (3e-4, 100)):
        rates = [float(answer(step, peak, warmup)) for step in range(20 * warmup)]
        expect(rates[0] > 0, f"rate(0, {peak}, {warmup}) is {rates[0]:.4g}: the first step does nothing")
        highest = max(rates)
        expect(
            highest < peak * (1 + 1e-6),
            f"with peak {peak} and {warmup} steps of warm-up, the rate at step {rates.index(highest)} is {highest:.4g}",
        )
        for step in (0, warmup // 2, warmup - 1, warmup, 20 * warmup - 1):
            wanted = peak * min(1, (step + 1) / warmup)
            expect(
                math.isclose(rates[step], wanted, rel_tol=1e-6),
                f"rate({step}, {peak}, {warmup}) is {rates[step]:.4g}, expected {wanted:.4g}",
            )


@exercises.add("ex-lab-shift")
def _shift(answer):
    model, ids = _model(), _ids()
    logits = model(ids)
    back = cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())
    around = cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten())
    two = cross_entropy(logits[:, :-2].flatten(0, 1), ids[:, 2:].flatten())
    reasons = [
        (lab.token_loss(model, ids), "each position is still asked for the token it reads"),
        (back, "shifted the wrong way: each position is asked for the token before it"),
        (around, "the last position is asked for the first token of the row; leave it out"),
        (two, "shifted by two: each position is asked for the token after the next"),
    ]
    _expect_loss(answer(model, ids), lab.next_loss(model, ids), reasons)


@exercises.add("ex-lab-softmax")
def _softmax(answer):
    model, ids = _model(), _ids()
    labels = ids[:, 1:].flatten()
    probabilities = model(ids[:, :-1]).softmax(-1).flatten(0, 1)
    reasons = [
        (lab.probability_loss(model, ids), "cross_entropy still gets probabilities, and makes a softmax of them"),
        (nll_loss(probabilities, labels), "nll_loss wants logarithms of probabilities"),
        (lab.token_loss(model, ids), "the labels are no longer the next tokens"),
    ]
    _expect_loss(answer(model, ids), lab.next_loss(model, ids), reasons)


@exercises.add("ex-lab-future")
def _future(answer):
    for n in (1, 2, 7):
        got = answer(n)
        expect(isinstance(got, Tensor) and got.shape == (n, n), f"may_look({n}) is no tensor of shape ({n}, {n})")
        expect(got.dtype == torch.bool, f"may_look({n}) has type {got.dtype}; expected bool, True = may look")
        ahead = got.triu(1).nonzero()
        expect(not len(ahead), f"may_look({n}): position {_pair(ahead)} is later, and may still be looked at")
        missing = (~got).tril().nonzero()
        expect(not len(missing), f"may_look({n}): position {_pair(missing)} is not later, and may not be looked at")


def _pair(places: Tensor) -> str:
    return f"{places[0, 1].item()}, seen from {places[0, 0].item()}," if len(places) else ""


@exercises.add("ex-lab-twice")
def _twice(answer):
    model, ids = _model(), _ids()
    inputs, labels = lab.make_pairs(ids)
    logits = model(inputs)
    same = cross_entropy(logits.flatten(0, 1), inputs.flatten())
    cut = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, :-1].flatten())
    back = cross_entropy(logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten())
    reasons = [
        (lab.pairs_loss(model, inputs, labels), "the labels were shifted before, and are shifted again"),
        (same, "the inputs serve as labels"),
        (cut, "nothing has to be cut off: the last position of the inputs has a label too"),
        (back, "each position is asked for the token it reads: shifted forth and back again"),
    ]
    _expect_loss(answer(model, inputs.clone(), labels.clone()), lab.next_loss(model, ids), reasons)


def real_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss over all labels that are no padding."""
    logits = model(ids[:, :-1])
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=lab.PAD)


@exercises.add("ex-lab-padding")
def _padding(answer):
    model, ids = _model(), _padded()
    labels = ids[:, 1:]
    logits = model(ids[:, :-1]).transpose(1, 2)
    losses = cross_entropy(logits, labels, reduction="none")
    real = labels != lab.PAD
    per_row = ((losses * real).sum(1) / real.sum(1)).mean()
    reasons = [
        (losses.mean(), "padding still counts, above and below the line"),
        ((losses * real).mean(), "padding no longer counts above the line, and still below it: divide by real labels"),
        ((losses * real).sum(), "a sum grows with the batch; divide by the number of real labels"),
        (per_row, "a mean of each row's mean: a label in a short row counts more than one in a long row"),
    ]
    got = answer(model, ids)
    _expect_loss(got, real_loss(model, ids), reasons)
    effect = padding_effect(lambda batch: answer(model, batch), ids, lab.PAD)
    expect(effect < 1e-4, f"sixteen more columns of padding change the loss by {effect:.4f}")


def _compare_steps(answer, loss, batches):
    """Yield, after each step, how far the model is from one of ``lab.one_step``, how far it moved, and both losses."""
    mine, other = _model(std=0.1), _model(std=0.1)
    mine_optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for ids in batches:
        before = [p.detach().clone() for p in mine.parameters()]
        got = answer(mine, mine_optimizer, loss, ids.clone())
        wanted = lab.one_step(other, other_optimizer, loss, ids)
        moved = max((p - q).abs().max().item() for p, q in zip(mine.parameters(), before, strict=True))
        gap = max((p - q).abs().max().item() for p, q in zip(mine.parameters(), other.parameters(), strict=True))
        yield gap, moved, got, wanted


@exercises.add("ex-lab-zero")
def _zero(answer):
    batches = [_ids(seed=seed) for seed in range(3)]
    for i, (gap, moved, got, wanted) in enumerate(_compare_steps(answer, lab.next_loss, batches)):
        expect(moved > 0, "no weight moves; when are the gradients emptied?")
        why = "; gradients of earlier steps are still in it" if i else ""
        expect(gap < 1e-5, f"step {i + 1} moves a weight by {gap:.2g} too much or too little{why}")
        expect(got is not None, "the step returns nothing; the loop wants the loss")
        value = expect_number(got, "your function")
        expect(abs(value - wanted) < 1e-4, f"it returns {value:.4f}; the loss before it is {wanted:.4f}")


@exercises.add("ex-lab-eval")
def _eval(answer):
    model, batches = _model(dropout=0.5), torch.stack([_ids(seed=seed) for seed in range(3)])
    wanted = lab.validate(model.eval(), batches)
    for mode in (True, False):
        model.train(mode)
        first, second = (expect_number(answer(model, batches), "your function") for _ in range(2))
        expect(abs(first - second) < 1e-6, f"two calls give {first:.4f} and {second:.4f}")
        expect(
            abs(first - wanted) < 1e-4,
            f"it gives {first:.4f} each time; without dropout the mean loss is {wanted:.4f}",
        )
        names = {True: "training", False: "eval"}
        expect(
            model.training == mode and model.dropout.training == mode,
            f"called in {names[mode]} mode, it leaves the model in {names[not mode]} mode",
        )


@exercises.add("ex-lab-head")
def _head(answer):
    model, ids = _model(), _ids()
    old = model.head.weight.detach().clone()
    optimizer = answer(model)
    expect(isinstance(optimizer, torch.optim.Optimizer), "return the optimizer")
    expect(not torch.equal(model.head.weight, old), "the head is still the old one")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    lab.one_step(model, optimizer, lab.next_loss, ids)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    expect("head.weight" in moved, "after a step the new head stands where it was; the optimizer does not know it")
    others = [name for name in moved if name != "head.weight"]
    expect(not others, f"only the head was to be trained; {others[:3]} moved too")


@exercises.add("ex-lab-tie")
def _tie(answer):
    model, ids = _model(), _ids()
    table = model.tokens.weight.detach().clone()
    answer(model)
    expect(torch.equal(model.tokens.weight, table), "the token table has changed; it was the head that had to give way")
    expect(torch.equal(model.head.weight, table), "the head does not have the numbers of the token table")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    lab.one_step(model, optimizer, lab.next_loss, ids)
    expect(
        torch.equal(model.head.weight, model.tokens.weight), "equal at first; after one step of training they are not"
    )
    expect(
        shared_parameters(model) == [["tokens.weight", "head.weight"]],
        "one memory, and still two parameters: the optimizer moves it twice a step",
    )


@cache
def _small_tokenizers():
    from plm_tutorial.tokenizers import train_fast_bpe

    texts = ["the cat sat on the mat and the hat", "a dog ate a bone by a gate near a lake"]
    return [train_fast_bpe([text] * 3, 262) for text in texts]


@exercises.add("ex-lab-tokenizer")
def _tokenizer(answer):
    from plm_tutorial.models.decoder import Decoder, DecoderConfig
    from plm_tutorial.pretrained import export

    one, other = _small_tokenizers()
    config = DecoderConfig(262, context_length=8, d_model=8, n_layers=1, n_heads=2, d_hidden=8)
    text = "the hat of a dog by the gate"
    with TemporaryDirectory() as folder:
        for name, tokenizer in (("one", one), ("other", other)):
            model = Decoder(config).eval()
            export(model, Path(folder) / name, tokenizer)
            got = answer(Path(folder) / name)
            expect(isinstance(got, tuple) and len(got) == 2, "return the model and the tokenizer")
            same = torch.equal(got[0].tokens.weight.cpu(), model.tokens.weight)
            expect(same, f"the model is not that of the folder {name!r}")
            expect(hasattr(got[1], "encode"), "the second is no tokenizer")
            expect(
                got[1].encode(text).ids == tokenizer.encode(text).ids,
                f"folder {name!r}: the tokenizer gives other ids than the one the model was stored with",
            )


@exercises.add("ex-lab-left")
def _left(answer):
    for rows in ([[5, 6, 7], [8]], [[1], [2, 3], [4, 5, 6, 7]], [[9, 9]]):
        width = max(map(len, rows))
        got = answer([list(row) for row in rows], 0)
        expect(isinstance(got, tuple) and len(got) == 2, "return the ids and the attention mask")
        ids, mask = got
        for name, part in (("ids", ids), ("mask", mask)):
            right = isinstance(part, Tensor) and part.shape == (len(rows), width)
            expect(right, f"pad_prompts({rows}, 0): the {name} are no tensor of shape ({len(rows)}, {width})")
        for i, row in enumerate(rows):
            gap = width - len(row)
            call = f"pad_prompts({rows}, 0): row {i}"
            where = "the prompt must end where the answer begins"
            expect(ids[i].tolist() == [0] * gap + row, f"{call} is {ids[i].tolist()}; {where}")
            wanted = [0] * gap + [1] * len(row)
            found = [int(value) for value in mask[i]]
            expect(found == wanted, f"{call}: its mask is {found}, expected {wanted}: 1 for tokens, 0 for padding")


@exercises.add("ex-lab-split")
def _split(answer):
    for n, share in ((60, 0.25), (31, 0.4)):
        origin = np.random.default_rng(n).permutation(np.repeat(np.arange(n), 3))
        found = []
        for seed in (0, 1):
            train, test = (np.asarray(part, dtype=int) for part in answer(origin.copy(), share, seed))
            both = np.intersect1d(origin[train], origin[test])
            expect(not len(both), f"{len(both)} of {n} texts have variants on both sides")
            all_once = np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(origin)))
            expect(all_once, "each index should stand in one of the two parts, once; none is thrown away")
            got = len(test) / len(origin)
            expect(abs(got - share) < 0.06, f"{got:.0%} are for the test, expected about {share:.0%}")
            found.append(set(test.tolist()))
        expect(found[0] != found[1], "another seed gives the same split")


@exercises.add("ex-lab-pieces")
def _pieces(answer):
    rows = _padded()
    batches = [rows, rows.flip(0), rows[[1, 4, 7, 6, 0, 5, 2, 3]]]
    sizes: list[int] = []

    def loss(model, ids):
        sizes.append(len(ids))
        return real_loss(model, ids)

    for gap, moved, got, wanted in _compare_steps(answer, loss, batches):
        mine = sizes[:-1]  # the last call is the comparison's
        expect(mine and max(mine) <= 4, f"a piece has {max(mine, default=0)} rows; only 4 fit into memory")
        expect(moved > 0, "no weight moves; when are the gradients emptied?")
        hint = "how many real labels has each piece?"
        expect(gap < 1e-5, f"a weight moves by {gap:.2g} more or less than with the whole batch; {hint}")
        expect(got is not None, "the step returns nothing; the loop wants the loss")
        value = expect_number(got, "your function")
        expect(abs(value - wanted) < 1e-4, f"it returns {value:.4f}; of the batch it is {wanted:.4f}")
        sizes.clear()
