"""Losses against their formulas, and their sums against the whole."""

import math

import pytest
import torch
import transformers

from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.objectives import IGNORED, LossSum, predict_labels, token_accuracy, token_loss

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
