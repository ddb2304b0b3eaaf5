"""A text classifier from the reader's own file: what ``plm-tutorial finetune``, ``predict`` and ``eval`` do.

In: a file of texts with labels, and a published encoder. Out: a folder with the adapted model, which
:func:`plm_tutorial.pretrained.load_model` and Transformers open, its scores on texts it never saw, and a model card.
The same call, given again, goes on where the run was stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tokenizers
import torch
from torch import nn

from plm_tutorial import adaptation, pretrained, runs, runtime
from plm_tutorial.baselines import Labelled, tfidf_classifier
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.evaluation import (
    accuracy,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    score_interval,
    softmax,
)
from plm_tutorial.labelled_files import (
    LabelledFile,
    Splits,
    class_counts,
    describe_skipped,
    read_labelled,
    split,
    text_key,
)
from plm_tutorial.objectives import class_weights, predict_classes, token_loss
from plm_tutorial.training import TrainingConfig, fit

# Which parameters are trained, and the peak learning rate that is taken if none is given.
METHODS = {"full": 1e-4, "lora": 1e-3, "head": 3e-3}
LONGEST = 256  # tokens of a row, unless more are asked for: time grows with them, and few texts gain
# How long is trained if nothing is said: few texts need many passes (Mosbach et al. 2021, https://arxiv.org/abs/2006.04884).
EPOCHS, STEPS = 3, 200  # at least


@dataclass(frozen=True)
class FinetuningConfig:
    """What is done, as the options of the command name it."""

    data: str  # a file that read_labelled takes
    text: str  # its column of texts
    label: str  # its column of classes
    out: str  # the folder that is made
    model: str = "minilm"  # whatever load_model takes and can have a head "sequence"
    method: str = "full"  # "full": all parameters; "lora": small matrices beside them and the head; "head": that alone
    epochs: int | None = None  # None: EPOCHS, or as many as make STEPS steps
    batch: int = 32
    length: int | None = None  # tokens of a text; None: what 95 % of the training texts need, at most LONGEST
    lr: float | None = None  # peak learning rate; None: METHODS
    balanced: bool = False  # weigh classes by their rarity
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; implemented here: {', '.join(METHODS)}")
        for name in ("epochs", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")
        if self.text == self.label:
            raise ValueError(f"text and label are both {self.text!r}; they are two columns of the file")


def finetune(config: FinetuningConfig, say: Callable[[str], None] = print) -> Scores:
    """Do the run, or what is left of it, and return its scores on the test split.

    Raises:
        ValueError: the file, the model or the folder cannot be used; see :func:`read_labelled`.
        TrainingError, CheckpointError: see :func:`plm_tutorial.training.loop.fit`.
    """
    file = read_labelled(config.data, config.text, config.label)
    names, splits = file.names, split(file, config.seed)
    if len(names) == 1:
        raise ValueError(f"{file.path}: all rows have the label {names[0]!r}; there is nothing to tell apart")
    splits.check(names)
    folder = Path(config.out).expanduser()
    with runs.locked(folder, "--out"):
        made_of = {f"--{name}": value for name, value in asdict(config).items() if name not in ("data", "out")}
        made_of["the file's SHA-256"] = runtime.file_sha256(file.path)
        begun = (folder / "record.json").exists() or any((folder / "checkpoints").glob("step-*"))
        runs.remember(folder, made_of, "--out", begun=begun)
        if not (folder / "record.json").exists():
            _describe(file, splits, say)
            _train(config, file, splits, folder, say)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name, value in _remembered(folder, "scores").items():
        if name.startswith("test accuracy of "):
            say(f"{name}: {value:.3f}")
    return Scores.read(folder / "test_predictions.csv", names)


def _describe(file: LabelledFile, splits: Splits, say: Callable[[str], None]) -> None:
    """Say what was found in the file, and what should be looked at."""
    counts = class_counts(file.labels, file.names)
    say(f"{file.path.name}: {len(file.texts):,} texts, {len(counts)} classes: " + _listed(counts))
    if file.skipped:
        say(f"left out: {describe_skipped(file.skipped)}")
    if splits.copies:
        say(f"{splits.copies} copies of other texts, each kept in one split with its original")
    if splits.contradictions:
        some = "; ".join(f"{a} and {b}" for a, b in splits.contradictions[:3])
        say(f"{len(splits.contradictions)} copies have another label than their original; look at rows {some}")
    for name, row in splits.rare.items():
        say(f"the class {name!r} (row {row}) has fewer than 3 different texts: it is learned from, not evaluated")
    say(", ".join(f"{len(rows):,} for {name}" for name, rows in splits.indices.items()))


def _listed(counts: dict[str, int], most: int = 12) -> str:
    parts = [f"{name} {n:,}" for name, n in list(counts.items())[:most]]
    return ", ".join(parts) + (f" and {len(counts) - most} more" if len(counts) > most else "")


# ---------------------------------------------------------------------------------------------------------- training


def _train(
    config: FinetuningConfig, file: LabelledFile, splits: Splits, folder: Path, say: Callable[[str], None]
) -> None:
    names = file.names
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[name] for name in file.labels])
    parts = {name: Labelled([file.texts[i] for i in rows], labels[rows]) for name, rows in splits.indices.items()}
    rows = list(zip(file.rows.tolist(), splits.where.tolist(), file.labels, splits.keys, strict=True))
    runs.write_rows(folder / "splits.csv", ["row", "split", "label", "key"], rows)

    tokenizer = pretrained.load_tokenizer(config.model)
    tokenizer.encode_special_tokens = True  # a text that spells out "[SEP]" does not end there
    model = _model(config, names)
    length = _length(config, tokenizer, parts["train"].texts, model.config.context_length)
    made = {name: TextRows(part.texts, part.labels, tokenizer, length) for name, part in parts.items()}
    if cut := sum(one.n_cut for one in made.values()):
        say(f"{cut:,} texts are longer than {length} tokens and are cut there (--length)")
    trained, total = adaptation.count_parameters(model)
    say(f"training {trained:,} of {total:,} parameters of {config.model}")

    epochs = config.epochs or max(EPOCHS, -(-STEPS * config.batch // len(made["train"])))
    steps = -(-len(made["train"]) * epochs // config.batch)
    per_epoch = max(1, steps // epochs)
    weights = class_weights(torch.from_numpy(parts["train"].labels), len(names)) if config.balanced else None
    training = TrainingConfig(
        steps,
        lr=config.lr or METHODS[config.method],
        weight_decay=0.01,
        warmup=steps // 10,
        seed=config.seed,
        evaluate_every=per_epoch if epochs <= 10 else steps // 10,
        checkpoint_every=max(1, min(per_epoch, 100)),
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        logits, truth = adaptation.class_logits(model, made["validation"]), parts["validation"].labels
        loss = token_loss(logits, torch.from_numpy(truth)).mean.item()
        return {"validation": loss, "accuracy": accuracy(truth, logits.argmax(1).numpy())}

    history = fit(
        model,
        Batches(made["train"], config.batch, seed=config.seed, bucket=16),
        training,
        objective=partial(predict_classes, weights=weights),
        evaluate=evaluate,
        folder=folder / "checkpoints",
    )
    if config.method == "lora":
        pretrained.save_adapter(model, folder / "adapter", base=config.model, overwrite=True)
        adaptation.merge(model)
    logits = adaptation.class_logits(model, made["test"])
    tested = file.rows[splits.indices["test"]], parts["test"].texts
    _write_predictions(folder / "test_predictions.csv", *tested, logits, names, parts["test"].labels)
    tokenizer.encode_special_tokens = False
    runs.keep_model(folder, model.cpu(), tokenizer)
    result = Scores.read(folder / "test_predictions.csv", names)  # as it will be shown, rounded
    scores = result.numbers() | _baselines(parts, names)
    scores |= {"parameters trained": trained, "tokens of a text, at most": length}
    scores |= {"epochs": epochs, "training steps": history.steps, "training seconds": sum(history.column("seconds"))}
    _finish(config, file, splits, folder, result, scores)


def _model(config: FinetuningConfig, names: list[str]) -> nn.Module:
    """Return the model with a new head, and what is frozen, frozen."""
    torch.manual_seed(config.seed)  # of the new head, and of the adapter
    model = pretrained.load_model(config.model, head="sequence", n_labels=len(names))
    model.config = replace(model.config, label_names=tuple(names))
    if config.method == "lora":
        adaptation.inject(model, adaptation.LoraConfig())
    elif config.method == "head":
        adaptation.freeze(model, until="head")
    return model


def _length(config: FinetuningConfig, tokenizer: tokenizers.Tokenizer, texts: list[str], context: int) -> int:
    """Return the most tokens of a row."""
    if config.length is not None:
        if not 3 <= config.length <= context:
            raise ValueError(f"--length is {config.length}; expected 3 to {context}, the context of {config.model}")
        return config.length
    lengths = [len(one.ids) for one in tokenizer.encode_batch(texts[:2000])]
    return int(min(np.ceil(np.quantile(lengths, 0.95) / 8) * 8, LONGEST, context))


def _baselines(parts: dict[str, Labelled], names: list[str]) -> dict[str, float]:
    """Return what needs no language model: the most frequent class, and counted words."""
    truth = parts["test"].labels
    most = np.bincount(parts["train"].labels, minlength=len(names)).argmax()
    found = {"test accuracy of always saying the most frequent class": accuracy(truth, np.full(len(truth), most))}
    try:
        predicted = tfidf_classifier(parts["train"], parts["validation"]).predict(parts["test"].texts)
    except ValueError:  # no text has a word
        return found
    return found | {"test accuracy of TF-IDF and logistic regression": accuracy(truth, predicted)}


def _finish(
    config: FinetuningConfig,
    file: LabelledFile,
    splits: Splits,
    folder: Path,
    result: Scores,
    scores: dict[str, float],
) -> None:
    """Write the confusion plot, the model card and, last, the record."""
    from plm_tutorial import model_card  # brings matplotlib

    names = file.names
    model_card.draw(result.matrix, names, folder / "confusion.png")
    counts = {name: class_counts([file.labels[i] for i in rows], names) for name, rows in splits.indices.items()}
    card = model_card.write(config, counts, scores, result.table(), describe_skipped(file.skipped))
    (folder / "README.md").write_text(card, encoding="utf-8")
    runs.write_json(folder / "record.json", {"text": config.text, "label": config.label, "scores": scores})


# --------------------------------------------------------------------------------------------------- using the result


class Scores(NamedTuple):
    """What a classifier is worth on some labelled texts."""

    names: list[str]  # of the classes
    labels: np.ndarray  # (N,)
    predictions: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N, C)

    @classmethod
    def read(cls, path: Path, names: list[str]) -> Scores:
        """Read a file of predictions that has the true labels."""
        frame = pd.read_csv(path, dtype={"label": str, "predicted": str}, keep_default_na=False)
        number = {name: i for i, name in enumerate(names)}
        columns = [frame["label"].map(number), frame["predicted"].map(number)]
        return cls(names, *(c.to_numpy(np.int64) for c in columns), frame[[f"p({n})" for n in names]].to_numpy())

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix (C, C), a row for each true class."""
        return confusion_matrix(self.labels, self.predictions, len(self.names))

    def table(self) -> pd.DataFrame:
        """Return precision, recall, F1 and number of texts, a row a class."""
        return class_scores(self.labels, self.predictions, len(self.names)).table(self.names)

    def numbers(self) -> dict[str, float]:
        """Return the scores of all classes together, with 95 % bootstrap intervals over the texts."""
        found = {"test texts": len(self.labels)}
        for name, score in (("accuracy", accuracy), ("macro-F1", macro_f1)):
            low, high = score_interval(score, self.labels, self.predictions)
            value = score(self.labels, self.predictions)
            found |= {f"test {name}": value, f"test {name}, low": low, f"test {name}, high": high}
        return found | {"test calibration error": expected_calibration_error(self.labels, self.probabilities)}


