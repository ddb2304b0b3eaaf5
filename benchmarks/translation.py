"""What an encoder-decoder trained from nothing can translate: exact forms, names, and a few hundred real messages.

    python benchmarks/translation.py        25 minutes on a core; writes artifacts/translation*/

Stopped, it goes on where it was. Three studies, one small model for French, German and Chinese. *Forms*: dates, times,
numbers, units, spelled numbers, cut into characters and into pieces; tested on combinations that were held out, and on
forms that were never seen. *Terms*: names of CLDR, in characters. *Messages*: those of Django and Sphinx, in pieces,
with an eighth to all of the training data. What was chosen (tokens, beams) was chosen on validation pairs. What is kept
of a model is what it wrote, from which all scores follow.
"""

from __future__ import annotations

import shutil
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import babel
import num2words
import numpy as np
import pandas as pd
import tokenizers
import torch
from sweep import RUNS, kept

from plm_tutorial import evaluation, load_model, runtime
from plm_tutorial.batches import Batches
from plm_tutorial.experiments import translated_text, translation_baselines
from plm_tutorial.experiments.parallel_text import KINDS, LANGUAGES, UNSEEN_FORMS, Pair, made_pairs
from plm_tutorial.models import Transformer, TransformerConfig
from plm_tutorial.objectives import predict_labels
from plm_tutorial.pretrained import export
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.seq2seq import PairRows, character_tokenizer, piece_tokenizer, translate
from plm_tutorial.training import TrainingConfig, fit

COMMAND = "python benchmarks/translation.py"
NAME = "translation"
BASELINES = ("copy", "dictionary", "nearest")
TOKENS = {"characters": lambda study: characters(study), "pieces": lambda study: pieces(study)}
LONGEST = 150  # characters of a message; the longer ones, one in fifty or so, are left out of the study
FOUND = {"terms": translated_text.terms, "messages": partial(translated_text.messages, longest=LONGEST)}
BEAMS = tuple((n, penalty) for n in (1, 4) for penalty in (0.0, 1.0) if n > 1 or penalty)  # tried for terms


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    made: int = 60_000  # pairs of forms, a language
    steps: int = 3_000  # on forms
    vocab_size: int = 600  # of pieces
    term_steps: int = 3_500
    message_epochs: int = 30
    message_pieces: int = 1_500  # tokens of messages
    tested: int = 400  # pairs of forms, a language and kind
    shares: tuple[int, ...] = (8, 4, 2, 1)  # of the messages: an eighth …
    name: str = NAME  # of the records
    seeds: tuple[int, ...] = (0,)  # of terms
    size: int = 64  # pairs of a batch
    small: int = 32  # of terms and messages, of which there are few
    longest: int = 160  # tokens of a row on either side
    most_new: int | None = None  # characters that are written; None: twice the source's and twenty
    d_model: int = 128
    lr: float = 2e-3
    muon_lr: float = 0.01
    dropout: float = 0.2  # where there is little data

    @property
    def key(self) -> str:
        """Name what a run depends on besides what its own name says."""
        return f"{self.made}-{self.steps}-{self.d_model}-{self.size}-{self.lr:g}-{self.muon_lr:g}"


# ---------------------------------------------------------------------------------------------------- data and tokens


@cache
def made(study: Study) -> list[Pair]:
    """Return the pairs of forms to train on."""
    return [pair for language in LANGUAGES for pair in made_pairs(language, "train", study.made)]


def found(what: str, split: str, share: int = 1) -> list[Pair]:
    """Return terms or messages of all languages; with ``share`` only every so-manieth, of smaller ones a part."""
    return [pair for language in LANGUAGES for pair in FOUND[what](language, split)[::share]]


@cache
def characters(study: Study) -> tokenizers.Tokenizer:
    """Return the vocabulary of all studies: the characters of all training pairs."""
    pairs = [*made(study), *found("terms", "train")]
    pairs += [pair for language in LANGUAGES for pair in translated_text.messages(language, "train")]
    return character_tokenizer((pair.source + pair.target for pair in pairs), LANGUAGES)


