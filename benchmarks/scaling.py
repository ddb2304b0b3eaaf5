"""Small decoders, from 41,000 to a million parameters inside and from a quarter of a million tokens to four million.

    python benchmarks/scaling.py        about an hour on one core; writes artifacts/scaling/record.json and runs.csv

Each run has a learning-rate schedule of its own and reads no token twice; all are measured on the same validation rows.
The learning rate is chosen on validation at one size (width 48, a million tokens), kept for all, and checked at
the widest. A few runs are repeated with two more seeds, to see the noise. The two largest are held out: the page fits
its law to the others. Far outside the grid lies artifacts/reviews_causal; if it is there, it is measured on the same
rows. A run that is finished is kept, so the script goes on where it was stopped.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from statistics import stdev

import numpy as np
import pandas as pd
import torch
from sweep import kept

from plm_tutorial.experiments.review_tokens import review_tokens
from plm_tutorial.experiments.scaling import (
    LENGTH,
    count_parameters,
    fixed_rows,
    labelled_reviews,
    measure,
    probe,
    train,
    training_flops,
)
from plm_tutorial.models.decoder import Decoder
from plm_tutorial.pretrained import load_model
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.runtime import file_sha256

STEP = 2048  # tokens of a batch; all numbers of tokens below are multiples
QUARTER = 128 * STEP  # 262,144 tokens
GRID = {32: (1, 2, 4, 16), 48: (1, 4, 8), 72: (1, 2, 4, 8), 112: (1, 2, 4, 8), 160: (1, 2, 8)}  # width: QUARTERs
HELD_OUT = ((112, 8), (160, 8))
RATES = (2.0, 4.0, 8.0)  # tried at CHOSEN_AT
CHOSEN_AT = (48, 4)
CHECKED_AT = (160, 1)
REPEATED = ((32, 1), (48, 1), (72, 1))
SEEDS = (0, 1, 2)


class Study:
    """The runs, each trained and measured once."""

    def __init__(self, name: str, quarter: int, n_rows: int, n_probe: int):
        self.name, self.quarter, self.n_probe = name, quarter, n_probe
        self.file = review_tokens("train")
        self.rows = fixed_rows(review_tokens("validation"), n_rows)
        self.probed = labelled_reviews("train", n_probe), labelled_reviews("validation", 2 * n_probe)
        self.table: dict[str, dict] = {}

    def run(self, role: str, width: int, quarters: int, seed: int = 0, rate: float = 1.0) -> dict:
        """Return the row of a run; one that has another role already keeps that one."""
        key = f"width{width}-quarters{quarters}-seed{seed}-rate{rate:g}"  # what a quarter is depends on the name

        def work() -> dict:
            model, about = train(width, quarters * self.quarter, self.file, seed=seed, rate=rate)
            return about | self.measured(model)

        return self.keep(role, key, work)

    def far(self) -> None:
        """Add the book's own causal model, far outside the grid: trained for itself, measured here like the others."""
        folder = artifacts() / "reviews_causal"
        if not (folder / "model.safetensors").is_file():
            print("artifacts/reviews_causal is not there: no run far outside the grid")
            return

        def work() -> dict:
            model, tokens = load_model(folder, device="cpu"), int(pd.read_csv(folder / "log.csv")["tokens"].sum())
            parameters = count_parameters(model.config)
            about = {"width": model.config.d_model, "parameters": parameters.total, "non_embedding": parameters.blocks}
            about |= {"tokens": tokens, "flops": training_flops(model.config, LENGTH, tokens), "seed": 0, "rate": 1.0}
            return about | self.measured(model)

        self.keep("far", f"reviews_causal-{file_sha256(folder / 'model.safetensors')[:8]}", work)

    def measured(self, model: Decoder) -> dict:
        return measure(model, self.rows) | {"probe": probe(model, *self.probed)}

    def keep(self, role: str, key: str, work: Callable[[], dict]) -> dict:
        row = kept(self.name, key, work)
        print(f"  {key}: {row['validation_loss']:.4f} nats per token", flush=True)
        return self.table.setdefault(key, {"role": role} | row)


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of each run, to see that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quarter, n_rows, n_probe = (2 * STEP, 8, 20) if options.quick else (QUARTER, 128, 500)
    name, command = "scaling", "python benchmarks/scaling.py"
    if options.quick:
        name, command = "scaling_quick", command + " --quick"
    study = Study(name, quarter, n_rows, n_probe)

    tried = {rate: study.run("rate", *CHOSEN_AT, rate=rate)["validation_loss"] for rate in RATES}
    rate = min(tried, key=tried.get)
    del study.table[f"width{CHOSEN_AT[0]}-quarters{CHOSEN_AT[1]}-seed0-rate{rate:g}"]  # it gets the grid's role
    for width, lengths in GRID.items():
        for quarters in lengths:
            role = "held out" if (width, quarters) in HELD_OUT else "fit"
            study.run(role, width, quarters, rate=rate)
    spreads = []
    for size in REPEATED:
        losses = [study.run("fit", *size, seed=seed, rate=rate)["validation_loss"] for seed in SEEDS]
        spreads.append(stdev(losses))
    checked = {
        factor: study.run("rate", *CHECKED_AT, rate=factor * rate)["validation_loss"] for factor in (0.5, 1.0, 2.0)
    }

    study.far()

    rows = list(study.table.values())
    scores = {
        "runs": len(rows),
        "of these, to fit the law to": sum(row["role"] == "fit" for row in rows),
        "FLOPs of the grid": float(sum(row["flops"] for row in rows if row["role"] in ("fit", "held out"))),
        "validation tokens": study.rows[0]["labels"].size(1) * sum(len(batch["labels"]) for batch in study.rows),
        "learning rate, factor chosen": rate,
        "spread over seeds, nats per token, root mean square": float(np.sqrt(np.mean(np.square(spreads)))),
        "widest model, better with half or twice the rate by, nats": checked[1.0] - min(checked.values()),
        "unique training tokens there are": len(study.file.tokens),
    }
    data = {"reviews, training tokens": study.file.sha256, "validation tokens": review_tokens("validation").sha256}
    print(write_record(name, scores, command=command, data=data, seeds=list(SEEDS), tables={"runs": rows}))


if __name__ == "__main__":
    main()
