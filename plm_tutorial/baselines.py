"""What a fine-tuned model has to beat: a classifier that counts words.

In: texts and labels. Out: a scikit-learn pipeline, ``predict(texts) -> labels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from plm_tutorial.evaluation import accuracy

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # C: a larger one regularizes less


class Labelled(NamedTuple):
    """Texts and their labels."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64, classes from 0


def tfidf_classifier(train: Labelled, validation: Labelled, strengths: Sequence[float] = STRENGTHS) -> Pipeline:
    """Return logistic regression on TF-IDF weights of words and pairs of words.

    Words are what scikit-learn takes for them by default; counts are damped by a logarithm. C is the one of
    ``strengths`` that is most often right on the validation texts, the smallest of equals.

    Raises:
        ValueError: all training texts have the same label, or none has a word.
    """
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(train.texts)
    x, held_out = features.transform(train.texts), features.transform(validation.texts)
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(x, train.labels) for strength in strengths]
    return make_pipeline(features, max(fitted, key=lambda model: accuracy(validation.labels, model.predict(held_out))))
