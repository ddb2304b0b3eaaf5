"""Advice on fine-tuning, put to the test on MiniLM and the Rotten Tomatoes snippets.

    python benchmarks/advice.py                 five minutes on a GPU; writes artifacts/advice/
    python benchmarks/advice.py --share 0/8     only every eighth run, from the first: several processes share the work

Stopped, it goes on where it was. Learning rate against epochs; how much is frozen, with how many labels; altered texts
beside the given ones; losses for a rare class and for wrong labels. Wherever a learning rate or a threshold is chosen,
it is chosen on the validation snippets; all scores are of the test snippets.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial

import numpy as np
import tokenizers
import torch
from sweep import difference_scores, kept

from plm_tutorial import runtime
from plm_tutorial.adaptation import class_logits, count_parameters
from plm_tutorial.baselines import Labelled
from plm_tutorial.batches import TextRows
from plm_tutorial.evaluation import expected_calibration_error, softmax
from plm_tutorial.experiments.advice import (
    AUGMENTATIONS,
    LOSSES,
    Recipe,
    best_threshold,
    fine_tune,
    flip_labels,
    make_rare,
    rare_scores,
)
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import LENGTH
from plm_tutorial.pretrained import load_tokenizer
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes

SOURCE = "rotten_tomatoes"
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
DEPTH_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
DEPTHS = (None, 0, 1, 2, 3, 4, 5, "head")
EPOCHS = {32: 20, 256: 6, 2048: 3, None: 3}  # by number of labels; None: all there are
GRID_EPOCHS = {256: (2, 6, 20), None: (1, 2, 4)}
COMMON, RARE, PREVALENCE = 2000, 100, 1 / 21
WRONG = 0.3  # share of labels that are exchanged


@dataclass(frozen=True)
class Run:
    """One training: its part of the study, its texts and its recipe."""

    part: str  # "grid", "depth", "augmentation", "rare" or "wrong"
    labels: int | None
    recipe: Recipe
    seed: int
    flipped: float = 0.0

    @property
    def key(self) -> str:
        r = self.recipe
        parts = [self.part, self.labels or "all", f"lr{r.lr:g}", f"x{r.epochs}", f"frozen{r.frozen}", r.loss]
        parts += [r.augmentation, "balanced" * r.balanced or "asis", f"flipped{self.flipped:g}", f"seed{self.seed}"]
        return "-".join(map(str, parts)).replace(" ", "_")


def all_runs() -> Iterator[Run]:
    """Yield every run of the study."""
    for labels, epochs in GRID_EPOCHS.items():
        for n in epochs:
            for lr in RATES:
                for seed in range(3):
                    yield Run("grid", labels, Recipe(lr, n), seed)
    for labels in (32, 256, 2048):
        for frozen in DEPTHS:
            for lr in DEPTH_RATES:
                for seed in range(3):
                    yield Run("depth", labels, Recipe(lr, EPOCHS[labels], frozen), seed)
    for loss, balanced in [(loss, False) for loss in LOSSES] + [("plain", True)]:
        for seed in range(5):
            yield Run("rare", None, Recipe(1e-4, 4, loss=loss, balanced=balanced), seed)
    for labels, n_seeds in ((32, 5), (256, 5), (2048, 5), (None, 3)):
        for kind in AUGMENTATIONS:
            for seed in range(n_seeds):
                yield Run("augmentation", labels, Recipe(1e-4, EPOCHS[labels], augmentation=kind), seed)
    for flipped in (WRONG, 0.0):
        for epochs in (2, 8) if flipped else (2,):
            for loss in ("plain", "smoothed", "focal"):
                for seed in range(5 if flipped else 3):
                    yield Run("wrong", 2048, Recipe(1e-4, epochs, loss=loss), seed, flipped)


# ------------------------------------------------------------------------------------------------------------ the runs


@cache
def tokenizer() -> tokenizers.Tokenizer:
    return load_tokenizer("minilm")


@cache
def held_out(split: str) -> tuple[TextRows, np.ndarray]:
    some = labelled_reviews(SOURCE, split)
    return TextRows(some.texts, some.labels, tokenizer(), 2 * LENGTH), some.labels


def examples_of(run: Run) -> Labelled:
    """Return the texts that a run learns from."""
    if run.part == "rare":
        return make_rare(labelled_reviews(SOURCE, "train"), COMMON, RARE, run.seed)
    some = labelled_reviews(SOURCE, "train", run.labels, run.seed)
    return flip_labels(some, run.flipped, run.seed) if run.flipped else some


def train(run: Run) -> dict:
    """Return the last training loss, and the difference of the two logits of each held-out text."""
    examples = examples_of(run)
    model, history = fine_tune(examples, run.recipe, tokenizer(), run.seed)
    result = {
        "labels": len(examples.texts),
        "trained": count_parameters(model).trained,
        "steps": run.recipe.steps(len(examples.texts)),
        "training loss": float(np.mean(history.column("loss")[-5:])),
        "machine": runtime.machine(),
    }
    for split in ("validation", "test"):
        logits = class_logits(model, held_out(split)[0], size=256)
        result[split] = [round(float(x), 4) for x in logits[:, 1] - logits[:, 0]]
    return result


def result_of(run: Run) -> dict:
    return kept("advice", run.key, lambda: train(run))


# -------------------------------------------------------------------------------------------------------- the record


def right(result: dict, split: str = "test") -> np.ndarray:
    """Return for each text whether its label was found, (N,) of 0 and 1."""
    return ((np.array(result[split]) > 0) == held_out(split)[1]).astype(float)


def tabled(run: Run, result: dict) -> dict:
    """Return a row of the table of runs."""
    recipe = asdict(run.recipe)
    row = {
        "part": run.part,
        "labels": result["labels"],
        "frozen": "nothing" if recipe["frozen"] is None else recipe["frozen"],
    }
    row |= {name: recipe[name] for name in ("lr", "epochs", "loss", "augmentation", "balanced")}
    row |= {"flipped": run.flipped, "seed": run.seed, "steps": result["steps"], "trained": result["trained"]}
    row["training loss"] = result["training loss"]
    for split in ("validation", "test"):
        margins, labels = np.array(result[split]), held_out(split)[1]
        row[f"{split} accuracy"] = right(result, split).mean()
        row[f"{split} loss"] = float(np.logaddexp(0, np.where(labels == 1, -margins, margins)).mean())
    margins, labels = np.array(result["test"]), held_out("test")[1]
    probabilities = softmax(np.stack([0 * margins, margins], axis=1))  # (N, 2)
    row["calibration error"] = float(expected_calibration_error(labels, probabilities))
    if run.part == "rare":
        chosen = best_threshold(held_out("validation")[1], result["validation"], PREVALENCE)
        as_is, moved = (rare_scores(labels, margins, PREVALENCE, at) for at in (0.0, chosen))
        row |= {"F1": as_is.f1, "precision": as_is.precision, "recall": as_is.recall}
        row |= {"F1, threshold chosen": moved.f1, "average precision": as_is.average_precision}
    return row


def best_rate(results: dict[Run, dict], **wanted) -> list[dict]:
    """Return the runs at the learning rate that has the highest mean accuracy on the validation snippets."""
    rates = sorted({run.recipe.lr for run in results if _fits(run, wanted)})
    by_rate = [those(results, lr=lr, **wanted) for lr in rates]
    return max(by_rate, key=lambda some: np.mean([right(r, "validation").mean() for r in some]))


def those(results: dict[Run, dict], **wanted) -> list[dict]:
    """Return the results of the runs that have these settings, of their own or of their recipe."""
    return [result for run, result in results.items() if _fits(run, wanted)]


def _fits(run: Run, wanted: dict) -> bool:
    settings = vars(run.recipe) | vars(run)
    return all(settings[name] == value for name, value in wanted.items())


def compare(results: dict[Run, dict]) -> dict[str, float]:
    """Return the differences that the page speaks of, in points over the texts; seeds are averaged first."""
    found = {}

    def add(name: str, a: list[dict], b: list[dict]) -> None:
        found.update(difference_scores(name, *(100 * np.mean([right(one) for one in some], axis=0) for some in (a, b))))

    of = partial(those, results)
    for labels in (32, 256, 2048):
        whole = best_rate(results, part="depth", labels=labels, frozen=None)
        for frozen, name in ((0, "embeddings"), (3, "three blocks"), (5, "five blocks"), ("head", "all blocks")):
            add(
                f"{labels} labels, {name} frozen minus nothing frozen, points",
                best_rate(results, part="depth", labels=labels, frozen=frozen),
                whole,
            )
    for labels in (32, 256, 2048, None):
        base = of(part="augmentation", labels=labels, augmentation="none")
        for kind in AUGMENTATIONS[1:]:
            add(
                f"{labels or 'all'} labels, {kind} minus none, points",
                of(part="augmentation", labels=labels, augmentation=kind),
                base,
            )
    for flipped, name in ((WRONG, "wrong labels"), (0.0, "right labels")):
        for epochs in (2, 8) if flipped else (2,):
            base = of(part="wrong", flipped=flipped, epochs=epochs, loss="plain")
            for loss in ("smoothed", "focal"):
                add(
                    f"{name}, {epochs} epochs, {loss} minus plain, points",
                    of(part="wrong", flipped=flipped, epochs=epochs, loss=loss),
                    base,
                )
    add(
        "wrong labels, plain, 2 epochs minus 8, points",
        of(part="wrong", flipped=WRONG, epochs=2, loss="plain"),
        of(part="wrong", flipped=WRONG, epochs=8, loss="plain"),
    )
    return found


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--share", metavar="I/N", help="make only every N-th run, from the I-th, and no record")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = list(all_runs())
    if options.share:
        first, of = map(int, options.share.split("/"))
        for run in runs[first::of]:
            result_of(run)
        return
    results = {run: result_of(run) for run in runs}
    scores = {
        "runs": len(runs),
        "test snippets": len(held_out("test")[1]),
        "share of labels exchanged": WRONG,
        "texts of the common class": COMMON,
        "texts of the rare class": RARE,
        "prevalence of the rare class": PREVALENCE,
    } | compare(results)
    path = write_record(
        "advice",
        scores,
        command="python benchmarks/advice.py",
        data=split_hashes(*(f"{SOURCE}/{split}" for split in ("train", "validation", "test"))),
        seeds=[0, 1, 2, 3, 4],
        machine="; ".join(sorted({result["machine"] for result in results.values()})),
        tables={"runs": [tabled(run, result) for run, result in results.items()]},
    )
    print(path)


if __name__ == "__main__":
    main()
