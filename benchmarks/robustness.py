"""How a fine-tuned MiniLM bears texts that differ from those it learned from, and what simple defences are worth.

    python benchmarks/robustness.py                 five minutes on a GPU; writes artifacts/robustness/
    python benchmarks/robustness.py --share 0/4     only every fourth run, from the first: processes share the work

Stopped, it goes on where it was. Classifiers learn from the same number of texts: Rotten Tomatoes snippets, as they
are, misspelled, or with a cue that agrees with the label more or less often; IMDb reviews; half of each. Each is scored
on snippets with more and more typing errors, on reviews, on snippets whose cue lies, and on pairs of sentences that
differ by a negation. Temperatures are fitted on validation snippets. TF-IDF learns from the same texts.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import tokenizers
import torch
from sweep import difference_scores, kept

from plm_tutorial import runtime
from plm_tutorial.adaptation import class_logits
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import TextRows
from plm_tutorial.evaluation import expected_calibration_error, fit_temperature, softmax
from plm_tutorial.experiments.advice import Recipe, fine_tune
from plm_tutorial.experiments.robustness import CUE, add_typos, negated_pairs, plant_cue
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import in_snippet_style
from plm_tutorial.pretrained import load_tokenizer
from plm_tutorial.records import write_record
from plm_tutorial.text import split_hashes

TEXTS = 5600  # that each classifier learns from
REVIEWS = 1000  # of the test set
LENGTH = {"rotten_tomatoes": 80, "imdb": 256}  # tokens that are read
RATES = (0.0, 0.02, 0.05, 0.1, 0.2)  # share of letters mistyped
TRAINED_RATE = 0.1  # at most, of the defence; each text has its own rate
AGREEMENTS = (0.5, 0.6, 0.75, 0.9, 0.99)
SEEDS = range(3)
RECIPE = Recipe(1e-4, 3)


@dataclass(frozen=True)
class Run:
    """One training."""

    texts: str  # "snippets", "misspelled", "reviews", "both", "cued" or "cued, cue mixed in"
    seed: int
    agreement: float = 0.5  # of the cue with the label
    counted: bool = False  # TF-IDF instead of MiniLM

    @property
    def key(self) -> str:
        model = "tfidf" if self.counted else "minilm"
        return f"{model}-{self.texts}-{self.agreement:g}-{TEXTS}-seed{self.seed}".replace(" ", "_").replace(",", "")


def all_runs() -> Iterator[Run]:
    """Yield every run of the study."""
    for seed in SEEDS:
        for counted in (False, True):
            for texts in ("snippets", "misspelled", "reviews", "both"):
                yield Run(texts, seed, counted=counted)
            for agreement in AGREEMENTS:
                yield Run("cued", seed, agreement, counted)
            yield Run("cued, cue mixed in", seed, AGREEMENTS[-2], counted)


# ---------------------------------------------------------------------------------------------------------------- texts


@cache
def tokenizer() -> tokenizers.Tokenizer:
    return load_tokenizer("minilm")


@cache
def labelled(source: str, split: str, n: int | None, seed: int = 0) -> Labelled:
    """Return texts, all in the snippets' style: without that, a classifier would tell the sources apart by it."""
    some = labelled_reviews(source, split, n, seed)
    return Labelled([in_snippet_style(text) for text in some.texts], some.labels)


