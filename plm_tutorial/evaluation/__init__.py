"""How good a model is, and how sure we are.

In: log-probabilities, predicted classes, probabilities, logits. Out: numbers, and intervals around them. ``language``
measures texts under a language model, ``generation`` texts that one wrote, ``classification`` predicted classes,
``questions`` answers, ``translation`` texts against references, ``entities`` names found in texts, ``calibration``
probabilities, and ``intervals`` says how far any of these numbers may be trusted.
"""

from .calibration import (
    Chance,
    ReliabilityBins,
    Threshold,
    brier_score,
    choose_threshold,
    ece_by_chance,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    softmax,
    top_label,
)
from .classification import (
    ClassScores,
    McNemar,
    accuracy,
    class_scores,
    confusion_matrix,
    macro_f1,
    mcnemar,
)
from .entities import EntityScores, entity_counts, entity_f1, entity_scores
from .generation import RowScores, distinct_n, n_grams, repetition, score_rows
from .intervals import Difference, bootstrap_interval, paired_bootstrap, score_difference, score_interval
from .language import (
    TextScores,
    Window,
    bits_per_byte,
    corpus_bits_per_byte,
    perplexity,
    score_texts,
    split_windows,
)
from .questions import contains_answer, exact_match, normalize_answer, token_f1
from .translation import (
    bleu,
    chrf,
    exact_share,
    score_counts,
    translation_counts,
    translation_difference,
    translation_interval,
)

__all__ = [
    "Chance",
    "ClassScores",
    "Difference",
    "EntityScores",
    "McNemar",
    "ReliabilityBins",
    "RowScores",
    "TextScores",
    "Threshold",
    "Window",
    "accuracy",
    "bits_per_byte",
    "bleu",
    "bootstrap_interval",
    "brier_score",
    "choose_threshold",
    "chrf",
    "class_scores",
    "confusion_matrix",
    "contains_answer",
    "corpus_bits_per_byte",
    "distinct_n",
    "ece_by_chance",
    "entity_counts",
    "entity_f1",
    "entity_scores",
    "exact_match",
    "exact_share",
    "expected_calibration_error",
    "fit_temperature",
    "macro_f1",
    "mcnemar",
    "n_grams",
    "normalize_answer",
    "paired_bootstrap",
    "perplexity",
    "reliability_bins",
    "repetition",
    "score_counts",
    "score_difference",
    "score_interval",
    "score_rows",
    "score_texts",
    "softmax",
    "split_windows",
    "token_f1",
    "top_label",
    "translation_counts",
    "translation_difference",
    "translation_interval",
]
