"""What to read of a review that is too long: its head, its tail, some of both, or all of it in pieces.

    python benchmarks/long_reviews.py        55 minutes on a core, 2 on a GPU; writes artifacts/long_reviews/

Stopped, it goes on where it was. MiniLM is fine-tuned on a few hundred IMDb reviews and may read 128 tokens at a time.
Every training takes as many steps, with as many rows, whatever the rows are made of. With pieces, each piece of a
training review is a row of its own that has the review's label, and a test review gets the mean of its pieces' logits.
The learning rate is chosen once, for heads, on validation reviews with the first seed. What is kept is the margin of
each row: the logit of praise less the logit of blame.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from margins import in_points, machines, margins, named, quality, rounded
from sweep import kept

from plm_tutorial import load_model, load_tokenizer, runtime
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import CUTS, Batches, TextRows
from plm_tutorial.experiments.long_texts import mean_of_pieces, split_texts
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.objectives import predict_classes
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes
from plm_tutorial.training import TrainingConfig, fit

SOURCE, NAME = "imdb", "long_reviews"
READINGS = (*CUTS, "pieces")  # what a model is trained on
RATES = (1e-4, 2e-4, 4e-4)


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    model: str = "minilm"
    n_train: int = 400  # reviews; the seed draws them
    n_validation: int = 200
    n_test: int = 800
    length: int = 128  # tokens of a row
    size: int = 16  # rows of a batch
    steps: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def key(self) -> str:
        """Name what a run depends on besides its rows, its learning rate and its seed."""
        reviews = f"{self.n_train}-{self.n_validation}-{self.n_test}"
        return f"{named(self.model)}-{reviews}-{self.length}-{self.size}-{self.steps}"


@cache
def texts_of(study: Study, split: str, seed: int = 0) -> Labelled:
    """Return reviews of a split. The seed of a run draws its training reviews; the others are the same for all."""
    if split == "train":
        return labelled_reviews(SOURCE, split, study.n_train, seed)
    return labelled_reviews(SOURCE, split, study.n_test if split == "test" else study.n_validation)


@cache
def rows_of(study: Study, split: str, reading: str, seed: int = 0) -> tuple[TextRows, np.ndarray]:
    """Return rows of tokens, and the number of the review that each belongs to."""
    found, tokenizer = texts_of(study, split, seed), load_tokenizer(study.model)
    if reading != "pieces":
        rows = TextRows(found.texts, found.labels, tokenizer, study.length, cut=reading)
        return rows, np.arange(len(rows))
    pieces = split_texts(found.texts, tokenizer, study.length)
    return TextRows(pieces.texts, found.labels[pieces.owner], tokenizer, study.length), pieces.owner


def train(study: Study, reading: str, rate: float, seed: int) -> dict:
    """Return the margins of held-out rows, read as in training; for heads also of all pieces of the test reviews."""
    torch.manual_seed(seed)
    model = load_model(study.model, head="sequence", n_labels=2, pooling="mean")
    batches = Batches(rows_of(study, "train", reading, seed)[0], study.size, seed=seed, bucket=4)
    config = TrainingConfig(study.steps, lr=rate, warmup=study.steps // 10, weight_decay=0.01, seed=seed)
    begun = time.perf_counter()
    history = fit(model, batches, config, objective=predict_classes, progress=False)
    result = {"seconds": time.perf_counter() - begun, "tokens": sum(history.column("tokens"))}
    result["machine"] = runtime.machine()
    result["validation"] = margins(model, rows_of(study, "validation", reading)[0])
    result["test"] = margins(model, rows_of(study, "test", reading)[0])
    if reading == "head":
        result["test in pieces"] = margins(model, rows_of(study, "test", "pieces")[0])
    return result


def run(study: Study, reading: str, rate: float, seed: int) -> dict:
    """Return the result of a run, from an earlier call if there was one."""
    return kept(NAME, f"{reading}-{rate:g}-seed{seed}-{study.key}", lambda: train(study, reading, rate, seed))


def choose_rate(study: Study) -> tuple[float, list[dict]]:
    """Return the learning rate with the best validation accuracy, of equals the one with the lower loss, and all."""
    labels, tried = texts_of(study, "validation").labels, []
    for rate in RATES:
        right, minus_loss = quality(labels, run(study, "head", rate, study.seeds[0])["validation"])
        tried.append({"lr": rate, "validation accuracy": right, "validation loss": -minus_loss})
    best = max(tried, key=lambda row: (row["validation accuracy"], -row["validation loss"]))
    return best["lr"], tried


def counted_words(study: Study, seed: int) -> list[float]:
    """Return the margins of TF-IDF with logistic regression, which reads the same reviews, and reads them whole."""
    model = tfidf_classifier(texts_of(study, "train", seed), texts_of(study, "validation"))
    return rounded(model.decision_function(texts_of(study, "test").texts))


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="minilm", help="a name of the registry, a folder, or a name of the hub")
    parser.add_argument("--name", default=NAME, help="the record's name, under artifacts/")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    options = parser.parse_args()
    tiny = {"n_train": 8, "n_validation": 20, "n_test": 24, "length": 48, "size": 4, "steps": 2, "seeds": (0, 1)}
    study = Study(options.model, **(tiny if options.quick else {}))

    rate, choices = choose_rate(study)
    labels = texts_of(study, "test").labels
    test_rows, owner = rows_of(study, "test", "pieces")
    of_review = {"label": labels.tolist()}  # margins, one a test review
    of_piece = {"review": owner.tolist(), "tokens": test_rows.lengths.tolist()}
    runs, shares = [], {}  # of right answers, over the seeds

    def note(reading: str, seed: int, margin: list[float]) -> None:
        of_review[f"{reading} {seed}"] = margin
        right = (np.array(margin) > 0) == labels
        shares.setdefault(reading, []).append(right)
        runs.append({"reading": reading, "seed": seed, "test accuracy": float(right.mean())})

    for seed in study.seeds:
        words = kept(NAME, f"words-seed{seed}-{study.key}", lambda seed=seed: {"test": counted_words(study, seed)})
        note("TF-IDF", seed, words["test"])
        for reading in READINGS:
            result = run(study, reading, rate, seed)
            margin = result["test"]
            if reading == "pieces":
                of_piece[f"pieces {seed}"] = margin
                margin = mean_of_pieces(margin, owner).round(4).tolist()
            note(reading, seed, margin)
            runs[-1] |= {name: result[name] for name in ("seconds", "tokens")}
            if reading == "head":
                of_piece[f"head {seed}"] = result["test in pieces"]
                note("head, then pieces", seed, mean_of_pieces(result["test in pieces"], owner).round(4).tolist())

    scores = {"training reviews": study.n_train, "test reviews": len(labels), "tokens of a row": study.length}
    scores |= {"rows seen in a training": study.steps * study.size, "learning rate": rate}
    scores["pieces of a test review, mean"] = len(owner) / len(labels)
    means = {reading: np.mean(some, axis=0) for reading, some in shares.items()}
    scores |= {f"{reading}: test accuracy": float(share.mean()) for reading, share in means.items()}
    for reading in ("tail", "both", "pieces", "head, then pieces"):
        difference = in_points(means[reading], means["head"])
        scores |= {f"{reading} less head, {part}": value for part, value in difference.items()}
    hashes = split_hashes(*(f"{SOURCE}/{split}" for split in ("train", "validation", "test")))
    command = "python benchmarks/long_reviews.py"
    if options.name != NAME:
        command += f" --model {options.model} --name {options.name}"
    tables = {"reviews": _rows(of_review), "pieces": _rows(of_piece), "choices": choices, "runs": runs}
    where = machines(run(study, reading, rate, seed) for reading in READINGS for seed in study.seeds)
    print(
        write_record(
            options.name, scores, command=command, data=hashes, seeds=list(study.seeds), tables=tables, machine=where
        )
    )


def _rows(columns: dict[str, list]) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    main()
