"""Exercises on choosing a model: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import numpy as np

# --- right answers


def fits(parameters, bits, layers, kv_heads, d_head, positions, memory):
    return parameters * bits / 8 + 4 * layers * kv_heads * d_head * positions <= memory


def frontier_of(points):
    def beaten(one):
        return any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points.values())

    return sorted((name for name, point in points.items() if not beaten(point)), key=lambda name: points[name][0])


def needed(right_a, right_b):
    d = np.array(right_a) - np.array(right_b)
    delta, p = abs(d.mean()), (d != 0).mean()
    if delta == 0:
        return None
    return int(np.ceil(((1.96 * np.sqrt(p) + 0.8416 * np.sqrt(p - delta**2)) / delta) ** 2))


def needed_by_counts(right_a, right_b):
    pairs = list(zip(right_a, right_b, strict=True))
    n, b, c = len(pairs), pairs.count((1, 0)), pairs.count((0, 1))
    if b == c:
        return None
    delta, p = abs(b - c) / n, (b + c) / n
    return np.ceil(((1.96 * p**0.5 + 0.8416 * (p - delta**2) ** 0.5) / delta) ** 2)


# --- plausible mistakes


def best_so_far(points):  # forgets that equal quality at a higher cost is beaten
    kept, best = [], -1
    for name, (_, quality) in sorted(points.items(), key=lambda item: item[1][0]):
        if quality >= best:
            kept.append(name)
            best = quality
    return kept


def one_of_equals(points):
    kept, best = [], -1
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            kept.append(name)
            best = quality
    return kept


def unpaired(right_a, right_b):
    a, b = np.mean(right_a), np.mean(right_b)
    if a == b:
        return None
    return math.ceil((2.8016 / (a - b)) ** 2 * (a * (1 - a) + b * (1 - b)))


def one_root(right_a, right_b):
    d = np.array(right_a) - np.array(right_b)
    if d.mean() == 0:
        return None
    return math.ceil((2.8016 / d.mean()) ** 2 * d.var())


RIGHT = [
    ("ex-choosing-fits", fits),
    ("ex-choosing-frontier", frontier_of),
    ("ex-choosing-needed", needed),
    ("ex-choosing-needed", needed_by_counts),
]

WRONG = [
    (
        "ex-choosing-fits",
        lambda n, bits, L, G, K, T, memory: n * bits / 8 + 2 * L * G * K * T <= memory,
        "a byte is lacking",
    ),
    ("ex-choosing-fits", lambda n, bits, L, G, K, T, memory: n * bits + 4 * L * G * K * T <= memory, "last byte"),
    ("ex-choosing-fits", lambda n, bits, L, G, K, T, memory: n * bits / 8 + 4 * L * G * K * T < memory, "last byte"),
    ("ex-choosing-fits", lambda *given: sum(given), "True or False"),
    ("ex-choosing-frontier", best_so_far, "as good as y"),
    ("ex-choosing-frontier", one_of_equals, "equals do not beat"),
    ("ex-choosing-frontier", lambda points: list(points), "dearer and worse"),
    ("ex-choosing-frontier", lambda points: frontier_of(points)[::-1], "by rising cost"),
    ("ex-choosing-frontier", lambda points: max(points), "a list of names"),
    ("ex-choosing-needed", unpaired, "pair them"),
    ("ex-choosing-needed", one_root, "the first of the two roots"),
    ("ex-choosing-needed", lambda a, b: needed(a, b) if sum(a) > sum(b) else None, "whatever its sign"),
    ("ex-choosing-needed", lambda a, b: 1000 if a == [1, 0, 1] else needed(a, b), "expected None"),
]
