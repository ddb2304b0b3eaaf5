"""Ways to split a training run: an all-reduce and tensor parallelism by hand, pipelines simulated, runs to compare.

In: layers of :mod:`plm_tutorial.layers` and a process group. Out: layers of which each process holds and computes a
part, with the same results; and what a process holds and sends under each strategy. Tensor parallelism: Shoeybi et al.
2019 (Megatron-LM), https://arxiv.org/abs/1909.08053, section 3.
"""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plm_tutorial.batches import Batches, PackedRows, TokenFile
from plm_tutorial.experiments.processes import count_saved, count_traffic, held
from plm_tutorial.layers import Block, FeedForward, GatedFeedForward, MultiHeadAttention
from plm_tutorial.models.decoder import Decoder, DecoderConfig
from plm_tutorial.objectives import predict_labels
from plm_tutorial.training import Process, TrainingConfig, fit, make_optimizers, spread, train_step

# --------------------------------------------------------------------------------------------------- all-reduce by hand


def ring_all_reduce(x: Tensor) -> int:
    """Replace a contiguous tensor, in place, by its sum over all processes; return the bytes that this process sent.

    The tensor is cut into as many parts as there are processes. In n - 1 turns every process passes a part to its
    right neighbour, which adds its own: then each holds one finished part. In n - 1 more turns the finished parts go
    round. Source: Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002.
    """
    n, rank = dist.get_world_size(), dist.get_rank()
    right, left = (rank + 1) % n, (rank - 1) % n
    parts = x.view(-1).tensor_split(n)
    sent = 0
    for turn in range(2 * (n - 1)):
        outgoing, incoming = parts[(rank - turn) % n], parts[(rank - turn - 1) % n]
        arrived = torch.empty_like(incoming)
        sending = dist.isend(outgoing, right)
        dist.recv(arrived, left)
        sending.wait()
        if turn < n - 1:
            incoming += arrived
        else:
            incoming.copy_(arrived)
        sent += outgoing.nbytes
    return sent


# --------------------------------------------------------------------------------------------------- tensor parallelism


class _CopyIn(torch.autograd.Function):
    """Forward: the input as it is. Backward: the sum of the gradients, since every process's part has used it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


class _SumOut(torch.autograd.Function):
    """Forward: the sum of all parts. Backward: the gradient as it is, since each part enters the sum once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


class TensorParallel(nn.Module):
    """A feed-forward or an attention of which this process computes a part; all processes get the whole result.

    The layers that widen are cut by their outputs, the one that narrows by its inputs, so that nothing has to be
    exchanged in between: only the results are summed. Attention is cut between heads.

    Args:
        whole: the same in all processes; is left as it is.
        group: the processes that share the work; None: all.

    Raises:
        ValueError: another kind of module, or its hidden features or heads cannot be split evenly.
    """

    def __init__(self, whole: nn.Module, group: dist.ProcessGroup | None = None):
        super().__init__()
        self.group = group
        self.part = part_of(whole, dist.get_rank(group), dist.get_world_size(group))
        for name in ("query_norm", "key_norm"):  # all heads share their weights, so the gradient is a sum over all
            norm = getattr(self.part, name, None)
            if norm is not None:
                norm.weight.register_hook(lambda gradient: _summed(gradient, group))

    def forward(self, x: Tensor, **how: Any) -> Tensor:
        part = self.part(_CopyIn.apply(x, self.group), **how)  # (B, T, D)
        return _SumOut.apply(part, self.group)  # (B, T, D)


def part_of(whole: nn.Module, rank: int, world: int) -> nn.Module:
    """Return a copy of a feed-forward or an attention that has only the ``rank``-th of ``world`` parts of its weights.

    Raises:
        ValueError: another kind of module, or it cannot be split evenly.
    """
    part = copy.deepcopy(whole)
    if isinstance(whole, MultiHeadAttention):
        if whole.n_heads % world or whole.n_kv_heads % world:
            raise ValueError(f"{whole.n_heads} heads and {whole.n_kv_heads} key-value heads cannot be split by {world}")
        part.n_heads, part.n_kv_heads = whole.n_heads // world, whole.n_kv_heads // world
        wide, narrow = (part.query, part.key, part.value), part.output
    elif isinstance(whole, FeedForward | GatedFeedForward):
        wide = (part.up, part.gate) if isinstance(whole, GatedFeedForward) else (part.up,)
        narrow = part.down
        if narrow.in_features % world:
            raise ValueError(f"{narrow.in_features} hidden features cannot be split by {world}")
    else:
        raise ValueError(f"{type(whole).__name__} cannot be split here; pass a feed-forward or an attention")
    for layer in wide:  # weights are (out, in)
        layer.weight = nn.Parameter(layer.weight.detach().chunk(world, dim=0)[rank].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach().chunk(world)[rank].clone())
    narrow.weight = nn.Parameter(narrow.weight.detach().chunk(world, dim=1)[rank].clone())
    if rank:
        narrow.bias = None  # it belongs to the sum: one process adds it
    return part