def _write_predictions(
    path: Path,
    rows: np.ndarray,
    texts: list[str],
    logits: torch.Tensor,
    names: list[str],
    labels: np.ndarray | None = None,
) -> None:
    probabilities = softmax(logits.double().numpy())  # (N, C)
    columns = ["row", *(["label"] if labels is not None else []), "predicted", *(f"p({n})" for n in names), "text"]
    made = []
    for i, (row, text, p) in enumerate(zip(rows.tolist(), texts, probabilities, strict=True)):
        truth = [] if labels is None else [names[labels[i]]]
        made.append([row, *truth, names[p.argmax()], *(f"{x:.6f}" for x in p), text])
    runs.write_rows(path, columns, made)


def classify(folder: str | Path, texts: list[str]) -> tuple[torch.Tensor, list[str]]:
    """Return the logits (N, C) of texts by a classifier in a folder or on the hub, and the names of its classes.

    Raises:
        ValueError: there is no such model, or it has no classes.
    """
    model, tokenizer = pretrained.load_model(folder), pretrained.load_tokenizer(folder)
    if getattr(model.config, "head", None) != "sequence":
        raise ValueError(f"{folder} is no classifier of texts; make one by: plm-tutorial finetune")
    tokenizer.encode_special_tokens = True
    names = list(model.config.label_names or map(str, range(model.config.n_labels)))
    length = _remembered(folder, "scores").get("tokens of a text, at most", min(LONGEST, model.config.context_length))
    return adaptation.class_logits(model, TextRows(texts, None, tokenizer, length)), names


