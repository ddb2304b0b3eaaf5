"""Checks of the exercises on text generation and dialogue.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import codecs
import math

import numpy as np

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_close, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-generation-temperature")
def _temperature(answer):
    for now, wanted in ((3.0, 9.0), (9.0, 3.0), (2.0, 2.0), (100.0, 1.5)):
        reasons = {
            math.log(wanted) / math.log(now): "upside down: more certain needs a temperature below 1",
            now / wanted: "the ratio of probabilities is e to the difference of logits; that difference is divided",
            wanted / now: "the ratio of probabilities is e to the difference of logits; that difference is divided",
            math.log(now) - math.log(wanted): "the temperature divides; it does not shift",
        }
        right = math.log(now) / math.log(wanted)
        reasons = {value: reason for value, reason in reasons.items() if abs(value - right) > 1e-6}
        expect_close(answer(now, wanted), right, f"temperature_for({now}, {wanted})", reasons)


@exercises.add("ex-generation-nucleus")
def _nucleus(answer):
    cases = (
        ([0.5, 0.3, 0.15, 0.05], 0.6, [0, 1]),
        ([0.05, 0.5, 0.15, 0.3], 0.6, [1, 3]),
        ([0.9, 0.1], 0.5, [0]),
        ([0.25, 0.5, 0.25], 1.0, [0, 1, 2]),
        ([0.5, 0.3, 0.2], 0.5, [0]),
        ([0.4, 0.35, 0.25], 0.8, [0, 1, 2]),
    )
    for probs, p, kept in cases:
        call = f"nucleus(np.array({probs}), {p})"
        got = np.asarray(answer(np.array(probs), p), dtype=float)
        expect(got.shape == (len(probs),), f"{call} has the shape {got.shape}; expected a probability for each token")
        found = np.flatnonzero(got > 0).tolist()
        expect(len(found) > 0, f"{call} keeps no token: the likeliest always stays")
        if found != kept:
            total = sum(probs[i] for i in found)
            expect(total >= p - 1e-12, f"{call} keeps tokens {found}, which have {total:.2f} together: not yet {p}")
            expect(
                len(found) <= len(kept),
                f"{call} keeps tokens {found}; tokens {kept} are enough to reach {p}",
            )
            raise Wrong(f"{call} keeps tokens {found}, expected {kept}: the likeliest, wherever they stand")
        total = got.sum()
        expect(abs(total - 1) < 1e-9, f"{call} sums to {total:.2f}; what is left must be scaled to sum to 1")
        wanted = np.where(np.isin(range(len(probs)), kept), probs, 0)
        expect(np.allclose(got, wanted / wanted.sum()), f"{call} gave {got.round(3).tolist()}: keep their proportions")


@exercises.add("ex-generation-block")
def _block(answer):
    cases = (
        ([1, 2, 3, 1, 2], 3, {3}),
        ([1, 2, 1, 3, 1], 2, {2, 3}),
        ([4, 5, 6], 2, set()),
        ([7, 7, 7], 3, {7}),
        ([7, 7], 3, set()),
        ([1, 2, 3], 1, {1, 2, 3}),
        ([5], 2, set()),
        ([1, 2, 1, 2, 9, 1, 2], 3, {1, 9}),
    )
    for ids, n, wanted in cases:
        call = f"blocked({ids}, {n})"
        got = set(answer(list(ids), n))
        if got != wanted:
            begin = ids[len(ids) - n + 1 :]
            if missing := sorted(wanted - got):
                raise Wrong(f"{call} lacks {missing[0]}: {[*begin, missing[0]]} has occurred already")
            extra = sorted(got - wanted)[0]
            raise Wrong(f"{call} blocks {extra}, but {[*begin, extra]} has not occurred")


@exercises.add("ex-generation-speculation")
def _speculation(answer):
    for rate, n in ((0.8, 4), (0.5, 1), (0.0, 3), (0.9, 10), (1.0, 5)):
        call = f"tokens_per_call({rate}, {n})"
        wanted = sum(rate**i for i in range(n + 1))
        reasons = {
            n * rate: "what stands behind the first refusal is lost, however good it is",
            n * rate + 1: "what stands behind the first refusal is lost, however good it is",
            wanted - 1: "each call adds one token of the target's own, whatever was refused",
            wanted - rate**n: "if all are accepted, the target adds one more",
        }
        reasons = {value: reason for value, reason in reasons.items() if abs(value - wanted) > 1e-6}
        try:
            got = answer(rate, n)
        except ZeroDivisionError:
            raise Wrong(f"{call} divides by zero: at a rate of 1 all are kept, and one more comes") from None
        expect_close(got, wanted, call, reasons)


@exercises.add("ex-generation-labels")
def _labels(answer):
    cases = (
        [("user", [5, 6]), ("assistant", [7, 8, 2])],
        [("user", [5]), ("assistant", [7, 2]), ("user", [6]), ("assistant", [9, 2])],
        [("system", [1]), ("user", [3, 4])],
    )
    for turns in cases:
        call = f"labels({turns})"
        ids = [token for _, part in turns for token in part]
        marked = [role == "assistant" for role, part in turns for _ in part]
        wanted = [token if mark else -100 for token, mark in zip(ids[1:], marked[1:], strict=True)]
        got = [int(label) for label in answer(turns)]
        unshifted = [token if mark else -100 for token, mark in zip(ids, marked, strict=True)]
        if got == wanted:
            continue
        expect(
            got != unshifted, f"{call}: these labels stand where the tokens are read; they are predicted one earlier"
        )
        expect(got != ids[1:], f"{call}: what the user says is to be read, not learned: -100")
        expect(
            len(got) == len(ids) - 1, f"{call} has {len(got)} labels; all {len(ids)} tokens but the last predict one"
        )
        expect(
            got != unshifted[:-1],
            f"{call}: shift first; the first token of a reply is predicted by what stands before it",
        )
        expect_equal(got, wanted, call)


@exercises.add("ex-generation-bytes")
def _bytes(answer):
    cases = (
        [b"a", b"b"],
        ["é".encode()[:1], "é".encode()[1:]],
        [b"x", "🦉".encode()[:2], "🦉".encode()[2:], b"y"],
        ["日本".encode()[:4], "日本".encode()[4:]],
        [],
    )
    for chunks in cases:
        call, read = f"pieces({chunks})", 0
        text = b"".join(chunks).decode()

        def arriving(chunks=chunks):
            nonlocal read
            for chunk in chunks:
                read += 1
                yield chunk

        got = answer(arriving())
        expect(hasattr(got, "__next__"), f"{call} gave a {type(got).__name__}; a generator says yield")
        got = [(piece, read) for piece in got]  # each with the number of chunks that had been read
        whole = "".join(piece for piece, _ in got)
        expect("\ufffd" not in whole, f"{call} shows a replacement sign: a character was split over two chunks")
        expect(whole == text, f"{call} gave {whole!r}, expected {text!r} in all")
        expect(
            all(piece for piece, _ in got), f"{call} gave an empty piece; give nothing while a character is incomplete"
        )
        decoder = codecs.getincrementaldecoder("utf-8")()
        for n, chunk in enumerate(chunks, 1):
            complete, given = decoder.decode(chunk), "".join(piece for piece, after in got if after == n)
            expect(given == complete, f"{call} gave {given!r} after {n} chunks; complete then was {complete!r}")
