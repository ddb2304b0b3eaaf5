"""Two real processes: what they compute together is what one computes alone, and what they send is counted right."""

import linecache
import os
import signal
import textwrap
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from plm_tutorial.batches import write_tokens
from plm_tutorial.experiments.parallel import (
    TensorParallel,
    go_on,
    part_of,
    pipeline_orders,
    ring_all_reduce,
    simulate_pipeline,
    train_and_weigh,
)
from plm_tutorial.experiments.processes import ProcessDied, count_saved, count_traffic, held, run
from plm_tutorial.layers import FeedForward, GatedFeedForward, LayerNorm, MultiHeadAttention, rotary_angles
from plm_tutorial.models.decoder import DecoderConfig, modern_recipe
from plm_tutorial.tokenizers import train_fast_bpe
from plm_tutorial.training import Process, make_optimizers

ALONE = Process(0, 1, torch.device("cpu"))
SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 4, "d_hidden": 64, "context_length": 32}


# ---- processes


def rank_and_more(process, more):
    return process.rank, process.world, more, os.environ["WORLD_SIZE"]


def test_answers_come_back_by_rank():
    assert run(rank_and_more, 3, more={"a": 1}) == [(rank, 3, {"a": 1}, "3") for rank in range(3)]


def test_a_function_of_a_page_travels_as_text_with_what_it_names():
    source = """
        import torch, torch.distributed as dist
        STEP = 10
        def begin(rank):
            return rank + float(STEP)
        def total(process, more, length=STEP):
            x = torch.tensor([begin(process.rank) + more for _ in range(length)])
            dist.all_reduce(x)
            return x.sum().item()
    """
    page = {"__name__": "__main__"}
    lines = textwrap.dedent(source)
    linecache.cache["<page>"] = (len(lines), None, lines.splitlines(True), "<page>")
    exec(compile(lines, "<page>", "exec"), page)
    assert run(page["total"], more=1) == [10 * (11 + 12.0)] * 2


def fail_second(process):
    if process.rank == 1:
        raise KeyError("the reason")
    dist.barrier()


def kill_second(process):
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def wait_for_ever(process):
    import time

    time.sleep(60)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (kill_second, r"process 1 of 2 was killed \(signal 9\), and with it the group"),
        (wait_for_ever, r"processes \[0, 1\] did not answer in time"),
    ],
)
def test_a_death_ends_the_group_and_is_told(function, message):
    with pytest.raises(ProcessDied, match=message):
        run(function, timeout=10.0 if function is kill_second else 0.5)


def test_an_error_is_told_with_its_place():
    with pytest.raises(ProcessDied, match=r"process \d of 2 failed: (.|\n)*") as caught:
        run(fail_second)
    assert "the reason" in str(caught.value) or "Connection closed" in str(caught.value)


# ---- all-reduce, and what is counted


def reduce_both_ways(process, n):
    draw = torch.Generator().manual_seed(process.rank)
    x = torch.randn(n, generator=draw)
    y = x.clone()
    dist.all_reduce(x)
    with count_traffic() as traffic:
        sent = ring_all_reduce(y)
    return (x - y).abs().max().item(), sent, traffic.sent


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_ring_by_hand_sums_and_sends_the_least(world):
    n = 24_000
    for gap, sent, on_wire in run(reduce_both_ways, world, n=n):
        assert gap < 1e-5
        assert sent == 2 * (world - 1) / world * 4 * n
        assert on_wire is None or sent <= on_wire < 1.02 * sent + 2000


def test_a_ring_of_more_processes_than_numbers():
    assert [gap for gap, *_ in run(reduce_both_ways, 3, n=2)] == pytest.approx([0, 0, 0], abs=1e-6)


