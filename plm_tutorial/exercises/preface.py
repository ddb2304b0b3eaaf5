"""Checks of the exercises of the preface.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import numpy as np

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-nearest")
def _nearest(answer):
    vectors = np.array([[1.0, 0.1], [30.0, 40.0], [-5.0, 0.0]])
    got = answer(np.array([2.0, 0.0]), vectors)
    call = "nearest([2, 0], [[1, 0.1], [30, 40], [-5, 0]])"
    expect(np.ndim(got) == 0, f"{call} gave {got!r}; expected one number, that of a row")
    expect(int(got) == got, f"{call} gave {got!r}; expected the index of a row, counted from 0")
    if got == 1:
        raise Wrong(f"{call} gave 1: that row is only the longest. Divide by its length")
    if got == 2:
        raise Wrong(f"{call} gave 2: that row points the opposite way; cosine -1 is the least similar, not the most")
    expect_equal(int(got), 0, call)
    # Rows at growing angles to the query and of growing closeness in space.
    vectors = np.array([[100.0, 10.0], [3.0, 3.0], [0.0, 1.0]])
    call = "nearest([1, 0], [[100, 10], [3, 3], [0, 1]])"
    got = int(answer(np.array([1.0, 0.0]), vectors))
    expect(got == 0, f"{call} gave {got}, expected 0: its direction is nearest, although it is far away")
    rng = np.random.default_rng(0)
    for size in (4, 50):
        query = rng.normal(size=size)
        vectors = rng.normal(size=(30, size)) * rng.uniform(0.1, 10, size=(30, 1))
        wanted = int(np.argmax(vectors @ query / np.linalg.norm(vectors, axis=1)))
        expect_equal(int(answer(query, vectors)), wanted, f"nearest of a random query among 30 rows, D = {size},")


@exercises.add("ex-chat")
def _chat(answer):
    hello, reply = ("user", "Hello"), ("assistant", "Hi! How can I help?")
    opened = "<|im_start|>assistant\n"
    for turns in ([hello], [hello, reply, ("user", "Who wrote Hamlet?")], [("system", "Be brief."), hello]):
        got, call = answer(list(turns)), f"layout({turns})"
        wanted = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + opened
        expect(isinstance(got, str), f"{call} gave a {type(got).__name__}, expected a str")
        expect(got != wanted.removesuffix(opened), f"{call}: the assistant's next turn is not begun")
        expect(got != wanted + "<|im_end|>\n", f"{call}: the last turn is closed, so nothing is left to write in it")
        expect(
            got.replace("\n", "") != wanted.replace("\n", "") or got == wanted,
            f"{call} gave {got!r}: right but for the line breaks; there is one after each role and each <|im_end|>",
        )
        expect_equal(got, wanted, call)


@exercises.add("ex-right")
def _right(answer):
    cases = [
        ("The capital is Rome.", ["Rome"], True),
        ("Romeo lived in Verona.", ["Rome"], False),
        ("7 * 8 = 120", ["12"], False),
        ("It is 12.", ["12"], True),
        ("it is ROME", ["Rome"], True),
        ("Kiev.", ["Kyiv", "Kiev"], True),
        ("It lies in New South Wales, not in Delhi.", ["New Delhi"], False),
        ("new delhi, of course", ["New Delhi"], True),
        ("I do not know.", ["Oslo", "Rome"], False),
        ("about 3x5 in size", ["3.5"], False),
    ]
    for reply, accepted, wanted in cases:
        got, call = answer(reply, list(accepted)), f"is_right({reply!r}, {accepted})"
        expect(got is not None, f"{call} gave None; return True or False")
        expect_equal(bool(got), wanted, call)
