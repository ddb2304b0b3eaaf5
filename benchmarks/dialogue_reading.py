"""Continued pretraining: does reading reviews without labels help SmolLM2 to answer questions about reviews?

    python benchmarks/dialogue_reading.py         40 minutes on a core; writes artifacts/dialogue_reading/

Stopped, it goes on where it was. The same adapter (LoRA on all linear layers) is trained in three ways: on labelled
questions about reviews alone, or first on the text of training snippets, whose labels are not looked at, and then on
the same questions. The snippets are mixed before they are read: in their file all praise comes first, so neighbours
in a row would have the same label, and the order would tell what the text does not. The third way, which reads them in
that order, shows how much. Nothing was tuned: the learning rates were set beforehand. Test snippets are scored once.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from dataclasses import dataclass

import numpy as np
import torch
from dialogue import margins, tokenizer
from sweep import RUNS
from sweep import kept as kept_of
from torch import nn

from plm_tutorial import load_model, runtime
from plm_tutorial.adaptation import LoraConfig, inject, lora_layers
from plm_tutorial.batches import Batches, PackedRows, write_tokens
from plm_tutorial.dialogue import chat_rows
from plm_tutorial.evaluation import bootstrap_interval, paired_bootstrap, score_rows, score_texts
from plm_tutorial.experiments.conversations import dialogue_table, dialogues, review_chat
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.objectives import predict_hidden, predict_labels
from plm_tutorial.pretrained import save_adapter
from plm_tutorial.records import write_record
from plm_tutorial.text import reviews, split_hashes
from plm_tutorial.training import TrainingConfig, fit

NAME, MODEL = "dialogue_reading", "smollm2"
LORA = LoraConfig(rank=8, alpha=16.0, targets=("query", "key", "value", "output", "gate", "up", "down"))
ARMS = {"questions alone": None, "read first": "reading", "read in the file's order": "ordered"}


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    seeds: tuple[int, ...] = (0,)
    length: int = 128  # tokens of a row that is read
    size: int = 16  # rows of a batch
    n_read: int | None = 2_400  # snippets, mixed; None: all of the training split
    n_ordered: int | None = None  # snippets, in the order of the file, as a warning; None: all
    rate_read: float = 1e-3
    n_labels: int = 160  # labelled snippets
    steps: int = 40  # of the training on questions: four passes
    rate: float = 1e-3
    n_test: int = 600  # snippets
    n_texts: int = 200  # test snippets as running text
    n_dialogues: int | None = None  # None: all

    @property
    def key(self) -> str:
        """Name what every run depends on."""
        return "" if self == Study(self.seeds) else "quick-"


def kept(key: str, run) -> dict:
    """Return the result of a run, from an earlier call if there was one."""
    return kept_of(NAME, key, run)


def started(study: Study, seed: int, read: str | None) -> nn.Module:
    """Return the model with a new adapter, or with the one that has read, ready to be trained."""
    torch.manual_seed(seed)
    if read is None:
        return inject(load_model(MODEL), LORA)
    model = load_model(MODEL, adapter=RUNS / NAME / f"{study.key}{read}")
    model.requires_grad_(False)
    for layer in lora_layers(model).values():
        layer.lora_a.requires_grad_(True)
        layer.lora_b.requires_grad_(True)
    return model


def reading(study: Study, name: str) -> dict:
    """Train an adapter on the text of training snippets, keep it, and return what it took."""
    seed = study.seeds[0]
    model = started(study, seed, None)
    texts = reviews("rotten_tomatoes", "train")["text"][:]
    mixed = np.random.default_rng(seed).permutation(len(texts))[: study.n_read]
    texts = texts[: study.n_ordered] if name == "ordered" else [texts[i] for i in mixed]
    end = tokenizer().token_to_id("<|endoftext|>")
    folder = RUNS / NAME / f"{study.key}{name}-tokens"
    rows = PackedRows(write_tokens(texts, tokenizer(), folder, end_id=end), study.length)
    steps = max(1, len(rows) // study.size)
    config = TrainingConfig(
        steps, lr=study.rate_read, warmup=steps // 10, weight_decay=0.0, precision="bf16", seed=seed
    )
    begun = time.perf_counter()
    fit(model, Batches(rows, study.size, seed=seed), config, objective=predict_labels, progress=False)
    save_adapter(model, RUNS / NAME / f"{study.key}{name}", base=MODEL, overwrite=True, dtype=torch.float16)
    return {
        "snippets": len(texts),
        "tokens": steps * study.size * study.length,
        "steps": steps,
        "seconds": time.perf_counter() - begun,
        "machine": runtime.machine(),
    } | texts_of(study, model)


def texts_of(study: Study, model: nn.Module) -> dict:
    """Return what held-out snippets cost a model as running text, and held-out replies of the dialogues, in nats."""
    texts = labelled_reviews("rotten_tomatoes", "test", study.n_texts).texts
    running = score_texts(model, tokenizer(), texts, 1_024)
    rows = chat_rows([one.messages for one in dialogues("test")][: study.n_dialogues], tokenizer(), 160)
    replies = score_rows(model, rows)
    return {
        "nats": running.nats.tolist(),
        "bytes": running.n_bytes.tolist(),
        "reply nats": float(replies.nats.sum()),
        "reply tokens": int(replies.n_tokens.sum()),
    }


def asked(study: Study, read: str | None, seed: int) -> dict:
    """Train on labelled questions, after reading or not, and return the margins on the test snippets."""
    model = started(study, seed, read)
    train = labelled_reviews("rotten_tomatoes", "train", study.n_labels, seed)
    some = [review_chat(text, int(label)) for text, label in zip(train.texts, train.labels, strict=True)]
    rows = chat_rows(some, tokenizer(), 160)
    how = {"warmup": study.steps // 10, "weight_decay": 0.0, "precision": "bf16", "seed": seed}
    config = TrainingConfig(study.steps, lr=study.rate, **how)
    batches = Batches(rows, study.size, seed=seed, bucket=8)
    fit(model, batches, config, objective=predict_hidden, progress=False)
    return {"margins": margins(model, test_snippets(study).texts).round(4).tolist()}


def test_snippets(study: Study):
    """Return the labelled snippets that are scored."""
    return labelled_reviews("rotten_tomatoes", "test", study.n_test)


def collected(study: Study) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """Return all scores and tables; what was not done yet is done now."""
    before = kept(f"{study.key}before", lambda: texts_of(study, load_model(MODEL)))
    after = kept(f"{study.key}reading", lambda: reading(study, "reading"))
    ordered = kept(f"{study.key}ordered", lambda: reading(study, "ordered"))
    columns = np.stack([before["nats"], after["nats"]], axis=1)

    def fall(part: np.ndarray) -> float:
        return float(1 - part[:, 1].sum() / part[:, 0].sum())

    scores = {f"reading: {what}": after[what] for what in ("snippets", "tokens", "steps", "seconds")}
    scores["ordered: snippets"] = ordered["snippets"]
    for name, one in (("before", before), ("after", after), ("ordered", ordered)):
        scores[f"{name}: bits per byte of snippets"] = sum(one["nats"]) / sum(one["bytes"]) / float(np.log(2))
        scores[f"{name}: reply perplexity"] = float(np.exp(one["reply nats"] / one["reply tokens"]))
    low, high = bootstrap_interval(columns, fall)
    scores |= {"bits per byte: fall": fall(columns), "bits per byte: fall, low": low, "bits per byte: fall, high": high}
    labels = test_snippets(study).labels.astype(bool)
    rows = [{"number": i, "label": int(label)} for i, label in enumerate(labels)]
    right: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    for seed in study.seeds:
        for arm, read in ARMS.items():
            key = f"{study.key}{read or 'alone'}-{study.n_labels}-seed{seed}"
            found = kept(key, lambda read=read, seed=seed: asked(study, read, seed))["margins"]
            right[arm].append((np.array(found) > 0) == labels)
            for row, margin in zip(rows, found, strict=True):
                row[f"{arm} {seed}"] = margin
    means = {arm: np.mean(some, axis=0) for arm, some in right.items()}
    for arm, some in means.items():
        scores[f"{arm}: accuracy"] = float(some.mean())
        low, high = bootstrap_interval(some)
        scores |= {f"{arm}: low": low, f"{arm}: high": high}
    for arm in list(ARMS)[1:]:
        gain = paired_bootstrap(means[arm], means["questions alone"])
        scores |= {f"{arm}: gain": gain.estimate, f"{arm}: gain, low": gain.low, f"{arm}: gain, high": gain.high}
    scores["labelled snippets"] = study.n_labels
    return scores | {"test snippets": len(labels)}, {"snippets": rows}


QUICK = Study((0,), 16, 2, n_read=20, n_ordered=20, n_labels=4, steps=2, n_test=4, n_texts=2, n_dialogues=2)


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs; no record")
    options = parser.parse_args()
    study = QUICK if options.quick else Study()
    scores, tables = collected(study)
    if options.quick:
        print(scores)
        return
    data = split_hashes("rotten_tomatoes/train", "rotten_tomatoes/test")
    data |= {f"dialogues/{row['split']}": row["sha256"] for row in dialogue_table() if row["split"] == "test"}
    how = {"command": "python benchmarks/dialogue_reading.py", "seeds": list(study.seeds)}
    print(write_record(NAME, scores, data=data, tables=tables, **how))


if __name__ == "__main__":
    main()
