"""Several processes on this machine that compute together: start them, count what each sends, weigh what each holds.

In: a function and a number of processes. Out: what it returned in each of them. The processes talk through the
machine's own network (gloo), on the processor, with one thread each: slow, but in every other respect like GPUs.
"""

from __future__ import annotations

import dis
import inspect
import multiprocessing
import os
import socket
import struct
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from multiprocessing.connection import wait
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from plm_tutorial.training import process_group

# ------------------------------------------------------------------------------------------------------ start, collect


class ProcessDied(RuntimeError):
    """A process ended without an answer: it was killed, or its function raised an error. The message says which."""


def run(function: Callable[..., Any], processes: int = 2, *, timeout: float = 240.0, **arguments: Any) -> list[Any]:
    """Call ``function(process, **arguments)`` in new processes that form one group; return the answers by rank.

    Each process gets the environment variables that ``torchrun`` would set, and joins the group by them. When one of
    them dies the others are ended, as ``torchrun`` does.

    Args:
        function: of a module, or one that a page defines. The latter travels as text, with the values of the page that
            it names: the processes do not share the page's memory.
        processes: how many.
        timeout: seconds after which they are all ended.
        arguments: whatever can be pickled; the answers too.

    Raises:
        ProcessDied: one of them was killed, raised an error or took too long.
    """
    context, task, port = _context(), _portable(function), _free_port()
    pipes, workers = [], []
    try:
        for rank in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(theirs, task, rank, processes, port, arguments), daemon=True)
            worker.start()
            theirs.close()  # so that its end is noticed here when the process ends
            pipes.append(ours)
            workers.append(worker)
        return _answers(pipes, workers, time.monotonic() + timeout)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _answers(pipes: list, workers: list, deadline: float) -> list[Any]:
    answers: dict[int, Any] = {}
    while len(answers) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
        ready = wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ProcessDied(f"processes {sorted(set(range(len(pipes))) - set(answers))} did not answer in time")
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                kind, answers[rank] = pipe.recv()
            except EOFError:
                kind, answers[rank] = "error", "it ended without a word"
            if kind == "error":
                raise ProcessDied(_reason(workers, rank, answers[rank]))
    return [answers[rank] for rank in range(len(pipes))]


def _reason(workers: list, rank: int, message: str) -> str:
    """Say why a run ended: a process that was killed, if there is one; else the error of the one that told it."""
    wait([worker.sentinel for worker in workers], 1.0)  # an error may be only what a killed neighbour caused
    for other, worker in enumerate(workers):
        if (worker.exitcode or 0) < 0:
            return f"process {other} of {len(workers)} was killed (signal {-worker.exitcode}), and with it the group"
    return f"process {rank} of {len(workers)} failed: {message}"


def _work(pipe: Any, task: Any, rank: int, world: int, port: int, arguments: dict[str, Any]) -> None:
    """Join the group, call the function, send back the answer: the whole life of one process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if loopback := next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # a machine without a network has no other
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # errors go through the pipe; gloo's remarks go nowhere
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        function = _function(task)
        with process_group("cpu") as process:
            answer = function(process, **arguments)
            dist.barrier()  # nobody leaves early: a connection that a neighbour closed is no longer counted
            pipe.send(("answer", answer))
    except Exception:
        pipe.send(("error", traceback.format_exc(limit=-3)))


def _portable(function: Callable[..., Any]) -> Any:
    """Return a function in a form that another process can read: its address, or its text and what it refers to."""
    if function.__module__ != "__main__":
        return function
    sources: dict[str, str] = {}
    modules: dict[str, str] = {}
    values: dict[str, Any] = {}
    _collect(function, sources, modules, values)
    return sources, function.__name__, modules, values


def _collect(function: Any, sources: dict[str, str], modules: dict[str, str], values: dict[str, Any]) -> None:
    """Add a page's function to the texts, and whatever it refers to, other functions of the page included."""
    source = sources[function.__name__] = textwrap.dedent(inspect.getsource(function))
    names = _names(compile(source, "<page>", "exec"))  # of its default values and decorators too
    for name in names & function.__globals__.keys() - sources.keys():
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            modules[name] = value.__name__
        elif isinstance(value, FunctionType) and value.__module__ == "__main__":
            _collect(value, sources, modules, values)
        else:
            values[name] = value


