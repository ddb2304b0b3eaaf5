"""The models at hand on the same texts: what their vectors are worth to a probe, and how well they predict six domains.

    python benchmarks/which_model.py        20 minutes on a core; writes artifacts/which_model/

Stopped, it goes on where it was. *Understanding*: the mean hidden state of a layer, then logistic regression; layer and
strength are chosen on validation snippets, with three draws of the training snippets; beside it TF-IDF on the same
ones. Also, the second half of a review is found by its first. *Writing*: bits per byte of each decoder on each domain,
and of a modified Kneser–Ney 5-gram model of the reviews. Whether each probe was right about each test snippet is kept.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict, dataclass

import numpy as np
import torch
from sweep import kept

from plm_tutorial import runtime
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import TextRows
from plm_tutorial.evaluation import accuracy, bootstrap_interval, corpus_bits_per_byte, paired_bootstrap, score_texts
from plm_tutorial.experiments.choosing import DOMAINS, MODELS, domain_texts, open_model
from plm_tutorial.experiments.review_tokens import END, review_tokenizer, review_tokens
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import layer_features, linear_probe, split_in_halves
from plm_tutorial.ngram import NGram
from plm_tutorial.records import write_record
from plm_tutorial.text import reviews, split_hashes

NAME, SEEDS, LENGTH = "which_model", (0, 1, 2), 96
STRENGTHS = (0.001, 0.003, 0.01, 0.03)
DECODERS = ("reviews, causal", "SmolLM2")
COUNTS = "Kneser–Ney, 5 tokens"


@dataclass(frozen=True)
class Study:
    """How much of everything."""

    n_pool: int = 1400  # training snippets whose vectors are computed
    n_train: int = 1000  # of them, drawn by the seed
    n_valid: int = 400
    n_test: int = 1000
    n_halves: int = 200
    n_texts: int = 16  # of each domain

    @property
    def key(self) -> str:
        return "-".join(str(number) for number in asdict(self).values())


# ------------------------------------------------------------------------------------------------------- understanding


def snippets(study: Study) -> dict[str, Labelled]:
    numbers = {"train": study.n_pool, "validation": study.n_valid, "test": study.n_test}
    return {split: labelled_reviews("rotten_tomatoes", split, n) for split, n in numbers.items()}


def draws(study: Study) -> list[np.ndarray]:
    """Return which snippets of the pool each seed trains on."""
    return [np.random.default_rng(seed).permutation(study.n_pool)[: study.n_train] for seed in SEEDS]


def probed(study: Study, name: str) -> dict:
    """Return whether probes on a model's vectors are right about each test snippet, a row a seed."""
    sets = snippets(study)
    model, tokenizer = open_model(name)
    features = {
        split: layer_features(model, TextRows(some.texts, some.labels, tokenizer, LENGTH), 16)
        for split, some in sets.items()
    }  # (layers, N, D) each
    n_layers = len(features["test"])
    layers = sorted({round(part * (n_layers - 1)) for part in np.linspace(0, 1, 7)})
    right, chosen, curve = [], [], []
    for own in draws(study):
        found = {}
        for layer in layers:
            part = {split: values[layer] for split, values in features.items()}
            probe = linear_probe(
                part["train"][own], sets["train"].labels[own], part["validation"], sets["validation"].labels, STRENGTHS
            )
            score = accuracy(sets["validation"].labels, probe.predict(part["validation"]))
            found[layer] = score, (probe.predict(part["test"]) == sets["test"].labels).astype(int).tolist()
        best = max(found, key=lambda layer: found[layer][0])
        chosen.append(best)
        right.append(found[best][1])
        curve.append([float(np.mean(found[layer][1])) for layer in layers])
    return {"right": right, "layers": layers, "chosen": chosen, "curve": np.mean(curve, axis=0).tolist()}


def counted(study: Study) -> dict:
    """Return the same of TF-IDF."""
    sets, right = snippets(study), []
    for own in draws(study):
        train = Labelled([sets["train"].texts[i] for i in own], sets["train"].labels[own])
        model = tfidf_classifier(train, sets["validation"])
        right.append((model.predict(sets["test"].texts) == sets["test"].labels).astype(int).tolist())
    return {"right": right}


def halves_found(study: Study, name: str) -> dict:
    """Return for each review whether its second half is nearest to its first, by the cosine of centred means.

    The layer is the one that finds most halves of other reviews.
    """
    model, tokenizer = open_model(name)

    def found(split: str) -> np.ndarray:  # (layers, N) bool
        texts = [text for text in reviews("imdb", split)["text"] if len(text.split()) >= 60][: study.n_halves]
        halves = split_in_halves(texts)
        states = [layer_features(model, TextRows(list(part), None, tokenizer, LENGTH), 16) for part in halves[:2]]
        middle = np.concatenate(states, axis=1).mean(axis=1, keepdims=True)  # (layers, 1, D)
        first, second = (
            (x - middle) / (np.linalg.norm(x - middle, axis=2, keepdims=True) + 1e-9) for x in states
        )  # (layers, N, D)
        return (first @ second.transpose(0, 2, 1)).argmax(axis=2) == np.arange(first.shape[1])

    layer = int(found("validation").mean(axis=1).argmax())
    return {"layer": layer, "found": found("test")[layer].astype(int).tolist()}


