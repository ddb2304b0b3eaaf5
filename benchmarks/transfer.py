"""Six ways to adapt MiniLM, from 16 labels to all: accuracy, also elsewhere, what it costs, and what is forgotten.

    python benchmarks/transfer.py        about ninety minutes on one core; writes artifacts/transfer/

Stopped, it goes on where it was. Every way learns from the same Rotten Tomatoes snippets, drawn anew for each seed, the
smaller sets being beginnings of the larger ones. Learning rates are chosen for each way on the validation snippets,
with the first seed and one number of labels; what regularizes probe and TF-IDF is chosen on them in each run. Measured
are the accuracy on all test snippets; on IMDb reviews, which no run has learned from, in the same style; how often the
second half of a review is found by its first; three properties read off each layer; ranks and targets of LoRA; and the
arithmetic, the memory and the processor's time of training.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
import torch
from sweep import difference_scores, kept

from plm_tutorial.adaptation import LoraConfig, class_logits, count_parameters
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.embedding import embed
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import (
    BY_GRADIENT,
    LENGTH,
    METHODS,
    Halves,
    classifier,
    first_words,
    forward_flops,
    found_halves,
    headless,
    layer_probes,
    linear_probe,
    mean_step_flops,
    split_in_halves,
    train,
    training_memory,
)
from plm_tutorial.models.bert import Bert
from plm_tutorial.pretrained import load_tokenizer
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes

SOURCE, ELSEWHERE = "rotten_tomatoes", "imdb"
BATCH = 32
EVERY_LINEAR = ("query", "key", "value", "layers.*.attention.output", "up", "down")
VARIANTS = {  # of LoRA: rank and targets; alpha stays 16
    "rank 1": LoraConfig(rank=1),
    "rank 8": LoraConfig(),
    "rank 64": LoraConfig(rank=64),
    "rank 8, all linear layers": LoraConfig(targets=EVERY_LINEAR),
}


def _rates() -> dict[str, tuple[float, ...]]:
    return {
        "gradual unfreezing": (1e-4, 3e-4, 1e-3),
        "LoRA": (3e-4, 1e-3, 3e-3),
        "full fine-tuning": (3e-5, 1e-4, 3e-4),
        "from scratch": (1e-4, 3e-4, 1e-3),
    }


def _epochs() -> dict[int | None, int]:
    return {16: 20, 64: 12, 256: 6, 1024: 3, None: 2}


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    epochs: dict[int | None, int] = field(default_factory=_epochs)  # by number of labels; None: all there are
    longer: int = 2  # times as many epochs with all labels, from scratch
    seeds: tuple[int, ...] = (0, 1, 2)
    more_seeds_of_all: tuple[str, ...] = ("LoRA", "full fine-tuning")  # get two with all labels, the others one
    rates: dict[str, tuple[float, ...]] = field(default_factory=_rates)
    chosen_at: int = 256  # labels with which rates are chosen
    variants_at: int = 1024  # labels with which ranks and targets of LoRA are compared
    validation: int | None = None  # snippets; all
    test: int | None = None
    elsewhere: int = 300  # IMDb reviews
    words: int = 80  # of each of them that are read
    halves: int = 300  # IMDb reviews that are cut in two
    probed: tuple[int, int] = (1000, 600)  # texts of each source for the probes of layers, to train and to test

    def seeds_of(self, method: str, size: int | None) -> tuple[int, ...]:
        """Return the seeds with which a way is run."""
        if size is not None:
            return self.seeds
        return self.seeds[: 2 if method in self.more_seeds_of_all else 1]

    def steps(self, method: str, size: int | None, n: int) -> int:
        """Return the steps of a training on n texts."""
        longer = self.longer if size is None and method == "from scratch" else 1
        return max(1, round(self.epochs[size] * longer * n / min(BATCH, n)))


# ---------------------------------------------------------------------------------------------------------------- texts


@cache
def tokenizer() -> tokenizers.Tokenizer:
    return load_tokenizer("minilm")


@cache
def held_out(name: str, n: int | None, words: int = 0) -> Labelled:
    """Return the validation or test snippets, or the beginnings of IMDb's test reviews."""
    if name != "elsewhere":
        return labelled_reviews(SOURCE, name, n)
    found = labelled_reviews(ELSEWHERE, "test", n)
    return Labelled([first_words(text, words) for text in found.texts], found.labels)


