"""Choosing a model: the models at hand, texts of several domains, and how many texts it takes to tell two models apart.

In: names of models and of domains; or whether two classifiers were right. Out: models, texts, numbers of texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from statistics import NormalDist

import numpy as np
import tokenizers
from numpy.typing import ArrayLike
from torch import nn

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.book_passages import sections
from plm_tutorial.experiments.translated_text import messages
from plm_tutorial.records import artifacts
from plm_tutorial.text import reviews

MODELS = {  # as tables name them: what load_model takes, or the name of an artifact
    "reviews, masked": "reviews_masked",
    "reviews, causal": "reviews_causal",
    "MiniLM": "minilm",
    "SmolLM2": "smollm2",
}
LANGUAGES = {"French": "fr", "German": "de", "Chinese": "zh"}
DOMAINS = ("film reviews", "this book", "Python code", *LANGUAGES)
MODULES = ("textwrap", "heapq", "shlex", "csv", "fnmatch", "bisect", "string", "colorsys", "sched", "timeit")
TEXT_BYTES = 2_000  # of a text of a domain, about


@cache
def open_model(name: str) -> tuple[nn.Module, tokenizers.Tokenizer]:
    """Return one of :data:`MODELS` and its tokenizer.

    Raises:
        ValueError: there is no such name.
    """
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; there are: {', '.join(MODELS)}")
    place = MODELS[name]
    place = artifacts() / place if (artifacts() / place).is_dir() else place
    return load_model(place), load_tokenizer(place)


def domain_texts(domain: str, n: int) -> list[str]:
    """Return n texts of a domain, each of about :data:`TEXT_BYTES` bytes, spread evenly over what there is.

    *film reviews*: IMDb, test split; *this book*: the frozen snapshot of its sections; *Python code*: modules of the
    standard library; languages: Django's and Sphinx's messages as people translated them, a line each.

    Raises:
        ValueError: there is no such domain, or it has fewer than n texts.
    """
    if domain not in DOMAINS:
        raise ValueError(f"there is no domain {domain!r}; there are: {', '.join(DOMAINS)}")
    texts = _all_texts(domain)
    if not 1 <= n <= len(texts):
        raise ValueError(f"n is {n}; expected 1 to {len(texts)}, the texts that there are of {domain}")
    return [texts[i] for i in np.linspace(0, len(texts) - 1, n).astype(int)]


@cache
def _all_texts(domain: str) -> list[str]:
    if domain == "film reviews":
        return [text for text in reviews("imdb", "test")["text"] if len(text.encode()) <= TEXT_BYTES]
    if domain == "this book":
        pieces = [section.text for section in sections()]
    elif domain == "Python code":
        pieces = [piece for name in MODULES for piece in inspect.getsource(import_module(name)).split("\n\n")]
    else:
        pieces = [pair.target for pair in messages(LANGUAGES[domain])]
    return _joined([piece.strip() for piece in pieces], "\n" if domain in LANGUAGES else "\n\n")


def _joined(pieces: Sequence[str], between: str) -> list[str]:
    """Return texts of several pieces each; pieces that are too long are left out, and so is the last text."""
    texts, text = [], ""
    for piece in pieces:
        if not piece or len(piece.encode()) > TEXT_BYTES:
            continue
        longer = f"{text}{between}{piece}" if text else piece
        if len(longer.encode()) > TEXT_BYTES:
            texts.append(text)
            longer = piece
        text = longer
    return texts


def texts_needed(difference: float, disagreement: float, power: float = 0.8, level: float = 0.95) -> int:
    """Return how many texts it takes to see that one classifier is right more often than another.

    Both read the same texts. On a text the two differ by d = 1 (the first alone is right), -1 or 0. With δ the mean of
    d, and p the share of texts on which d is not 0, the variance of d is p - δ², and p if there were no difference. A
    test that speaks of a difference without there being one with probability 1 - ``level`` finds this one with
    probability ``power`` on n = ((z_level √p + z_power √(p - δ²)) / δ)² texts. Source: Connor 1987, "Sample size for
    testing differences in proportions for the paired-sample design", Biometrics 43, page 209.

    Args:
        difference: δ, a share above 0, such as 0.03 for three points of accuracy.
        disagreement: p, the share of texts on which exactly one of them is right; at least δ.

    Raises:
        ValueError: a share is out of range.
    """
    if not 0 < difference <= disagreement <= 1:
        raise ValueError(
            f"the difference is {difference}, the disagreement {disagreement}; expected shares above 0, the first no "
            "larger than the second"
        )
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power is {power}, level {level}; expected shares between 0 and 1")
    z_level, z_power = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)
    root = z_level * disagreement**0.5 + z_power * (disagreement - difference**2) ** 0.5
    return int(np.ceil((root / difference) ** 2))


def seen_better(first: ArrayLike, second: ArrayLike, n: int, draws: int = 2000, seed: int = 0) -> float:
    """Return how often, of n texts drawn with replacement, the first classifier is right on more than the second.

    Args:
        first, second: whether each is right, (N,) of 0 and 1, on the same texts. A draw in which they are equal counts
            half.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)  # (N,)
    chosen = np.random.default_rng(seed).integers(len(difference), size=(draws, n))
    sums = difference[chosen].sum(1)  # (draws,)
    return float((sums > 0).mean() + (sums == 0).mean() / 2)
