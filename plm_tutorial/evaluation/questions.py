"""How good an answer is that may be worded in several ways: exact match and F1 of its words, as SQuAD counts them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Return an answer in lower case without articles, ASCII punctuation and surplus blanks.

    Source: the evaluation script of Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, section 6.1.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """Return 1.0 if the prediction is one of the accepted answers, both normalized, else 0.0."""
    return _best(prediction, answers, lambda one, other: float(normalize_answer(one) == normalize_answer(other)))


def token_f1(prediction: str, answers: str | Sequence[str]) -> float:
    """Return the F1 of the words that prediction and answer share, for the accepted answer where it is highest.

    Both are normalized and taken as bags of words; with c common words, precision is c over the words predicted and
    recall c over the words of the answer. If one of the two is empty, the result is 1.0 where both are, else 0.0.
    """
    return _best(prediction, answers, _f1)


def contains_answer(prediction: str, answers: str | Sequence[str]) -> float:
    """Return 1.0 if an accepted answer stands in the prediction, as whole words, both normalized, else 0.0.

    For answers in sentences, whose F1 would mostly tell how many words they have.
    """
    return _best(
        prediction, answers, lambda one, other: float(f" {normalize_answer(other)} " in f" {normalize_answer(one)} ")
    )


def _best(prediction: str, answers: str | Sequence[str], score: Callable[[str, str], float]) -> float:
    answers = [answers] if isinstance(answers, str) else list(answers)
    if not answers:
        raise ValueError("there is no accepted answer to compare with; pass at least one")
    return max(score(prediction, answer) for answer in answers)


def _f1(prediction: str, answer: str) -> float:
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