def _names(code: CodeType) -> set[str]:
    """Return the names that a program looks up outside its functions, in those of functions inside it too."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))


def _function(task: Any) -> Callable[..., Any]:
    if callable(task):
        return task
    sources, name, modules, values = task
    names = {alias: import_module(module) for alias, module in modules.items()} | values
    for label, source in sources.items():
        exec(compile(source, f"<{label}>", "exec"), names)
    return names[name]


# What training imports at some time, and what takes a second each time.
PRELOADED = ["plm_tutorial.experiments.parallel", "torch.distributed.fsdp", "torch._dynamo"]


@cache
def _context() -> Any:
    """Return how processes are started: as copies of one that has imported everything, where the system can do that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# ----------------------------------------------------------------------------------------------------------- what goes

# Of each collective: its usual name, and what share (n - 1) / n of the whole tensor a process sends how many times when
# the n processes stand in a ring.
COLLECTIVES = {
    "allreduce_": ("all-reduce", 2),
    "_allgather_base_": ("all-gather", 1),
    "_reduce_scatter_base_": ("reduce-scatter", 1),
    "broadcast_": ("broadcast", 1),
}


@dataclass
class Traffic:
    """What one process and its group said to each other."""

    calls: list[tuple[str, int]] = field(default_factory=list)  # collective, bytes of the whole tensor
    sent: int | None = None  # bytes that this process put on the wire; None where the system does not count them

    def by_ring(self, world: int) -> float:
        """Return the bytes that each of ``world`` processes would send if every collective went round a ring."""
        turns = dict(COLLECTIVES.values())
        return sum(turns[name] * (world - 1) / world * size for name, size in self.calls)


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the collectives that are called inside, whoever calls them, and the bytes that leave this process."""
    traffic = Traffic()
    before = bytes_sent()
    with _Listen(traffic.calls):
        yield traffic
    after = bytes_sent()
    traffic.sent = None if before is None or after is None else after - before


class _Listen(TorchDispatchMode):
    """Sees every operation of PyTorch, those of its C++ parts too, and notes the collectives."""

    def __init__(self, calls: list[tuple[str, int]]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        known = COLLECTIVES.get(operation._opname) if operation.namespace == "c10d" else None
        if known:
            self.calls.append((known[0], max(_size(one) for one in args)))  # the whole is the larger of in and out
        return operation(*args, **(kwargs or {}))


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


def bytes_sent() -> int | None:
    """Return how many bytes this process has given to its open TCP connections; None if the system is not Linux.

    The kernel counts them for each connection, in ``struct tcp_info``: ``tcpi_bytes_sent`` stands 200 bytes from its
    start, ``tcpi_bytes_retrans``, what had to be sent again, behind it, ``tcpi_notsent_bytes``, what waits, at 144.
    """
    if sys.platform != "linux":
        return None
    total = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(number)))
        except OSError:  # closed in the meantime
            continue
        with connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                known = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                if len(known) < 216:  # a kernel before 4.19
                    return None
                sent, again = struct.unpack_from("=2Q", known, 200)
                total += sent - again + struct.unpack_from("=I", known, 144)[0]
    return total


# ----------------------------------------------------------------------------------------------------------- what stays


def held(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> dict[str, int]:
    """Return the bytes that this process holds: parameters, their gradients, and what the optimizers remember."""
    parameters = list(model.parameters())
    states = [value for one in optimizers for state in one.state.values() for value in state.values()]
    return {
        "parameters": sum(_local(one).nbytes for one in parameters),
        "gradients": sum(_local(one.grad).nbytes for one in parameters if one.grad is not None),
        "optimizer": sum(_local(one).nbytes for one in states if isinstance(one, Tensor)),
    }


def _local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass, parameters left out."""

    nbytes: int = 0


@contextmanager
def count_saved() -> Iterator[Saved]:
    """Count the bytes of activations that the computation inside keeps for its backward pass.

    Tensors that share memory count once. Memory that an operation uses and gives back at once is not counted.
    """
    saved, seen = Saved(), set()

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        origin = tensor if tensor._base is None else tensor._base
        parameter = origin.is_leaf and origin.requires_grad
        if not parameter and memory.data_ptr() not in seen:
            seen.add(memory.data_ptr())
            saved.nbytes += memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
