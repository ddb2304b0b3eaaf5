"""A small training run that other processes can be told to make: `python -m tests.training.toy OPTIONS`.

Prints the losses as JSON. With ``--kill STEP`` it kills itself without warning after that step; ``--kill-in-save STEP``
in the middle of writing that step's checkpoint.
"""

import argparse
import json
import os
import signal

import torch

from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.training import TrainingConfig, checkpoints, fit, process_group, spread

VOCAB = 50


class Sums:
    """Sequences whose next token is the last one plus a step; row by row from the step's number alone."""

    def __init__(self, rank: int = 0, world: int = 1, size: int = 8, length: int = 16):
        self.rank, self.world, self.size, self.length = rank, world, size, length

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        start, by = torch.randint(VOCAB, (2, self.size, 1), generator=generator)
        tokens = (start + by * torch.arange(self.length + 1)) % VOCAB  # (B, T + 1)
        part = self.size // self.world
        mine = tokens[self.rank * part : (self.rank + 1) * part]
        return {"input_ids": mine[:, :-1].clone(), "labels": mine[:, 1:].clone()}


def make_model(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_hidden": 64}
    return Llama(LlamaConfig(vocab_size=VOCAB, context_length=32, **shape))


class Stopped(Exception):
    """Raised in all processes after the same step."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--kill-in-save", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)

    def after(model, history):
        if history.steps == options.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if history.steps == options.stop:
            raise Stopped

    if options.kill_in_save:
        replace = os.replace

        def die(source, target):
            if f"step-{options.kill_in_save:08d}" in str(target):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        checkpoints.os.replace = die

    with process_group("cpu") as process:
        model = spread(make_model(), options.strategy, process)
        config = TrainingConfig(
            steps=options.steps,
            lr=1e-2,
            optimizer=options.optimizer,
            warmup=2,
            precision=options.precision,
            checkpoint_every=options.every,
        )
        batches = Sums(process.rank, process.world)
        try:
            history = fit(model, batches, config, folder=options.folder, callbacks=[after], progress=False)
        except Stopped:
            return
        if process.rank == 0:
            print(json.dumps(history.column("loss")))


if __name__ == "__main__":
    main()
