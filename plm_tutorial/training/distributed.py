"""One training run on several processes: who this process is, and how a model is spread over them.

In: what ``torchrun`` says through environment variables, and a model. Out: the same model, copied (DDP) or cut into
parts (FSDP2), that is trained like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from plm_tutorial.layers import Block

STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class Process:
    """This process among all that train together."""

    rank: int
    world: int
    device: torch.device


# Groups that were left, kept until Python ends. Otherwise the last owner is a DDP model, whose destructor waits for
# gloo's threads and holds Python's lock, for which one of them may be waiting to give back a tensor: for ever.
_ENDED: list[dist.ProcessGroup] = []


@contextmanager
def process_group(device: str | None = None) -> Iterator[Process]:
    """Join the processes that ``torchrun`` started; without it, there is one process, and nothing is joined.

    Args:
        device: ``cpu`` or ``cuda``; None: CUDA if there is any.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    place = torch.device("cuda", local) if kind == "cuda" else torch.device(kind)
    if "WORLD_SIZE" not in os.environ:
        yield Process(0, 1, place)
        return
    if kind == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    _ENDED.append(dist.group.WORLD)
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


def spread(model: nn.Module, strategy: str, process: Process) -> nn.Module:
    """Return the model as it is trained by several processes; with a single one, the model itself.

    ``ddp`` keeps a whole copy in each process and averages the gradients. ``fsdp`` keeps a part of each parameter, its
    gradient and its optimizer state in each process, and puts a layer together when it is computed. Source: Zhao et al.
    2023, https://arxiv.org/abs/2304.11277; Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"the strategy is {strategy!r}; implemented here: {', '.join(STRATEGIES)}")
    model = model.to(process.device)
    if not dist.is_initialized():
        return model
    if strategy == "ddp":
        ids = [process.device.index] if process.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(process.device.type, (process.world,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def total(value: Tensor) -> Tensor:
    """Return the sum of a value over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value
