"""What fine-tuning is worth on all training snippets of Rotten Tomatoes, against counted words and a frozen encoder.

    python benchmarks/rotten_tomatoes.py        85 minutes on a core, 5 on a GPU; writes artifacts/rotten_tomatoes/
    python benchmarks/rotten_tomatoes.py --model google-bert/bert-base-uncased --name rotten_tomatoes_bert

The second line needs a network, and wants a GPU. Stopped, it goes on where it was. Two ways of training MiniLM: all of
it, and LoRA on all linear layers of its blocks. For each, learning rate and number of epochs are chosen on validation
snippets, with the first seed: all rates are tried with one epoch, the best two also with more. Then the other seeds are
trained. The seed decides about the head's first weights, the order of the snippets and dropout. What is kept of a
classifier is its margin on each held-out snippet: the logit of praise less the logit of blame, from which class,
probability and all scores follow.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from margins import in_points, machines, margins, named, quality, rounded
from sweep import kept

from plm_tutorial import load_model, load_tokenizer, runtime
from plm_tutorial.adaptation import LoraConfig, count_parameters, inject
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.embedding import embed
from plm_tutorial.evaluation import accuracy
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import linear_probe
from plm_tutorial.objectives import predict_classes
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes
from plm_tutorial.training import TrainingConfig, fit

SOURCE = "rotten_tomatoes"
LORA = LoraConfig(rank=4, alpha=8.0, targets=("query", "key", "value", "output", "up", "down"))
PROBE_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # C of logistic regression on features of variance 1


@dataclass(frozen=True)
class Method:
    """A way of training, and what is tried for it."""

    lora: LoraConfig | None
    rates: tuple[float, ...]  # tried


METHODS = {
    "full": Method(None, (5e-5, 1e-4, 2e-4, 4e-4)),
    "LoRA": Method(LORA, (5e-4, 1e-3, 2e-3, 4e-3)),
}
EPOCHS = (1, 2, 3)
GO_ON = 2  # rates, the best with the first number of epochs, that are tried with the others


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    model: str = "minilm"
    n_train: int | None = None  # snippets; None: all
    n_held_out: int | None = None  # of validation, and of test
    size: int = 16  # snippets of a batch
    length: int = 128  # tokens; the longest snippet has fewer
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def key(self) -> str:
        """Name what a run depends on besides its method and seed."""
        return f"{named(self.model)}-{self.n_train or 'all'}-{self.n_held_out or 'all'}-{self.size}-{self.length}"


@cache
def texts_of(study: Study, split: str) -> Labelled:
    """Return the snippets of a split that the study uses."""
    return labelled_reviews(SOURCE, split, study.n_train if split == "train" else study.n_held_out)


@cache
def rows_of(study: Study, split: str) -> TextRows:
    """Return the same as rows of tokens."""
    found = texts_of(study, split)
    return TextRows(found.texts, found.labels, load_tokenizer(study.model), study.length)


# ------------------------------------------------------------------------------------------------------------ training


def train(study: Study, method: str, rate: float, epochs: int, seed: int) -> dict:
    """Return what a trained model says of the held-out snippets, and what it took."""
    torch.manual_seed(seed)
    model = load_model(study.model, head="sequence", n_labels=2, pooling="mean")
    if METHODS[method].lora is not None:
        inject(model, METHODS[method].lora)
    counts = count_parameters(model)
    batches = Batches(rows_of(study, "train"), study.size, seed=seed, bucket=16)
    steps = max(1, epochs * len(rows_of(study, "train")) // study.size)
    config = TrainingConfig(steps, lr=rate, warmup=steps // 10, weight_decay=0.01, seed=seed)
    begun = time.perf_counter()
    history = fit(model, batches, config, objective=predict_classes, progress=False)
    seconds = time.perf_counter() - begun
    tenths = [float(np.mean(part)) for part in np.array_split(history.column("loss"), min(10, steps))]
    held_out = {split: margins(model, rows_of(study, split)) for split in ("validation", "test")}
    counted = {"trained": counts.trained, "parameters": counts.total, "steps": steps, "seconds": seconds}
    return counted | {"training loss": tenths, "machine": runtime.machine()} | held_out


def run(study: Study, method: str, rate: float, epochs: int, seed: int) -> dict:
    """Return the result of a run, from an earlier call if there was one."""
    key = f"{method}-{rate:g}-{epochs}-seed{seed}-{study.key}"
    return kept(SOURCE, key, lambda: train(study, method, rate, epochs, seed))


def choose(study: Study, method: str) -> tuple[float, int, list[dict]]:
    """Return the best learning rate, the best number of epochs, and all that was tried. Test snippets play no part."""
    labels, tried = texts_of(study, "validation").labels, {}

    def on_validation(rate: float, epochs: int) -> tuple[float, float]:
        if (rate, epochs) not in tried:
            found = run(study, method, rate, epochs, study.seeds[0])
            tried[rate, epochs] = quality(labels, found["validation"])
        return tried[rate, epochs]

    rates = sorted(METHODS[method].rates, key=lambda rate: on_validation(rate, EPOCHS[0]))[-GO_ON:]
    rate, best = max(((rate, n) for rate in rates for n in EPOCHS), key=lambda one: on_validation(*one))
    rows = [
        {"method": method, "lr": lr, "epochs": n, "validation accuracy": right, "validation loss": -minus_loss}
        for (lr, n), (right, minus_loss) in tried.items()
    ]
    return rate, best, [row | {"chosen": (row["lr"], row["epochs"]) == (rate, best)} for row in rows]


# ------------------------------------------------------------------------------------------------------ to be beaten


def counted_words(study: Study) -> dict:
    """Return the margins of TF-IDF with logistic regression."""
    model = tfidf_classifier(texts_of(study, "train"), texts_of(study, "validation"))
    held_out = {split: texts_of(study, split).texts for split in ("validation", "test")}
    return {split: rounded(model.decision_function(texts)) for split, texts in held_out.items()}


def probe(study: Study) -> dict:
    """Return the margins of logistic regression on the mean of the frozen encoder's last hidden states."""
    encoder, tokenizer = load_model(study.model, head="none"), load_tokenizer(study.model)
    splits = ("train", "validation", "test")
    features = {s: embed(encoder, tokenizer, texts_of(study, s).texts).cpu().numpy() for s in splits}
    train, validation = ((features[s], texts_of(study, s).labels) for s in splits[:2])
    best = linear_probe(*train, *validation, PROBE_STRENGTHS)
    return {split: rounded(best.decision_function(features[split])) for split in splits[1:]}


