"""How long until a given loss: today's recipe against the one of 2019, and our code against `transformers`.

    python benchmarks/time_to_loss.py        about half an hour; writes artifacts/time_to_loss/record.json

The reference is `GPT2LMHeadModel` without dropout, trained 600 steps with AdamW, warm-up and cosine, with the best of
three learning rates. Ours is `modern_recipe` with Muon and an output layer of its own, of the same width, depth, heads
and vocabulary, in complete runs of fewer steps. It has two learning rates, one of the tables and one of the matrices
inside, the best of six pairs: tables and matrices want rates that are far apart. Same rows, same batches, same
validation rows, on which all rates are chosen. What a step takes is measured in turns; a run's time is its steps times
that. The process keeps freed memory (`runtime.keep_freed_memory`), which speeds up both.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from statistics import mean, median

import torch
import transformers
from sweep import kept
from timing import in_turn, matmul_rate, print_table, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial import runtime
from plm_tutorial.batches import Batches, PackedRows
from plm_tutorial.experiments.review_tokens import review_tokens
from plm_tutorial.models.decoder import Decoder, gpt2_recipe, modern_recipe
from plm_tutorial.objectives import LossSum, predict_labels
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes
from plm_tutorial.training import TrainingConfig, fit, make_optimizers, train_step

SHAPE = {"context_length": 128, "d_model": 128, "n_layers": 4, "n_heads": 4, "d_hidden": 512}
ROWS, SEEDS = 16, (0, 1, 2)
REFERENCE = TrainingConfig(steps=600, lr=1e-3, warmup=50, shape="cosine", floor=0.1)
REFERENCE_RATES = (1e-3, 2e-3, 4e-3)
OURS = TrainingConfig(steps=100, lr=2e-2, muon_lr=5e-3, optimizer="muon", warmup=10, shape="wsd", decay=0.4)
OUR_RATES = tuple(product((2e-2, 4e-2), (2.5e-3, 5e-3, 1e-2)))  # of the tables, of the matrices


class Reference(nn.Module):
    """The model of `transformers`, called as ours are: ids in, logits out."""

    def __init__(self, vocab_size: int):
        super().__init__()
        no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=SHAPE["context_length"],
            n_embd=SHAPE["d_model"],
            n_layer=SHAPE["n_layers"],
            n_head=SHAPE["n_heads"],
            n_inner=SHAPE["d_hidden"],
            use_cache=False,
            attn_implementation="sdpa",
            **no_dropout,
        )
        self.model = transformers.GPT2LMHeadModel(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).logits


def models(vocab_size: int) -> dict[str, Callable[[], nn.Module]]:
    return {
        "transformers, GPT-2": lambda: Reference(vocab_size),
        "ours, GPT-2": lambda: Decoder(gpt2_recipe(vocab_size, **SHAPE)),
        "ours, modern": lambda: Decoder(modern_recipe(vocab_size, tied=False, **SHAPE)),
    }


def data(split: str, seed: int) -> Batches:
    return Batches(PackedRows(review_tokens(split), SHAPE["context_length"]), ROWS, seed=seed)


def run(make: Callable[[], nn.Module], config: TrainingConfig, n_batches: int) -> dict[str, float]:
    """Return the validation loss, in nats per token, after a complete training."""
    held_out = data("validation", 0)

    def evaluate(model: nn.Module) -> dict[str, float]:
        losses = [predict_labels(model, held_out[step]) for step in range(n_batches)]
        return {"validation": float(sum(losses[1:], start=losses[0]).mean)}

    torch.manual_seed(config.seed)
    history = fit(make(), data("train", config.seed), config, evaluate=evaluate, progress=False)
    return {"nats per token": history.column("validation")[-1]}


def stepper(make: Callable[[], nn.Module], config: TrainingConfig, n: int) -> Callable[[], None]:
    """Return a program that trains n steps."""
    model, batches = make(), data("train", 0)
    optimizers = make_optimizers(model, config.optimizer, lr=1e-6, weight_decay=config.weight_decay)
    made = [batches[step] for step in range(n)]

    def program() -> None:
        for batch in made:
            train_step(model, optimizers, batch, clip=config.clip)

    return program


def flops(make: Callable[[], nn.Module]) -> float:
    """Return the floating-point operations of the matrix products for one batch, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        loss: LossSum = predict_labels(make(), data("train", 0)[0])
        loss.mean.backward()
    return counter.get_total_flops()


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the timing")
    parser.add_argument("--timed-steps", type=int, default=5, help="steps of each program in a round")
    parser.add_argument("--steps", type=int, default=REFERENCE.steps, help="of the reference")
    parser.add_argument("--batches", type=int, default=32, help="validation batches")
    parser.add_argument("--study", default="time_to_loss", help="the folder of the runs and of the record")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runtime.keep_freed_memory()
    transformers.utils.logging.set_verbosity_error()
    makes = models(review_tokens("train").vocab_size)
    theirs, gpt2, modern = makes

    def loss(name: str, config: TrainingConfig) -> float:
        key = f"{name.replace(', ', '-').replace(' ', '-')}-{config.steps}-{config.lr:g}-{config.muon_lr}-{config.seed}"
        return kept(options.study, key, lambda: run(makes[name], config, options.batches))["nats per token"]

    def of_seeds(name: str, config: TrainingConfig) -> list[float]:
        return [loss(name, replace(config, seed=seed)) for seed in SEEDS]

    warmup = min(REFERENCE.warmup, options.steps // 4)
    reference = replace(REFERENCE, steps=options.steps, warmup=warmup)
    candidates = [replace(reference, lr=lr) for lr in REFERENCE_RATES]
    reference = min(candidates, key=lambda config: mean(of_seeds(theirs, config)))  # high rates depend on the seed
    steps = [max(2, round(options.steps * share)) for share in (1 / 8, 1 / 6, 3 / 16, 1 / 4)]
    ours = replace(OURS, steps=steps[1], warmup=min(OURS.warmup, steps[1] // 4))
    tried = [replace(ours, lr=tables, muon_lr=matrices) for tables, matrices in OUR_RATES]
    ours = min(tried, key=lambda config: loss(modern, config))

    goals = of_seeds(theirs, reference)
    reached = {n: of_seeds(modern, replace(ours, steps=n)) for n in steps}

    configs = {theirs: reference, gpt2: reference, modern: ours}
    programs = {name: stepper(make, configs[name], options.timed_steps) for name, make in makes.items()}
    peak, seconds = matmul_rate(), in_turn(programs, options.rounds)
    same_code = ratio(seconds[theirs], seconds[gpt2])
    per_step = ratio(seconds[modern], seconds[theirs])  # how many times as long a step of ours is
    scores: dict[str, float] = {
        "threads": options.threads,
        "rounds": options.rounds,
        "reference: steps": options.steps,
        "reference: best learning rate": reference.lr,
        "reference: validation nats per token, mean of seeds": mean(goals),
        "ours: best learning rate of the tables": ours.lr,
        "ours: best learning rate of the matrices": ours.muon_lr,
        "GPT-2, tokens/s: ours against transformers": same_code.median,
        "GPT-2, tokens/s: the same, low end of the 95 % interval": same_code.low,
        "GPT-2, tokens/s: the same, high end of the 95 % interval": same_code.high,
        "time of a step, modern against the reference": per_step.median,
        "float32 matmul, GFLOP/s": round(peak / 1e9, 1),
    }
    for n in steps:
        scores[f"ours after {n} steps: nats per token, mean of seeds"] = mean(reached[n])
        scores[f"ours after {n} steps: nats above the reference, mean of seeds"] = mean(reached[n]) - mean(goals)
        scores[f"ours after {n} steps: share of the reference's time"] = n / options.steps * per_step.median
    # At least as good: on average, and with our worst seed against their best.
    for which, ours_of, against, theirs_of in (
        ("the mean of seeds", mean, "mean", mean),
        ("our worst seed", max, "best seed", min),
    ):
        enough = [n for n in steps if ours_of(reached[n]) <= theirs_of(goals)]
        if enough:
            what, share = f"ours: until {which} is as good as the reference's {against}", enough[0] / options.steps
            scores[f"{what}, steps"] = enough[0]
            scores[f"{what}, share of its time"] = share * per_step.median
            scores[f"{what}, share of its time, low end of the 95 % interval"] = share * per_step.low
            scores[f"{what}, share of its time, high end of the 95 % interval"] = share * per_step.high
    rows = [("", "tokens/s", "of the matmul rate", "GFLOP a step")]
    tokens = options.timed_steps * ROWS * SHAPE["context_length"]
    for name, make in makes.items():
        speed, work = tokens / median(seconds[name]), flops(make)
        share = work * options.timed_steps / median(seconds[name]) / peak
        scores[f"{name}: tokens/s"] = round(speed)
        scores[f"{name}: share of the matmul rate"] = round(share, 3)
        rows.append((name, f"{speed:,.0f}", f"{share:.0%}", f"{work / 1e9:.1f}"))
    print_table(rows)
    used = split_hashes("imdb/train", "imdb/validation")
    runs = [{"model": theirs, "steps": options.steps, "seed": s, "nats": x} for s, x in zip(SEEDS, goals, strict=True)]
    for n in steps:
        runs += [{"model": modern, "steps": n, "seed": s, "nats": x} for s, x in zip(SEEDS, reached[n], strict=True)]
    path = write_record(
        options.study,
        scores,
        command="python benchmarks/time_to_loss.py",
        data=used,
        seeds=list(SEEDS),
        tables={"runs": runs},
    )
    print(path, *(f"{name:70} {value:.4g}" for name, value in scores.items()), sep="\n")


if __name__ == "__main__":
    main()
