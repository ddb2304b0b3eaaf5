"""Which change since GPT-2 is worth what: each alone, added to the old recipe and taken out of the new one.

    python benchmarks/ablations.py        about an hour on one core; writes artifacts/ablations/

Stopped, it goes on where it was. All runs see the same number of tokens of movie reviews, and under the same seed the
same batches in the same order. The GPT-2 recipe is trained by AdamW with a cosine, the modern one by Muon with warm-up,
stable phase and decay. Learning rates are chosen for both, and again wherever the optimizer is exchanged, on validation
rows with the first seed. All others keep the rates of the recipe they start from. What is measured is the loss on fixed
validation rows.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from scipy.stats import t as student
from sweep import kept
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial.batches import Batches, PackedRows
from plm_tutorial.experiments.review_tokens import review_tokens
from plm_tutorial.layers import record
from plm_tutorial.models.decoder import Decoder, DecoderConfig, gpt2_recipe, modern_recipe
from plm_tutorial.objectives import predict_labels
from plm_tutorial.records import write_record
from plm_tutorial.runtime import device
from plm_tutorial.training import TrainingConfig, fit, make_optimizers, train_step

VOCAB = 4096


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    steps: int = 280
    warmup: int = 20
    rows: int = 8  # of a batch
    length: int = 128  # tokens of a row
    validation: int = 390  # rows
    d_model: int = 96
    n_layers: int = 4
    n_heads: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)  # of which the best is taken

    @property
    def key(self) -> str:
        """Name what a run depends on besides its recipe and seed."""
        model = f"{self.d_model}x{self.n_layers}x{self.n_heads}"
        return f"{model}-{self.rows}x{self.length}-{self.steps}-{self.warmup}-{self.validation}"


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained."""

    model: DecoderConfig
    optimizer: str
    shape: str  # of the learning rate
    lr: float = 0.0  # of all parameters: Muon's steps are scaled to AdamW's; 0: to be chosen

    def changed(self, **what: object) -> Recipe:
        """Return the recipe with other values, of its own fields or of the model's."""
        own = {name: value for name, value in what.items() if name in {one.name for one in fields(self)}}
        other = {name: value for name, value in what.items() if name not in own}
        return replace(self, **own, model=replace(self.model, **other))


def recipes(study: Study) -> dict[str, Recipe]:
    """Return the two recipes that all others start from."""
    width = {"d_model": study.d_model, "d_hidden": 4 * study.d_model}
    shape = {"context_length": study.length, "n_layers": study.n_layers, "n_heads": study.n_heads} | width
    return {
        "GPT-2": Recipe(gpt2_recipe(VOCAB, **shape), "adamw", "cosine"),
        "modern": Recipe(modern_recipe(VOCAB, **shape), "muon", "wsd"),
    }


def changes(study: Study) -> dict[str, tuple[dict[str, object], dict[str, object]]]:
    """Return for each part what brings it in, and what takes it out; the latter is empty if no recipe has it.

    SwiGLU has a third matrix; with two thirds of the hidden width it has as many parameters as the others.
    """
    swiglu = {"activation": "swiglu", "d_hidden": round(8 * study.d_model / 3)}
    return {
        "rotary positions": ({"positions": "rotary"}, {"positions": "learned"}),
        "RMSNorm": ({"norm": "rms"}, {"norm": "layer"}),
        "QK-norm": ({"qk_norm": True}, {"qk_norm": False}),
        "ReLU²": ({"activation": "relu2"}, {"activation": "gelu_new"}),
        "SwiGLU": (swiglu, {}),
        "zero start": ({"zero_init": True}, {"zero_init": False}),
        "no biases": ({"bias": False}, {"bias": True}),
        "untied output": ({"tied": False}, {}),
        "Muon": ({"optimizer": "muon"}, {"optimizer": "adamw"}),
        "WSD": ({"shape": "wsd"}, {"shape": "cosine"}),
    }


@cache
def rows_of(split: str, length: int) -> PackedRows:
    """Return the reviews of a split, cut into rows."""
    return PackedRows(review_tokens(split), length)


def train(study: Study, recipe: Recipe, seed: int) -> dict:
    """Return what one run gives: nats per token of the validation rows, and the training loss by tenths of the run."""
    batches = Batches(rows_of("train", study.length), study.rows, seed=seed)
    torch.manual_seed(seed)
    model = Decoder(recipe.model).to(device())
    how = {"optimizer": recipe.optimizer, "shape": recipe.shape, "lr": recipe.lr}
    history = fit(model, batches, TrainingConfig(study.steps, warmup=study.warmup, **how), progress=False)
    tenths = [float(np.mean(part)) for part in np.array_split(history.column("loss"), min(10, study.steps))]
    return {
        "nats per token": validate(study, model),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "FLOPs per token": flops(study, recipe, batches[0]),
        "training loss": tenths,
    }