# ------------------------------------------------------------------------------------------------------------- scores


def compare(labels: np.ndarray, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> dict[str, float]:
    """Return by how much a is more often right than b, in points, with the interval over the snippets.

    Args:
        a, b: margins of a few trainings each, (N,); a snippet's value is the share of trainings that were right.
    """
    shares = [np.mean([(margin > 0) == labels for margin in some], axis=0) for some in (a, b)]
    return in_points(*shares)


def margin_table(study: Study, found: dict[str, dict]) -> list[dict]:
    """Return a row for each held-out snippet: its split, number and label, and the margin of each classifier."""
    rows = []
    for split in ("validation", "test"):
        for number, label in enumerate(texts_of(study, split).labels.tolist()):
            said = {name: result[split][number] for name, result in found.items()}
            rows.append({"split": split, "number": number, "label": label} | said)
    return rows


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="minilm", help="a name of the registry, a folder, or a name of the hub")
    parser.add_argument("--name", default=SOURCE, help="the record's name, under artifacts/")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    options = parser.parse_args()
    tiny = {"n_train": 32, "n_held_out": 40, "size": 8, "seeds": (0, 1)} if options.quick else {}
    study = Study(options.model, **tiny)

    found = {
        "TF-IDF": kept(SOURCE, f"words-{study.key}", lambda: counted_words(study)),
        "probe": kept(SOURCE, f"probe-{study.key}", lambda: probe(study)),
    }
    choices, runs, scores = [], [], {"training snippets": len(texts_of(study, "train").texts)}
    for method in METHODS:
        rate, epochs, tried = choose(study, method)
        choices += tried
        for seed in study.seeds:
            result = found[f"{method} {seed}"] = run(study, method, rate, epochs, seed)
            runs.append({"method": method, "seed": seed, "lr": rate, "epochs": epochs})
            runs[-1] |= {name: result[name] for name in ("trained", "parameters", "steps", "seconds")}
            runs[-1] |= {f"loss {i}": loss for i, loss in enumerate(result["training loss"])}
        scores |= {f"{method}: learning rate": rate, f"{method}: epochs": epochs}
        scores |= {f"{method}: share of parameters trained": result["trained"] / result["parameters"]}

    labels = texts_of(study, "test").labels
    test = {name: np.array(result["test"]) for name, result in found.items()}
    of_method = {method: [test[f"{method} {seed}"] for seed in study.seeds] for method in METHODS}
    of_method |= {name: [test[name]] for name in ("TF-IDF", "probe")}
    scores["test snippets"] = len(labels)
    for name, some in of_method.items():
        scores[f"{name}: test accuracy"] = float(np.mean([accuracy(labels, margin > 0) for margin in some]))
    for a, b in (("full", "TF-IDF"), ("LoRA", "full"), ("TF-IDF", "probe")):
        difference = compare(labels, of_method[a], of_method[b])
        scores |= {f"{a} less {b}, {part}": value for part, value in difference.items()}
    command = "python benchmarks/rotten_tomatoes.py"
    if options.name != SOURCE:
        command += f" --model {options.model} --name {options.name}"
    path = write_record(
        options.name,
        scores,
        command=command,
        data=split_hashes(*(f"{SOURCE}/{split}" for split in ("train", "validation", "test"))),
        seeds=list(study.seeds),
        tables={"margins": margin_table(study, found), "choices": choices, "runs": runs},
        machine=machines(found[f"{method} {seed}"] for method in METHODS for seed in study.seeds),
    )
    print(path)


if __name__ == "__main__":
    main()
