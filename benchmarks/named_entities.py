"""Persons, places and organisations in a Chinese newspaper: a dictionary, a perceptron, and a small Transformer.

    python benchmarks/named_entities.py        45 minutes on a core; writes artifacts/named_entities
    python benchmarks/named_entities.py --quick          a tiny setting, to see that everything runs

Stopped, it goes on where it was. The Transformer reads characters. Its encoder, trained to fill in hidden characters,
is kept in artifacts/newspaper_masked. As a tagger it is trained twice with the same labels: from scratch, and from that
encoder, whose text are the characters of the training part. Learning rates, and the number of passes of the perceptron,
are chosen on validation sentences. At last the scores of perceptron and tagger are added. Of each tagger the counts of
every held-out sentence are kept, from which all scores and intervals follow; no text is.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sweep import RUNS, kept

from plm_tutorial import load_model, pretrained, runtime
from plm_tutorial.batches import Batches
from plm_tutorial.entities import (
    KINDS,
    Sentence,
    TaggedRows,
    bio_tags,
    character_tokenizer,
    from_bio,
    illegal_places,
    token_entities,
)
from plm_tutorial.evaluation import bootstrap_interval, paired_bootstrap
from plm_tutorial.evaluation.entities import EntityScores, entity_counts, entity_f1
from plm_tutorial.experiments.entity_model import (
    LENGTH,
    SHAPE,
    choose_tags,
    encoder_config,
    keep_tagger,
    load_tagger,
    masked_accuracy,
    masked_batches,
    new_tagger,
    recipe,
    tag_scores,
)
from plm_tutorial.experiments.entity_taggers import (
    Dictionary,
    Perceptron,
    counted_transitions,
    legal_transitions,
    viterbi,
)
from plm_tutorial.models.decoder import Decoder
from plm_tutorial.newspaper import newspaper, newspaper_hashes
from plm_tutorial.objectives import predict_hidden
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.training import fit

STUDY = "named_entities"
MASKED, TAGGER = "newspaper_masked", "named_entities"
PAIRS = (  # of taggers whose difference is recorded with an interval
    ("pretrained", "dictionary"),
    ("pretrained", "scratch"),
    ("pretrained", "perceptron"),
    ("with pairs", "pretrained"),
    ("both", "perceptron"),
)
HELD_OUT = ("validation", "test")
KINDS_OF_TRAINING = ("pretrained", "scratch")


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    n_train: int | None = None  # sentences; None: all
    n_held_out: int | None = None
    n_curve: int = 300  # validation sentences on which the curves are measured
    epochs: tuple[int, ...] = (3, 6)  # of the perceptron, tried
    masked_steps: int = 1200
    masked_size: int = 32  # rows of LENGTH characters
    rates: tuple[float, ...] = (0.5, 1.0)  # factors on the learning rates, tried
    short_steps: int = 50  # of the runs that choose between them
    pair_shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)  # of counted scores of pairs, tried
    shares: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)  # of the perceptron's scores beside the tagger's, tried
    passes: int = 2  # of the taggers through the training sentences
    size: int = 48  # sentences of a batch
    points: int = 16  # of a curve
    seed: int = 0
    shape: tuple[tuple[str, int], ...] = tuple(SHAPE.items())

    @property
    def key(self) -> str:
        """Name what a run depends on besides its own settings."""
        return f"{self.n_train or 'all'}-{self.n_held_out or 'all'}-seed{self.seed}"


QUICK = Study(
    n_train=300,
    n_held_out=60,
    n_curve=40,
    epochs=(1, 2),
    masked_steps=6,
    masked_size=4,
    short_steps=3,
    passes=1,
    size=32,
    points=2,
    shape=(("d_model", 16), ("n_layers", 1), ("n_heads", 2), ("d_hidden", 32)),
)


@cache
def sentences(study: Study, split: str) -> list[Sentence]:
    """Return the sentences of a split that the study uses."""
    return newspaper(split)[: study.n_train if split == "train" else study.n_held_out]


def training_texts(study: Study) -> list[str]:
    """Return the texts that the encoder and the tokenizer are made from."""
    return [one.text for one in sentences(study, "train")]


def tokens_of(study: Study) -> Path:
    """Return where their tokens lie."""
    return RUNS / STUDY / f"masked-{study.key}" / "tokens"


@cache
def tokenizer_of(study: Study):
    """Return the tokenizer: the characters of the training sentences."""
    return character_tokenizer(training_texts(study))


@cache
def rows_of(study: Study, split: str) -> TaggedRows:
    """Return the sentences as rows of characters with labels."""
    return TaggedRows(sentences(study, split), tokenizer_of(study), LENGTH)


def counts_of(study: Study, split: str, found: Sequence) -> np.ndarray:
    """Return what :func:`entity_counts` says of predicted entities."""
    return entity_counts([one.entities for one in sentences(study, split)], found)


def seen_names(study: Study) -> set[tuple[str, str]]:
    """Return the entities of the training sentences, as (characters, kind)."""
    return {(text[a:b], kind) for text, entities in sentences(study, "train") for a, b, kind in entities}


# ------------------------------------------------------------------------------------------------------- to be beaten


def find_all(study: Study, tagger: Dictionary | Perceptron) -> dict:
    """Return the entities that a tagger finds in each held-out sentence."""
    return {split: tagger.predict([one.text for one in sentences(study, split)]) for split in HELD_OUT}


def by_dictionary(study: Study) -> dict:
    """Return what the dictionary finds."""
    tagger = Dictionary(sentences(study, "train"))
    return {"names": len(tagger.kinds)} | find_all(study, tagger)


def by_perceptron(study: Study, epochs: int) -> dict:
    """Return what the averaged perceptron finds after some passes."""
    tagger = Perceptron().fit(sentences(study, "train"), epochs, study.seed)
    return {"features": tagger.n_features} | find_all(study, tagger)


def by_both(study: Study, epochs: int) -> dict:
    """Return what the perceptron and the kept tagger find together: their scores added, Viterbi over the sums.

    How much the perceptron counts is chosen on validation sentences.
    """
    perceptron = Perceptron().fit(sentences(study, "train"), epochs, study.seed)
    tagger, found, quality = load_tagger(artifacts() / TAGGER, len(perceptron.tags)), {}, {}
    for split in HELD_OUT:
        texts = [one.text for one in sentences(study, split)]
        pairs = list(zip(tag_scores(tagger, rows_of(study, split)), perceptron.scores(texts), strict=True))
        for share in study.shares:
            rule = perceptron.begin, perceptron.legal + share * perceptron.pairs
            paths = (viterbi(ours + share * theirs, *rule) for ours, theirs in pairs)
            found[split, share] = [from_bio([perceptron.tags[k] for k in path]) for path in paths]
    for share in study.shares:
        quality[share] = entity_f1(counts_of(study, "validation", found["validation", share]))
    best = max(quality, key=quality.get)
    return {"share": best, "tried": list(quality.items())} | {split: found[split, best] for split in HELD_OUT}


def with_pairs(study: Study) -> dict:
    """Return what the kept tagger finds if counted scores of pairs of tags are added; how much, validation decides."""
    tagger = load_tagger(artifacts() / TAGGER, len(bio_tags()))
    begin, legal = legal_transitions(bio_tags())
    counted, found, quality = counted_transitions(sentences(study, "train"), bio_tags()), {}, {}
    for split in HELD_OUT:
        scores = tag_scores(tagger, rows_of(study, split))
        for share in study.pair_shares:
            paths = (viterbi(one, begin, legal + share * counted) for one in scores)
            found[split, share] = [from_bio([bio_tags()[k] for k in path]) for path in paths]
    for share in study.pair_shares:
        quality[share] = entity_f1(counts_of(study, "validation", found["validation", share]))
    best = max(quality, key=quality.get)
    return {"share": best, "tried": list(quality.items())} | {split: found[split, best] for split in HELD_OUT}


# ------------------------------------------------------------------------------------------------------ the Transformer


def pretrain(study: Study, folder: Path) -> dict:
    """Train the encoder to fill in hidden characters; write it, and return its scores."""
    texts, tokenizer = training_texts(study), tokenizer_of(study)
    torch.manual_seed(study.seed)
    model = Decoder(encoder_config(tokenizer.get_vocab_size(), **dict(study.shape)))
    work = RUNS / STUDY / f"masked-{study.key}"
    batches = masked_batches(texts, tokenizer, tokens_of(study), study.masked_size, seed=study.seed)
    config = recipe(study.masked_steps, checkpoint_every=100, seed=study.seed)
    history = fit(model, batches, config, objective=predict_hidden, folder=work / "training", progress=False)
    pretrained.export(model.half(), folder, tokenizer, overwrite=True)
    model = load_model(folder).eval()
    losses = [float(np.mean(part)) for part in np.array_split(history.column("loss"), min(50, history.steps))]
    held_out = {
        split: masked_accuracy(model, tokenizer, [s.text for s in sentences(study, split)]) for split in HELD_OUT
    }
    seconds, characters = sum(history.column("seconds")), sum(history.column("tokens"))
    return {"losses": losses, "seconds": seconds, "characters": characters, "machine": runtime.machine()} | held_out


def train(study: Study, start: str, rate: float, steps: int, encoder: Path, whole: bool) -> dict:
    """Return the curve of a tagger on validation sentences; if it is the ``whole`` training, its counts too."""
    torch.manual_seed(study.seed)
    config = encoder_config(tokenizer_of(study).get_vocab_size(), **dict(study.shape))
    model = new_tagger(config if start == "scratch" else load_model(encoder), len(bio_tags()))
    some = TaggedRows(sample(study), tokenizer_of(study), LENGTH)
    truth = [one.entities for one in sample(study)]

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        scores = tag_scores(model, some)
        tags = {legal: choose_tags(scores, some.tags, legal) for legal in (False, True)}
        found = {k: [token_entities(*one) for one in zip(some.offsets, v, strict=True)] for k, v in tags.items()}
        f1 = {legal: entity_f1(entity_counts(truth, entities)) for legal, entities in found.items()}
        illegal = float(np.mean([bool(illegal_places(row)) for row in tags[False]]))
        return {"missing": 1 - f1[True], "f1": f1[True], "f1 likeliest": f1[False], "illegal": illegal}

    every = max(1, steps // (study.points if whole else 2))
    how = recipe(steps, rate, evaluate_every=every, checkpoint_every=100, seed=study.seed)
    batches = Batches(rows_of(study, "train"), study.size, seed=study.seed, bucket=16)
    work = RUNS / STUDY / f"{start}-{rate:g}-{steps}-{study.key}"
    history = fit(model, batches, how, evaluate=evaluate, folder=work, progress=False)
    names = ("step", "f1", "f1 likeliest", "illegal")
    curve = [{name: row[name] for name in names} for row in history.rows if "f1" in row]
    result = {"curve": curve, "seconds": sum(history.column("seconds")), "machine": runtime.machine()}
    if not whole:
        return result
    if start == "pretrained":
        model = keep_and_open(model, study)
    return result | {split: held_out(study, model, split) for split in HELD_OUT}


def keep_and_open(model: torch.nn.Module, study: Study) -> torch.nn.Module:
    """Write the tagger in 16 bits, and return it as it was written: that one is scored."""
    return load_tagger(keep_tagger(model, artifacts() / TAGGER, tokenizer_of(study)), len(bio_tags()))


def held_out(study: Study, model: torch.nn.Module, split: str) -> dict:
    """Return what a tagger finds with and without the rule, and how often the likeliest tags break it."""
    rows = rows_of(study, split)
    scores, found = tag_scores(model, rows), {}
    for name, legal in (("legal", True), ("likeliest", False)):
        tags = choose_tags(scores, rows.tags, legal)
        entities = [token_entities(at, row) for at, row in zip(rows.offsets, tags, strict=True)]
        found[name] = entities
    found["illegal"] = [len(illegal_places(row)) for row in tags]  # of the likeliest tags
    return found


def sample_numbers(study: Study) -> list[int]:
    """Return the numbers of the validation sentences on which curves are measured."""
    n = len(sentences(study, "validation"))
    return sorted(np.random.default_rng(0).permutation(n)[: study.n_curve].tolist())


@cache
def sample(study: Study) -> list[Sentence]:
    """Return the validation sentences of the curves."""
    return [sentences(study, "validation")[i] for i in sample_numbers(study)]


# -------------------------------------------------------------------------------------------------------------- scores


def score_rows(name: str, counts: dict[str, np.ndarray]) -> list[dict]:
    """Return a row for each split and kind, and one for all kinds, of a tagger's precision, recall and F1."""
    found = []
    for split, of_sentences in counts.items():
        table = EntityScores(KINDS, of_sentences.sum(axis=0)).table()
        found += [{"tagger": name, "split": split, "kind": kind} | row for kind, row in table.to_dict("index").items()]
    return found