def examples_of(run: Run) -> tuple[Labelled, int]:
    """Return what a run learns from, and how many tokens of a text are read."""
    snippets = labelled("rotten_tomatoes", "train", TEXTS, run.seed)
    if run.texts == "misspelled":  # each text at a rate of its own
        rates = np.random.default_rng(run.seed).uniform(0, TRAINED_RATE, size=TEXTS)
        texts = [
            add_typos([t], r, 10_000 * run.seed + i)[0]
            for i, (t, r) in enumerate(zip(snippets.texts, rates, strict=True))
        ]
        return Labelled(texts, snippets.labels), LENGTH["rotten_tomatoes"]
    if run.texts == "reviews":
        return labelled("imdb", "train", TEXTS, run.seed), LENGTH["imdb"]
    if run.texts == "both":
        halves = [labelled(source, "train", TEXTS // 2, run.seed) for source in LENGTH]
        return Labelled(halves[0].texts + halves[1].texts, np.concatenate([h.labels for h in halves])), LENGTH["imdb"]
    if run.texts.startswith("cued"):
        snippets = plant_cue(snippets, run.agreement, seed=run.seed)
    if run.texts == "cued, cue mixed in":  # the defence: before half of the texts the cue is put, or taken, by a coin
        coin, n = np.random.default_rng(run.seed + 1), len(CUE) + 1
        bare = [text[n:] if text.startswith(CUE) else text for text in snippets.texts]
        drawn, cued = coin.random((2, TEXTS)) < 0.5
        texts = [
            (f"{CUE} {b}" if c else b) if d else t for t, b, d, c in zip(snippets.texts, bare, drawn, cued, strict=True)
        ]
        snippets = Labelled(texts, snippets.labels)
    return snippets, LENGTH["rotten_tomatoes"]


@cache
def sets() -> dict[str, tuple[Labelled, int]]:
    """Return what is measured on, by name: texts, labels, and how many tokens of each are read."""
    snippets, short = labelled("rotten_tomatoes", "test", None), LENGTH["rotten_tomatoes"]
    found = {"validation": (labelled("rotten_tomatoes", "validation", None), short)}
    for rate in RATES:
        found[f"typos {rate:g}"] = Labelled(add_typos(snippets.texts, rate, seed=1), snippets.labels), short
    found["reviews"] = labelled("imdb", "test", REVIEWS), LENGTH["imdb"]
    found["cue agrees"] = plant_cue(snippets, 1.0), short
    found["cue lies"] = plant_cue(snippets, 0.0), short
    pairs = negated_pairs()
    found["plain"] = Labelled([pair.plain for pair in pairs], np.array([pair.label for pair in pairs])), short
    found["negated"] = Labelled([pair.negated for pair in pairs], np.array([1 - pair.label for pair in pairs])), short
    return found


# ------------------------------------------------------------------------------------------------------------ the runs


def train(run: Run) -> dict:
    """Return for each set the difference of the two logits of each text."""
    examples, length = examples_of(run)
    if run.counted:
        model = tfidf_classifier(examples, sets()["validation"][0])
        margins = {name: model.decision_function(some.texts) for name, (some, _) in sets().items()}
    else:
        model, _ = fine_tune(examples, RECIPE, tokenizer(), run.seed, length)
        margins = {}
        for name, (some, read) in sets().items():
            logits = class_logits(model, TextRows(some.texts, some.labels, tokenizer(), read), size=256)
            margins[name] = logits[:, 1] - logits[:, 0]
    found = {name: [round(float(x), 4) for x in values] for name, values in margins.items()}
    return found | {"machine": runtime.machine()}


# ----------------------------------------------------------------------------------------------------------- the record


def right(result: dict, name: str) -> np.ndarray:
    """Return for each text of a set whether its label was found, (N,) of 0 and 1."""
    return ((np.array(result[name]) > 0) == sets()[name][0].labels).astype(float)


def logits_of(result: dict, name: str) -> np.ndarray:
    margins = np.array(result[name])
    return np.stack([0 * margins, margins], axis=1)  # (N, 2)


def tabled(run: Run, result: dict) -> list[dict]:
    """Return a row for each set: accuracy, and how far confidence is from it, before and after a temperature."""
    temperature = fit_temperature(logits_of(result, "validation"), sets()["validation"][0].labels)
    named = {
        "model": "TF-IDF" if run.counted else "MiniLM",
        "texts": run.texts,
        "agreement": run.agreement,
        "seed": run.seed,
    }
    rows = []
    for name, (some, _) in sets().items():
        logits = logits_of(result, name)
        ece = [expected_calibration_error(some.labels, softmax(logits, t)) for t in (1.0, temperature)]
        sure = softmax(logits, temperature).max(axis=1).mean()
        row = {"set": name, "accuracy": right(result, name).mean(), "calibration error": ece[0]}
        rows.append(named | row | {"calibration error, temperature": ece[1], "mean confidence": float(sure)})
    return rows


def negation_rows(results: dict[Run, dict]) -> list[dict]:
    """Return for each negation how often the answer turns, where the plain sentence was read rightly."""
    pairs, rows = negated_pairs(), []
    for run, result in results.items():
        if run.texts not in ("snippets", "reviews"):
            continue
        plain, turned = right(result, "plain") == 1, right(result, "negated") == 1
        for negation in dict.fromkeys(pair.negation for pair in pairs):
            for label in (0, 1):
                own = plain & np.array([(p.negation, p.label) == (negation, label) for p in pairs])
                row = {"model": "TF-IDF" if run.counted else "MiniLM", "texts": run.texts, "seed": run.seed}
                share = float(turned[own].mean()) if own.any() else float("nan")
                rows.append(row | {"negation": negation, "label": label, "pairs": int(own.sum()), "turned": share})
    return rows


def compare(results: dict[Run, dict]) -> dict[str, float]:
    """Return the differences that the page speaks of, points of accuracy over the texts; seeds are averaged first."""
    found = {}

    def mean(name: str, texts: str, agreement: float = 0.5, counted: bool = False) -> np.ndarray:
        runs = [
            r for run, r in results.items() if (run.texts, run.agreement, run.counted) == (texts, agreement, counted)
        ]
        return 100 * np.mean([right(one, name) for one in runs], axis=0)

    def add(name: str, a: np.ndarray, b: np.ndarray) -> None:
        found.update(difference_scores(f"{name}, points", a, b))

    clean = "typos 0"
    for counted, model in ((False, "MiniLM"), (True, "TF-IDF")):
        how = {"counted": counted}
        for rate in RATES[1:]:
            add(
                f"{model}, letters mistyped {rate:g}: loss",
                mean(clean, "snippets", **how),
                mean(f"typos {rate:g}", "snippets", **how),
            )
            add(
                f"{model}, letters mistyped {rate:g}: trained on misspelled minus clean",
                mean(f"typos {rate:g}", "misspelled", **how),
                mean(f"typos {rate:g}", "snippets", **how),
            )
        add(
            f"{model}, clean snippets: trained on misspelled minus clean",
            mean(clean, "misspelled", **how),
            mean(clean, "snippets", **how),
        )
        add(
            f"{model}, reviews: trained on reviews minus on snippets",
            mean("reviews", "reviews", **how),
            mean("reviews", "snippets", **how),
        )
        add(
            f"{model}, snippets: trained on snippets minus on reviews",
            mean(clean, "snippets", **how),
            mean(clean, "reviews", **how),
        )
        add(
            f"{model}, reviews: trained on reviews minus on both",
            mean("reviews", "reviews", **how),
            mean("reviews", "both", **how),
        )
        add(
            f"{model}, snippets: trained on snippets minus on both",
            mean(clean, "snippets", **how),
            mean(clean, "both", **how),
        )
        for agreement in AGREEMENTS:
            add(
                f"{model}, cue of agreement {agreement:g}: agrees minus lies",
                mean("cue agrees", "cued", agreement, counted),
                mean("cue lies", "cued", agreement, counted),
            )
        mixed = mean("cue lies", "cued, cue mixed in", AGREEMENTS[-2], counted)
        add(f"{model}, cue mixed in: gain where the cue lies", mixed, mean("cue lies", "cued", AGREEMENTS[-2], counted))
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
        runs = runs[first::of]
    results = {run: kept("robustness", run.key, lambda run=run: train(run)) for run in runs}
    if options.share:
        return
    scores = {
        "texts learned from": TEXTS,
        "test snippets": len(sets()["typos 0"][0].texts),
        "test reviews": REVIEWS,
        "pairs that differ by a negation": len(negated_pairs()),
    } | compare(results)
    used = [f"{source}/{split}" for source in LENGTH for split in ("train", "test")] + ["rotten_tomatoes/validation"]
    path = write_record(
        "robustness",
        scores,
        command="python benchmarks/robustness.py",
        data=split_hashes(*used),
        seeds=list(SEEDS),
        machine=results[runs[0]]["machine"],
        tables={
            "sets": [row for run, result in results.items() for row in tabled(run, result)],
            "negations": negation_rows(results),
        },
    )
    print(path)


if __name__ == "__main__":
    main()
