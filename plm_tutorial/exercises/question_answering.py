"""Checks of the exercises on question answering.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
import random

from plm_tutorial.evaluation import normalize_answer, token_f1
from plm_tutorial.exercises import Exercises, Wrong, expect

exercises = Exercises()
check = exercises.check


def _close(got: object, wanted: float, call: str, reasons: dict[float, str] | None = None) -> None:
    """Raise :class:`Wrong` unless ``got`` is ``wanted``; a known wrong value is told with its reason."""
    got = float(got)
    if math.isnan(got) or abs(got - wanted) > 1e-6 * max(1, abs(wanted)):
        for value, reason in (reasons or {}).items():
            expect(abs(got - value) > 1e-6 * max(1, abs(value)), f"{call} gave {got:.4f}: {reason}")
        raise Wrong(f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-qa-f1")
def _f1(answer):
    cases = (
        ("about two trillion tokens", ["two trillion", "trillions"]),
        ("the cat and the dog", ["cat dog"]),
        ("cat cat dog", ["cat dog dog"]),
        ("two by two", ["two by two"]),
        ("a red house", ["green door"]),
        ("ten", ["ten", "ten versions"]),
        ("one two three four", ["four three two one", "one"]),
    )
    for prediction, accepted in cases:
        call = f"f1_of({prediction!r}, {accepted})"
        predicted = normalize_answer(prediction).split()
        sets, means = [], []
        for one in accepted:
            wanted = normalize_answer(one).split()
            common = len(set(predicted) & set(wanted))
            sets.append(2 * common / (len(predicted) + len(wanted)))
            means.append(token_f1(prediction, one))
        precision = sum(word in normalize_answer(accepted[0]).split() for word in predicted) / len(predicted)
        reasons = {
            sum(means) / len(means): "take the accepted answer where it is highest, not the mean over them",
            max(sets): "a word that both have twice counts twice, and one that only one has twice counts once",
            precision: "this looks like the precision alone",
        }
        _close(answer(prediction, accepted), token_f1(prediction, accepted), call, reasons)


@exercises.add("ex-qa-span")
def _span(answer):
    draw = random.Random(0)
    cases = [([0.0, 3.0, 1.0], [2.0, 0.0, 1.0], 3), ([5.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 4.5], 2)]
    for _ in range(40):
        n = draw.randint(1, 9)
        some = [[round(draw.gauss(0, 2), 2) for _ in range(n)] for _ in range(2)]
        cases.append((*some, draw.randint(1, 5)))
    for starts, ends, most in cases:
        call = f"best_span_of({starts}, {ends}, {most})"
        first, last = map(int, answer(list(starts), list(ends), most))
        n = len(starts)
        expect(0 <= first < n and 0 <= last < n, f"{call} gave ({first}, {last}); there are {n} tokens, from 0")
        expect(first <= last, f"{call} gave ({first}, {last}): the end stands before the beginning")
        expect(
            last - first < most,
            f"{call} gave ({first}, {last}), which are {last - first + 1} tokens, not at most {most}",
        )
        best = max(starts[i] + ends[j] for i in range(n) for j in range(i, min(n, i + most)))
        got = starts[first] + ends[last]
        expect(got > best - 1e-9, f"{call} gave ({first}, {last}) with the sum {got:.2f}; there is one with {best:.2f}")


@exercises.add("ex-qa-bm25")
def _bm25(answer):
    for count, length, mean, n_with, n, k1, b in (
        (1, 100, 100, 5, 200, 1.2, 0.75),
        (4, 100, 100, 5, 200, 1.2, 0.75),
        (2, 300, 100, 150, 200, 0.9, 0.4),
        (3, 50, 100, 1, 1000, 2.0, 1.0),
        (0, 80, 100, 10, 200, 1.2, 0.75),
    ):
        call = f"bm25_term({count}, {length}, {mean}, {n_with}, {n}, {k1}, {b})"
        idf = math.log(1 + (n - n_with + 0.5) / (n_with + 0.5))
        norm = k1 * (1 - b + b * length / mean)
        wanted = idf * count * (k1 + 1) / (count + norm)
        reasons = {
            idf * count: "a word that stands there twice does not count twice as much",
            idf * count * (k1 + 1) / (count + k1): "the length of the document is missing: b does nothing",
            idf
            * count
            * (k1 + 1)
            / (count + k1 * (1 - b + b * mean / length)): "length over mean, not mean over length",
            math.log(n / n_with) * count * (k1 + 1) / (count + norm): "this is another inverse document frequency",
            idf / math.log(2) * count * (k1 + 1) / (count + norm): "the logarithm is the natural one",
            idf * count / (count + norm): "the factor k1 + 1 is missing",
        }
        reasons = {value: reason for value, reason in reasons.items() if abs(value - wanted) > 1e-6}
        _close(answer(count, length, mean, n_with, n, k1, b), wanted, call, reasons)


@exercises.add("ex-qa-fusion")
def _fusion(answer):
    cases = (
        ([["a", "b", "c"], ["b", "c", "a"]], 60),
        ([["a", "b", "c", "d"], ["d"]], 60),
        ([["a", "b"], ["c", "d"], ["d", "b"]], 1),
        ([["x"], []], 5),
        ([["a", "b", "c", "d", "e"], ["e", "d", "c", "b"]], 0),
    )
    for rankings, constant in cases:
        call = f"fused({rankings}, {constant})"
        scores: dict[str, float] = {}
        for ranking in rankings:
            for rank, name in enumerate(ranking, 1):
                scores[name] = scores.get(name, 0) + 1 / (constant + rank)
        got = list(answer([list(one) for one in rankings], constant))
        expect(len(got) == len(set(got)), f"{call} has a name twice: {got}")
        missing = set(scores) - set(got)
        expect(not missing, f"{call} leaves out {sorted(missing)}: what stands in one ranking alone counts, too")
        expect(set(got) == set(scores), f"{call} gave {got}: names that no ranking has")
        for before, after in zip(got, got[1:], strict=False):
            expect(
                scores[before] > scores[after] - 1e-12,
                f"{call} puts {before!r} ({scores[before]:.4f}) before {after!r} ({scores[after]:.4f})",
            )


@exercises.add("ex-qa-silence")
def _silence(answer):
    for scores, right, threshold in (
        ([0.9, 0.8, 0.3, 0.2], [True, False, True, False], 0.5),
        ([0.9, 0.5, 0.5, 0.2], [True, True, False, False], 0.5),
        ([0.1, 0.2], [True, False], 0.5),
        ([0.7, 0.6, 0.9], [True, True, True], 0.1),
    ):
        call = f"coverage_and_risk({scores}, {right}, {threshold})"
        got = answer(list(scores), list(right), threshold)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} should give two numbers: coverage and risk")
        coverage, risk = map(float, got)
        said = [ok for score, ok in zip(scores, right, strict=True) if score >= threshold]
        wrong = sum(not ok for ok in said)
        reasons = {sum(score > threshold for score in scores) / len(scores): "a score at the threshold is answered"}
        reasons.pop(len(said) / len(scores), None)
        _close(coverage, len(said) / len(scores), f"the coverage of {call}", reasons)
        wanted = wrong / len(said) if said else 0.0
        reasons = {
            wrong / len(scores): "divide by the questions that are answered, not by all",
            1 - wanted: "this is the share of right answers",
        }
        reasons = {value: reason for value, reason in reasons.items() if said and abs(value - wanted) > 1e-6}
        expect(not math.isnan(risk), f"{call} gave a risk of nan: whoever says nothing says nothing wrong")
        _close(risk, wanted, f"the risk of {call}", reasons)
