"""Losses against their formulas, and their sums against the whole."""

import math

import pytest
import torch
import transformers

from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.objectives import (
    IGNORED,
    LossSum,
    class_loss,
    class_weights,
    predict_classes,
    predict_labels,
    token_accuracy,
    token_loss,
)

SHAPE = LlamaConfig(
    vocab_size=50, context_length=32, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_head=8, d_hidden=24
)


def test_token_loss_is_the_mean_negative_log_probability():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, IGNORED, 6], [0, 3, IGNORED]])
    expected = [-math.log(logits[b, t].softmax(0)[labels[b, t]]) for b, t in ((0, 0), (0, 2), (1, 0), (1, 1))]
    loss = token_loss(logits, labels)
    assert int(loss.count) == 4
    assert float(loss.total) == pytest.approx(sum(expected), rel=1e-5)
    assert float(loss.mean) == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_parts_add_up_to_the_whole():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 9), torch.randint(9, (4, 5))
    labels[0] = IGNORED  # parts with different numbers of labels
    parts = [token_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    torch.testing.assert_close(total.mean, token_loss(logits, labels).mean)
    assert isinstance(total, LossSum) and int(total.count) == 15


def test_label_smoothing_is_its_formula():
    torch.manual_seed(0)
    logits, labels, share = torch.randn(3, 5), torch.tensor([4, 0, 2]), 0.2
    log_p = logits.log_softmax(-1)
    expected = -(1 - share) * log_p[range(3), labels] - share * log_p.mean(-1)
    torch.testing.assert_close(token_loss(logits, labels, share).total, expected.sum())


def test_no_labels_give_a_loss_of_zero_and_zero_gradients():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = token_loss(logits, torch.full((2, 3), IGNORED)).mean
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_loss_is_computed_in_float32_at_least(dtype):
    loss = token_loss(torch.randn(2, 3, 4, dtype=dtype), torch.randint(4, (2, 3)))
    assert loss.total.dtype == torch.promote_types(dtype, torch.float32)


def test_wrong_shapes_and_classes_are_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 4\), labels \(2, 4\); expected a label for each"):
        token_loss(torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels go from 0 to 4; expected 0 to 3, or -100"):
        token_loss(torch.randn(1, 2, 4), torch.tensor([[0, 4]]))
    with pytest.raises(ValueError, match="labels go from -1 to 1"):
        token_loss(torch.randn(1, 2, 4), torch.tensor([[-1, 1]]))


def test_an_untrained_model_is_as_surprised_as_a_guess():
    torch.manual_seed(0)
    ids = torch.randint(50, (8, 33))
    with torch.no_grad():
        loss = predict_labels(Llama(SHAPE), {"input_ids": ids[:, :-1], "labels": ids[:, 1:]})
    assert float(loss.mean) == pytest.approx(math.log(50), rel=0.02)


def test_the_causal_loss_equals_that_of_transformers(tmp_path):
    from plm_tutorial import load_model

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    reference = transformers.LlamaForCausalLM(config)
    reference.save_pretrained(tmp_path)
    ids = torch.randint(50, (3, 12))
    with torch.no_grad():
        expected = reference(ids, labels=ids).loss  # shifts inside
        ours = predict_labels(load_model(tmp_path, device="cpu"), {"input_ids": ids[:, :-1], "labels": ids[:, 1:]})
    torch.testing.assert_close(ours.mean, expected, atol=1e-5, rtol=0)


def test_token_accuracy_counts_only_labels():
    logits = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    assert token_accuracy(logits, torch.tensor([[1, 1, IGNORED]])) == (1, 2)


def test_hidden_positions_alone_give_the_same_loss_and_gradients():
    from plm_tutorial.models import Bert, BertConfig
    from plm_tutorial.objectives import predict_hidden

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, context_length=12, d_model=16, n_layers=2, n_heads=2, d_hidden=32, head="mlm")
    model = Bert(config).eval()
    ids = torch.randint(50, (3, 12))
    labels = torch.where(torch.rand(3, 12) < 0.3, ids, IGNORED)
    batch = {"input_ids": ids, "labels": labels}
    found = {}
    for objective in (predict_labels, predict_hidden):
        model.zero_grad()
        loss = objective(model, batch)
        loss.total.backward()
        found[objective] = (loss.total.item(), int(loss.count), [p.grad.clone() for p in model.parameters()])
    (total, count, grads), (sparse_total, sparse_count, sparse_grads) = found.values()
    assert count == sparse_count == int((labels != IGNORED).sum()) > 0
    assert sparse_total == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(grads, sparse_grads)


def test_no_hidden_position_gives_no_loss():
    from plm_tutorial.models import Bert, BertConfig
    from plm_tutorial.objectives import predict_hidden

    config = BertConfig(vocab_size=50, context_length=12, d_model=16, n_layers=1, n_heads=2, d_hidden=32, head="mlm")
    ids = torch.randint(50, (2, 5))
    loss = predict_hidden(Bert(config), {"input_ids": ids, "labels": torch.full_like(ids, IGNORED)})
    assert loss.total.item() == 0 and int(loss.count) == 0


# ---- few classes

LABELS = torch.tensor([2, 0, IGNORED, 1, 1])
WEIGHTS = torch.tensor([0.5, 1.0, 3.0])


