"""The exercises of the debugging lab: right repairs, and plausible wrong ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss

from plm_tutorial.exercises.debugging_lab import exercises, real_loss
from plm_tutorial.experiments import planted_bugs as lab
from plm_tutorial.experiments.review_tokens import review_tokenizer
from plm_tutorial.layers import init_weights
from plm_tutorial.pretrained import load_model, load_tokenizer


def small_weights(model):
    model.apply(lambda module: init_weights(module, std=0.02))


def scale_table(model):
    with torch.no_grad():
        model.tokens.weight.mul_(0.02)


def zeros(model):
    for parameter in model.parameters():
        nn.init.zeros_(parameter)


def untied(model):
    model.head.weight = nn.Parameter(0.02 * torch.randn_like(model.head.weight))


def shifted(model, ids):
    return cross_entropy(model(ids)[:, :-1].transpose(1, 2), ids[:, 1:])


def backwards(model, ids):
    return cross_entropy(model(ids)[:, 1:].transpose(1, 2), ids[:, :-1])


def rolled(model, ids):
    return cross_entropy(model(ids).transpose(1, 2), ids.roll(-1, 1))


def two_ahead(model, ids):
    return cross_entropy(model(ids)[:, :-2].transpose(1, 2), ids[:, 2:])


def log_loss(model, ids):
    logs = model(ids[:, :-1]).log_softmax(-1)
    return cross_entropy(logs.transpose(1, 2), ids[:, 1:])  # the softmax of logarithms of probabilities is the same


def without_logarithm(model, ids):
    return nll_loss(model(ids[:, :-1]).softmax(-1).transpose(1, 2), ids[:, 1:])


def soft_twice(model, ids):
    return nll_loss(model(ids[:, :-1]).softmax(-1).log_softmax(-1).transpose(1, 2), ids[:, 1:])


def pairs(model, inputs, labels):
    return cross_entropy(model(inputs).transpose(1, 2), labels)


def masked(model, ids, below="real", by_row=False):
    losses = cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    real = ids[:, 1:] != lab.PAD
    if by_row:
        return ((losses * real).sum(1) / real.sum(1)).mean()
    return (losses * real).sum() / {"real": real.sum(), "all": real.numel(), "one": 1}[below]


def zero_after(model, optimizer, loss, ids):
    value = loss(model, ids)
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.item()


def zero_between(model, optimizer, loss, ids):
    value = loss(model, ids)
    value.backward()
    optimizer.zero_grad()
    optimizer.step()
    return value.item()


def silent_step(model, optimizer, loss, ids):
    lab.one_step(model, optimizer, loss, ids)


def loss_after(model, optimizer, loss, ids):
    lab.one_step(model, optimizer, loss, ids)
    return loss(model, ids).item()


def validate(model, batches):
    mode = model.training
    model.eval()
    with torch.no_grad():
        total = sum(lab.next_loss(model, ids).item() for ids in batches)
    model.train(mode)
    return total / len(batches)


def stays_in_eval(model, batches):
    return lab.validate(model.eval(), batches)


def always_back_to_training(model, batches):
    found = lab.validate(model.eval(), batches)
    model.train()
    return found


def seeded(model, batches):
    torch.manual_seed(0)
    return lab.validate(model, batches)


def averaged(model, batches):
    return float(np.mean([lab.validate(model, batches) for _ in range(20)]))


def head(model):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.head = nn.Linear(model.tokens.embedding_dim, lab.VOCABULARY, bias=False)
    return torch.optim.Adam(model.head.parameters(), lr=0.01)


def head_and_group(model):
    optimizer = lab.adam_for_head(model)
    optimizer.add_param_group({"params": model.head.parameters()})
    return optimizer


def everything(model):
    model.head = nn.Linear(model.tokens.embedding_dim, lab.VOCABULARY, bias=False)
    return torch.optim.Adam(model.parameters(), lr=0.01)


def old_head(model):
    return torch.optim.Adam(model.head.parameters(), lr=0.01)


def tie(model):
    model.head.weight = model.tokens.weight


def tie_data(model):
    model.head.weight.data = model.tokens.weight.data


def tie_wrong_way(model):
    model.tokens.weight = model.head.weight


def tie_copy(model):
    with torch.no_grad():
        model.head.weight.copy_(model.tokens.weight)


def open_model(folder):
    return load_model(folder, device="cpu"), load_tokenizer(folder)


def pad_left(rows, pad_id, mark=1):
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[1 - mark] * (width - len(row)) + [mark] * len(row) for row in rows])
    return ids, mask


def everything_visible(rows, pad_id):
    ids, _ = pad_left(rows, pad_id)
    return ids, torch.ones_like(ids)


def reversed_rows(rows, pad_id):
    return tuple(part.flip(1) for part in lab.pad_prompts(rows, pad_id))


def split(origin, share, seed):
    texts = np.random.default_rng(seed).permutation(np.unique(origin))
    test = np.isin(origin, texts[: round(share * len(texts))])
    return np.flatnonzero(~test), np.flatnonzero(test)


def without_copies(origin, share, seed):
    first = np.unique(origin, return_index=True)[1]
    train, test = lab.split(first, share, seed)
    return first[train], first[test]


def drop_leaks(origin, share, seed):
    train, test = lab.split(origin, share, seed)
    return train[~np.isin(origin[train], origin[test])], test


def no_draw(origin, share, seed):
    return split(origin, share, 0)


def half(origin, share, seed):
    return split(origin, 0.7, seed)


def step_in_pieces(model, optimizer, loss, ids, weigh=True, clear=False, divide=True):
    pieces, total = ids.split(4), 0.0
    optimizer.zero_grad()

    def count(some):
        return (some[:, 1:] != lab.PAD).sum() if weigh else len(some)

    for piece in pieces:
        if clear:
            optimizer.zero_grad()
        value = loss(model, piece) * (count(piece) / count(ids) if divide else 1)
        value.backward()
        total += value.item()
    optimizer.step()
    return total


def step_by_sums(model, optimizer, loss, ids):
    optimizer.zero_grad()
    n, total = 0, 0.0
    for piece in ids.split(2):
        k = (piece[:, 1:] != lab.PAD).sum()
        value = loss(model, piece) * k
        value.backward()
        n, total = n + k, total + value.item()
    for parameter in model.parameters():
        parameter.grad /= n
    optimizer.step()
    return total / n


def fraction(step, peak, warmup):
    return min(peak, peak * (step + 1) / warmup)


RIGHT = [
    ("ex-lab-start", small_weights),
    ("ex-lab-start", scale_table),
    ("ex-lab-warmup", fraction),
    ("ex-lab-warmup", lambda step, peak, warmup: peak * (step + 1) / warmup if step < warmup else peak),
    ("ex-lab-shift", shifted),
    ("ex-lab-shift", lab.next_loss),
    ("ex-lab-softmax", lab.next_loss),
    ("ex-lab-softmax", log_loss),
    ("ex-lab-future", lab.past_only),
    ("ex-lab-future", lambda n: torch.arange(n)[None] <= torch.arange(n)[:, None]),
    ("ex-lab-twice", pairs),
    ("ex-lab-padding", real_loss),
    ("ex-lab-padding", masked),
    ("ex-lab-zero", lab.one_step),
    ("ex-lab-zero", zero_after),
    ("ex-lab-eval", validate),
    ("ex-lab-head", head),
    ("ex-lab-head", head_and_group),
    ("ex-lab-tie", tie),
    ("ex-lab-tokenizer", open_model),
    ("ex-lab-left", pad_left),
    ("ex-lab-split", split),
    ("ex-lab-pieces", step_in_pieces),
    ("ex-lab-pieces", step_by_sums),
]

WRONG = [
    ("ex-lab-start", lambda model: model.train(), "log V is"),
    ("ex-lab-start", lambda model: model.apply(lambda m: init_weights(m, std=0.2)), "log V is"),
    ("ex-lab-start", zeros, "get no gradient"),
    ("ex-lab-start", untied, "no longer uses the token table"),
    ("ex-lab-warmup", lab.warmed_up_rate, "the rate at step"),
    ("ex-lab-warmup", lambda step, peak, warmup: peak, "rate(0, 0.01, 8) is 0.01"),
    ("ex-lab-warmup", lambda step, peak, warmup: peak * min(1, step / warmup), "does nothing"),
    ("ex-lab-warmup", lambda s, peak, warmup: peak * ((s % warmup) + 1) / warmup, "rate(8, 0.01, 8) is 0.00125"),
    ("ex-lab-shift", lab.token_loss, "the token it reads"),
    ("ex-lab-shift", backwards, "the wrong way"),
    ("ex-lab-shift", rolled, "leave it out"),
    ("ex-lab-shift", two_ahead, "shifted by two"),
    ("ex-lab-shift", lambda model, ids: lab.next_loss(model, ids).item(), "no gradient"),
    ("ex-lab-softmax", lab.probability_loss, "still gets probabilities"),
    ("ex-lab-softmax", soft_twice, "still gets probabilities"),
    ("ex-lab-softmax", without_logarithm, "wants logarithms"),
    ("ex-lab-softmax", lab.token_loss, "no longer the next"),
    ("ex-lab-future", lab.lower_triangle, "is later, and may still be looked at"),
    ("ex-lab-future", lambda n: lab.past_only(n).T, "is later, and may still be looked at"),
    ("ex-lab-future", lambda n: torch.ones(n, n, dtype=torch.bool).tril(-1), "is not later"),
    ("ex-lab-future", lambda n: torch.ones(n, n).tril(), "expected bool"),
    ("ex-lab-twice", lab.pairs_loss, "shifted again"),
    ("ex-lab-twice", lambda m, x, y: cross_entropy(m(x)[:, :-1].transpose(1, 2), y[:, :-1]), "cut off"),
    ("ex-lab-twice", lambda m, x, y: cross_entropy(m(x).transpose(1, 2), x), "serve as labels"),
    ("ex-lab-twice", lambda m, x, y: cross_entropy(m(x)[:, 1:].transpose(1, 2), y[:, :-1]), "forth and back"),
    ("ex-lab-padding", lab.mean_loss, "padding still counts"),
    ("ex-lab-padding", lambda model, ids: masked(model, ids, "all"), "still below it"),
    ("ex-lab-padding", lambda model, ids: masked(model, ids, "one"), "a sum grows"),
    ("ex-lab-padding", lambda model, ids: masked(model, ids, by_row=True), "each row's mean"),
    ("ex-lab-zero", lab.plain_step, "gradients of earlier steps"),
    ("ex-lab-zero", zero_between, "no weight moves"),
    ("ex-lab-zero", silent_step, "returns nothing"),
    ("ex-lab-zero", loss_after, "the loss before it"),
    ("ex-lab-eval", lab.validate, "two calls give"),
    ("ex-lab-eval", averaged, "two calls give"),
    ("ex-lab-eval", seeded, "each time; without dropout"),
    ("ex-lab-eval", stays_in_eval, "leaves the model in eval mode"),
    ("ex-lab-eval", always_back_to_training, "leaves the model in training mode"),
    ("ex-lab-head", lab.adam_for_head, "does not know it"),
    ("ex-lab-head", everything, "moved too"),
    ("ex-lab-head", old_head, "still the old one"),
    ("ex-lab-tie", lab.tie, "after one step of training"),
    ("ex-lab-tie", tie_copy, "after one step of training"),
    ("ex-lab-tie", tie_data, "moves it twice"),
    ("ex-lab-tie", tie_wrong_way, "the token table has changed"),
    ("ex-lab-tie", lambda model: model.train(), "does not have the numbers"),
    ("ex-lab-tokenizer", lambda f: (load_model(f, device="cpu"), review_tokenizer()), "gives other ids"),
    ("ex-lab-tokenizer", lambda f: load_model(f), "return the model and the tokenizer"),
    ("ex-lab-tokenizer", lambda f: (load_model(f, device="cpu"), f), "no tokenizer"),
    ("ex-lab-left", lab.pad_prompts, "must end where the answer begins"),
    ("ex-lab-left", everything_visible, "1 for tokens"),
    ("ex-lab-left", lambda rows, pad_id: pad_left(rows, pad_id, mark=0), "1 for tokens"),
    ("ex-lab-left", reversed_rows, "must end where the answer begins"),
    ("ex-lab-left", lambda rows, pad_id: pad_left(rows, pad_id)[0], "and the attention mask"),
    ("ex-lab-split", lab.split, "have variants on both sides"),
    ("ex-lab-split", without_copies, "none is thrown away"),
    ("ex-lab-split", drop_leaks, "none is thrown away"),
    ("ex-lab-split", no_draw, "another seed"),
    ("ex-lab-split", half, "are for the test"),
    ("ex-lab-pieces", lab.step_in_pieces, "how many real labels"),
    ("ex-lab-pieces", lambda *a: step_in_pieces(*a, weigh=False), "how many real labels"),
    ("ex-lab-pieces", lambda *a: step_in_pieces(*a, divide=False), "how many real labels"),
    ("ex-lab-pieces", lambda *a: step_in_pieces(*a, clear=True), "how many real labels"),
    ("ex-lab-pieces", lab.one_step, "only 4 fit"),
]


@pytest.mark.parametrize("label", exercises.labels)
def test_the_planted_bug_itself_is_among_the_wrong_answers(label):
    """Wherever the colleague's function has the answer's arguments (not: fresh_weights, whose repair runs after it)."""
    planted = {name for name, answer, _ in WRONG if getattr(answer, "__module__", "") == lab.__name__}
    assert label in planted | {"ex-lab-start", "ex-lab-tokenizer"}
