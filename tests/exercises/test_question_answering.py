"""Exercises on question answering: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math
from collections import Counter

import numpy as np
import torch

from plm_tutorial.evaluation import normalize_answer
from plm_tutorial.retrieval import BM25
from plm_tutorial.spans import best_span

# --- right answers: as in the chapter, and other ways to be right


def f1_of(prediction, accepted):
    predicted, best = Counter(normalize_answer(prediction).split()), 0.0
    for answer in accepted:
        wanted = Counter(normalize_answer(answer).split())
        best = max(best, 2 * (predicted & wanted).total() / (predicted.total() + wanted.total()))
    return best


def best_span_of(starts, ends, most):
    spans = [(i, j) for i in range(len(starts)) for j in range(i, min(len(starts), i + most))]
    return max(spans, key=lambda span: starts[span[0]] + ends[span[1]])


def bm25_term(count, length, mean_length, n_with, n_documents, k1, b):
    idf = math.log(1 + (n_documents - n_with + 0.5) / (n_with + 0.5))
    return idf * count * (k1 + 1) / (count + k1 * (1 - b + b * length / mean_length))


def fused(rankings, constant):
    scores = Counter()
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] += 1 / (constant + rank)
    return [name for name, _ in scores.most_common()]


def coverage_and_risk(scores, right, threshold):
    said = [ok for score, ok in zip(scores, right, strict=True) if score >= threshold]
    return len(said) / len(scores), 1 - sum(said) / len(said) if said else 0.0


def silence_by_numpy(scores, right, threshold):
    said = np.array(scores) >= threshold
    return said.mean(), (~np.array(right)[said]).sum() / max(1, said.sum())


RIGHT = [
    ("ex-qa-f1", f1_of),
    ("ex-qa-span", best_span_of),
    ("ex-qa-span", lambda s, e, most: best_span(torch.tensor(s), torch.tensor(e), most)[:2]),
    ("ex-qa-bm25", bm25_term),
    ("ex-qa-fusion", fused),
    ("ex-qa-silence", coverage_and_risk),
    ("ex-qa-silence", silence_by_numpy),
]

# --- plausible mistakes


def f1_of_sets(prediction, accepted):
    predicted, best = set(normalize_answer(prediction).split()), 0
    for answer in accepted:
        wanted = normalize_answer(answer).split()
        best = max(best, 2 * len(predicted & set(wanted)) / (len(normalize_answer(prediction).split()) + len(wanted)))
    return best


def mean_f1(prediction, accepted):
    return sum(f1_of(prediction, [one]) for one in accepted) / len(accepted)


def two_argmaxes(starts, ends, most):
    return starts.index(max(starts)), ends.index(max(ends))


def start_first(starts, ends, most):
    first = starts.index(max(starts))
    last = max(range(first, min(len(starts), first + most)), key=lambda j: ends[j])
    return first, last


def in_all(rankings, constant):
    return [name for name in fused(rankings, constant) if all(name in ranking for ranking in rankings)]


def one_after_the_other(rankings, constant):
    return list(dict.fromkeys(name for ranking in rankings for name in ranking))


def norm(length, mean, k1, b):
    return k1 * (1 - b + b * length / mean)


def idf(n_with, n):
    return math.log(1 + (n - n_with + 0.5) / (n_with + 0.5))


WRONG = [
    ("ex-qa-f1", f1_of_sets, "counts twice"),
    ("ex-qa-f1", mean_f1, "not the mean"),
    ("ex-qa-f1", lambda p, a: float(normalize_answer(p) == normalize_answer(a[0])), "expected 0.6667"),
    ("ex-qa-span", two_argmaxes, "the end stands before"),
    ("ex-qa-span", start_first, "there is one with"),
    ("ex-qa-span", lambda s, e, most: best_span_of(s, e, 1000), "not at most"),
    ("ex-qa-span", lambda s, e, most: (1, len(s)), "from 0"),
    ("ex-qa-bm25", lambda c, le, m, w, n, k, b: idf(w, n) * c, "twice as much"),
    ("ex-qa-bm25", lambda c, le, m, w, n, k, b: idf(w, n) * c * (k + 1) / (c + k), "b does nothing"),
    ("ex-qa-bm25", lambda c, le, m, w, n, k, b: bm25_term(c, m, le, w, n, k, b), "not mean over length"),
    (
        "ex-qa-bm25",
        lambda c, le, m, w, n, k, b: math.log(n / w) * c * (k + 1) / (c + norm(le, m, k, b)),
        "another inverse",
    ),
    ("ex-qa-bm25", lambda c, le, m, w, n, k, b: idf(w, n) * c / (c + norm(le, m, k, b)), "factor k1 + 1"),
    ("ex-qa-bm25", lambda *some: 1.0, "expected"),
    ("ex-qa-fusion", in_all, "in one ranking alone"),
    ("ex-qa-fusion", one_after_the_other, "before"),
    ("ex-qa-fusion", lambda rankings, c: [name for one in rankings for name in one], "twice"),
    ("ex-qa-fusion", lambda rankings, c: sorted({n for one in rankings for n in one} | {"?"}), "no ranking has"),
    ("ex-qa-silence", lambda s, r, t: coverage_and_risk(s, r, t)[0], "two numbers"),
    ("ex-qa-silence", lambda s, r, t: coverage_and_risk([x - 1e-9 for x in s], r, t), "at the threshold"),
    (
        "ex-qa-silence",
        lambda s, r, t: (
            coverage_and_risk(s, r, t)[0],
            sum(x >= t and not ok for x, ok in zip(s, r, strict=True)) / len(s),
        ),
        "not by all",
    ),
    (
        "ex-qa-silence",
        lambda s, r, t: (coverage_and_risk(s, r, t)[0], 1 - coverage_and_risk(s, r, t)[1]),
        "share of right answers",
    ),
    (
        "ex-qa-silence",
        lambda s, r, t: (coverage_and_risk(s, r, t)[0], 1.0 if max(s) < t else coverage_and_risk(s, r, t)[1]),
        "expected 0.0",
    ),
]


def test_a_term_of_the_exercise_is_a_term_of_the_package():
    documents = [["a", "b", "b"], ["a"], ["c", "c", "c", "b"]]
    index = BM25(documents, 0.9, 0.4)
    mean = 8 / 3
    wanted = [bm25_term(d.count("b"), len(d), mean, 2, 3, 0.9, 0.4) for d in documents]
    np.testing.assert_allclose(index.scores(["b"]), wanted)