@cache
def pieces(study: Study) -> tokenizers.Tokenizer:
    """Return the other choice of tokens, for forms: pieces of words, by byte-pair merges."""
    texts = [text for pair in made(study) for text in pair[:2]]
    return piece_tokenizer(texts, study.vocab_size, LANGUAGES)


def rows_of(pairs: Sequence[Pair], tokenizer: tokenizers.Tokenizer, length: int) -> PairRows:
    """Return pairs as rows."""
    return PairRows(
        *([getattr(p, part) for p in pairs] for part in ("source", "target", "language")), tokenizer, length
    )


def config_of(study: Study, tokenizer: tokenizers.Tokenizer, dropout: float) -> TransformerConfig:
    """Return the shape of all models: that of 2017, but pre-norm, and small."""
    D = study.d_model
    return TransformerConfig(tokenizer.get_vocab_size(), 192, D, 2, 4, 4 * D, norm="pre", dropout=dropout)


# ------------------------------------------------------------------------------------------------------------ training


def trained(
    study: Study,
    name: str,
    pairs: Sequence[Pair],
    steps: int,
    seed: int = 0,
    *,
    tokenizer: tokenizers.Tokenizer | None = None,
    size: int | None = None,
    dropout: float = 0.0,
    evaluate_every: int = 0,
    evaluate=None,
) -> tuple[Transformer, dict]:
    """Train a model, and return it with what it took."""
    tokenizer = tokenizer or characters(study)
    torch.manual_seed(seed)
    model = Transformer(config_of(study, tokenizer, dropout))
    rows = rows_of(pairs, tokenizer, study.longest)
    config = TrainingConfig(
        steps,
        lr=study.lr,
        muon_lr=study.muon_lr,
        optimizer="muon",
        weight_decay=0.1 if dropout else 0.01,
        warmup=min(50, steps // 5),
        seed=seed,
        evaluate_every=evaluate_every,
        checkpoint_every=200,
    )
    folder = RUNS / NAME / f"{name}-{study.key}"
    batches = Batches(rows, size or study.size, seed=seed, bucket=16)
    begun = time.perf_counter()
    history = fit(model, batches, config, objective=predict_labels, evaluate=evaluate, folder=folder, progress=False)
    seconds = time.perf_counter() - begun
    export(model.half(), folder / "model", tokenizer, overwrite=True)
    counted = {"training pairs": len(rows), "left out, too long": len(pairs) - len(rows), "training steps": steps}
    counted |= {
        "training tokens": int(sum(history.column("tokens"))),
        "training seconds": sum(history.column("seconds")),
    }
    counted |= {"parameters": sum(p.numel() for p in model.parameters()), "machine": runtime.machine()}
    print(f"  {name}: {steps} steps, {seconds:.0f} s, loss {np.mean(history.column('loss')[-20:]):.3f}", flush=True)
    return load_model(folder / "model", device="cpu"), counted | {"folder": str(folder)}


def written(study: Study, model, tokenizer, pairs: Sequence[Pair], n_beams: int = 1, penalty: float = 1.0) -> list[str]:
    """Return what a model makes of the sources of pairs, in the order of the pairs."""
    how = {"n_beams": n_beams, "length_penalty": penalty, "batch": 128, "max_new_tokens": study.most_new}
    outputs: dict[int, str] = {}
    for language in LANGUAGES:
        if rows := [i for i, pair in enumerate(pairs) if pair.language == language]:
            texts = translate(model, tokenizer, [pairs[i].source for i in rows], language, **how)
            outputs |= zip(rows, texts, strict=True)
    return [outputs[i] for i in range(len(pairs))]


# --------------------------------------------------------------------------------------------------------------- forms


def tests_of(study: Study, split: str = "test") -> list[Pair]:
    """Return held-out pairs of forms: as many of each kind, in each language."""
    return [
        pair
        for language in LANGUAGES
        for kind in KINDS
        if (kind, language) != ("spelled", "zh")
        for pair in made_pairs(language, split, study.tested, kinds=(kind,), seed=1)
    ]


def unseen(study: Study) -> list[Pair]:
    """Return pairs of forms that were never trained on."""
    n = study.tested // 2
    return [p for la in LANGUAGES for form in UNSEEN_FORMS for p in made_pairs(la, "test", n, forms=[form], seed=1)]


def forms(study: Study, tokens: str) -> dict:
    """Train on forms, cut into "characters" or "pieces"; return what the model writes for held-out and unseen ones."""
    tokenizer = TOKENS[tokens](study)
    some = [pair for la in LANGUAGES for pair in made_pairs(la, "validation", max(10, study.tested // 4), seed=2)]

    def evaluate(model) -> dict[str, float]:
        right = [a == b.target for a, b in zip(written(study, model, tokenizer, some), some, strict=True)]
        exact = {la: np.mean([r for r, p in zip(right, some, strict=True) if p.language == la]) for la in LANGUAGES}
        print("  ", {name: round(float(value), 3) for name, value in exact.items()}, flush=True)
        return {"wrong": 1 - float(np.mean(right))} | exact

    how = {"tokenizer": tokenizer, "evaluate_every": max(1, study.steps // 10), "evaluate": evaluate}
    model, counted = trained(study, f"forms-{tokens}", made(study), study.steps, **how)
    return counted | {
        "test": written(study, model, tokenizer, tests_of(study)),
        "unseen": written(study, model, tokenizer, unseen(study)),
    }


# --------------------------------------------------------------------------------------------------- terms and messages


def terms(study: Study, seed: int) -> dict:
    """Train on terms, and return what the model writes, by several searches."""
    name, pairs = f"terms-{seed}", found("terms", "train")
    model, counted = trained(study, name, pairs, study.term_steps, seed, size=study.small, dropout=study.dropout)
    for n_beams, penalty in BEAMS:
        for split in ("validation", "test"):
            outputs = written(study, model, characters(study), found("terms", split), n_beams, penalty)
            counted[f"{split}, {n_beams} beams, penalty {penalty:g}"] = outputs
    return counted


def messages(study: Study, share: int, seed: int) -> dict:
    """Train on a share of the messages, each as often as with all of them; return what the model writes."""
    name, pairs = f"messages-pieces-{share}-{seed}", found("messages", "train", share)
    tokenizer = piece_tokenizer([text for pair in pairs for text in pair[:2]], study.message_pieces, LANGUAGES)
    steps = max(1, study.message_epochs * len(pairs) // study.small)
    how = {"tokenizer": tokenizer, "size": study.small, "dropout": study.dropout}
    model, counted = trained(study, name, pairs, steps, seed, **how)
    losses = pd.read_csv(Path(counted["folder"]) / "log.csv")["loss"]
    counted["training loss"] = float(losses.tail(50).mean())
    return counted | {s: written(study, model, tokenizer, found("messages", s)) for s in ("validation", "test")}


def baselines(what: str, share: int = 1) -> dict[str, list[str]]:
    """Return what the three baselines make of the test pairs, with so much to learn from."""
    outputs: dict[str, list[str]] = {"copy": [], "dictionary": [], "nearest": []}
    for language in LANGUAGES:
        pairs = FOUND[what](language, "train")[::share]
        texts = [pair.source for pair in FOUND[what](language, "test")]
        outputs["copy"] += translation_baselines.copy_source(texts)
        outputs["dictionary"] += translation_baselines.Dictionary(pairs)(texts)
        outputs["nearest"] += translation_baselines.NearestNeighbour(pairs)(texts)
    return outputs


# -------------------------------------------------------------------------------------------------------------- scores


def of_language(pairs: Sequence[Pair], outputs: Sequence[str], language: str) -> tuple[list[str], list[str]]:
    """Return references and outputs of one language."""
    rows = [i for i, pair in enumerate(pairs) if pair.language == language]
    return [pairs[i].target for i in rows], [outputs[i] for i in rows]


def form_scores(pairs: Sequence[Pair], outputs: Sequence[str], part: str) -> list[dict]:
    """Return a row for each language and kind, or form: pairs, share that is exactly right with its interval, chrF."""
    rows = []
    for language in LANGUAGES:
        for name in dict.fromkeys(getattr(pair, part) for pair in pairs if pair.language == language):
            chosen = [i for i, p in enumerate(pairs) if (p.language, getattr(p, part)) == (language, name)]
            wanted, got = [pairs[i].target for i in chosen], [outputs[i] for i in chosen]
            right = np.array([a == b for a, b in zip(wanted, got, strict=True)], dtype=float)
            low, high = evaluation.bootstrap_interval(right)
            rows.append({"language": language, part: name, "pairs": len(chosen), "exact": right.mean()})
            rows[-1] |= {"low": low, "high": high, "chrF": evaluation.chrf(wanted, got)}
    return rows


def compared(pairs: Sequence[Pair], systems: dict[str, list[str]], metrics: Sequence[str] = ("chrF",)) -> list[dict]:
    """Return a row for each language and system: its scores, with intervals over the pairs."""
    rows = []
    for language in LANGUAGES:
        for name, outputs in systems.items():
            wanted, got = of_language(pairs, outputs, language)
            row = {"language": language, "system": name, "pairs": len(wanted)}
            for metric in metrics:
                counts = evaluation.translation_counts(metric, wanted, got, language)
                low, high = evaluation.translation_interval(metric, wanted, got, language)
                score = evaluation.score_counts(metric, counts)
                row |= {metric: score, f"{metric} low": low, f"{metric} high": high}
            rows.append(row | {"exact": evaluation.exact_share(wanted, got)})
    return rows


def output_rows(pairs: Sequence[Pair], systems: dict[str, Sequence[str]], part: str) -> list[dict]:
    """Return a row for each test pair, with what each system wrote."""
    rows = []
    for i, pair in enumerate(pairs):
        row = {"language": pair.language, part: getattr(pair, part), "source": pair.source, "reference": pair.target}
        rows.append(row | {name: outputs[i] for name, outputs in systems.items()})
    return rows


def keep_model(folder: str, name: str) -> None:
    """Put a trained model, its tokenizer and its log into the artifact's folder."""
    target = artifacts() / name
    target.mkdir(parents=True, exist_ok=True)
    for file in (Path(folder) / "model").iterdir():
        shutil.copyfile(file, target / file.name)
    pd.read_csv(Path(folder) / "log.csv").to_csv(target / "log.csv", index=False, float_format="%.5g")


def hashes(*groups: tuple[str, Sequence[Pair]]) -> dict[str, str]:
    """Return what a record notes of its data: the pairs, and the releases that wrote them."""
    releases = {"babel": babel.__version__, "num2words": getattr(num2words, "__version__", "0.5.14")}
    return {name: translated_text.pairs_hash(pairs) for name, pairs in groups} | releases


COUNTED = ("parameters", "training pairs", "training steps", "training tokens", "training seconds")


def record_forms(study: Study) -> None:
    """Write the record of the first study: the tokens are chosen on validation pairs."""
    runs, curves = {}, []
    for tokens in TOKENS:
        key = f"forms-{tokens}-{study.key}-{study.tested}"
        runs[tokens] = kept(NAME, key, lambda which=tokens: forms(study, which))
        log = pd.read_csv(Path(runs[tokens]["folder"]) / "log.csv")
        log["seconds"] = log["seconds"].cumsum()
        rows = log.dropna(subset=["wrong"])[["step", "seconds", "wrong", *LANGUAGES]]
        curves += [{"tokens": tokens} | row for row in rows.to_dict("records")]
    last = {tokens: [row["wrong"] for row in curves if row["tokens"] == tokens][-1] for tokens in TOKENS}
    chosen = min(last, key=last.get)
    result, pairs, new = runs[chosen], tests_of(study), unseen(study)
    scores = {name: result[name] for name in COUNTED}
    for language in LANGUAGES:
        wanted, got = of_language(pairs, result["test"], language)
        right = [a == b for a, b in zip(wanted, got, strict=True)]
        low, high = evaluation.bootstrap_interval(np.array(right, dtype=float))
        scores |= {f"{language}: exactly right": float(np.mean(right)), f"{language}: low end of the interval": low}
        scores |= {f"{language}: high end of the interval": high, f"{language}: test pairs": len(right)}
    for tokens, run in runs.items():
        right = np.mean([a == b.target for a, b in zip(run["test"], pairs, strict=True)])
        scores |= {f"{tokens}: exactly right": float(right), f"{tokens}: training seconds": run["training seconds"]}
        scores |= {f"{tokens}: wrong on validation pairs": last[tokens]}
    keep_model(result["folder"], study.name)
    tables = {"curves": curves}
    for name, some, part in (("kinds", pairs, "kind"), ("unseen", new, "form")):
        outputs = "test" if name == "kinds" else "unseen"
        tables[name] = [
            {"tokens": tokens} | row for tokens, run in runs.items() for row in form_scores(some, run[outputs], part)
        ]
    outputs = {tokens: run["test"] for tokens, run in runs.items()}
    wrong = [i for i, pair in enumerate(pairs) if pair.target != result["test"][i]]
    mistakes = {tokens: [texts[i] for i in wrong] for tokens, texts in outputs.items()}
    tables["mistakes"] = output_rows([pairs[i] for i in wrong], mistakes, "form")
    tables["unseen_outputs"] = output_rows(new, {tokens: run["unseen"] for tokens, run in runs.items()}, "form")
    data = hashes(("forms: train", made(study)), ("forms: test", pairs), ("forms: unseen", new))
    how = {"command": COMMAND, "data": data, "seeds": [0], "tables": tables}
    print(write_record(study.name, scores, machine=result["machine"], **how))


def against_best(pairs: Sequence[Pair], systems: dict[str, list[str]], model: str, label: str) -> dict[str, float]:
    """Return by how much a model is above the best baseline, of each language and of all, with intervals over pairs.

    Both by chrF and by the share that is exactly right; the best baseline is that of the score on these very pairs.
    """
    scores = {}
    for language in (*LANGUAGES, "all"):
        rows = [i for i, pair in enumerate(pairs) if language in (pair.language, "all")]
        wanted = [pairs[i].target for i in rows]
        outputs = {name: [texts[i] for i in rows] for name, texts in systems.items()}
        right = {
            name: np.array([a == b for a, b in zip(wanted, texts, strict=True)], float)
            for name, texts in outputs.items()
        }
        chrf = {name: evaluation.chrf(wanted, outputs[name]) for name in BASELINES}
        rival = max(BASELINES, key=chrf.get)
        difference = evaluation.translation_difference("chrF", wanted, outputs[model], outputs[rival])
        exact_rival = max(BASELINES, key=lambda name: right[name].mean())
        exact = evaluation.paired_bootstrap(right[model], right[exact_rival])
        for name, found_ in ((f"chrF less {rival}", difference), (f"exact less {exact_rival}", exact)):
            name = f"{language}, {label}: {name}"
            scores |= {name: found_.estimate, f"{name}, low": found_.low, f"{name}, high": found_.high}
    return scores


def record_terms(study: Study) -> None:
    """Write the record of the second study: the search is chosen on validation pairs."""
    runs = {}
    for seed in study.seeds:
        key = f"terms-{seed}-{study.term_steps}-{study.small}-{study.key}"
        runs[seed] = kept(NAME, key, lambda which=seed: terms(study, which))
    valid, test = found("terms", "validation"), found("terms", "test")
    tried = []
    for n_beams, penalty in BEAMS:
        outputs = [run[f"validation, {n_beams} beams, penalty {penalty:g}"] for run in runs.values()]
        values = [evaluation.chrf(*of_language(valid, texts, la)) for texts in outputs for la in LANGUAGES]
        tried.append({"beams": n_beams, "penalty": penalty, "validation chrF": float(np.mean(values))})
    best = max(tried, key=lambda row: row["validation chrF"])
    search = f"test, {best['beams']} beams, penalty {best['penalty']:g}"
    systems = {f"model {seed}": run[search] for seed, run in runs.items()} | baselines("terms")
    first = runs[study.seeds[0]]
    scores = {name: first[name] for name in COUNTED} | {"beams": best["beams"], "length penalty": best["penalty"]}
    for seed in study.seeds:
        scores |= against_best(test, systems, f"model {seed}", f"seed {seed}")
    keep_model(first["folder"], f"{study.name}_terms")
    tried = [row | {"chosen": row is best} for row in tried]
    outputs = {"model": systems[f"model {study.seeds[0]}"]} | baselines("terms")
    tables = {"systems": compared(test, systems), "choices": tried, "outputs": output_rows(test, outputs, "kind")}
    data = hashes(*((f"terms: {split}", found("terms", split)) for split in translated_text.SPLITS))
    how = {"command": COMMAND, "data": data, "seeds": list(study.seeds), "tables": tables}
    print(write_record(f"{study.name}_terms", scores, machine=first["machine"], **how))


def record_messages(study: Study) -> None:
    """Write the record of the third study: the curve over the amount of data."""
    seed, runs, curve = study.seeds[0], {}, []
    test, scores = found("messages", "test"), {}
    for share in study.shares:
        key = f"messages-pieces-{share}-{seed}-{study.message_epochs}-{study.small}-{study.key}"
        runs[share] = kept(NAME, key, lambda which=share: messages(study, which, seed))
        systems = {"model": runs[share]["test"]} | baselines("messages", share)
        sizes = {la: len(FOUND["messages"](la, "train")[::share]) for la in LANGUAGES}
        curve += [row | {"training pairs": sizes[row["language"]]} for row in compared(test, systems, ("chrF", "BLEU"))]
        scores |= against_best(test, systems, "model", f"1/{share} of the pairs")
    full = runs[min(study.shares)]
    scores |= {name: full[name] for name in COUNTED} | {"test messages": len(test)}
    scores |= {f"1/{share} of the pairs: training loss": run["training loss"] for share, run in runs.items()}
    tables = {"curve": curve, "outputs": output_rows(test, {"model": full["test"]} | baselines("messages"), "kind")}
    data = hashes(*((f"messages: {split}", found("messages", split)) for split in translated_text.SPLITS))
    how = {"command": COMMAND, "data": data, "seeds": [seed], "tables": tables}
    print(write_record(f"{study.name}_messages", scores, machine=full["machine"], **how))


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs")
    parser.add_argument("--name", default=NAME, help="how the records' names begin, under artifacts/")
    parser.add_argument("--only", choices=("forms", "terms", "messages"), help="one study")
    options = parser.parse_args()
    tiny = {
        "made": 300,
        "steps": 4,
        "term_steps": 3,
        "message_epochs": 1,
        "message_pieces": 300,
        "tested": 8,
        "most_new": 12,
    }
    tiny |= {"vocab_size": 300, "d_model": 16, "seeds": (0, 1), "shares": (8, 1)}
    study = replace(Study(), name=options.name, **(tiny if options.quick else {}))
    for name, make in (("forms", record_forms), ("terms", record_terms), ("messages", record_messages)):
        if options.only in (None, name):
            make(study)


if __name__ == "__main__":
    main()
