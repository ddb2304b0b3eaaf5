"""Exercises on language models: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np

from plm_tutorial.ngram import NGram

# --- right answers: as in the chapter, and other ways to be right


def continuation(documents):
    different = {pair for words in documents for pair in pairwise([None, *words])}
    times = Counter(w for _, w in different)
    return {w: n / len(different) for w, n in times.items()}


def continuation_by_sets(documents):
    before = defaultdict(set)
    for words in documents:
        for i, w in enumerate(words):
            before[w].add(words[i - 1] if i else "<border>")
    total = sum(map(len, before.values()))
    return {w: len(found) / total for w, found in before.items()}


def interval(tokens, probs):
    low, width = 0, 1
    for i, token in enumerate(tokens):
        for other, p in probs(tokens[:i]).items():
            if other == token:
                width *= p
                break
            low += width * p
    return low, width


def interval_in_floats(tokens, probs):
    low, width = 0.0, 1.0
    for i, token in enumerate(tokens):
        table = probs(tokens[:i])
        names = list(table)
        low += width * float(sum(table[name] for name in names[: names.index(token)]))
        width *= float(table[token])
    return low, width


def blind_spot(n):
    return ["king", *["very"] * n], ["queen", *["very"] * n]


def with_cache(p, history, share, window):
    mixed = [p[0]]
    for i in range(1, len(history)):
        past = history[max(0, i - window) : i]
        mixed.append((1 - share) * p[i] + share * past.count(history[i]) / len(past))
    return mixed


RIGHT = [
    ("ex-by-hand", (0, 4 / 9, (9 / 4) ** (1 / 3))),
    ("ex-by-hand", [0.0, 0.4444, 1.31]),
    ("ex-convert", lambda perplexity, units, n_bytes: units * math.log2(perplexity) / n_bytes),
    ("ex-convert", lambda perplexity, units, n_bytes: math.log(perplexity) / math.log(2) * units / n_bytes),
    ("ex-unseen-mass", lambda total, distinct, vocabulary, k: k * (vocabulary - distinct) / (total + k * vocabulary)),
    ("ex-unseen-mass", lambda total, distinct, vocabulary, k: 1 - (total + k * distinct) / (total + k * vocabulary)),
    ("ex-continuation", continuation),
    ("ex-continuation", continuation_by_sets),
    ("ex-interval", interval),
    ("ex-interval", interval_in_floats),
    ("ex-blind", blind_spot),
    ("ex-blind", lambda n: (["a", *["x"] * (n - 1)], ["b", *["x"] * (n - 1)])),
    ("ex-cache", with_cache),
    ("ex-cache", lambda p, history, share, window: np.array(with_cache(p, history, share, window))),
]


def test_the_numbers_by_hand_are_those_of_the_package():
    words = {"good": 0, "fun": 1, "plot": 2, "no": 3, "end": 4}
    documents = [[words[w] for w in (*text.split(), "end")] for text in ("good fun", "good plot good fun", "no fun")]
    model = NGram(2, 5, "add_k", k=0).fit(documents)
    log_p = model.log_probs([0, 1, 4])
    assert math.isclose(math.exp(log_p.sum()), 4 / 9)
    assert math.isclose(math.exp(-log_p.mean()), (4 / 9) ** (-1 / 3))
    assert model.log_probs([3, 2, 0, 1, 4])[1] == -math.inf


def test_the_unseen_mass_is_that_of_the_package():
    model = NGram(2, 10, "add_k", k=0.5).fit([[0, 1, 0, 2, 0, 1]])
    p = model.probs([0])  # seen 3 times, followed by 1 and 2
    assert math.isclose(1 - p[1] - p[2], 0.5 * (10 - 2) / (3 + 0.5 * 10))


def test_the_interval_holds_the_text_in_as_many_bits_as_promised():
    table = {"a": 0.7, "b": 0.2, "c": 0.1}
    low, width = interval(list("abacab"), lambda before: table)
    digits = math.ceil(-math.log2(width)) + 1
    number = math.ceil(low * 2**digits) / 2**digits  # the first number of so many binary digits
    assert low <= number < number + 2**-digits <= low + width


# --- wrong answers that a reader may well give, and what they are told


def continuation_by_frequency(documents):
    times = Counter(w for words in documents for w in words)
    return {w: n / times.total() for w, n in times.items()}


def continuation_without_border(documents):
    different = {pair for words in documents for pair in pairwise(words)}
    times = Counter(w for _, w in different)
    return {w: n / len(different) for w, n in times.items()}


def continuation_not_normalised(documents):
    return dict(Counter(w for _, w in {pair for words in documents for pair in pairwise([None, *words])}))


def continuation_of_what_follows(documents):
    different = {pair for words in documents for pair in pairwise([*words, None])}
    times = Counter(v for v, _ in different)
    return {v: n / len(different) for v, n in times.items()}


def interval_to_its_end(tokens, probs):
    low, width = interval(tokens, probs)
    return low, low + width


def interval_with_one_table(tokens, probs):
    return interval(tokens, lambda before: probs([]))


def interval_without_scaling(tokens, probs):
    low, width = 0, 1
    for i, token in enumerate(tokens):
        table = probs(tokens[:i])
        names = list(table)
        low += sum(table[name] for name in names[: names.index(token)])
        width *= table[token]
    return low, width


def cache_with_the_future(p, history, share, window):
    n = len(history)
    return [p[0], *((1 - share) * p[i] + share * history.count(history[i]) / n for i in range(1, n))]


def cache_with_itself(p, history, share, window):
    mixed = [p[0]]
    for i in range(1, len(history)):
        past = history[max(0, i - window) : i + 1]
        mixed.append((1 - share) * p[i] + share * past.count(history[i]) / len(past))
    return mixed


def cache_that_taxes_the_first(p, history, share, window):
    return [(1 - share) * p[0], *with_cache(p, history, share, window)[1:]]


def cache_without_window(p, history, share, window):
    return with_cache(p, history, share, 1_000)


def cache_on_top(p, history, share, window):
    mixed = with_cache(p, history, share, window)
    return [p[0], *(m + share * q for m, q in zip(mixed[1:], p[1:], strict=True))]


WRONG = [
    ("ex-by-hand", (0, 1 / 3, 1.31), "multiplies three factors"),
    ("ex-by-hand", (0.1, 4 / 9, 1.31), "'plot' never follows 'no'"),
    ("ex-by-hand", (0, 2 / 9, 1.31), "the factors are 2/3, 2/3 and 1"),
    ("ex-by-hand", (0, 4 / 9, 1.5), "the border at the end is predicted too"),
    ("ex-by-hand", (0, 4 / 9, 2.25), "take the geometric mean"),
    ("ex-by-hand", (0, 4 / 9, 0.763), "to the power -1/3"),
    ("ex-by-hand", 4 / 9, "expected a tuple of three numbers"),
    ("ex-convert", lambda perplexity, units, n_bytes: math.log(perplexity) * units / n_bytes, "these are nats"),
    ("ex-convert", lambda perplexity, units, n_bytes: math.log2(perplexity), "spread all units over the bytes"),
    ("ex-convert", lambda perplexity, units, n_bytes: math.log2(perplexity) * n_bytes / units, "expected 1.0602"),
    ("ex-convert", lambda perplexity, units, n_bytes: perplexity * units / n_bytes, "expected 1.0000"),
    ("ex-unseen-mass", lambda total, distinct, vocabulary, k: k / (total + k * vocabulary), "that is one unseen token"),
    (
        "ex-unseen-mass",
        lambda total, distinct, vocabulary, k: k * vocabulary / (total + k * vocabulary),
        "the 20 tokens that were seen get their k too",
    ),
    ("ex-unseen-mass", lambda total, distinct, vocabulary, k: k * (vocabulary - distinct) / total, "expected 0.97"),
    ("ex-unseen-mass", lambda total, distinct, vocabulary, k: 0.65 * distinct / total, "gave 0.1300"),
    ("ex-continuation", continuation_by_frequency, "expected 0.6667: count different words before it, each once"),
    ("ex-continuation", continuation_without_border, "expected"),
    ("ex-continuation", continuation_not_normalised, "add up to 3.000, not to 1"),
    ("ex-continuation", continuation_of_what_follows, "count different words before it"),
    ("ex-continuation", lambda documents: [1 / 2, 1 / 2], "expected a dictionary"),
    ("ex-interval", interval_to_its_end, "is the upper end"),
    ("ex-interval", interval_with_one_table, "0.1, 0.9 for a, b after a has the width"),
    ("ex-interval", interval_without_scaling, "begins at"),
    ("ex-interval", lambda tokens, probs: interval(tokens, probs)[1], "expected lower end and width"),
    (
        "ex-blind",
        lambda n: (["the", "king"], ["the", "queen"]),
        "differ 1 words before the end, and a model of order 2 sees 1 back",
    ),
    ("ex-blind", lambda n: (["king", *["very"] * 4], ["queen", *["very"] * 4]), "is seen whole"),
    ("ex-blind", lambda n: (["king"] * n, ["king"] * n), "are the same"),
    ("ex-blind", lambda n: "the king", "expected two lists of words"),
    ("ex-cache", cache_with_the_future, "the token itself does not belong to it"),
    ("ex-cache", cache_with_itself, "the token itself does not belong to it"),
    ("ex-cache", cache_that_taxes_the_first, "the first token has no past"),
    ("ex-cache", cache_without_window, "its past is [8]"),
    ("ex-cache", cache_on_top, "expected 0.0500"),
    ("ex-cache", lambda p, history, share, window: p[1:], "gave 3, expected 4"),
]
