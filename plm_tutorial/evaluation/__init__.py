"""How good a model is, and how sure we are.

In: log-probabilities, predicted classes, probabilities, logits. Out: numbers, and intervals around them. ``language``
measures texts under a language model, ``classification`` predicted classes, ``calibration`` probabilities,
``entities`` names found in texts, and ``intervals`` says how far any of these numbers may be trusted.
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

__all__ = [
    "Chance",
    "ClassScores",
    "Difference",
    "EntityScores",
    "McNemar",
    "ReliabilityBins",
    "TextScores",
    "Threshold",
    "Window",
    "accuracy",
    "bits_per_byte",
    "bootstrap_interval",
    "brier_score",
    "choose_threshold",
    "class_scores",
    "confusion_matrix",
    "corpus_bits_per_byte",
    "ece_by_chance",
    "entity_counts",
    "entity_f1",
    "entity_scores",
    "expected_calibration_error",
    "fit_temperature",
    "macro_f1",
    "mcnemar",
    "paired_bootstrap",
    "perplexity",
    "reliability_bins",
    "score_difference",
    "score_interval",
    "score_texts",
    "softmax",
    "split_windows",
    "top_label",
]
