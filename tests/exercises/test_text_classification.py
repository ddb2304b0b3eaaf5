"""Exercises on text classification: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import numpy as np
from scipy import stats

from plm_tutorial.evaluation import choose_threshold

# --- right answers: as in the chapter, and other ways to be right


def temperature(margin, right):
    return margin / math.log(right / (1 - right))


def tfidf(counts, n_with, n_documents):
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    weights = tf * (np.log((1 + n_documents) / (1 + n_with)) + 1)
    return weights / np.linalg.norm(weights)


def tfidf_by_loops(counts, n_with, n_documents):
    found = []
    for c, df in zip(counts, n_with, strict=True):
        found.append((1 + math.log(c)) * (math.log((1 + n_documents) / (1 + df)) + 1) if c else 0.0)
    length = math.sqrt(sum(w * w for w in found))
    return [w / length for w in found]


def macro_f1(matrix):
    seen = matrix.sum(axis=0) + matrix.sum(axis=1)
    return (2 * matrix.diagonal()[seen > 0] / seen[seen > 0]).mean()


def macro_f1_by_classes(matrix):
    found = []
    for c in range(len(matrix)):
        right, called, support = matrix[c, c], matrix[:, c].sum(), matrix[c].sum()
        if called + support == 0:
            continue
        if right == 0:
            found.append(0.0)
            continue
        precision, recall = right / called, right / support
        found.append(2 * precision * recall / (precision + recall))
    return sum(found) / len(found)


def ask_between(alarm, miss, human):
    low, high = human / miss, 1 - human / alarm
    border = alarm / (alarm + miss)
    return (low, high) if low < high else (border, border)


def p_value(a_only, b_only):
    n = a_only + b_only
    tail = sum(math.comb(n, i) for i in range(min(a_only, b_only) + 1))
    return min(1.0, 2 * tail / 2**n)


def pieces(n, room):
    count = -(-n // room)
    borders = [n * i // count for i in range(count + 1)]
    return list(zip(borders, borders[1:], strict=False))


RIGHT = [
    ("ex-classification-temperature", temperature),
    ("ex-classification-temperature", lambda m, p: m / (math.log(p) - math.log1p(-p))),
    ("ex-classification-tfidf", tfidf),
    ("ex-classification-tfidf", tfidf_by_loops),
    ("ex-classification-macro", macro_f1),
    ("ex-classification-macro", macro_f1_by_classes),
    ("ex-classification-ask", ask_between),
    ("ex-classification-ask", lambda f, m, h: np.array(ask_between(f, m, h)).tolist()),
    ("ex-classification-mcnemar", p_value),
    ("ex-classification-mcnemar", lambda a, b: stats.binomtest(a, a + b).pvalue if a + b else 1),
    ("ex-classification-pieces", pieces),
    (
        "ex-classification-pieces",
        lambda n, room: [(part[0], part[-1] + 1) for part in np.array_split(np.arange(n), -(-n // room))],
    ),
]

# --- plausible mistakes


def weights(counts, n_with, n_documents, log=True, smooth=1, one=1, unit=True):
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) if log else counts
    found = tf * (np.log((smooth + n_documents) / (smooth + n_with)) + one)
    return found / np.linalg.norm(found) if unit else found


def f1_of_means(matrix):
    with np.errstate(invalid="ignore"):
        precision = np.nanmean(matrix.diagonal() / matrix.sum(axis=0))
        recall = np.nanmean(matrix.diagonal() / matrix.sum(axis=1))
    return 2 * precision * recall / (precision + recall)


def f1s(matrix):
    return 2 * matrix.diagonal() / (matrix.sum(axis=0) + matrix.sum(axis=1))


def greedy(n, room):
    return [(start, min(start + room, n)) for start in range(0, n, room)]


def overlapping(n, room):
    return [(max(0, a - 1), b) for a, b in pieces(n, room)] if n > room + 1 else pieces(n, room)


def tail_p(a, b):
    return stats.binom.cdf(min(a, b), a + b, 0.5)


WRONG = [
    ("ex-classification-temperature", lambda m, p: math.log(p / (1 - p)) / m, "upside down"),
    ("ex-classification-temperature", lambda m, p: m / math.log(p), "difference of two logits"),
    ("ex-classification-temperature", lambda m, p: 1 / (1 + math.exp(-m)) / p, "divides logits"),
    ("ex-classification-temperature", lambda m, p: m / math.log2(p / (1 - p)), "the natural one"),
    ("ex-classification-temperature", lambda m, p: 1.0, "expected 1.7"),
    ("ex-classification-tfidf", lambda c, w, n: weights(c, w, n, log=False), "1 + log c"),
    ("ex-classification-tfidf", lambda c, w, n: weights(c, w, n, smooth=0), "as if one more text"),
    ("ex-classification-tfidf", lambda c, w, n: weights(c, w, n, one=0), "is not lost"),
    ("ex-classification-tfidf", lambda c, w, n: weights(c, w, n, unit=False), "divide by the length"),
    ("ex-classification-tfidf", lambda c, w, n: (1 + np.log(c)) * np.log(n / w), "weight 0"),
    ("ex-classification-tfidf", lambda c, w, n: c / np.linalg.norm(c), "expected"),
    ("ex-classification-tfidf", lambda c, w, n: 1.0, "a weight for each word"),
    ("ex-classification-macro", lambda m: m.diagonal().sum() / m.sum(), "the accuracy"),
    ("ex-classification-macro", lambda m: np.nansum(f1s(m) * m.sum(1)) / m.sum(), "count the same"),
    ("ex-classification-macro", f1_of_means, "of each class first"),
    ("ex-classification-macro", lambda m: np.nan_to_num(f1s(m)).mean(), "is left out, not counted"),
    ("ex-classification-macro", lambda m: f1s(m).mean(), "gave nan"),
    ("ex-classification-macro", lambda m: f1s(m)[-1], "expected"),
    ("ex-classification-ask", lambda f, m, h: (h / f, 1 - h / m), "saying no to p costs"),
    ("ex-classification-ask", lambda f, m, h: (h / m, 1 - h / f), "here asking never pays"),
    ("ex-classification-ask", lambda f, m, h: tuple(sorted((h / m, 1 - h / f))), "a guess is cheaper"),
    ("ex-classification-ask", lambda f, m, h: (f / (f + m), f / (f + m)), "expected (0.2000, 0.9600)"),
    ("ex-classification-ask", lambda f, m, h: f / (f + m), "two probabilities"),
    ("ex-classification-mcnemar", tail_p, "one side alone"),
    ("ex-classification-mcnemar", lambda a, b: 2 * tail_p(a, b), "at most 1"),
    ("ex-classification-mcnemar", lambda a, b: stats.chi2.sf((a - b) ** 2 / max(a + b, 1), 1), "approximation"),
    (
        "ex-classification-mcnemar",
        lambda a, b: min(1, 2 * stats.binom.cdf(min(a, b) - 1, a + b, 0.5)),
        "belongs to the tail",
    ),
    ("ex-classification-mcnemar", lambda a, b: abs(a - b) / (a + b), "expected"),
    ("ex-classification-pieces", greedy, "the small one would have"),
    ("ex-classification-pieces", overlapping, "the next begins at"),
    ("ex-classification-pieces", lambda n, room: pieces(n, room + 1), "there is room for"),
    ("ex-classification-pieces", lambda n, room: pieces(n, max(1, room // 2)), "are enough"),
    ("ex-classification-pieces", lambda n, room: greedy(n - n % room or n, room), "not from 0 to"),
    ("ex-classification-pieces", lambda n, room: [], "no piece"),
]


def test_asking_is_the_cheapest_choice_where_it_is_made():
    """Each of the three answers costs least just where the solution gives it."""
    for alarm, miss, human in ((5, 1, 0.2), (1, 1, 0.3), (5, 1, 2), (10, 4, 1)):
        low, high = ask_between(alarm, miss, human)
        for p in np.linspace(0.001, 0.999, 500):
            costs = {"no": p * miss, "ask": human, "yes": (1 - p) * alarm}
            said = "no" if p < low else "yes" if p > high else "ask"
            assert costs[said] <= min(costs.values()) + 1e-9


def test_the_border_is_what_the_package_finds():
    draw = np.random.default_rng(0)
    scores = draw.random(200_000)
    labels = (draw.random(200_000) < scores).astype(int)  # calibrated
    found = choose_threshold(labels, scores, costs=(5, 1)).threshold
    assert abs(found - 5 / 6) < 0.02
