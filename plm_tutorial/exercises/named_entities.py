"""Checks of the exercises on named entities.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict

from plm_tutorial.entities import bio_tags, from_bio, illegal_places
from plm_tutorial.exercises import Exercises, expect, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-entities-spans")
def _spans(answer):
    draw = random.Random(0)
    cases = [
        ["B-PER", "I-PER", "O", "B-LOC"],
        ["B-PER", "B-PER", "I-PER"],
        ["O", "B-LOC", "I-LOC"],
        ["I-PER", "I-PER", "O"],
        ["B-PER", "I-LOC", "I-LOC"],
        [],
        *(draw.choices(bio_tags(), k=8) for _ in range(60)),
    ]
    hints = {
        1: "a B- begins a new entity, even right behind another one of its kind",
        2: "an entity may reach to the end of the text",
        3: "an I- that continues nothing begins an entity, as the scorers read it",
        4: "an I- of another kind ends the entity before it and begins one",
    }
    for i, tags in enumerate(cases):
        got = [tuple(one) for one in answer(list(tags))]
        wanted = [tuple(one) for one in from_bio(tags)]
        if i in hints:
            expect(got == wanted, f"spans({tags}) gave {got}: {hints[i]}")
        expect_equal(got, wanted, f"spans({tags})")


def _first_pieces(words, tags):
    seen, found = None, []
    for word in words:
        found.append(tags[word] if word is not None and word != seen else None)
        seen = word
    return found


@exercises.add("ex-entities-pieces")
def _pieces(answer):
    cases = [
        ([None, 0, 1, 1, 2, None], ["O", "B-PER", "O"]),
        ([None, 0, 0, 0, 1, None], ["B-PER", "I-PER"]),
        ([0, 1, 2], ["B-LOC", "B-LOC", "O"]),
        ([None, None], []),
    ]
    for words, tags in cases:
        call = f"label_pieces({words}, {tags})"
        got, wanted = answer(list(words), list(tags)), _first_pieces(words, tags)
        expect(len(got) == len(words), f"{call} gave {len(got)} labels for {len(words)} pieces")
        spread = [tags[word] if word is not None else None for word in words]
        expect(
            list(got) != spread or spread == wanted,
            f"{call} gave {got}: only the first piece of each word has a label, the others None",
        )
        expect(
            all(label is None for label, word in zip(got, words, strict=True) if word is None),
            f"{call} gave {got}: a piece of no word, such as [CLS], has no label",
        )
        expect_equal(list(got), wanted, call)


@exercises.add("ex-entities-count")
def _count(answer):
    for n, kinds in ((0, 1), (1, 1), (1, 3), (2, 1), (2, 3), (3, 2), (4, 1), (5, 1), (3, 3)):
        tags = bio_tags([str(k) for k in range(kinds)])
        wanted = sum(not illegal_places(path) for path in itertools.product(tags, repeat=n))
        got = answer(n, kinds)
        expect(got != len(tags) ** n or got == wanted, f"count_legal({n}, {kinds}) gave {got}: that is all sequences")
        expect_equal(got, wanted, f"count_legal({n}, {kinds})")
    seconds = []
    for n in (5, 6, 7):
        begun = time.perf_counter()
        answer(n, 3)
        seconds.append(time.perf_counter() - begun)
        expect(
            seconds[-1] < 0.1 or seconds[-1] < 3 * seconds[0],
            f"count_legal({n}, 3) is right, but each further place takes several times as long, and n = 60 would never "
            "end: do not go through the sequences, keep how many end outside and how many inside a name",
        )
    big = answer(60, 3)
    legal = [1, 0]
    for _ in range(60):
        legal = [sum(legal), 3 * sum(legal) + legal[1]]
    expect_equal(big, sum(legal), "count_legal(60, 3)")


def _sorted(true, found):
    counts = Counter()
    for one in found:
        others = [other for other in true if one[0] < other[1] and other[0] < one[1]]
        if one in true:
            counts["right"] += 1
        elif any(other[:2] == one[:2] for other in others):
            counts["kind"] += 1
        elif others:
            counts["boundary"] += 1
        else:
            counts["invented"] += 1
    counts["missed"] = sum(not any(one[0] < f[1] and f[0] < one[1] for f in found) for one in true)
    return {name: counts[name] for name in ("right", "kind", "boundary", "invented", "missed")}


@exercises.add("ex-entities-mistakes")
def _mistakes(answer):
    draw = random.Random(0)
    cases = [
        ([(0, 3, "PER")], [(0, 3, "PER")]),
        ([(0, 3, "PER")], [(0, 3, "LOC")]),
        ([(0, 3, "PER")], [(0, 2, "PER")]),
        ([(0, 3, "PER")], [(4, 5, "PER")]),
        ([(0, 3, "PER")], [(3, 5, "PER")]),
        ([(0, 3, "PER")], [(1, 5, "LOC")]),
        ([(0, 4, "ORG")], [(0, 2, "LOC"), (2, 4, "ORG")]),
        ([], []),
    ]
    for _ in range(40):
        pair = []
        for _ in range(2):
            edges = sorted(draw.sample(range(12), 6))
            pair.append([(a, b, draw.choice("PL")) for a, b in zip(edges[::2], edges[1::2], strict=True)])
        cases.append(tuple(pair))
    for true, found in cases:
        call, wanted = f"mistakes({true}, {found})", _sorted(true, found)
        got = dict(answer([*true], [*found]))
        expect(set(got) <= set(wanted), f"{call} has {sorted(set(got) - set(wanted))}; the kinds are {list(wanted)}")
        got = {name: got.get(name, 0) for name in wanted}
        touching = any(a[1] == b[0] or b[1] == a[0] for a in true for b in found)
        hint = "; spans that only touch share no character" if touching else ""
        expect(got == wanted, f"{call} gave {got}, expected {wanted}{hint}")


@exercises.add("ex-entities-perceptron")
def _perceptron(answer):
    cases = [
        ([["a", "b"], ["b"]], ["O", "B"], ["O", "B"]),
        ([["a", "b"], ["b"]], ["O", "B"], ["B", "B"]),
        ([["a"], ["a"], ["a", "c"]], ["B", "I", "O"], ["O", "O", "O"]),
        ([["a"], ["a"]], ["B", "O"], ["O", "B"]),
    ]
    for features, true, predicted in cases:
        start = {("a", "O"): 1.0, ("b", "B"): -2.0}
        weights = defaultdict(float, start)
        answer(weights, features, list(true), list(predicted))
        wanted = defaultdict(float, start)
        for seen, y, z in zip(features, true, predicted, strict=True):
            for one in seen:
                wanted[one, y] += 1
                wanted[one, z] -= 1
        got, wanted = ({key: value for key, value in one.items() if value} for one in (weights, wanted))
        call = f"update(weights, {features}, {true}, {predicted})"
        expect(true != predicted or got == start, f"{call} changed the weights, and there was no mistake")
        reversed_ = {key: 2 * start.get(key, 0) - wanted.get(key, 0) for key in {*start, *wanted}}
        expect(
            got == wanted or got != {key: value for key, value in reversed_.items() if value},
            f"{call} pushes the wrong way: what is on the true path gains",
        )
        expect(got == wanted, f"{call} left {got}, expected {wanted}")
