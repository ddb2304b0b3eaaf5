"""Advice on fine-tuning, each piece followed or not: what is frozen, how fast, how long, on which texts, which loss.

In: labelled texts and a recipe. Out: a fine-tuned MiniLM; texts altered for augmentation; sets with a rare class or
with wrong labels; and the scores of a classifier of a rare class, as they would be at any prevalence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from plm_tutorial.adaptation import freeze
from plm_tutorial.baselines import Labelled
from plm_tutorial.batches import TextRows
from plm_tutorial.evaluation import checks
from plm_tutorial.experiments.transfer import LENGTH, classifier, train
from plm_tutorial.models.bert import Bert
from plm_tutorial.objectives import class_weights, predict_classes
from plm_tutorial.training import History

LOSSES = ("plain", "class weights", "focal", "smoothed")
AUGMENTATIONS = ("none", "delete words", "swap words")


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned."""

    lr: float = 1e-4
    epochs: int = 3
    frozen: int | str | None = None  # as ``until`` of adaptation.freeze; None: nothing is frozen
    loss: str = "plain"  # one of LOSSES
    augmentation: str = "none"  # one of AUGMENTATIONS
    copies: int = 4  # altered texts that stand beside each original; the number of steps stays as it was
    balanced: bool = False  # repeat the texts of the rarer class until both are as many; the number of steps stays
    size: int = 32  # texts in a batch

    def __post_init__(self) -> None:
        for name, value, known in (
            ("loss", self.loss, LOSSES),
            ("augmentation", self.augmentation, AUGMENTATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")

    def steps(self, n: int) -> int:
        """Return the number of steps for n texts, before any is repeated or altered."""
        return max(1, round(self.epochs * n / min(self.size, n)))


def fine_tune(
    examples: Labelled, recipe: Recipe, tokenizer: tokenizers.Tokenizer, seed: int = 0, length: int = LENGTH
) -> tuple[Bert, History]:
    """Fine-tune MiniLM on texts of two classes; head, batches, dropout and altered texts follow from the seed.

    Args:
        length: tokens of a text that are read.
    """
    model = classifier("full fine-tuning", seed)
    if recipe.frozen is not None:
        freeze(model, until=recipe.frozen)
    shown = examples
    if recipe.balanced:
        shown = repeat_rare(shown)
    if recipe.augmentation != "none":
        altered = [augment(shown.texts, recipe.augmentation, seed=1000 * seed + i) for i in range(recipe.copies)]
        texts = [text for some in (shown.texts, *altered) for text in some]
        shown = Labelled(texts, np.tile(shown.labels, 1 + recipe.copies))
    rows = TextRows(shown.texts, shown.labels, tokenizer, length)
    n = len(examples.texts)
    how = {"steps": recipe.steps(n), "lr": recipe.lr, "size": min(recipe.size, n), "seed": seed}
    return model, train("full fine-tuning", model, rows, **how, objective=objective(recipe.loss, examples.labels))


def objective(loss: str, labels: np.ndarray) -> partial:
    """Return one of LOSSES as ``fit`` takes it: focal with γ = 2, smoothed by 0.2, weighted by class counts."""
    how = {"plain": {}, "focal": {"gamma": 2.0}, "smoothed": {"label_smoothing": 0.2}}
    if loss == "class weights":
        return partial(predict_classes, weights=class_weights(torch.from_numpy(labels), 2))
    return partial(predict_classes, **how[loss])


# ---------------------------------------------------------------------------------------------------------------- texts


def augment(texts: Sequence[str], kind: str, share: float = 0.1, seed: int = 0) -> list[str]:
    """Return each text with some words deleted, or with some pairs of words swapped.

    Each word is deleted with probability ``share``, but one always stays; or so many pairs of places, at least one,
    drawn at random, exchange their words. Source: random deletion and random swap of Wei and Zou 2019,
    https://arxiv.org/abs/1901.11196, section 2.

    Raises:
        ValueError: the kind is none of AUGMENTATIONS, or the share is not between 0 and 1.
    """
    if kind not in AUGMENTATIONS or not 0 <= share <= 1:
        raise ValueError(f"kind is {kind!r}, share {share}; expected one of {', '.join(AUGMENTATIONS)}, and 0 to 1")
    draw, altered = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        if kind == "delete words" and words:
            kept = draw.random(len(words)) >= share
            kept[draw.integers(len(words))] |= not kept.any()
            words = [word for word, one in zip(words, kept, strict=True) if one]
        elif kind == "swap words" and len(words) > 1:
            for _ in range(max(1, round(share * len(words)))):
                a, b = draw.choice(len(words), size=2, replace=False)
                words[a], words[b] = words[b], words[a]
        altered.append(" ".join(words))
    return altered


def make_rare(examples: Labelled, n_common: int, n_rare: int, seed: int = 0) -> Labelled:
    """Return so many texts of label 0 and of label 1, drawn and mixed by the seed.

    Raises:
        ValueError: there are not so many.
    """
    draw, chosen = np.random.default_rng(seed), []
    for label, n in ((0, n_common), (1, n_rare)):
        places = np.flatnonzero(examples.labels == label)
        if not 1 <= n <= len(places):
            raise ValueError(f"{n} texts of label {label} are wanted; expected 1 to {len(places)}")
        chosen.append(draw.permutation(places)[:n])
    order = draw.permutation(np.concatenate(chosen))
    return Labelled([examples.texts[i] for i in order], examples.labels[order])


def repeat_rare(examples: Labelled) -> Labelled:
    """Return the texts with those of the rarer label repeated in turn until both labels are as many."""
    places = [np.flatnonzero(examples.labels == label) for label in (0, 1)]
    most = max(map(len, places))
    order = np.concatenate([np.resize(some, most) for some in places])
    return Labelled([examples.texts[i] for i in order], examples.labels[order])


def flip_labels(examples: Labelled, share: float, seed: int = 0) -> Labelled:
    """Return the texts with a share of the labels 0 and 1 exchanged, exactly so many, drawn by the seed."""
    places = np.random.default_rng(seed).permutation(len(examples.labels))[: round(share * len(examples.labels))]
    labels = examples.labels.copy()
    labels[places] = 1 - labels[places]
    return Labelled(examples.texts, labels)


# ------------------------------------------------------------------------------------------------------ a rare class


class RareScores(NamedTuple):
    """How well a rare class is found at a threshold, and over all thresholds."""

    precision: float
    recall: float
    f1: float
    average_precision: float


def prevalence_weights(labels: np.ndarray, prevalence: float) -> np.ndarray:
    """Return weights (N,), 1 in the mean, with which label 1 has this share of the texts.

    What a balanced test set says of each class then tells what one with a rare class would say in the mean, with the
    precision of all its texts.

    Raises:
        ValueError: the labels are not both 0 and 1, or the prevalence is not between 0 and 1.
    """
    labels = checks.classes(labels, "labels", 2)
    share = labels.mean()
    if not 0 < share < 1 or not 0 < prevalence < 1:
        raise ValueError(
            f"{share:.0%} of the labels are 1, prevalence is {prevalence}; expected between 0 and 1 for both"
        )
    return np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))


