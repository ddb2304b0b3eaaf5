"""Ways of adapting MiniLM to labelled texts, side by side: what each trains, costs, learns and forgets.

In: a way's name and labelled texts. Out: a trained model; the arithmetic and the memory of its training; what can be
read off its layers; and how well its sentence vectors still do what they were made for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial.adaptation import GradualUnfreezing, LoraConfig, count_parameters, freeze, inject, unfreeze
from plm_tutorial.batches import Batch, Batches, TextRows
from plm_tutorial.embedding import embed
from plm_tutorial.evaluation import accuracy
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.layers import record
from plm_tutorial.models.bert import Bert, pool
from plm_tutorial.objectives import LossSum, predict_classes
from plm_tutorial.pretrained import load_model
from plm_tutorial.training import History, TrainingConfig, fit

# From the one that trains nothing of the model to the one that trains nothing but.
METHODS = ("TF-IDF", "linear probe", "gradual unfreezing", "LoRA", "full fine-tuning", "from scratch")
BY_GRADIENT = METHODS[2:]  # those that change the network
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)  # C of a probe: a larger one regularizes less
LENGTH = 80  # tokens of a snippet that are read; hardly one has more

# ------------------------------------------------------------------------------------------------------------ training


def classifier(method: str, seed: int = 0, lora: LoraConfig | None = None) -> Bert:
    """Return MiniLM with a fresh head for two classes, in the state in which one of BY_GRADIENT begins.

    The seed draws the head; with "from scratch" it draws all weights, in the same architecture.

    Raises:
        ValueError: no such way.
    """
    if method not in BY_GRADIENT:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, BY_GRADIENT))}")
    torch.manual_seed(seed)
    model = load_model("minilm", head="sequence", n_labels=2, pooling="mean")
    if method == "from scratch":
        model = Bert(model.config).to(next(model.parameters()).device).eval()
    return inject(model, lora or LoraConfig()) if method == "LoRA" else model


def unfreezing_interval(steps: int) -> int:
    """Return after how many steps gradual unfreezing lets one more layer be trained: all are in the last third."""
    return max(1, steps // 10)


def train(
    method: str,
    model: Bert,
    rows: TextRows,
    *,
    steps: int,
    lr: float,
    size: int = 32,
    seed: int = 0,
    objective: Callable[[Bert, Batch], LossSum] = predict_classes,
) -> History:
    """Train a classifier in place and return the history; batches and dropout follow from the seed."""
    batches = Batches(rows, min(size, len(rows)), seed=seed, bucket=8)
    gradual = [GradualUnfreezing(unfreezing_interval(steps))] if method == "gradual unfreezing" else []
    config = TrainingConfig(steps, lr=lr, weight_decay=0.01, warmup=steps // 10, seed=seed)
    return fit(model, batches, config, objective=objective, callbacks=gradual, progress=False)


# ---------------------------------------------------------------------------------------------------------------- cost


def step_flops(model: Bert, batch: Batch) -> int:
    """Return the FLOPs of a training step as the model is now: products of matrices, without the optimizer."""
    # The counter does not know the fused attention of a CPU; under `record` the explicit path is taken.
    with FlopCounterMode(display=False) as counter, record(model):
        predict_classes(model, batch).mean.backward()
    model.zero_grad()
    return counter.get_total_flops()


@torch.no_grad()
def forward_flops(model: Bert, batch: Batch) -> int:
    """Return the FLOPs of a forward pass, all that a frozen model ever needs."""
    with FlopCounterMode(display=False) as counter, record(model):
        predict_classes(model, batch)
    return counter.get_total_flops()


def mean_step_flops(method: str, model: Bert, batch: Batch, steps: int) -> float:
    """Return the FLOPs of a step in the mean over a training: with gradual unfreezing they grow on the way."""
    if method != "gradual unfreezing":
        return step_flops(model, batch)
    L, every = model.config.n_layers, unfreezing_interval(steps)
    stages = Counter(min(step // every, L + 1) for step in range(steps))  # layers that are trained beside the head
    total = 0
    for stage, n in stages.items():
        unfreeze(model)
        if stage <= L:
            freeze(model, until=L - stage)
        total += n * step_flops(model, batch)
    unfreeze(model)
    return total / steps


class Memory(NamedTuple):
    """What a training step keeps at the same time, in bytes."""

    weights: int
    gradients: int
    optimizer: int  # AdamW's two averages
    activations: int  # results of the forward pass that the backward pass will need


def training_memory(model: Bert, batch: Batch) -> Memory:
    """Return the bytes that a step with AdamW keeps, counted tensor by tensor; scratch space comes on top."""
    of_parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_parameters:
            kept[storage.data_ptr()] = storage.nbytes()  # tensors that share a storage count once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = predict_classes(model, batch).mean  # holds on to all that was kept
    activations = sum(kept.values())
    del loss
    trained, _ = count_parameters(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Memory(weights, 4 * trained, 8 * trained, activations)


# ------------------------------------------------------------------------------------------ what a representation holds


@torch.no_grad()
def layer_features(model: Bert, rows: TextRows, size: int = 64) -> np.ndarray:
    """Return the mean hidden state of each text at each depth, (L + 1, N, D) float32, in the order of the rows.

    The first is what the first block is given; the i-th next is what the i-th block returns.
    """
    device, found, order = next(model.parameters()).device, [], []
    model.eval()
    with record(model) as recording:
        for numbers, batch in rows.by_length(size):
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            model(**inputs)
            means = [pool(hidden, "mean", inputs["attention_mask"]) for hidden in recording.hidden]  # (B, D) each
            found.append(torch.stack(means).float().cpu().numpy())
            order.append(numbers)
            recording.calls.clear()
    return np.concatenate(found, axis=1)[:, np.concatenate(order).argsort()]


def linear_probe(
    features: np.ndarray,
    labels: ArrayLike,
    validation: np.ndarray,
    validation_labels: ArrayLike,
    strengths: Sequence[float] = STRENGTHS,
) -> Pipeline:
    """Return logistic regression on standardized features (N, D).

    Its C is the one of ``strengths`` that is most often right on the validation features; the first of equals.
    """
    fitted = [_logistic(features, labels, strength) for strength in strengths]
    return max(fitted, key=lambda model: accuracy(validation_labels, model.predict(validation)))


def _logistic(features: np.ndarray, labels: ArrayLike, strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(features, labels)


def layer_probes(
    model: Bert, tokenizer: tokenizers.Tokenizer, n_train: int, n_test: int, seed: int = 0, strength: float = 0.03
) -> list[dict]:
    """Return how often three properties of a text are read off each depth: rows of layer, question and accuracy.

    *sentiment*: praise or blame, of Rotten Tomatoes snippets; *length*: more words than the median of these; *source*:
    such a snippet, or the beginning of an IMDb review in the same style and of the same length. All three are even
    chances. One strength of regularization for all, so that depths can be compared.

    Args:
        n_train, n_test: of each source; even numbers.
    """
    features, labels, words = {}, {}, {}
    for split, n in (("train", n_train), ("test", n_test)):
        snippets = labelled_reviews("rotten_tomatoes", split, n, seed)
        others = begin_alike(labelled_reviews("imdb", split, n, seed).texts, snippets.texts)
        rows = TextRows([*snippets.texts, *others], None, tokenizer, LENGTH)
        features[split], labels[split] = layer_features(model, rows), snippets.labels
        words[split] = np.array([len(text.split()) for text in snippets.texts])
    long = {split: (number > np.median(words["train"])).astype(int) for split, number in words.items()}
    sources = {split: np.repeat([0, 1], n) for split, n in (("train", n_train), ("test", n_test))}
    found = []
    for question, answers in (("sentiment", labels), ("length", long), ("source", sources)):
        for layer in range(len(features["train"])):
            train_features, test_features = (features[s][layer, : len(answers[s])] for s in ("train", "test"))
            probe = _logistic(train_features, answers["train"], strength)
            score = accuracy(answers["test"], probe.predict(test_features))
            found.append({"layer": layer, "question": question, "accuracy": score})
    return found


# ------------------------------------------------------------------------------------------------- texts of other kinds


def in_snippet_style(text: str) -> str:
    """Return a text written as the Rotten Tomatoes snippets are: in lower case, signs of punctuation by themselves."""
    return " ".join(re.sub(r'(\.+|--+|[,!?;:()"])', r" \1 ", text.lower()).split())


def first_words(text: str, n: int) -> str:
    """Return the first n words of a text in the style of the snippets."""
    return " ".join(in_snippet_style(text).split()[:n])


def begin_alike(texts: Sequence[str], like: Sequence[str]) -> list[str]:
    """Return the beginning of each text, as many words as its partner has."""
    return [first_words(text, len(other.split())) for text, other in zip(texts, like, strict=True)]


class Halves(NamedTuple):
    """Two pieces of each of several texts, one that follows the other."""

    first: list[str]
    second: list[str]


def split_in_halves(texts: Sequence[str], words: int = 30) -> Halves:
    """Return the first so many words of each text, and as many that follow; texts too short for it are left out.

    Raises:
        ValueError: fewer than two are left.
    """
    pieces = [text.split() for text in texts]
    pieces = [one for one in pieces if len(one) >= 2 * words]
    if len(pieces) < 2:
        raise ValueError(f"{len(pieces)} of {len(texts)} texts have {2 * words} words; at least two are needed")
    return Halves([" ".join(one[:words]) for one in pieces], [" ".join(one[words : 2 * words]) for one in pieces])


@contextmanager
def headless(model: Bert) -> Iterator[Bert]:
    """Take the head off a model meanwhile: it returns hidden states (B, T, D), as an encoder does."""
    head, model.head = model.head, None
    try:
        yield model
    finally:
        model.head = head


def found_halves(model: Bert, tokenizer: tokenizers.Tokenizer, halves: Halves, near: int = 5) -> np.ndarray:
    """Return for each first half whether its own second half is among the ``near`` nearest of all, (N,) bool.

    Nearest by the cosine of sentence vectors: the mean hidden states of the last layer.
    """
    with headless(model.eval()) as encoder:
        first, second = (embed(encoder, tokenizer, pieces).cpu() for pieces in halves)  # (N, D)
    cosines = first @ second.T  # (N, N)
    nearer = (cosines > cosines.diagonal()[:, None]).sum(dim=1)  # second halves of others that are nearer
    return (nearer < near).numpy()
