"""Checks of the exercises on text classification.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from plm_tutorial import evaluation
from plm_tutorial.exercises import Exercises, Wrong, expect, expect_close

exercises = Exercises()
check = exercises.check


@exercises.add("ex-classification-temperature")
def _temperature(answer):
    for margin, right in ((3.0, 0.85), (1.0, 0.9), (2.5, 0.6), (4.0, 0.999)):
        wanted = margin / math.log(right / (1 - right))
        reasons = {
            1 / wanted: "upside down: a classifier that promises too much needs a temperature above 1",
            margin / math.log(right): "the margin is the difference of two logits: log p - log(1 - p)",
            -margin / math.log(right): "the margin is the difference of two logits: log p - log(1 - p)",
            1 / (1 + math.exp(-margin)) / right: "this compares probabilities; the temperature divides logits",
            margin / math.log2(right / (1 - right)): "the logarithm is the natural one",
        }
        expect_close(answer(margin, right), wanted, f"temperature({margin}, {right})", reasons)


def _weights(counts, n_with, n_documents, *, log=True, smooth=1, one=1.0, unit=True):
    counts, n_with = np.asarray(counts, dtype=float), np.asarray(n_with, dtype=float)
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) if log else counts
    found = tf * (np.log((smooth + n_documents) / (smooth + n_with)) + one)
    return found / np.linalg.norm(found) if unit else found


@exercises.add("ex-classification-tfidf")
def _tfidf(answer):
    cases = (([1, 3, 0, 2], [5, 20, 9, 1], 40), ([2, 2], [10, 3], 10), ([0, 0, 4, 1], [1, 7, 3, 3], 1000))
    for counts, n_with, n_documents in cases:
        call = f"tfidf({counts}, {n_with}, {n_documents})"
        with np.errstate(divide="ignore", invalid="ignore"):
            got = np.asarray(answer(np.array(counts), np.array(n_with), n_documents), dtype=float)
        expect(got.shape == (len(counts),), f"{call} has the shape {got.shape}, expected a weight for each word")
        expect(bool(np.isfinite(got).all()), f"{call} is not finite everywhere: a word that is absent has weight 0")
        wanted = _weights(counts, n_with, n_documents)
        if np.abs(got - wanted).max() < 1e-6:
            continue
        length = np.linalg.norm(got)
        expect(abs(length - 1) < 1e-6, f"{call} has length {length:.4f}; divide by the length, so that it is 1")
        reasons = {
            "a count c enters as 1 + log c": {"log": False},
            "one is added to both numbers of texts, as if one more text held every word": {"smooth": 0},
            "1 is added to the idf, so that a word that stands in every text is not lost": {"one": 0.0},
        }
        for reason, change in reasons.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                other = _weights(counts, n_with, n_documents, **change)
            expect(not np.abs(got - other).max() < 1e-6, f"{call} gave {got.round(3).tolist()}: {reason}")
        raise Wrong(f"{call} gave {got.round(3).tolist()}, expected {wanted.round(3).tolist()}")


@exercises.add("ex-classification-macro")
def _macro(answer):
    cases = ([[80, 10], [2, 8]], [[5, 1, 0], [2, 3, 1], [0, 0, 7]], [[9, 1, 0], [2, 3, 0], [0, 0, 0]])
    for rows in cases:
        matrix = np.array(rows)
        call = f"macro_f1_of(np.array({rows}))"
        labels, predictions = np.repeat(np.indices(matrix.shape).reshape(2, -1), matrix.ravel(), axis=1)
        wanted = evaluation.macro_f1(labels, predictions, len(matrix))
        with np.errstate(divide="ignore", invalid="ignore"):
            got = float(answer(matrix.copy()))
            right, called, support = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
            f1 = 2 * right / (called + support)
            precision, recall = np.nanmean(right / called), np.nanmean(right / support)
        reasons = {
            right.sum() / matrix.sum(): "this is the accuracy",
            np.nansum(f1 * support) / matrix.sum(): "weighted by how often a class occurs; each should count the same",
            2 * precision * recall / (precision + recall): "take the F1 of each class first, then the mean",
            np.nan_to_num(f1).mean(): "a class that neither occurs nor is predicted is left out, not counted as 0",
            recall: "this is the mean recall",
        }
        expect(not math.isnan(got), f"{call} gave nan: a class that neither occurs nor is predicted is left out")
        expect_close(got, wanted, call, reasons)


@exercises.add("ex-classification-ask")
def _ask(answer):
    for alarm, miss, human in ((5, 1, 0.2), (5, 1, 0.5), (1, 1, 0.3), (10, 4, 1), (5, 1, 2), (1, 1, 0.5)):
        call = f"ask_between({alarm}, {miss}, {human})"
        got = answer(alarm, miss, human)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} should give two probabilities: low and high")
        low, high = map(float, got)
        border = alarm / (alarm + miss)
        worth = human < alarm * miss / (alarm + miss)
        wanted = (human / miss, 1 - human / alarm) if worth else (border, border)
        expect(low <= high + 1e-9, f"{call} gave low {low:.4f} above high {high:.4f}: here asking never pays")
        if not worth:
            expect(
                abs(low - high) < 1e-9,
                f"{call} asks from {low:.4f} to {high:.4f}, but even at the border {border:.4f} a guess is cheaper",
            )
        swapped = (human / alarm, 1 - human / miss)
        expect(
            not (worth and alarm != miss and np.allclose((low, high), swapped)),
            f"{call} gave ({low:.4f}, {high:.4f}): saying no to p costs p · miss, saying yes (1 - p) · alarm",
        )
        expect(
            np.allclose((low, high), wanted, atol=1e-6),
            f"{call} gave ({low:.4f}, {high:.4f}), expected ({wanted[0]:.4f}, {wanted[1]:.4f})",
        )


@exercises.add("ex-classification-mcnemar")
def _mcnemar(answer):
    for a_only, b_only in ((60, 30), (30, 60), (7, 1), (5, 5), (3, 4), (0, 0), (0, 6), (150, 110)):
        n, least = a_only + b_only, min(a_only, b_only)
        wanted = float(stats.binomtest(a_only, n, 0.5).pvalue) if n else 1.0
        one_sided = float(stats.binom.cdf(least, n, 0.5))
        reasons = {
            one_sided: "one side alone; that the other classifier is the better one would surprise as much",
            2 * float(stats.binom.cdf(least - 1, n, 0.5)): "the split that was seen belongs to the tail too",
            2 * one_sided: "a probability is at most 1",
            float(stats.chi2.sf((a_only - b_only) ** 2 / max(n, 1), 1)): "this is the approximation by chi-squared",
        }
        reasons = {value: reason for value, reason in reasons.items() if abs(value - wanted) > 1e-6}
        expect_close(answer(a_only, b_only), wanted, f"p_value({a_only}, {b_only})", reasons)


@exercises.add("ex-classification-pieces")
def _pieces(answer):
    for n, room in ((300, 126), (126, 126), (127, 126), (10, 3), (12, 3), (1, 5), (1000, 7)):
        call = f"even_pieces({n}, {room})"
        got = [tuple(map(int, pair)) for pair in answer(n, room)]
        expect(bool(got), f"{call} gave no piece")
        expect(got[0][0] == 0 and got[-1][1] == n, f"{call} goes from {got[0][0]} to {got[-1][1]}, not from 0 to {n}")
        for (_, end), (start, _) in zip(got, got[1:], strict=False):
            expect(end == start, f"{call}: a piece ends before {end}, the next begins at {start}")
        sizes = [end - start for start, end in got]
        expect(max(sizes) <= room, f"{call} has a piece of {max(sizes)} tokens; there is room for {room}")
        fewest = -(-n // room)
        expect(len(got) == fewest, f"{call} has {len(got)} pieces; {fewest} are enough")
        expect(
            max(sizes) - min(sizes) <= 1,
            f"{call} has pieces of {max(sizes)} and of {min(sizes)} tokens: the small one would have as much to say",
        )