def rare_scores(labels: ArrayLike, scores: ArrayLike, prevalence: float, threshold: float = 0.0) -> RareScores:
    """Return the scores of "label 1 where the score is above the threshold", as if label 1 had this prevalence.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) the higher, the more likely 1; a difference of logits, whose natural threshold is 0.
    """
    labels = checks.classes(labels, "labels", 2)
    scores = checks.scores(scores, len(labels))
    weights = prevalence_weights(labels, prevalence)
    how = {"average": "binary", "sample_weight": weights, "zero_division": 0.0}
    precision, recall, f1, _ = precision_recall_fscore_support(labels, scores > threshold, **how)
    area = average_precision_score(labels, scores, sample_weight=weights)
    return RareScores(float(precision), float(recall), float(f1), float(area))


def best_threshold(labels: ArrayLike, scores: ArrayLike, prevalence: float) -> float:
    """Return the threshold with the highest F1 of label 1 at this prevalence; choose it on validation texts."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    weights = prevalence_weights(labels, prevalence)
    order = np.argsort(-scores, kind="stable")
    right = (weights * labels)[order].cumsum()
    called = weights[order].cumsum()
    f1 = 2 * right / (called + (weights * labels).sum())
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores go together
    best = ends[f1[ends].argmax()]
    following = scores[order][best + 1] if best + 1 < len(scores) else scores[order][best] - 1
    return float((scores[order][best] + following) / 2)