def split_blocks(model: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replace the attention and the feed-forward of each block by their parts, in place; return the model.

    Embeddings, norms and the output layer stay whole in every process; all processes must be given the same batch.
    """
    for block in model.modules():
        if isinstance(block, Block):
            block.attention = TensorParallel(block.attention, group)
            block.feed_forward = TensorParallel(block.feed_forward, group)
    return model


# ----------------------------------------------------------------------------------------------------------- pipelines

Turn = tuple[str, int]  # "F" forward or "B" backward, and the micro-batch


def pipeline_orders(stages: int, micro_batches: int, alternate: bool = False) -> list[list[Turn]]:
    """Return what each stage of a pipeline computes, in order.

    All forward, then all backward: Huang et al. 2018 (GPipe), https://arxiv.org/abs/1811.06965. With ``alternate`` a
    stage goes backward as soon as it can, and then takes turns: Narayanan et al. 2021,
    https://arxiv.org/abs/2104.04473, section 2.2.
    """
    orders = []
    for stage in range(stages):
        ahead = min(micro_batches, stages - stage) if alternate else micro_batches
        order: list[Turn] = [("F", i) for i in range(ahead)]
        for i in range(micro_batches):
            order.append(("B", i))
            if ahead + i < micro_batches:
                order.append(("F", ahead + i))
        orders.append(order)
    return orders


def simulate_pipeline(
    orders: list[list[Turn]], forward: float = 1.0, backward: float = 2.0
) -> dict[tuple[str, int, int], tuple[float, float]]:
    """Return when each stage does what: (kind, stage, micro-batch) -> (start, end). Sending takes no time.

    A turn begins when its stage is free and what it needs is there: forward the result of the stage before, backward
    that of the stage behind, and the last stage its own.
    """
    done: dict[tuple[str, int, int], tuple[float, float]] = {}
    last, free, queues = len(orders) - 1, [0.0] * len(orders), [list(order) for order in orders]
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue:
                kind, i = queue[0]
                if kind == "F":
                    needed = ("F", stage - 1, i) if stage else None
                else:
                    needed = ("B", stage + 1, i) if stage < last else ("F", stage, i)
                if needed is not None and needed not in done:
                    break
                start = max(free[stage], done[needed][1] if needed else 0.0)
                free[stage] = start + (forward if kind == "F" else backward)
                done[kind, stage, i] = (start, free[stage])
                queue.pop(0)
    return done


# ------------------------------------------------------------------------------------------------------ runs to compare


def make_run(
    process: Process, strategy: str, config: DecoderConfig, tokens: str | Path, *, size: int, length: int, seed: int
) -> tuple[nn.Module, Batches]:
    """Return a new decoder, spread over the processes by ``ddp``, ``fsdp`` or ``tensor``, and this process's batches.

    For a process that is alone (``world`` = 1) that is the whole model and whole batches, whatever the strategy.

    Args:
        tokens: the folder of a :class:`plm_tutorial.batches.TokenFile`.
        size: rows of a batch over all processes together.
        length: tokens of a row.
        seed: of the weights and of the order of the rows.
    """
    torch.manual_seed(seed)
    model = Decoder(config)
    rows = PackedRows(TokenFile.open(tokens), length)
    if process.world == 1:
        return model, Batches(rows, size, seed=seed)
    if strategy == "tensor":
        return split_blocks(model), Batches(rows, size, seed=seed)
    return spread(model, strategy, process), Batches(rows, size, seed=seed, rank=process.rank, world=process.world)


def train_and_weigh(process: Process, *, strategy: str, steps: int, lr: float, **settings: Any) -> dict[str, Any]:
    """Train for some steps, then take one more step apart; return the losses and the bytes of this process.

    Returns:
        ``losses`` of all steps; ``parameters``, ``gradients``, ``optimizer`` and ``activations`` held; ``calls`` of
        collectives; ``sent`` on the wire and ``ring``, what a ring would send.
    """
    model, batches = make_run(process, strategy, **settings)
    optimizers = make_optimizers(model, lr=lr)
    losses = [train_step(model, optimizers, batches[step])[0] for step in range(steps)]
    batch = batches[steps]
    with count_traffic() as traffic:
        with count_saved() as saved:
            loss = predict_labels(model, batch).mean
        loss.backward()
    return {
        "losses": losses,
        **held(model, optimizers),
        "activations": saved.nbytes,
        "calls": traffic.calls,
        "sent": traffic.sent,
        "ring": traffic.by_ring(process.world),
    }


class _Stopped(Exception):
    """Raised in all processes after the same step."""


def go_on(
    process: Process,
    *,
    strategy: str,
    folder: str | Path,
    steps: int,
    lr: float,
    until: int | None = None,
    kill: int | None = None,
    **settings: Any,
) -> list[float]:
    """Train with checkpoints every second step, from the newest one in the folder; return the losses of all steps.

    Args:
        until: stop after this step, as if the time on the machine were over; what came after the last checkpoint is
            lost.
        kill: after this step the last process kills itself, without warning and without a chance to save anything.
    """
    model, batches = make_run(process, strategy, **settings)
    config = TrainingConfig(steps=steps, lr=lr, warmup=2, checkpoint_every=2)

    def after(_: nn.Module, history: Any) -> None:
        if history.steps == kill and process.rank == process.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if history.steps == until:
            raise _Stopped

    try:
        return fit(model, batches, config, folder=folder, callbacks=[after], progress=False).column("loss")
    except _Stopped:
        return []