def sets(study: Study, chosen_on: bool = True) -> dict[str, Labelled]:
    """Return what is measured on, and what is chosen on unless nothing is."""
    sizes = {"validation": study.validation} if chosen_on else {}
    sizes |= {"test": study.test, "elsewhere": study.elsewhere}
    return {name: held_out(name, n, study.words) for name, n in sizes.items()}


@cache
def review_halves(n: int) -> Halves:
    """Return the halves of IMDb test reviews."""
    halves = split_in_halves(labelled_reviews(ELSEWHERE, "test")[0])
    chosen = np.sort(np.random.default_rng(1).permutation(len(halves.first))[:n])
    return Halves(*([pieces[i] for i in chosen] for pieces in halves))


@cache
def rows_of(texts: tuple[str, ...], labels: tuple[int, ...]) -> TextRows:
    return TextRows(texts, labels, tokenizer(), 2 * LENGTH)


def rows(some: Labelled) -> TextRows:
    """Return texts as rows; those that are measured on are tokenized once."""
    return rows_of(tuple(some.texts), tuple(some.labels.tolist()))


# ------------------------------------------------------------------------------------------------------------ the runs


def bits(right: Sequence[bool]) -> str:
    """Return for each text a digit, 1 if it was right: what a comparison text by text needs."""
    return "".join("1" if one else "0" for one in right)


def by_text(text: str) -> np.ndarray:
    return np.array([float(digit) for digit in text])


def by_gradient(
    study: Study, method: str, size: int | None, seed: int, lr: float, lora: LoraConfig, layers: bool
) -> dict:
    """Train a network and return what is measured of it."""
    examples = labelled_reviews(SOURCE, "train", size, seed)
    made = TextRows(examples.texts, examples.labels, tokenizer(), LENGTH)
    steps = study.steps(method, size, len(made))
    model = classifier(method, seed, lora)
    begun = time.process_time()
    history = train(method, model, made, steps=steps, lr=lr, size=BATCH, seed=seed)
    seconds = time.process_time() - begun
    trained, total = count_parameters(model)
    batch = example_batch()
    per_token = mean_step_flops(method, model, batch, steps) / batch["input_ids"].numel()
    tokens = sum(history.column("tokens"))
    given = sets(study, chosen_on=(size, seed) == (study.chosen_at, study.seeds[0]))
    right = {name: class_logits(model, rows(some)).argmax(dim=1).numpy() == some.labels for name, some in given.items()}
    result = {
        "labels": len(made),
        "steps": steps,
        "trained": trained,
        "parameters": total,
        "training loss": float(np.mean(history.column("loss")[-5:])),
        "seconds": seconds,
        "FLOPs": per_token * tokens,
    }
    result |= {name: bits(one) for name, one in right.items()}
    if method != "from scratch":
        result["found"] = float(found_halves(model, tokenizer(), review_halves(study.halves)).mean())
    if layers:
        result["layers"] = layer_probes(model, tokenizer(), *study.probed)
    return result


@cache
def frozen() -> Bert:
    """Return MiniLM as published; the head is not used."""
    return classifier("full fine-tuning")


@cache
def vectors(texts: tuple[str, ...]) -> np.ndarray:
    with headless(frozen()) as encoder:
        return embed(encoder, tokenizer(), texts).cpu().numpy()  # (N, D)


def example_batch() -> dict[str, torch.Tensor]:
    """Return a batch like those of the trainings, on which arithmetic and memory are counted."""
    return Batches(rows(labelled_reviews(SOURCE, "train", 8 * BATCH)), BATCH, bucket=8)[0]