@torch.inference_mode()
def validate(study: Study, model: Decoder) -> float:
    """Return the mean loss on the same validation rows for all runs, in nats per token."""
    rows = rows_of("validation", study.length)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: study.validation])
    losses = []
    for part in np.array_split(chosen, -(-len(chosen) // 16)):
        batch = {name: value.to(device()) for name, value in rows.batch(part).items()}
        losses.append(predict_labels(model.eval(), batch))
    return float(sum(losses[1:], start=losses[0]).mean)


def flops(study: Study, recipe: Recipe, batch: dict[str, torch.Tensor]) -> float:
    """Count the products of matrices in one training step, those of the optimizer included, per token."""
    model = Decoder(recipe.model)
    optimizers = make_optimizers(model, recipe.optimizer, lr=1e-9)
    # The counter does not know the fused attention of a CPU; under `record` the explicit path is taken.
    with FlopCounterMode(display=False) as counter, record(model):
        train_step(model, optimizers, batch)
    return counter.get_total_flops() / batch["labels"].numel()


def run(study: Study, recipe: Recipe, seed: int) -> dict:
    """Return the result of a run, from an earlier call if there was one."""
    model = "-".join(str(getattr(recipe.model, name)) for name in SWITCHES)
    key = f"{model}-{recipe.optimizer}-{recipe.shape}-{recipe.lr:g}-seed{seed}-{study.key}"
    return kept("ablations", key, lambda: train(study, recipe, seed))


SWITCHES = ("positions", "norm", "qk_norm", "activation", "zero_init", "bias", "tied")


def with_best_rate(study: Study, recipe: Recipe) -> Recipe:
    """Return the recipe with the learning rate that does best with the first seed."""
    candidates = [replace(recipe, lr=rate) for rate in study.rates]
    return min(candidates, key=lambda one: run(study, one, study.seeds[0])["nats per token"])


def variants(study: Study) -> list[tuple[str, str, Recipe]]:
    """Return start, changed part (none: the start itself) and recipe of everything that is trained."""
    found = []
    for name, recipe in recipes(study).items():
        start = with_best_rate(study, recipe)
        found.append((name, "", start))
        for part, (bring, take) in changes(study).items():
            change = take if name == "modern" and take else bring
            changed = start.changed(**change)
            found.append((name, part, with_best_rate(study, changed) if "optimizer" in change else changed))
    return found


def effects(study: Study, rows: list[dict]) -> list[dict]:
    """Return for each start and part the nats per token that the part saves, with a t interval over the seeds."""
    loss = {(row["start"], row["part"], row["seed"]): row["nats per token"] for row in rows}
    found = []
    for start, part in dict.fromkeys((start, part) for start, part, _ in loss):
        if not part:
            continue
        taken = start == "modern" and bool(changes(study)[part][1])
        change = np.array([loss[start, "", seed] - loss[start, part, seed] for seed in study.seeds])
        saved = -change if taken else change  # without the part, minus with it
        n = len(saved)
        half = student.ppf(0.975, n - 1) * saved.std(ddof=1) / n**0.5 if n > 1 else float("nan")
        found.append(
            {"start": start, "part": part, "change": "taken out" if taken else "added", "nats saved": saved.mean()}
            | {"low": saved.mean() - half, "high": saved.mean() + half}
        )
    return found


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--name", default="ablations", help="the record's name, under artifacts/")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    options = parser.parse_args()
    tiny = {"steps": 4, "warmup": 1, "rows": 2, "length": 32, "validation": 8, "d_model": 16, "n_layers": 1}
    study = Study(**tiny | {"seeds": (0, 1)}) if options.quick else Study()

    rows, curves = [], []
    tokens = study.steps * study.rows * study.length
    for start, part, recipe in variants(study):
        for seed in study.seeds:
            result = run(study, recipe, seed)
            named = {"start": start, "part": part, "seed": seed}
            tenths = result.pop("training loss")
            middle = [tokens * (i + 0.5) / len(tenths) for i in range(len(tenths))]
            rows.append(named | {"lr": recipe.lr} | result)
            curves += [named | {"tokens": at, "loss": loss} for at, loss in zip(middle, tenths, strict=True)]
    scores = {
        "tokens of each run": tokens,
        "parameters": rows[0]["parameters"],
        "seeds": len(study.seeds),
        "validation tokens": study.validation * study.length,
    }
    for start in recipes(study):
        own = [row for row in rows if row["start"] == start and not row["part"]]
        scores[f"{start} recipe, nats per token"] = float(np.mean([row["nats per token"] for row in own]))
        scores[f"{start} recipe, FLOPs per token"] = own[0]["FLOPs per token"]
        scores[f"{start} recipe, learning rate"] = own[0]["lr"]
    path = write_record(
        options.name,
        scores,
        command="python benchmarks/ablations.py",
        data={f"tokens of {split}": review_tokens(split).sha256 for split in ("train", "validation")},
        seeds=list(study.seeds),
        tables={"runs": rows, "effects": effects(study, rows), "curves": curves},
    )
    print(path)


if __name__ == "__main__":
    main()
