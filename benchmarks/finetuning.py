"""Fine-tuning MiniLM on the short reviews: our loop against a plain one with `transformers`, at equal quality.

    python benchmarks/finetuning.py        about ten minutes on one core; writes artifacts/finetuning/

Their loop is what tutorials show: `BertForSequenceClassification`, shuffled batches, each padded to its longest text.
Ours puts texts of about equal length into a batch. The same weights, new head, learning rates, number of batches and
optimizer; the same validation reviews. Times are of whole epochs of 3,000 reviews, run in turn, one pair a seed; a
finished one is kept.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
import transformers
from sweep import kept
from torch import nn

from plm_tutorial import export, load_model, load_tokenizer, runtime
from plm_tutorial.adaptation import class_logits
from plm_tutorial.baselines import Labelled
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.evaluation import accuracy
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.objectives import predict_classes
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes
from plm_tutorial.training import lr_at, make_optimizers, train_step

BATCH, LENGTH, LR, DECAY = 32, 128, 1e-4, 0.01


def new_model(seed: int) -> nn.Module:
    """Return MiniLM with a new head, drawn by the seed."""
    torch.manual_seed(seed)
    return load_model("minilm", head="sequence", n_labels=2, device="cpu")


def run_ours(seed: int, train: Labelled, validation: Labelled, steps: int) -> dict[str, float]:
    """Train an epoch as the book does; return seconds and quality."""
    model, tokenizer = new_model(seed), load_tokenizer("minilm")
    held_out = TextRows(*validation, tokenizer, LENGTH)
    start = time.perf_counter()
    batches = Batches(TextRows(*train, tokenizer, LENGTH), BATCH, seed=seed, bucket=16)
    optimizers = make_optimizers(model, "adamw", lr=LR, weight_decay=DECAY)
    model.train()
    tokens = 0
    for step in range(steps):
        for group in optimizers[0].param_groups:
            group["lr"] = LR * lr_at(step, steps, warmup=steps // 10)
        batch = batches[step]
        tokens += batch["input_ids"].numel()
        train_step(model, optimizers, batch, predict_classes)
    seconds = time.perf_counter() - start
    logits = class_logits(model, held_out).numpy()
    return {"seconds": seconds, "accuracy": accuracy(validation.labels, logits.argmax(1)), "tokens": tokens}


def run_theirs(seed: int, train: Labelled, validation: Labelled, steps: int) -> dict[str, float]:
    """Train an epoch with `transformers`, padding each batch to its longest text; return seconds and quality."""
    with tempfile.TemporaryDirectory() as folder:
        place = export(new_model(seed), Path(folder) / "model", load_tokenizer("minilm"))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    start = time.perf_counter()
    encoded = tokenizer(train.texts, truncation=True, max_length=LENGTH)
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    for row, label in zip(rows, train.labels.tolist(), strict=True):
        row["labels"] = label
    collate = transformers.DataCollatorWithPadding(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(rows, BATCH, shuffle=True, generator=generator, collate_fn=collate)
    groups = [[], []]
    for name, parameter in model.named_parameters():
        groups[parameter.ndim == 1 or "embeddings" in name].append(parameter)
    decays = [{"params": some, "weight_decay": x} for some, x in zip(groups, (DECAY, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(decays, lr=LR, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_at(step, steps, warmup=steps // 10))
    torch.manual_seed(seed)
    model.train()
    tokens = 0
    for _, batch in zip(range(steps), _again(loader), strict=False):
        tokens += batch["input_ids"].numel()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    model.eval()
    right = 0
    with torch.inference_mode():
        for i in range(0, len(validation.texts), 64):
            some = tokenizer(validation.texts[i : i + 64], truncation=True, padding=True, return_tensors="pt")
            right += int((model(**some).logits.argmax(-1).numpy() == validation.labels[i : i + 64]).sum())
    return {"seconds": seconds, "accuracy": right / len(validation.texts), "tokens": tokens}


def _again(loader) -> Iterator[dict]:
    while True:
        yield from loader


PROGRAMS = {"transformers": run_theirs, "ours": run_ours}


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--texts", type=int, default=3000, help="training texts, and validation texts at most")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs")
    parser.add_argument("--study", default="finetuning", help="the folder of the runs and of the record")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runtime.keep_freed_memory()  # for both
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    train = labelled_reviews("rotten_tomatoes", "train", options.texts)
    validation = labelled_reviews("rotten_tomatoes", "validation")
    validation = Labelled(validation.texts[: options.texts], validation.labels[: options.texts])
    steps = -(-len(train.texts) // BATCH)
    runs = []
    for seed in range(options.seeds):
        for name in list(PROGRAMS)[:: 1 if seed % 2 else -1]:
            key = f"{name}-seed{seed}-{len(train.texts)}-{options.threads}"
            work = PROGRAMS[name]
            result = kept(options.study, key, lambda work=work, seed=seed: work(seed, train, validation, steps))
            print(f"{name:14} seed {seed}: {result}", flush=True)
            runs.append({"program": name, "seed": seed} | result)

    def column(program: str, what: str) -> list[float]:
        return [run[what] for run in sorted(runs, key=lambda run: run["seed"]) if run["program"] == program]

    ratios = np.array(column("transformers", "seconds")) / np.array(column("ours", "seconds"))
    scores = {
        "threads": options.threads,
        "texts": len(train.texts),
        "times as fast as transformers, median of the seeds": median(ratios),
        "times as fast as transformers, least of the seeds": min(ratios),
    }
    for name in PROGRAMS:
        scores[f"{name}: validation accuracy, mean of the seeds"] = mean(column(name, "accuracy"))
        scores[f"{name}: tokens an epoch, padding included"] = round(mean(column(name, "tokens")))
    used = split_hashes("rotten_tomatoes/train", "rotten_tomatoes/validation")
    command = "python benchmarks/finetuning.py"
    print(
        write_record(
            options.study, scores, command=command, data=used, seeds=list(range(options.seeds)), tables={"runs": runs}
        )
    )


if __name__ == "__main__":
    main()