def seen_rows(study: Study, results: dict[str, dict]) -> list[dict]:
    """Return how many true entities each tagger finds, of those that stand in the training text and of the others."""
    seen, found = seen_names(study), []
    for name, result in results.items():
        for split in HELD_OUT:
            right: dict[tuple[str, bool], list[bool]] = {(kind, known): [] for kind in KINDS for known in (True, False)}
            for (text, entities), predicted in zip(sentences(study, split), result[split], strict=True):
                hits = set(map(tuple, predicted))
                for one in entities:
                    known = (text[one.start : one.end], one.kind) in seen
                    right[one.kind, known].append(tuple(one) in hits)
            found += [
                {"tagger": name, "split": split, "kind": kind, "seen": known, "entities": len(x), "right": sum(x)}
                for (kind, known), x in right.items()
            ]
    return found


def parameters_of(artifact: str) -> int:
    """Return how many parameters a stored model has, without a tagger's head."""
    return sum(parameter.numel() for parameter in load_model(artifacts() / artifact, device="cpu").parameters())


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    study = QUICK if parser.parse_args().quick else Study()
    encoder = artifacts() / MASKED

    results = {"dictionary": kept(STUDY, f"dictionary-names-{study.key}", lambda: by_dictionary(study))}
    tried = {
        n: kept(STUDY, f"perceptron-names-{n}-{study.key}", lambda n=n: by_perceptron(study, n)) for n in study.epochs
    }
    quality = {n: entity_f1(counts_of(study, "validation", one["validation"])) for n, one in tried.items()}
    best_n = max(quality, key=quality.get)
    results["perceptron"] = tried[best_n]
    choices = [{"tagger": "perceptron", "setting": n, "f1": f1, "chosen": n == best_n} for n, f1 in quality.items()]
    masked = kept(STUDY, f"masked-{study.masked_steps}-{study.key}", lambda: pretrain(study, encoder))
    steps, curves, runs = max(1, study.passes * len(rows_of(study, "train")) // study.size), [], {}
    for start in KINDS_OF_TRAINING:

        def run(rate: float, steps: int, whole: bool, start: str = start) -> dict:
            key = f"{start}-{rate:g}-{steps}-{study.key}"
            return kept(STUDY, key, lambda: train(study, start, rate, steps, encoder, whole))

        short = {rate: run(rate, study.short_steps, False)["curve"][-1]["f1"] for rate in study.rates}
        rate = max(short, key=short.get)
        choices += [{"tagger": start, "setting": r, "f1": f1, "chosen": r == rate} for r, f1 in short.items()]
        runs[start] = run(rate, steps, True)
        curves += [{"tagger": start, "sentences": row["step"] * study.size} | row for row in runs[start]["curve"]]
        results[start] = {split: runs[start][split]["legal"] for split in HELD_OUT}

    pairs = results["with pairs"] = kept(STUDY, f"pairs-{study.key}", lambda: with_pairs(study))
    both = results["both"] = kept(STUDY, f"both-{best_n}-{study.key}", lambda: by_both(study, best_n))
    for name, one in (("with pairs", pairs), ("both", both)):
        choices += [{"tagger": name, "setting": x, "f1": f1, "chosen": x == one["share"]} for x, f1 in one["tried"]]

    counts = {name: {s: counts_of(study, s, one[s]) for s in HELD_OUT} for name, one in results.items()}
    names = list(counts)
    per_sentence = [  # of each sentence: entities right, predicted, and true
        {"split": split, "number": i}
        | {
            f"{name} {what}": int(n)
            for name in names
            for what, n in zip(("right", "found"), counts[name][split][i].sum(0), strict=False)
        }
        | {"true": int(counts[names[0]][split][i].sum(0)[2])}
        for split in HELD_OUT
        for i in range(len(counts[names[0]][split]))
    ]
    scores = {"training sentences": len(sentences(study, "train")), "test sentences": len(counts[names[0]]["test"])}
    scores |= {"names in the dictionary": results["dictionary"]["names"], "perceptron: passes": best_n}
    scores |= {"perceptron: features": results["perceptron"]["features"], "parameters": parameters_of(TAGGER)}
    for name in names:
        test = counts[name]["test"]
        low, high = bootstrap_interval(test, entity_f1)
        scores |= {f"{name}: test F1": entity_f1(test), f"{name}: low": low, f"{name}: high": high}
    for name in ("dictionary", "perceptron"):
        same = counts[name]["validation"][sample_numbers(study)]
        scores[f"{name}: F1 on the sentences of the curves"] = entity_f1(same)
    for a, b in PAIRS:
        difference = paired_bootstrap(counts[a]["test"], counts[b]["test"], entity_f1)
        scores |= {f"{a} less {b}: {part}": x for part, x in difference._asdict().items()}
    for start in KINDS_OF_TRAINING:
        of_test = runs[start]["test"]
        illegal = np.array(of_test["illegal"])
        scores |= {f"{start}: test sentences with illegal tags": int((illegal > 0).sum())}
        ruled, free = (counts_of(study, "test", of_test[name]) for name in ("legal", "likeliest"))
        difference = paired_bootstrap(ruled, free, entity_f1)
        scores |= {f"{start}: F1 gained by the rule, {part}": x for part, x in difference._asdict().items()}
        scores |= {f"{start}: training seconds": runs[start]["seconds"]}
    command = "python benchmarks/named_entities.py" + (" --quick" if study is QUICK else "")
    tokens = masked_batches(training_texts(study), tokenizer_of(study), tokens_of(study), 1).rows.file
    data = newspaper_hashes() | {"tokens of train": tokens.sha256}
    print(
        write_record(
            TAGGER,
            scores,
            command=command,
            data=data,
            seeds=[study.seed],
            machine=runs["pretrained"]["machine"],
            tables={
                "sentences": per_sentence,
                "scores": [row for name in names for row in score_rows(name, counts[name])],
                "seen": seen_rows(study, results),
                "curves": curves,
                "choices": choices,
            },
        )
    )
    masked_scores = {f"{split}: hidden characters that are found": masked[split] for split in HELD_OUT}
    masked_scores |= {"training characters": masked["characters"], "training seconds": masked["seconds"]}
    masked_scores |= {"training steps": study.masked_steps, "parameters": parameters_of(MASKED)}
    losses = [{"part": i, "loss": loss} for i, loss in enumerate(masked["losses"])]
    write_record(
        MASKED,
        masked_scores,
        command=command,
        data=data,
        seeds=[study.seed],
        machine=masked["machine"],
        tables={"losses": losses},
    )
    for key, value in scores.items():
        print(f"{key:60} {value:>12,.4g}")


if __name__ == "__main__":
    main()