def one_of_each(process, n):
    x, part, whole = torch.ones(n), torch.ones(n // 2), torch.empty(n)
    found = []
    for call in (
        lambda: dist.all_reduce(x),
        lambda: dist.all_gather_into_tensor(whole, part),
        lambda: dist.reduce_scatter_tensor(part, x),
        dist.barrier,
    ):
        with count_traffic() as traffic:
            call()
        found.append((traffic.calls, traffic.sent, traffic.by_ring(2)))
    return found


def test_collectives_are_named_and_weighed():
    size = 400_000
    for answer in run(one_of_each, n=size // 4):
        (reduced, wire, ring), (gathered, _, half), (scattered, _, half_too), (nothing, _, zero) = answer
        assert (reduced, gathered, scattered) == (
            [("all-reduce", size)],
            [("all-gather", size)],
            [("reduce-scatter", size)],
        )
        assert (ring, half, half_too, zero, nothing) == (size, size / 2, size / 2, 0, [])
        assert wire is None or size <= wire < 1.02 * size


# ---- what is held


def test_parameters_gradients_and_moments_are_weighed():
    model = nn.Linear(10, 5)  # 55 numbers
    optimizers = make_optimizers(model, lr=0.1)
    assert held(model, optimizers) == {"parameters": 220, "gradients": 0, "optimizer": 0}
    model(torch.ones(3, 10)).sum().backward()
    optimizers[0].step()
    steps = 2 * 4  # AdamW counts its steps, once for each parameter
    assert held(model, optimizers) == {"parameters": 220, "gradients": 220, "optimizer": 440 + steps}


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_parameters():
    up, down = nn.Linear(10, 40), nn.Linear(40, 10)
    with count_saved() as saved:
        down(up(torch.ones(3, 10)).relu())
    assert saved.nbytes == 4 * (3 * 10 + 3 * 40)  # the input, and the result of ReLU, which is also what `down` reads
    with count_saved() as saved, torch.no_grad():
        down(up(torch.ones(3, 10)))
    assert saved.nbytes == 0


# ---- tensor parallelism


def make_part(kind):
    torch.manual_seed(3)
    if kind == "feed-forward":
        return FeedForward(16, 24)
    if kind == "gated":
        return GatedFeedForward(16, 24, bias=True)
    if kind == "grouped":
        return MultiHeadAttention(16, 4, n_kv_heads=2)
    return MultiHeadAttention(16, 4, qk_norm=1e-5)


def split_and_whole(process, kind):
    """Return gaps of output, input gradient and parameter gradients, and the all-reduces of both directions."""
    whole = make_part(kind)
    split = TensorParallel(whole)
    how = (
        {"causal": True, "rotary": rotary_angles(torch.arange(5), 4)} if "feed" not in kind and kind != "gated" else {}
    )
    x, wanted = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(1))
    outputs, inputs, calls = [], [], []
    for module in (whole, split):
        inside = x.clone().requires_grad_()
        with count_traffic() as forth:
            y = module(inside, **how)
        with count_traffic() as back:
            (y * wanted).sum().backward()
        outputs.append(y.detach())
        inputs.append(inside.grad)
        calls.append((len(forth.calls), len([call for call in back.calls if call[1] == x.nbytes])))
    gaps = [(a - b).abs().max().item() for a, b in (outputs, inputs)]
    for name, part in split.part.named_parameters():
        gaps.append((part.grad - piece_of(whole.get_parameter(name).grad, name, process.rank)).abs().max().item())
    return gaps, calls


def piece_of(tensor, name, rank):
    layer, kind = name.split(".")
    if "norm" in layer or (layer in ("down", "output") and kind == "bias"):
        return tensor
    return tensor.chunk(2, dim=1 if layer in ("down", "output") else 0)[rank]


@pytest.mark.parametrize("kind", ["feed-forward", "gated", "attention", "grouped"])
def test_a_split_layer_gives_the_outputs_and_gradients_of_the_whole_one(kind):
    for gaps, calls in run(split_and_whole, kind=kind):
        assert max(gaps) < 1e-5 and len(gaps) >= 5
        assert calls == [(0, 0), (1, 1)]


def test_parts_together_are_the_whole():
    whole = make_part("gated")
    parts = [part_of(whole, rank, 3) for rank in range(3)]
    x = torch.randn(4, 16)
    torch.testing.assert_close(sum(part(x) for part in parts), whole(x))
    assert [part.down.bias is None for part in parts] == [False, True, True]


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="4 heads and 4 key-value heads cannot be split by 3"):
        part_of(make_part("attention"), 0, 3)
    with pytest.raises(ValueError, match="4 heads and 2 key-value heads cannot be split by 4"):
        part_of(make_part("grouped"), 0, 4)
    with pytest.raises(ValueError, match="24 hidden features cannot be split by 5"):
        part_of(make_part("gated"), 0, 5)
    with pytest.raises(ValueError, match="LayerNorm cannot be split here"):
        part_of(LayerNorm(16), 0, 2)


# ---- pipelines