# ------------------------------------------------------------------------------------------------------------- writing


def written(study: Study, name: str, domain: str) -> dict:
    """Return the nats, bytes and tokens of each text of a domain under a decoder."""
    model, tokenizer = open_model(name)
    bos = tokenizer.token_to_id(END if name != "SmolLM2" else "<|endoftext|>")
    context = min(1024, model.config.context_length)
    scores = score_texts(model, tokenizer, domain_texts(domain, study.n_texts), context, bos_id=bos)
    return {part: values.tolist() for part, values in scores._asdict().items()}


def written_by_counts(study: Study) -> dict:
    """Return the same for each domain of a Kneser–Ney model of the training reviews."""
    tokenizer, file = review_tokenizer(), review_tokens("train")
    model = NGram(5, tokenizer.get_vocab_size()).fit(np.asarray(file.tokens), separator=tokenizer.token_to_id(END))
    found = {}
    for domain in DOMAINS:
        texts = domain_texts(domain, study.n_texts)
        ids = [np.array(tokenizer.encode(text).ids) for text in texts]
        found[domain] = {
            "nats": [float(-values.sum()) for values in model.log_probs(ids)],
            "n_bytes": [len(text.encode()) for text in texts],
            "n_tokens": [len(row) for row in ids],
        }
    return found


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs; no record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(40, 20, 20, 20, 8, 2) if options.quick else Study()

    def part(name: str, run) -> dict:
        return kept(NAME, f"{name}-{study.key}".replace(" ", "_").replace(",", ""), run)

    scores: dict[str, float] = {"training snippets": study.n_train, "test snippets": study.n_test}
    probes = {"TF-IDF": part("tfidf", lambda: counted(study))}
    rows, right, writing = [], {}, []
    for name in MODELS:
        probes[name] = part(f"probe-{name}", lambda name=name: probed(study, name))
        halves = part(f"halves-{name}", lambda name=name: halves_found(study, name))
        found = halves["found"]
        low, high = bootstrap_interval(np.array(found, dtype=float))
        scores |= {f"{name}: halves found": float(np.mean(found)), f"{name}: halves found, low end": low}
        scores |= {f"{name}: halves found, high end": high, f"{name}: layer, halves": halves["layer"]}
        scores[f"{name}: layer, first seed"] = probes[name]["chosen"][0]
        for i, value in zip(probes[name]["layers"], probes[name]["curve"], strict=True):
            rows.append({"model": name, "layer": i, "accuracy": value})
    for name, result in probes.items():
        of_seed = np.array(result["right"], dtype=float)  # (seeds, texts)
        mean = of_seed.mean(axis=0)
        low, high = bootstrap_interval(mean)
        scores |= {f"{name}: accuracy": float(mean.mean())}
        scores |= {f"{name}: accuracy, low end": low, f"{name}: accuracy, high end": high}
        right[name] = of_seed[0].astype(int)
        if name != "TF-IDF":
            against = np.array(probes["TF-IDF"]["right"], dtype=float).mean(axis=0)
            for end, value in zip(("points", "low", "high"), paired_bootstrap(100 * mean, 100 * against), strict=True):
                scores[f"{name} less TF-IDF: accuracy, {end}"] = float(value)
    by_counts = part("counts", lambda: written_by_counts(study))
    for domain in DOMAINS:
        found = {COUNTS: by_counts[domain]}
        for name in DECODERS:
            found[name] = part(f"bits-{name}-{domain}", lambda name=name, domain=domain: written(study, name, domain))
        for name, result in found.items():
            pairs = np.stack((result["nats"], result["n_bytes"]), axis=1)  # (texts, 2)
            low, high = bootstrap_interval(pairs, corpus_bits_per_byte)
            tokens = sum(result["n_tokens"]) / sum(result["n_bytes"])
            row = {"domain": domain, "model": name, "bits per byte": corpus_bits_per_byte(pairs)}
            writing.append(row | {"low": low, "high": high, "tokens per byte": tokens})
    if options.quick:
        print(scores, writing)
        return
    used = ["rotten_tomatoes/train", "rotten_tomatoes/validation", "rotten_tomatoes/test", "imdb/train", "imdb/test"]
    answers = [{"text": i} | {name: int(of[i]) for name, of in right.items()} for i in range(study.n_test)]
    tables = {"layers": rows, "right": answers, "writing": writing}
    command = "python benchmarks/which_model.py"
    machine = runtime.machine()
    print(
        write_record(
            NAME, scores, command=command, data=split_hashes(*used), seeds=list(SEEDS), tables=tables, machine=machine
        )
    )


if __name__ == "__main__":
    main()
