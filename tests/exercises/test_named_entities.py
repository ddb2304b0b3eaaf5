"""Exercises on named entities: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import itertools
from collections import Counter

from plm_tutorial.entities import bio_tags, from_bio, illegal_places

# --- right answers: as in the chapter, and other ways to be right


def spans(tags):
    found, start, kind = [], 0, None
    for i, tag in enumerate([*tags, "O"]):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            found.append((start, i, kind))
            kind = None
        if tag != "O" and not goes_on:
            start, kind = i, tag[2:]
    return found


def label_pieces(words, tags):
    return [
        tags[word] if word is not None and (i == 0 or words[i - 1] != word) else None for i, word in enumerate(words)
    ]


def count_legal(n, kinds):
    outside, inside = 1, 0
    for _ in range(n):
        outside, inside = outside + inside, kinds * (outside + inside) + inside
    return outside + inside


def mistakes(true, found):
    def meet(a, b):
        return a[0] < b[1] and b[0] < a[1]

    counts = Counter(missed=sum(not any(meet(one, other) for other in found) for one in true))
    for one in found:
        near = [other for other in true if meet(one, other)]
        same = [other for other in near if other[:2] == one[:2]]
        name = "right" if one in near else "kind" if same else "boundary" if near else "invented"
        counts[name] += 1
    return counts


def update(weights, features, true, predicted):
    for seen, y, z in zip(features, true, predicted, strict=True):
        for one in seen:
            weights[one, y] += 1
            weights[one, z] -= 1


def update_where_wrong(weights, features, true, predicted):
    for t in range(len(true)):
        if true[t] != predicted[t]:
            update(weights, features[t : t + 1], true[t : t + 1], predicted[t : t + 1])


RIGHT = [
    ("ex-entities-spans", spans),
    ("ex-entities-spans", from_bio),
    ("ex-entities-pieces", label_pieces),
    ("ex-entities-count", count_legal),
    ("ex-entities-mistakes", mistakes),
    ("ex-entities-mistakes", lambda true, found: {k: v for k, v in mistakes(true, found).items() if v}),
    ("ex-entities-perceptron", update),
    ("ex-entities-perceptron", update_where_wrong),
]

# --- plausible mistakes


def spans_without_end(tags):
    return [one for one in spans(tags) if one[1] < len(tags)]


def spans_joined(tags):
    return spans([f"I-{tag[2:]}" if tag != "O" else tag for tag in tags])


def spans_strict(tags):
    return [one for one in spans(tags) if tags[one[0]].startswith("B-")]


def spans_any_kind(tags):
    found, start, kind = [], 0, None
    for i, tag in enumerate([*tags, "O"]):
        if kind and not tag.startswith("I-"):
            found.append((start, i, kind))
            kind = None
        if tag != "O" and kind is None:
            start, kind = i, tag[2:]
    return found


def touching(true, found):
    return mistakes([(a - 1, b + 1, k) for a, b, k in true], found) | Counter(right=mistakes(true, found)["right"])


def by_trying(n, kinds):
    paths = itertools.product(bio_tags([str(k) for k in range(kinds)]), repeat=n)
    return sum(not illegal_places(path) for path in paths)


def reverse(weights, features, true, predicted):
    update(weights, features, predicted, true)


def only_reward(weights, features, true, predicted):
    for seen, y, z in zip(features, true, predicted, strict=True):
        for one in seen:
            weights[one, y] += y != z


def always(weights, features, true, predicted):
    for seen, y in zip(features, true, strict=True):
        for one in seen:
            weights[one, y] += 1


WRONG = [
    ("ex-entities-spans", spans_without_end, "expected [(0, 2, 'PER'), (3, 4, 'LOC')]"),
    ("ex-entities-spans", spans_joined, "a B- begins a new entity"),
    ("ex-entities-spans", spans_strict, "an I- that continues nothing"),
    ("ex-entities-spans", spans_any_kind, "an I- of another kind"),
    ("ex-entities-spans", lambda tags: [(a, b - 1, k) for a, b, k in spans(tags)], "expected"),
    ("ex-entities-pieces", lambda w, t: [None if x is None else t[x] for x in w], "only the first piece"),
    ("ex-entities-pieces", lambda w, t: list(t), "gave 3 labels for 6 pieces"),
    ("ex-entities-pieces", lambda w, t: ["O" if x is None else t[x] for x in w], "has no label"),
    ("ex-entities-pieces", lambda w, t: label_pieces(w[::-1], t)[::-1], "expected"),
    ("ex-entities-count", lambda n, k: (2 * k + 1) ** n, "that is all sequences"),
    ("ex-entities-count", lambda n, k: (k + 1) ** n, "expected 5"),
    ("ex-entities-count", by_trying, "n = 60 would never end"),
    ("ex-entities-mistakes", lambda t, f: {"right": len(set(t) & set(f))}, "expected"),
    ("ex-entities-mistakes", touching, "gave"),
    ("ex-entities-mistakes", lambda t, f: mistakes(t, f) | {"wrong": 1}, "the kinds are"),
    ("ex-entities-mistakes", lambda t, f: mistakes(t, [(a, b, "PER") for a, b, _ in f]), "expected"),
    ("ex-entities-perceptron", reverse, "pushes the wrong way"),
    ("ex-entities-perceptron", only_reward, "left"),
    ("ex-entities-perceptron", always, "there was no mistake"),
    ("ex-entities-perceptron", lambda *_: 1, "left"),
]
