"""Training: optimizers and schedules, the loop, checkpoints, several processes.

In: a model, batches by step, a :class:`TrainingConfig`. Out: the trained model, its :class:`History`, checkpoints that
another run, on any number of processes, can go on from.
"""

from .checkpoints import CheckpointError
from .distributed import Process, process_group, spread
from .loop import History, TrainingConfig, TrainingError, fit, split_batch, train_step
from .optimizers import Muon, lr_at, make_optimizers, orthogonalize, split_parameters

__all__ = [
    "CheckpointError",
    "History",
    "Muon",
    "Process",
    "TrainingConfig",
    "TrainingError",
    "fit",
    "lr_at",
    "make_optimizers",
    "orthogonalize",
    "process_group",
    "split_batch",
    "split_parameters",
    "spread",
    "train_step",
]