def _logits(seed=0):
    torch.manual_seed(seed)
    return (2 * torch.randn(5, 3)).requires_grad_()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_classes_is_torchs(weights, smoothing):
    logits = _logits()
    expected = torch.nn.functional.cross_entropy(
        logits, LABELS, weights, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORED
    )
    loss = class_loss(logits, LABELS, weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss.total, expected, atol=1e-6, rtol=0)
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss.total, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
    assert int(loss.count) == 4
    torch.testing.assert_close(loss.mean, expected / 4)
    if weights is None:
        plain = token_loss(logits, LABELS, smoothing)
        torch.testing.assert_close((loss.total, loss.count), (plain.total, plain.count))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_is_its_formula(gamma):
    logits = _logits()
    p = logits.softmax(-1)
    expected = sum(
        -w * (1 - p[i, y]) ** gamma * p[i, y].log() for i, y, w in ((0, 2, 3), (1, 0, 0.5), (3, 1, 1), (4, 1, 1))
    )
    torch.testing.assert_close(class_loss(logits, LABELS, weights=WEIGHTS, gamma=gamma).total, expected)
    shared = sum(-0.1 * WEIGHTS[c] * (1 - p[i, c]) ** gamma * p[i, c].log() for i in (0, 1, 3, 4) for c in range(3))
    smoothed = class_loss(logits, LABELS, weights=WEIGHTS, gamma=gamma, label_smoothing=0.3)
    torch.testing.assert_close(smoothed.total, 0.7 * expected + shared)


def test_what_is_sure_and_right_counts_less_and_gives_finite_gradients():
    logits = torch.tensor([[50.0, -50.0], [3.0, 0.0], [-3.0, 0.0]], requires_grad=True)  # p = 1 in float32, then 0.95
    labels = torch.zeros(3, dtype=torch.int64)
    for gamma in (0.5, 1.0, 2.0):
        loss = class_loss(logits, labels, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss.total, logits)
        assert gradient.isfinite().all() and loss.total.isfinite()
    parts = [float(class_loss(logits[i : i + 1], labels[:1], gamma=2.0).total.detach()) for i in range(3)]
    plain = [float(class_loss(logits[i : i + 1], labels[:1]).total.detach()) for i in range(3)]
    assert parts[0] == 0 and parts[1] < 0.01 * plain[1] and parts[2] > 0.9 * plain[2]


def test_class_losses_add_up_and_take_labels_of_tokens():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 3), torch.randint(3, (4, 6))
    labels[0] = IGNORED
    options = {"weights": WEIGHTS, "gamma": 1.5, "label_smoothing": 0.1}
    parts = [class_loss(logits[i : i + 1], labels[i : i + 1], **options) for i in range(4)]
    whole = class_loss(logits, labels, **options)
    torch.testing.assert_close((parts[0] + parts[1] + parts[2] + parts[3]).mean, whole.mean)
    assert float(parts[0].mean) == 0 and int(whole.count) == 18
    assert class_loss(logits.bfloat16(), labels).total.dtype == torch.float32


def test_class_weights_let_all_classes_count_the_same():
    labels = torch.tensor([0, 0, 0, 1, IGNORED, 2, 2, 0])
    weights = class_weights(labels, 3)
    assert weights.tolist() == pytest.approx([7 / (3 * 4), 7 / 3, 7 / (3 * 2)])
    kept = labels[labels != IGNORED]
    assert float(weights[kept].mean()) == pytest.approx(1)
    for wrong in (2, 4):
        with pytest.raises(ValueError, match=f"expected {wrong} classes with at least one each"):
            class_weights(labels, wrong)


def test_class_losses_that_are_refused():
    logits = _logits()
    for wrong, message in (
        ({"gamma": -1}, "gamma is -1, label_smoothing 0.0; expected at least 0"),
        ({"label_smoothing": 1.5}, "label_smoothing 1.5"),
        ({"weights": torch.ones(2)}, r"weights have shape \(2,\); expected \(3,\)"),
        ({"weights": -torch.ones(3)}, "a number that is not negative"),
    ):
        with pytest.raises(ValueError, match=message):
            class_loss(logits, LABELS, **wrong)
    with pytest.raises(ValueError, match="labels go from 0 to 3; expected 0 to 2, or -100"):
        class_loss(logits, torch.tensor([0, 1, 2, 3, 0]))
    with pytest.raises(ValueError, match="expected a label for each row"):
        class_loss(logits, LABELS[:3])


def test_an_objective_with_options_trains_a_classifier():
    from functools import partial

    from plm_tutorial.models import Bert, BertConfig
    from plm_tutorial.training import TrainingConfig, fit

    class Same:
        def __getitem__(self, step):
            return {"input_ids": torch.arange(24).reshape(4, 6), "labels": torch.tensor([0, 1, 0, 2])}

    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 32, "dropout": 0.0, "attention_dropout": 0.0}
    model = Bert(BertConfig(vocab_size=32, head="sequence", n_labels=3, **shape))
    weights = class_weights(Same()[0]["labels"], 3)
    objective = partial(predict_classes, weights=weights, gamma=2.0)
    start = float(objective(model.eval(), Same()[0]).mean.detach())
    history = fit(model, Same(), TrainingConfig(steps=40, lr=1e-2), objective=objective, progress=False)
    assert history.rows[0]["loss"] == pytest.approx(start, rel=1e-5)
    assert history.rows[-1]["loss"] < 0.1 * start and history.rows[0]["tokens"] == 24