def without_gradient(study: Study, method: str, size: int | None, seed: int) -> dict:
    """Return what is measured of a classifier for which no network is trained."""
    examples, some = labelled_reviews(SOURCE, "train", size, seed), sets(study)
    result = {"labels": len(examples.texts), "steps": 0, "training loss": float("nan")}
    if method == "TF-IDF":
        begun = time.process_time()
        fitted = tfidf_classifier(examples, some["validation"])
        result |= {"trained": fitted[-1].coef_.size + 1, "FLOPs": float("nan")}
        given = {name: one.texts for name, one in some.items()}
    else:
        given = {name: vectors(tuple(one.texts)) for name, one in some.items()}
        begun = time.process_time()
        features = vectors.__wrapped__(tuple(examples.texts))  # anew: it is part of the time
        fitted = linear_probe(features, examples.labels, given["validation"], some["validation"].labels)
        batch = example_batch()
        per_token = forward_flops(frozen(), batch) / batch["input_ids"].numel()
        n_tokens = TextRows(examples.texts, None, tokenizer(), LENGTH).lengths.sum()
        result |= {"trained": fitted[-1].coef_.size + 1, "FLOPs": float(per_token * n_tokens)}
        result |= {"found": float(found_halves(frozen(), tokenizer(), review_halves(study.halves)).mean())}
    result["seconds"] = time.process_time() - begun
    return result | {name: bits(fitted.predict(given[name]) == some[name].labels) for name in some}


def run(
    study: Study,
    method: str,
    size: int | None,
    seed: int,
    lr: float = 0.0,
    variant: str = "rank 8",
    layers: bool = False,
) -> dict:
    """Return the result of a run, from an earlier call if there was one."""
    sizes = f"{study.validation or 'all'}-{study.test or 'all'}-{study.elsewhere}x{study.words}-{study.halves}"
    times = study.epochs[size] * (study.longer if size is None else 1)
    key = f"{method}-{variant}-{size or 'all'}-seed{seed}-{lr:g}-{times}-{sizes}{'-layers' * layers}".replace(" ", "_")
    if method in BY_GRADIENT:
        return kept("transfer", key, lambda: by_gradient(study, method, size, seed, lr, VARIANTS[variant], layers))
    return kept("transfer", key, lambda: without_gradient(study, method, size, seed))


def chosen_rate(study: Study, method: str) -> tuple[float, list[dict]]:
    """Return the learning rate that is most often right on the validation snippets, and all that were tried."""
    tried = []
    for lr in study.rates[method]:
        result = run(study, method, study.chosen_at, study.seeds[0], lr)
        score = by_text(result["validation"]).mean()
        tried.append({"method": method, "lr": lr, "validation accuracy": score})
    return max(tried, key=lambda row: row["validation accuracy"])["lr"], tried


# ------------------------------------------------------------------------------------------------------------- memory


