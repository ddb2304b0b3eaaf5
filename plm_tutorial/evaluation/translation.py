"""How good a translation is: exact match, BLEU and chrF, the latter two as sacrebleu computes them.

In: reference translations and a system's, a text each. Out: numbers, with intervals over the texts. BLEU and chrF are
no means over texts: counts of all texts are added up first. So :func:`translation_counts` returns the counts of each
text, and :func:`score_counts` the score of any choice of texts, which is what a bootstrap needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from plm_tutorial.evaluation.intervals import Difference, bootstrap_interval, paired_bootstrap

METRICS = ("chrF", "BLEU")
# BLEU counts words. Chinese has no spaces: each character counts as a word, as is the custom of the WMT shared task.
BLEU_TOKENIZERS = {"zh": "zh"}


def exact_share(references: Sequence[str], outputs: Sequence[str]) -> float:
    """Return the share of outputs that equal their reference, character by character.

    Raises:
        ValueError: there are no texts, or not as many of both.
    """
    _check(references, outputs)
    return float(np.mean([a == b for a, b in zip(references, outputs, strict=True)]))


def bleu(references: Sequence[str], outputs: Sequence[str], language: str) -> float:
    """Return corpus BLEU, 0 to 100: shared word n-grams up to 4, with a penalty for being too short.

    Source: Papineni et al. 2002, https://aclanthology.org/P02-1040; as in Post 2018, https://aclanthology.org/W18-6319.

    Raises:
        ValueError: see :func:`exact_share`.
    """
    return score_counts("BLEU", translation_counts("BLEU", references, outputs, language))


def chrf(references: Sequence[str], outputs: Sequence[str]) -> float:
    """Return corpus chrF, 0 to 100: F-score of shared character n-grams up to 6, recall counting twice as much.

    Source: Popović 2015, https://aclanthology.org/W15-3049.

    Raises:
        ValueError: see :func:`exact_share`.
    """
    return score_counts("chrF", translation_counts("chrF", references, outputs))


def translation_counts(
    metric: str, references: Sequence[str], outputs: Sequence[str], language: str | None = None
) -> np.ndarray:
    """Return what a metric counts in each text, (N, K): n-grams of the output, of the reference, and of both.

    Raises:
        ValueError: the metric is unknown, or as in :func:`exact_share`.
    """
    _check(references, outputs)
    return np.array(_metric(metric, language)._extract_corpus_statistics(list(outputs), [list(references)]))


def score_counts(metric: str, counts: np.ndarray) -> float:
    """Return a metric of all texts together, 0 to 100, from the counts (N, K) of each."""
    return float(_metric(metric, None)._compute_score_from_stats(counts.sum(axis=0).tolist()).score)


def translation_interval(
    metric: str, references: Sequence[str], outputs: Sequence[str], language: str | None = None, **how
) -> tuple[float, float]:
    """Return the bootstrap interval of a metric over the texts; ``how``: see :func:`bootstrap_interval`."""
    counts = translation_counts(metric, references, outputs, language)
    return bootstrap_interval(counts, partial(score_counts, metric), **how)


def translation_difference(
    metric: str, references: Sequence[str], a: Sequence[str], b: Sequence[str], language: str | None = None, **how
) -> Difference:
    """Return metric(a) - metric(b) with its paired bootstrap interval over the texts (Koehn 2004).

    Source: https://aclanthology.org/W04-3250. ``how``: see :func:`paired_bootstrap`.
    """
    counts = [translation_counts(metric, references, outputs, language) for outputs in (a, b)]
    return paired_bootstrap(*counts, partial(score_counts, metric), **how)


@cache
def _metric(name: str, language: str | None) -> BLEU | CHRF:
    if name not in METRICS:
        raise ValueError(f"metric is {name!r}; implemented here: {', '.join(METRICS)}")
    return CHRF() if name == "chrF" else BLEU(tokenize=BLEU_TOKENIZERS.get(language, "13a"))


def _check(references: Sequence[str], outputs: Sequence[str]) -> None:
    for name, texts in (("references", references), ("outputs", outputs)):
        if isinstance(texts, str):
            raise ValueError(f"{name} is a single str; expected a list of texts")
    if not 0 < len(references) == len(outputs):
        raise ValueError(f"got {len(references)} references and {len(outputs)} outputs; expected one output for each")
