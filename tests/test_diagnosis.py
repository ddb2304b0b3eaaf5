"""The instruments: each says what is right of a healthy case and what is wrong of a sick one, and spares the model."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from plm_tutorial import diagnosis
from plm_tutorial.experiments import planted_bugs as lab
from plm_tutorial.experiments.review_tokens import review_tokenizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return lab.TinyModel()


@pytest.fixture
def ids():
    return torch.randint(lab.SYMBOLS, (4, 10), generator=torch.Generator().manual_seed(0))


def values(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_side_by_side_shows_ids_or_words_and_what_is_left_out():
    table = diagnosis.side_by_side(torch.tensor([3, 1, 2]), torch.tensor([1, 2, -100]), lambda i: "abcd"[i])
    assert table.loc["reads"].tolist() == ["d", "b", "c"]
    assert table.loc["is asked for"].tolist() == ["b", "c", "·"]
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\)"):
        diagnosis.side_by_side(torch.zeros(3), torch.zeros(2))


def test_loss_at_start(model, ids):
    loss, wanted = diagnosis.loss_at_start(lab.next_loss(model, ids), lab.VOCABULARY)
    assert wanted == math.log(13) and abs(loss - wanted) < 0.1
    for wrong in ((1.0, 1), (math.nan, 5)):
        with pytest.raises(ValueError, match="classes"):
            diagnosis.loss_at_start(*wrong)


def test_overfit_learns_by_heart_on_a_copy(model, ids):
    before = values(model)
    losses = diagnosis.overfit(model, lambda m: lab.next_loss(m, ids[:1]))
    assert len(losses) == 200 and losses[-1] < 0.05 and losses[0] > 2
    assert torch.equal(values(model), before)


@pytest.mark.parametrize("other", [lab.PAD, 0, 5])
def test_influence_is_lower_for_the_past_and_full_without_a_mask(ids, other):
    torch.manual_seed(0)
    causal = lab.TinyModel().eval()
    table = diagnosis.influence(causal, ids[0], other)
    assert (np.tril(table, -1) == 0).all() and (np.diag(table) > 0).all() and table[0, -1] > 0
    open_ = lab.TinyModel(may_look=lambda n: torch.ones(n, n, dtype=torch.bool)).eval()
    assert (diagnosis.influence(open_, ids[0], other) > 0).all()
    with pytest.raises(ValueError, match="one text"):
        diagnosis.influence(causal, ids, other)


def test_sees_future_finds_leaks_that_no_mask_has_made(ids):
    class OverTime(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(13, 4)

        def forward(self, ids):
            x = self.table(ids)
            return nn.functional.layer_norm(x, x.shape[1:])

    assert diagnosis.sees_future(lab.TinyModel().eval(), ids[0], 12) == 0
    assert diagnosis.sees_future(lab.TinyModel(lab.lower_triangle).eval(), ids[0], 12) > 0
    assert diagnosis.sees_future(OverTime(), ids[0], 12) > 0.01


def test_step_report_tells_moved_frozen_and_forgotten_apart(model, ids):
    model.positions.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if n.startswith("tokens")], lr=0.1)
    before = values(model)
    report = diagnosis.step_report(model, lambda: lab.one_step(model, optimizer, lab.next_loss, ids))
    assert torch.equal(values(model), before)
    assert math.isnan(report.gradient["positions.weight"]) and report.moved["positions.weight"] == 0
    assert report.gradient["head.weight"] > 0 and report.moved["head.weight"] == 0
    assert report.moved["tokens.weight"] == pytest.approx(0.1 * report.gradient["tokens.weight"], rel=1e-3)
    assert report.weights["head.weight"] == 13 * 32


def test_repeated_gradients(model, ids):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = diagnosis.repeated_gradients(model, lambda: lab.one_step(model, optimizer, lab.next_loss, ids))
    assert right == pytest.approx([right[0]] * 3)
    model.zero_grad()
    wrong = diagnosis.repeated_gradients(model, lambda: lab.plain_step(model, optimizer, lab.next_loss, ids))
    assert wrong == pytest.approx([right[0], 2 * right[0], 3 * right[0]], rel=1e-4)


def test_gradient_gap(model, ids):
    one = lambda: lab.next_loss(model, ids).backward()  # noqa: E731
    double = lambda: (2 * lab.next_loss(model, ids)).backward()  # noqa: E731
    assert diagnosis.gradient_gap(model, one, one) == 0
    assert diagnosis.gradient_gap(model, one, double) == pytest.approx(1)


def test_padding_effect(model, ids):
    padded = ids.clone()
    padded[:2, 5:] = lab.PAD

    def right(batch):
        logits = model(batch[:, :-1]).transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, batch[:, 1:], ignore_index=lab.PAD)

    model.head.weight.data.normal_()
    assert diagnosis.padding_effect(right, padded, lab.PAD) < 1e-5
    assert diagnosis.padding_effect(lambda batch: lab.mean_loss(model, batch), padded, lab.PAD) > 0.01


def test_spread_of_dropout(ids):
    model, batches = lab.TinyModel(dropout=0.5), ids[None]
    model.head.weight.data.normal_()
    assert diagnosis.spread(lambda: lab.validate(model, batches)) > 0
    model.eval()
    assert diagnosis.spread(lambda: lab.validate(model, batches)) == 0


def test_shared_parameters_are_those_that_are_one(model):
    assert diagnosis.shared_parameters(model) == []
    lab.tie(model)  # a copy
    assert diagnosis.shared_parameters(model) == []
    model.head.weight.data = model.tokens.weight.data  # one memory, two parameters
    assert diagnosis.shared_parameters(model) == []
    model.head.weight = model.tokens.weight
    assert diagnosis.shared_parameters(model) == [["tokens.weight", "head.weight"]]


def test_round_trips_and_neighbours():
    tokenizer = review_tokenizer()
    assert diagnosis.failed_round_trips(tokenizer, ["a film", "naïve ☃"]) == []
    table = torch.randn(tokenizer.get_vocab_size(), 8, generator=torch.Generator().manual_seed(0))
    good, bad = (tokenizer.encode(word).ids[0] for word in (" good", " bad"))
    table[bad] = 2 * table[good]
    found = diagnosis.neighbours(table, tokenizer, [" good"], n=3)
    assert found.shape == (1, 3) and found.loc[" good", 0] == tokenizer.decode([bad])
    with pytest.raises(ValueError, match="one token each"):
        diagnosis.neighbours(table, tokenizer, [" unwatchablest"])


def test_round_trips_find_a_tokenizer_that_loses_text():
    from plm_tutorial.pretrained import load_tokenizer

    assert diagnosis.failed_round_trips(load_tokenizer("minilm"), ["Good", "good"]) == ["Good"]


def test_shuffled_labels_keep_groups_together_and_every_label():
    labels, groups = np.repeat([0, 1, 1, 0], 3), np.repeat([2, 0, 3, 1], 3)
    seen = []

    def score(shuffled):
        seen.append(shuffled)
        return shuffled.mean()

    assert diagnosis.shuffled_label_scores(score, labels, groups, n=6) == [0.5] * 6
    assert all(len(set(one[groups == g])) == 1 for one in seen for g in range(4))
    assert len({tuple(one) for one in seen}) > 1
    assert diagnosis.shuffled_label_scores(score, labels, n=2) == [0.5] * 2
