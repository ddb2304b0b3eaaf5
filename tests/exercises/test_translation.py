"""Exercises on translation: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math
from collections import Counter

import torch

# --- right answers: as in the chapter, and other ways to be right


def brevity_penalty(output, reference):
    return min(1.0, math.exp(1 - reference / output))


def clipped_precision(output, reference, n):
    got, want = grams(output, n), grams(reference, n)
    return sum((got & want).values()) / max(1, sum(got.values()))


def clipped_by_loop(output, reference, n):
    left, right, total = grams(reference, n), 0, 0
    for gram in grams(output, n).elements():
        total += 1
        if left[gram]:
            left[gram] -= 1
            right += 1
    return right / total if total else 0


def decoder_input(labels, begin, pad):
    shifted = torch.full_like(labels, begin)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == -100, pad)


def decoder_input_by_roll(labels, begin, pad):
    rolled = torch.roll(labels, 1, dims=1)
    rolled[:, 0] = begin
    return torch.where(rolled < 0, pad, rolled)


def best(hypotheses, penalty):
    return max(range(len(hypotheses)), key=lambda i: sum(hypotheses[i]) / len(hypotheses[i]) ** penalty)


def fair(train, held_out):
    seen = [set(column) for column in zip(*train, strict=True)]
    known = all(part in seen[i] for one in held_out for i, part in enumerate(one))
    return known and not set(train) & set(held_out)


def grams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


RIGHT = [
    ("ex-translation-brevity", brevity_penalty),
    ("ex-translation-brevity", lambda c, r: 1 if c > r else math.exp(1 - r / c)),
    ("ex-translation-clip", clipped_precision),
    ("ex-translation-clip", clipped_by_loop),
    ("ex-translation-shift", decoder_input),
    ("ex-translation-shift", decoder_input_by_roll),
    ("ex-translation-length", best),
    ("ex-translation-holdout", fair),
]

# --- plausible mistakes


def in_place(labels, begin, pad):
    labels[:, 1:] = labels[:, :-1].clone()
    labels[:, 0] = begin
    return labels.masked_fill_(labels < 0, pad)


def first_worst(hypotheses, penalty):
    return min(range(len(hypotheses)), key=lambda i: sum(hypotheses[i]) / len(hypotheses[i]) ** penalty)


def times(hypotheses, penalty):
    return max(range(len(hypotheses)), key=lambda i: sum(hypotheses[i]) * len(hypotheses[i]) ** penalty)


def any_place(train, held_out):
    seen = {part for one in train for part in one}
    return all(part in seen for one in held_out for part in one) and not set(train) & set(held_out)


def with_known(train, held_out):
    seen = [set(column) for column in zip(*train, strict=True)]
    return all(part in seen[i] for one in held_out for i, part in enumerate(one))


def set_precision(output, reference, n):
    got, want = set(grams(output, n)), set(grams(reference, n))
    return len(got & want) / max(1, len(got))


def unclipped(output, reference, n):
    got, want = grams(output, n), grams(reference, n)
    return sum(c for g, c in got.items() if g in want) / max(1, sum(got.values()))


WRONG = [
    ("ex-translation-brevity", lambda c, r: c / r, "the ratio of the lengths"),
    ("ex-translation-brevity", lambda c, r: math.exp(1 - r / c), "no reward"),
    ("ex-translation-brevity", lambda c, r: math.exp(1 - c / r), "upside down"),
    ("ex-translation-brevity", lambda c, r: 1.0, "expected 0.7165"),
    ("ex-translation-clip", unclipped, "at most as often"),
    ("ex-translation-clip", set_precision, "not once"),
    ("ex-translation-clip", lambda o, r, n: clipped_precision(r, o, n), "recall"),
    ("ex-translation-clip", lambda o, r, n: clipped_precision(o, r, 1), "expected"),
    ("ex-translation-shift", lambda x, b, p: x.masked_fill(x < 0, p), "begins with the begin token"),
    ("ex-translation-shift", lambda x, b, p: torch.cat([torch.full_like(x[:, :1], b), x], 1), "gave shape"),
    (
        "ex-translation-shift",
        lambda x, b, p: torch.cat([torch.full_like(x[:, :1], b), x[:, :-1]], 1),
        "-100 is no token",
    ),
    (
        "ex-translation-shift",
        lambda x, b, p: torch.cat([torch.full_like(x[:, :1], b), x[:, 1:].clamp(min=p)], 1),
        "expected",
    ),
    ("ex-translation-shift", in_place, "changed the labels"),
    ("ex-translation-length", first_worst, "nearest to 0"),
    ("ex-translation-length", times, "not multiplied"),
    ("ex-translation-length", lambda h, a: best(h, 0), "without the length"),
    ("ex-translation-length", lambda h, a: best(h, 1), "whatever the penalty"),
    ("ex-translation-length", lambda h, a: sum(h[0]), "expected"),
    ("ex-translation-holdout", any_place, "in the other place"),
    ("ex-translation-holdout", with_known, "expected False"),
    ("ex-translation-holdout", lambda t, h: not set(t) & set(h), "expected False"),
    ("ex-translation-holdout", lambda t, h: [], "expected True or False"),
]