def predict(
    folder: str | Path, data: str | Path, out: str | Path, text: str | None = None, say: Callable[[str], None] = print
) -> Path:
    """Write the classes of a file's texts as a CSV: row, predicted, a probability for each class, text.

    Args:
        text: the column of texts; None: the one that the classifier was trained on.

    Raises:
        ValueError: see :func:`read_labelled` and :func:`classify`.
    """
    file = read_labelled(data, text or _column(folder, "text"))
    if file.skipped:
        say(f"left out: {describe_skipped(file.skipped)}")
    logits, names = classify(folder, file.texts)
    path = Path(out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_predictions(path, file.rows, file.texts, logits, names)
    return path


def evaluate(
    folder: str | Path,
    data: str | Path,
    text: str | None = None,
    label: str | None = None,
    say: Callable[[str], None] = print,
) -> Scores:
    """Return how a classifier does on another file with labels; say which of its texts it was trained on.

    Raises:
        ValueError: a label is not one of the classifier's; see also :func:`read_labelled` and :func:`classify`.
    """
    file = read_labelled(data, text or _column(folder, "text"), label or _column(folder, "label"))
    if file.skipped:
        say(f"left out: {describe_skipped(file.skipped)}")
    logits, names = classify(folder, file.texts)
    unknown = [(row, name) for row, name in zip(file.rows.tolist(), file.labels, strict=True) if name not in names]
    if unknown:
        raise ValueError(
            f"{file.path}, row {unknown[0][0]}: the label {unknown[0][1]!r} is none of the classifier's, "
            f"{', '.join(map(repr, names))}; {len(unknown)} rows have such a label"
        )
    splits = Path(folder) / "splits.csv"
    if splits.is_file():
        known = pd.read_csv(splits, dtype=str)
        seen = set(known[known["split"] != "test"]["key"])
        if again := [row for row, one in zip(file.rows.tolist(), file.texts, strict=True) if text_key(one) in seen]:
            share = f"{len(again)} of {len(file.texts)} texts"
            say(f"{share} were trained on or chosen by (such as row {again[0]}): the scores flatter")
    labels = np.array([names.index(name) for name in file.labels])
    return Scores(names, labels, logits.argmax(1).numpy(), softmax(logits.double().numpy()))


def _remembered(folder: str | Path, key: str) -> Any:
    path = Path(folder) / "record.json"
    return json.loads(path.read_text(encoding="utf-8"))[key] if path.is_file() else {}


def _column(folder: str | Path, what: str) -> str:
    found = _remembered(folder, what)
    if not found:
        raise ValueError(f"{folder} does not say which column it was trained on; name it: --{what}")
    return found