def peak_memory() -> int:
    """Return the most memory, in bytes, that this process has held at a time."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def measure_peak(method: str) -> int:
    """Train a few steps, or compute vectors alone, and return the peak. To be called in a process of its own."""
    some = labelled_reviews(SOURCE, "train", 3 * BATCH)
    made = TextRows(some.texts, some.labels, tokenizer(), LENGTH)
    if method in BY_GRADIENT:
        train(method, classifier(method), made, steps=3, lr=1e-5, size=BATCH)
    else:
        class_logits(frozen(), made, size=BATCH)
    return peak_memory()


def peak_of(method: str) -> dict:
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"peak": int(done.stdout.split()[-1])}


def memory_table() -> list[dict]:
    """Return what a step keeps, part by part, and the peak of a process that trains, in bytes."""
    found = []
    for method in ("linear probe", "LoRA", "full fine-tuning"):
        if method in BY_GRADIENT:
            parts = training_memory(classifier(method).train(), example_batch())._asdict()
        else:
            weights = 4 * count_parameters(frozen()).total
            parts = {"weights": weights, "gradients": 0, "optimizer": 0, "activations": 0}
        peak = kept("transfer", f"peak-{method}".replace(" ", "_"), lambda method=method: peak_of(method))
        found.append({"method": method} | parts | peak)
    return found


# -------------------------------------------------------------------------------------------------------- the record


def tabled(named: dict, result: dict) -> dict:
    """Return a row of the table of runs."""
    right = {"accuracy": "test", "validation accuracy": "validation", "accuracy elsewhere": "elsewhere"}
    numbers = {name: value for name, value in result.items() if name not in (*right.values(), "layers")}
    return named | numbers | {name: by_text(result[of]).mean() for name, of in right.items() if of in result}


def compare(results: dict[tuple, dict], size: int | None, a: str, b: str, of: str = "test") -> dict[str, float]:
    """Return by how many points a is better than b, with the interval over the texts; seeds are averaged first."""
    right = [
        100 * np.mean([by_text(r[of]) for (method, n, _), r in results.items() if (method, n) == (one, size)], axis=0)
        for one in (a, b)
    ]
    where = f"{a} minus {b}, most labels, points" + (" on IMDb" if of == "elsewhere" else "")
    return difference_scores(where, *right)


def layer_table(study: Study, fine_tuned: list[dict]) -> list[dict]:
    """Return what is read off the layers of MiniLM, of the same with random weights, and of the fine-tuned one."""
    key = "-".join(map(str, study.probed))
    found = {"fine-tuned": fine_tuned}
    for name, method in (("pretrained", "full fine-tuning"), ("random weights", "from scratch")):
        probes = kept(
            "transfer",
            f"layers-{name}-{key}".replace(" ", "_"),
            lambda method=method: {"layers": layer_probes(classifier(method), tokenizer(), *study.probed)},
        )
        found[name] = probes["layers"]
    return [{"model": name} | row for name, rows in found.items() for row in rows]


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--name", default="transfer", help="the record's name, under artifacts/")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", metavar="WAY", help="only print the peak memory of a process that trains so")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(measure_peak(options.peak))
        return
    tiny = {"epochs": {4: 1, 8: 1}, "seeds": (0, 1), "chosen_at": 4, "variants_at": 4, "validation": 8, "test": 16}
    tiny |= {"elsewhere": 8, "words": 10, "halves": 6, "probed": (8, 8)}
    tiny["rates"] = {method: rates[:2] for method, rates in _rates().items()}
    study = Study(**tiny) if options.quick else Study()

    rates = {method: chosen_rate(study, method) for method in BY_GRADIENT}
    rate_of = {method: rate for method, (rate, _) in rates.items()}
    most = list(study.epochs)[-1]
    results, runs = {}, []
    for size in study.epochs:
        for method in METHODS:
            for seed in study.seeds_of(method, size):
                layers = (method, size, seed) == ("full fine-tuning", most, study.seeds[0])
                result = run(study, method, size, seed, rate_of.get(method, 0.0), layers=layers)
                results[method, size, seed] = result
                runs.append(tabled({"method": method, "seed": seed, "lr": rate_of.get(method)}, result))
    variants = []
    for name, config in VARIANTS.items():
        for seed in study.seeds:
            result = run(study, "LoRA", study.variants_at, seed, rate_of["LoRA"], name)
            named = {"variant": name, "rank": config.rank, "targets": len(config.targets), "seed": seed}
            variants.append(tabled(named, result))

    halves = review_halves(study.halves)
    scores = {
        "labels, most": results["full fine-tuning", most, study.seeds[0]]["labels"],
        "labels with which learning rates were chosen": study.chosen_at,
        "labels with which variants of LoRA were compared": study.variants_at,
        "test snippets": len(sets(study)["test"].texts),
        "IMDb reviews": len(sets(study)["elsewhere"].texts),
        "reviews cut in two": len(halves.first),
        "other halves found before training": results["linear probe", most, study.seeds[0]]["found"],
    }
    for method in METHODS:
        own = [row for row in runs if row["method"] == method and row["labels"] == scores["labels, most"]]
        for name in ("accuracy", "accuracy elsewhere"):
            scores[f"{method}, most labels: {name}"] = float(np.mean([row[name] for row in own]))
        if method in rate_of:
            scores[f"{method}: learning rate"] = rate_of[method]
    for a, b in (("full fine-tuning", "LoRA"), ("full fine-tuning", "linear probe"), ("linear probe", "TF-IDF")):
        scores |= compare(results, most, a, b)
    scores |= compare(results, most, "full fine-tuning", "linear probe", "elsewhere")
    used = [f"{SOURCE}/{split}" for split in ("train", "validation", "test")]
    used += [f"{ELSEWHERE}/{split}" for split in ("train", "test")]
    path = write_record(
        options.name,
        scores,
        command="python benchmarks/transfer.py",
        data=split_hashes(*used),
        seeds=list(study.seeds),
        tables={
            "runs": runs,
            "rates": [row for _, tried in rates.values() for row in tried],
            "variants": variants,
            "layers": layer_table(study, results["full fine-tuning", most, study.seeds[0]]["layers"]),
            "memory": memory_table(),
        },
    )
    print(path)


if __name__ == "__main__":
    main()
