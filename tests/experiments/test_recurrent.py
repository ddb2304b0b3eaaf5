"""Recurrent language models: torch's numbers, the decoder's interface, a state of fixed size, and the instruments."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial.evaluation import score_texts
from plm_tutorial.experiments import scaling
from plm_tutorial.experiments.recurrent import (
    Recall,
    Recurrent,
    RecurrentConfig,
    bytes_kept,
    cache_bytes,
    equal_model,
    forward_flops,
    gradient_by_distance,
    longest_chain,
    lstm_step,
    nats_by_position,
    recall_accuracy,
    scan,
    state_bytes,
    tanh_step,
)
from plm_tutorial.generation import generate
from plm_tutorial.layers import record
from plm_tutorial.models.decoder import Decoder, modern_recipe
from plm_tutorial.objectives import IGNORED, predict_hidden
from plm_tutorial.training import TrainingConfig, fit


def model(**how):
    torch.manual_seed(0)
    return Recurrent(RecurrentConfig(50, d_model=16, **{"n_layers": 3, "init_std": 0.5} | how)).eval()


@pytest.mark.parametrize(("cell", "torchs"), [("lstm", torch.nn.LSTM), ("tanh", torch.nn.RNN)])
def test_layers_are_torchs(cell, torchs):
    ours, theirs = model(cell=cell), torchs(16, 16, 3, batch_first=True)
    for i, layer in enumerate(ours.layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(theirs, f"{name}_l{i}").data.copy_(getattr(layer, f"{name}_l0"))
    ids = torch.randint(50, (3, 9))
    torch.testing.assert_close(ours.hidden(ids), theirs(ours.tokens(ids))[0])


def test_one_step_by_hand():
    x, h, c = torch.randn(3, 2, 5)
    lstm, rnn = torch.nn.LSTMCell(5, 5), torch.nn.RNNCell(5, 5)
    torch.testing.assert_close(
        lstm_step(x, h, c, lstm.weight_ih, lstm.weight_hh, lstm.bias_ih + lstm.bias_hh), lstm(x, (h, c))
    )
    torch.testing.assert_close(tanh_step(x, h, rnn.weight_ih, rnn.weight_hh, rnn.bias_ih + rnn.bias_hh), rnn(x, h))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 37])
def test_scan_is_the_loop(length):
    a, b = torch.rand(2, length, 5, dtype=torch.float64), torch.randn(2, length, 5, dtype=torch.float64)
    h, states = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(length):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    torch.testing.assert_close(scan(a, b), torch.stack(states, 1))


@pytest.mark.parametrize("how", [{}, {"residual": True}, {"cell": "tanh"}, {"tied": False}])
def test_the_state_goes_on_where_it_was(how):
    ours, ids = model(**how), torch.randint(50, (2, 9))
    state, whole = ours.new_cache(), ours(ids)
    parts = [ours(part, cache=state) for part in ids.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state.length == 9 and state.nbytes == state_bytes(ours.config, 2)
    torch.testing.assert_close(ours(ids, last_only=True), whole[:, -1:])
    keep = torch.rand(2, 9) < 0.5
    torch.testing.assert_close(ours(ids, keep=keep), whole[keep])


def test_padding_does_not_move_the_state():
    ours, ids = model(residual=True), torch.randint(50, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, :4], mask[1, 6:] = 0, 0
    out = ours(ids, mask)
    torch.testing.assert_close(out[0, 4:], ours(ids[:1, 4:])[0])
    torch.testing.assert_close(out[1, :6], ours(ids[1:2, :6])[0])
    new = generate(ours, ids[:1], 5, attention_mask=mask[:1])
    assert torch.equal(new, generate(ours, ids[:1, 4:], 5)) and torch.equal(
        new, generate(ours, ids[:1, 4:], 5, use_cache=False)
    )
    mask[2] = 0
    with pytest.raises(ValueError, match="sequence 2 is nothing but padding"):
        ours(ids, mask)


def test_a_state_cannot_go_back_and_can_be_selected():
    ours, ids = model(), torch.randint(50, (2, 9))
    state = ours.new_cache()
    ours(ids, cache=state)
    state.length = 9
    with pytest.raises(ValueError, match="cannot go back to 5"):
        state.length = 5
    state.select(torch.tensor([1, 1, 0]))
    again = ours(ids[[1, 1, 0], :1], cache=state)
    torch.testing.assert_close(again[0], ours(torch.cat((ids[1:], ids[1:, :1]), 1))[0, -1:])


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="cell is 'gru'"):
        RecurrentConfig(10, cell="gru")
    with pytest.raises(ValueError, match="this model knows 0 to 49"):
        model()(torch.tensor([[50]]))
    with pytest.raises(ValueError, match="distance is -1"):
        Recall(-1)


def test_it_scores_texts():
    from plm_tutorial.experiments.review_tokens import review_tokenizer

    torch.manual_seed(0)
    ours = Recurrent(RecurrentConfig(4096, d_model=8, n_layers=1))
    scores = score_texts(ours, review_tokenizer(), ["A good film.", "No."], 16)
    assert (scores.nats > 0).all() and scores.n_tokens.tolist()[0] > 2


def test_counts_agree_with_what_is_there():
    ours = model(tied=False)
    assert sum(layer.weight_ih_l0.numel() + layer.weight_hh_l0.numel() for layer in ours.layers) == 3 * 8 * 16**2
    assert forward_flops(ours.config) == 2 * (3 * 8 * 16**2 + 50 * 16)
    decoder = Decoder(modern_recipe(50, d_model=16, n_layers=2, n_heads=2, d_hidden=64))
    cache = decoder.new_cache()
    decoder(torch.randint(50, (2, 9)), cache=cache)
    assert bytes_kept(cache) == cache_bytes(decoder.config, 9, 2)
    state = ours.new_cache()
    ours(torch.randint(50, (2, 9)), cache=state)
    assert bytes_kept(state) == state_bytes(ours.config, 2)


def test_recall_asks_for_what_was_there():
    task = Recall(5, 2, rows=4, seed=1)
    batch = task[0]
    ids, labels = batch["input_ids"], batch["labels"]
    assert ids.shape == labels.shape == (4, task.length) and task.length == 9
    assert torch.equal(labels[:, -2:], ids[:, :2]) and (labels[:, :-2] == IGNORED).all()
    assert (ids[:, -2:] == task.vocab_size - 1).all() and (ids[:, 2:7] >= 8).all() and (ids[:, :2] < 8).all()
    assert torch.equal(task[0]["input_ids"], ids) and not torch.equal(task[-1]["input_ids"], ids)
    assert not torch.equal(task[1]["input_ids"], ids)


def test_recall_over_a_short_distance_is_learned():
    task = Recall(2, n_values=4, rows=16)
    torch.manual_seed(0)
    ours = Recurrent(RecurrentConfig(task.vocab_size, d_model=24, n_layers=1, residual=True, forget_bias=3.0))
    before = recall_accuracy(ours, task)
    fit(ours, task, TrainingConfig(120, lr=1e-2, weight_decay=0.0), objective=predict_hidden, progress=False)
    assert recall_accuracy(ours, task) > 0.95 > before


def test_gradient_by_distance_and_loss_by_position():
    ours, ids = model(forget_bias=0.0), torch.randint(50, (64, 12))
    pull = gradient_by_distance(ours, ids, torch.randint(50, (64,)))
    assert pull.shape == (12,) and pull[11] < pull[6] < pull[1] and not ours.training
    assert all(weight.grad is None for weight in ours.parameters())
    labels = torch.randint(50, (64, 12))
    nats = nats_by_position(ours, ids, labels, rows=3)
    wanted = torch.nn.functional.cross_entropy(ours(ids).transpose(1, 2), labels).item()
    assert abs(nats.mean().item() - wanted) < 1e-5


def test_models_of_equal_size():
    sizes = [
        sum(weight.numel() for weight in equal_model(kind, 50, 32, 4, 64).parameters())
        for kind in ("Transformer", "LSTM", "plain LSTM")
    ]
    assert max(sizes) / min(sizes) < 1.05
    assert equal_model("LSTM", 50, 32, 2, 64, forget_bias=3.0).layers[0].bias_ih_l0[32:64].eq(3).all()
    assert equal_model("LSTM", 50, 32, 2, 64, cell="tanh").config.residual
    assert not equal_model("plain LSTM", 50, 32, 2, 64).config.residual
    for kind, blocks in (("GRU", 2), ("LSTM", 3), ("LSTM", 0)):
        with pytest.raises(ValueError, match="expected Transformer"):
            equal_model(kind, 50, 32, blocks, 64)


def test_the_longest_chain_of_products():
    x, w = torch.randn(3, 3), torch.randn(3, 3)

    def in_order(n):
        h = x
        for _ in range(n):
            h = torch.tanh(h.clone() @ w).view(3, 3)
        return h + x @ w  # beside the chain

    assert [longest_chain(lambda n=n: in_order(n)) for n in (1, 2, 7)] == [1, 2, 7]
    assert longest_chain(lambda: torch.stack([x @ w for _ in range(9)]).sum()) == 1
    assert longest_chain(lambda: torch.bmm(torch.nn.functional.linear(x, w, x[0])[None], w[None])) == 2
    assert longest_chain(lambda: scan(torch.rand(8, 3), torch.rand(8, 3))) == 0


def test_arithmetic_agrees_with_torchs_count():
    decoder = equal_model("Transformer", 50, 32, 2, 64)
    ids = torch.randint(50, (1, 24))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, record(decoder):
        decoder(ids)
    assert counter.get_total_flops() == 24 * scaling.forward_flops(decoder.config, 24).total
    with record(decoder):
        chains = {longest_chain(lambda n=n: decoder(ids[:, :n])) for n in (4, 8, 24)}
    assert len(chains) == 1
