"""Checks of the exercises on language models.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import math
from fractions import Fraction

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-by-hand")
def _by_hand(answer):
    expect(isinstance(answer, list | tuple) and len(answer) == 3, "expected a tuple of three numbers")
    new, seen, perplexity = answer
    expect(new == 0, f"P(no plot good fun) = {new}: 'plot' never follows 'no', and nothing is smoothed here")
    if math.isclose(seen, 1 / 3, rel_tol=1e-3):
        raise Wrong("P(good fun) = 1/3 is the share of such reviews; a bigram model multiplies three factors")
    expect(math.isclose(seen, 4 / 9, rel_tol=2e-2), f"P(good fun) = {seen}: the factors are 2/3, 2/3 and 1")
    if math.isclose(perplexity, (4 / 9) ** -0.5, rel_tol=1e-3):
        raise Wrong(f"the perplexity {perplexity:.3f} is per word; the border at the end is predicted too, so 3 tokens")
    if math.isclose(perplexity, 9 / 4, rel_tol=1e-3):
        raise Wrong("9/4 is the perplexity of the review as a whole; take the geometric mean over its tokens")
    wanted = (4 / 9) ** (-1 / 3)
    expect(
        math.isclose(perplexity, wanted, rel_tol=2e-3),
        f"the perplexity {perplexity}: expected (4/9) to the power -1/3, {wanted:.3f}",
    )


@exercises.add("ex-convert")
def _convert(answer):
    for perplexity, units, n_bytes in ((2, 100, 100), (60, 700, 3900), (16, 1000, 3900), (1, 5, 20)):
        got, wanted = answer(perplexity, units, n_bytes), math.log2(perplexity) * units / n_bytes
        call = f"to_bits_per_byte({perplexity}, {units}, {n_bytes})"
        if perplexity > 1 and math.isclose(got, wanted * math.log(2), rel_tol=1e-6):
            raise Wrong(f"{call} gave {got:.4f}: these are nats; for bits take the logarithm to base 2")
        if units != n_bytes and math.isclose(got, math.log2(perplexity), rel_tol=1e-6) and perplexity > 1:
            raise Wrong(f"{call} gave {got:.4f}: these are bits a unit; spread all units over the bytes")
        expect(math.isclose(got, wanted, rel_tol=1e-6, abs_tol=1e-12), f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-unseen-mass")
def _unseen_mass(answer):
    for total, distinct, vocabulary, k in ((100, 20, 4096, 1), (100, 20, 4096, 0.01), (5, 1, 10, 1), (3, 3, 3, 1)):
        got, wanted = answer(total, distinct, vocabulary, k), k * (vocabulary - distinct) / (total + k * vocabulary)
        call = f"unseen_mass({total}, {distinct}, {vocabulary}, {k})"
        if math.isclose(got, k / (total + k * vocabulary), rel_tol=1e-9) and vocabulary - distinct != 1:
            raise Wrong(f"{call} gave {got:.4f}: that is one unseen token; all of them together are asked for")
        if math.isclose(got, k * vocabulary / (total + k * vocabulary), rel_tol=1e-9) and distinct:
            raise Wrong(
                f"{call} gave {got:.4f}: the {distinct} tokens that were seen get their k too, but are not unseen"
            )
        expect(math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-12), f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-continuation")
def _continuation(answer):
    cases = [
        ([["a", "b", "a", "b"]], {"a": 2 / 3, "b": 1 / 3}),
        ([["hong", "kong"], ["hong", "kong"], ["a", "b"], ["b"]], None),
        ([["at", "least"]] * 50 + [["x"], ["y", "x"]], None),
    ]
    for documents, wanted in cases:
        got = answer([list(words) for words in documents])
        call = f"continuation({documents if len(documents) < 5 else [*documents[-3:]]})"
        expect(isinstance(got, dict), f"{call} gave {got!r}; expected a dictionary from word to share")
        pairs = {(v, w) for words in documents for v, w in zip([None, *words], words, strict=False)}
        words = [w for _, w in pairs]
        wanted = wanted or {w: words.count(w) / len(words) for w in words}
        missing = sorted(wanted.keys() - got.keys())
        expect(not missing, f"{call} lacks {missing[:1]}: the border before a document comes before its first word")
        total = sum(got.values())
        expect(math.isclose(total, 1, rel_tol=1e-9), f"the shares of {call} add up to {total:.3f}, not to 1")
        for w, share in wanted.items():
            expect(
                math.isclose(got[w], share, rel_tol=1e-9),
                f"{call}[{w!r}] is {got[w]:.4f}, expected {share:.4f}: count different words before it, each once; "
                "the border counts before a document, and is no word itself",
            )


@exercises.add("ex-interval")
def _interval(answer):
    half, quarter = Fraction(1, 2), Fraction(1, 4)
    fixed = {"a": half, "b": quarter, "c": quarter}
    after_a = {"a": Fraction(1, 10), "b": Fraction(9, 10)}

    def probs(before):
        return after_a if before and before[-1] == "a" else fixed

    cases = [
        ((lambda before: fixed), [], (Fraction(0), Fraction(1))),
        ((lambda before: fixed), ["a"], (Fraction(0), half)),
        ((lambda before: fixed), ["c"], (3 * quarter, quarter)),
        ((lambda before: fixed), ["b", "c"], (half + quarter * 3 * quarter, quarter * quarter)),
        (probs, ["a", "b"], (half * Fraction(1, 10), half * Fraction(9, 10))),
        (probs, ["b", "a", "b"], (half + quarter * half * Fraction(1, 10), quarter * half * Fraction(9, 10))),
    ]
    for model, tokens, (low, width) in cases:
        kind = "0.5, 0.25, 0.25 for a, b, c" + (" but 0.1, 0.9 for a, b after a" if model is probs else "")
        got, call = answer(list(tokens), model), f"interval({tokens}) with {kind}"
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} gave {got!r}; expected lower end and width")
        if width != 1 and math.isclose(got[1], low + width, rel_tol=1e-12) and not math.isclose(low + width, width):
            raise Wrong(f"{call}: the second number {float(got[1]):.4f} is the upper end; the width is asked for")
        expect(
            math.isclose(got[1], width, rel_tol=1e-12),
            f"{call} has the width {float(got[1]):.4f}, expected {float(width):.4f}: the probability of the text",
        )
        expect(
            math.isclose(got[0], low, rel_tol=1e-12, abs_tol=1e-15),
            f"{call} begins at {float(got[0]):.4f}, expected {float(low):.4f}",
        )


@exercises.add("ex-blind")
def _blind(answer):
    for n in (2, 3, 5, 20, 50):
        got = answer(n)
        call = f"blind_spot({n})"
        expect(
            isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(h, list | tuple) for h in got),
            f"{call} gave {str(got)[:80]}; expected two lists of words",
        )
        one, two = (list(history) for history in got)
        expect(one != two, f"the two histories of {call} are the same; nobody would expect different words")
        expect(min(len(one), len(two)) >= n - 1, f"{call}: a history of {min(len(one), len(two))} words is seen whole")
        differ = next((i for i, (a, b) in enumerate(zip(one[::-1], two[::-1], strict=False), 1) if a != b), n)
        expect(
            one[len(one) - n + 1 :] == two[len(two) - n + 1 :],
            f"{call}: the histories differ {differ} words before the end, and a model of order {n} sees {n - 1} back",
        )


@exercises.add("ex-cache")
def _cache(answer):
    cases = [
        ([0.5, 0.1, 0.2, 0.4], [7, 8, 7, 7], 0.5, 10, [0.5, 0.05, 0.1 + 0.25, 0.2 + 1 / 3]),
        ([0.5, 0.1, 0.2, 0.4], [7, 8, 7, 7], 0.5, 1, [0.5, 0.05, 0.1, 0.7]),
        ([0.3, 0.2], [1, 1], 0.0, 5, [0.3, 0.2]),
        ([0.3, 0.2, 0.6], [1, 2, 3], 0.25, 5, [0.3, 0.15, 0.45]),
    ]
    for p, history, share, window, wanted in cases:
        got = [float(x) for x in answer(list(p), list(history), share, window)]
        call = f"with_cache({p}, {history}, {share}, {window})"
        expect_equal(len(got), len(p), f"len({call})")
        if not math.isclose(got[0], wanted[0], rel_tol=1e-9):
            raise Wrong(f"{call} begins with {got[0]:.4f}: the first token has no past, so its {p[0]} stays")
        for i, (x, y) in enumerate(zip(got, wanted, strict=True)):
            expect(
                math.isclose(x, y, rel_tol=1e-9),
                f"{call} gives {x:.4f} at place {i}, expected {y:.4f}; its past is "
                f"{history[max(0, i - window) : i]}, and the token itself does not belong to it; "
                "divide by the length of the past",
            )