@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize(("stages", "micro"), [(1, 3), (2, 1), (4, 4), (4, 3), (3, 10)])
def test_the_bubble_is_that_of_the_formula_and_alternating_keeps_less(stages, micro, alternate):
    orders = pipeline_orders(stages, micro, alternate)
    for forward, backward in ((1, 2), (1, 1), (2, 3)):
        turns = simulate_pipeline(orders, forward, backward)
        assert len(turns) == 2 * stages * micro
        end = max(end for _, end in turns.values())
        assert 1 - (forward + backward) * micro / end == pytest.approx((stages - 1) / (micro + stages - 1))
        for stage in range(stages):  # one thing at a time
            own = sorted(span for (_, where, _), span in turns.items() if where == stage)
            assert all(a[1] <= b[0] for a, b in pairwise(own))
        for i in range(micro):  # nothing before what it needs
            path = [turns["F", s, i] for s in range(stages)] + [turns["B", s, i] for s in reversed(range(stages))]
            assert all(a[1] <= b[0] for a, b in pairwise(path))
    kept = [max(accumulate(1 if kind == "F" else -1 for kind, _ in order)) for order in orders]
    assert max(kept) == (min(stages, micro) if alternate else micro)


# ---- runs


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(["one", "two", "three", "four"], 40)) for _ in range(60)]
    tokenizer = train_fast_bpe(texts, 270, ["<|end|>"])
    return write_tokens(texts, tokenizer, tmp_path_factory.mktemp("tokens") / "train", end_id=0).path


@pytest.fixture(scope="module")
def settings(tokens):
    config = modern_recipe(tokenizer_size(tokens), tied=False, **SHAPE)
    return {"config": config, "tokens": tokens, "size": 4, "length": 16, "seed": 0, "lr": 1e-3}


def tokenizer_size(tokens):
    from plm_tutorial.batches import TokenFile

    return TokenFile.open(tokens).vocab_size


@pytest.fixture(scope="module")
def alone(settings):
    return train_and_weigh(ALONE, strategy="ddp", steps=6, **settings)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_each_strategy_follows_the_curve_of_one_process_and_holds_and_sends_what_theory_says(alone, settings, strategy):
    whole, config = alone["parameters"], settings["config"]
    for found in run(train_and_weigh, strategy=strategy, steps=6, **settings):
        assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert found["gradients"] == found["parameters"]
        assert found["optimizer"] == pytest.approx(2 * found["parameters"], rel=0.01)
        if strategy == "ddp":
            assert found["parameters"] == whole and found["ring"] == pytest.approx(whole, rel=0.01)
            assert found["activations"] == pytest.approx(alone["activations"] / 2, rel=0.02)
        elif strategy == "fsdp":
            assert found["parameters"] == pytest.approx(whole / 2, rel=0.01)
            assert found["activations"] == pytest.approx(alone["activations"] / 2, rel=0.02)
            blocks = 4 * config.n_layers * (4 * 32**2 + 2 * 32 * 64 + 2 * 32 + 2 * 8)
            assert found["ring"] == pytest.approx(1.5 * blocks + (whole - blocks), rel=0.01)
        else:
            assert whole / 2 < found["parameters"] < whole
            exchanged = 4 * config.n_layers * 4 * 16 * 32 * 4  # four a layer, each B T D numbers of 4 bytes
            norms = 2 * config.n_layers * 8 * 4
            assert found["ring"] == exchanged + norms
        assert found["sent"] is None or found["sent"] > 0.95 * found["ring"]


@pytest.mark.parametrize(("first", "then", "strategy"), [(2, 1, "fsdp"), (1, 2, "ddp")])
def test_a_run_goes_on_after_a_death_on_another_number_of_processes(tmp_path, settings, first, then, strategy):
    undisturbed = go_on(ALONE, strategy=strategy, folder=tmp_path / "straight", steps=8, **settings)
    where = settings | {"strategy": strategy, "folder": tmp_path / "killed", "steps": 8}
    if first == 2:
        with pytest.raises(ProcessDied, match="process 1 of 2 was killed"):
            run(go_on, 2, kill=5, **where)
        losses = go_on(ALONE, **where)
    else:
        assert go_on(ALONE, until=5, **where) == []
        losses, again = run(go_on, 2, **where)
        assert losses == again
    assert losses == pytest.approx(undisturbed, abs=1e-5)


def test_a_configuration_without_norms_of_queries_needs_no_further_exchange(settings):
    plain = settings | {"config": DecoderConfig(settings["config"].vocab_size, **SHAPE)}
    whole = train_and_weigh(ALONE, strategy="ddp", steps=3, **plain)
    for found in run(train_and_weigh, strategy="tensor", steps=3, **plain):
        assert found["losses"] == pytest.approx(whole["losses"], abs=1e-5)
        assert len(found["calls"]) == 4 * SHAPE["n_layers"]
