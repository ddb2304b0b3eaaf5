"""Checks of the exercises on tokenization.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import itertools
import math

import regex

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal
from plm_tutorial.wordpiece import WordPieceTokenizer

exercises = Exercises()
check = exercises.check


@exercises.add("ex-first-merges")
def _first_merges(answer):
    expect(isinstance(answer, list | tuple), "expected a list of three strings, such as ['ab', 'abc', 'de']")
    merges = [m if isinstance(m, str) else "".join(m) for m in answer]
    expect(len(merges) == 3, f"expected three merges, got {len(merges)}")
    expect(merges[0] == "an", f"the first merge {merges[0]!r}: 'a' followed by 'n' is more frequent (11 times)")
    expect(
        merges[1] != "na",
        "the second merge 'na': count again after the first. Every n that follows an a is inside 'an'",
    )
    expect(
        merges[1] != "ana", "the second merge 'ana' ties with 'b' + 'an' (6 times each); of a tie the smaller ids win"
    )
    expect(merges[1] == "ban", f"the second merge {merges[1]!r}: 'b' + 'an' is more frequent (6 times)")
    expect(merges[2] == "ana", f"the third merge {merges[2]!r}: 'an' + 'a' is more frequent (5 times)")


@exercises.add("ex-shortening")
def _shortening(answer):
    cases = [
        ("singing", ("i", "n"), 2),
        ("sing", ("x", "y"), 0),
        ("x", ("x", "x"), 0),
        ("aaa", ("a", "a"), 1),
        ("aaaa", ("a", "a"), 2),
        ("aaaaa", ("a", "a"), 2),
        ("abaab", ("a", "b"), 2),
    ]
    for word, pair, saved in cases:
        expect_equal(answer(tuple(word), pair), saved, f"shortening({tuple(word)}, {pair})")
    for word, pair, saved in ((("in", "g", "in", "g"), ("in", "g"), 2), (("s", "in", "g"), ("i", "n"), 0)):
        expect_equal(answer(word, pair), saved, f"shortening({word}, {pair})")


@exercises.add("ex-stream")
def _stream(answer):
    for tokens in (
        [b"plain", b" text"],
        [b"na", "ï".encode()[:1], "ï".encode()[1:] + b"ve"],
        [bytes([byte]) for byte in "a🎬é".encode()],
        ["映".encode()[:2], "映".encode()[2:] + "画".encode()[:1], "画".encode()[1:]],
    ):
        got = list(answer(list(tokens)))
        call = f"stream({tokens})"
        expect(all(isinstance(part, str) for part in got), f"{call} gave {got}; expected a list of strings")
        expect(
            len(got) == len(tokens), f"{call} gave {len(got)} strings for {len(tokens)} tokens; one a token is wanted"
        )
        text = b"".join(tokens).decode()
        expect("\ufffd" not in "".join(got), f"{call} gave {got}: half a character was shown as U+FFFD")
        expect("".join(got) == text or got[-1] != text, f"{call} gave {got}; give only what is new after each token")
        expect("".join(got) == text, f"{call} gave {got}, which is not the text {text!r}")
        for i in range(len(tokens)):
            ready = b"".join(tokens[: i + 1]).decode(errors="ignore")
            shown = "".join(got[: i + 1])
            expect(shown == ready, f"{call} had shown {shown!r} after token {i + 1}, but {ready!r} was complete")


@exercises.add("ex-count-segmentations")
def _count_segmentations(answer):
    everything = {"abcde"[i:j] for i in range(5) for j in range(i + 1, 6)}
    cases = [
        ("aaa", {"a", "aa"}, 3),
        ("abc", {"ab", "c", "a"}, 1),
        ("abc", {"ab"}, 0),
        ("abcde", everything, 16),
        ("unwatchable", {"un", "watch", "able", "watchable", "unwatch"}, 3),
        ("a" * 15, {"a", "aa", "aaa"}, 5768),
    ]
    for word, pieces, ways in cases:
        shown = "all its substrings" if pieces is everything else sorted(pieces)
        expect_equal(answer(word, set(pieces)), ways, f"n_segmentations({word!r}, {shown})")


@exercises.add("ex-bits-per-byte")
def _bits_per_byte(answer):
    for loss, n_tokens, n_bytes in ((math.log(2), 100, 100), (3.0, 250, 1000), (0.9, 1000, 1000)):
        wanted, got = loss * n_tokens / n_bytes / math.log(2), answer(loss, n_tokens, n_bytes)
        call = f"bits_per_byte({loss:.3f}, {n_tokens}, {n_bytes})"
        if math.isclose(got, wanted * math.log(2), rel_tol=1e-6):
            raise Wrong(f"{call} gave {got:.4f}: these are nats a byte; a nat is 1 / ln 2 bits")
        if math.isclose(got, loss / math.log(2), rel_tol=1e-6) and n_tokens != n_bytes:
            raise Wrong(f"{call} gave {got:.4f}: these are bits a token; spread them over the bytes")
        expect(math.isclose(got, wanted, rel_tol=1e-6), f"{call} gave {got:.4f}, expected {wanted:.4f}")


@exercises.add("ex-cheapest-vocabulary")
def _cheapest_vocabulary(answer):
    for e, layers, width in ((0.1, 12, 768), (0.2, 4, 256), (0.5, 1, 10)):
        call, got = f"cheapest_vocabulary({e}, {layers}, {width})", answer(e, layers, width)

        def cost(size, e=e, layers=layers, width=width):
            return size**-e * (24 * layers * width**2 + 2 * width * size)

        expect(got > 0, f"{call} gave {got}; a vocabulary has a positive size")
        better = min((0.9 * got, 1.1 * got), key=cost)
        expect(
            cost(better) > cost(got),
            f"{call} gave {got:,.0f}, but a vocabulary of {better:,.0f} costs less: set the derivative to 0 again",
        )
        wanted = 12 * layers * width * e / (1 - e)
        expect(math.isclose(got, wanted, rel_tol=0.01), f"{call} gave {got:,.0f}, near the minimum but not at it")


@exercises.add("ex-greedy-fails")
def _greedy_fails(answer):
    expect(
        isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[1], str),
        "expected a pair: a set of pieces and a word",
    )
    pieces, word = set(answer[0]), answer[1]
    expect(0 < len(pieces) <= 5, f"expected one to five pieces, got {len(pieces)}")
    expect(word.isalpha() and word.islower(), f"expected a word of lower-case letters, got {word!r}")
    expect(len(word) <= 15, f"{word!r} has {len(word)} letters; 15 are enough")
    got = WordPieceTokenizer({"[UNK]": 0} | {piece: i for i, piece in enumerate(sorted(pieces), 1)}).word_tokens(word)
    expect(got == ["[UNK]"], f"longest match cuts {word!r} into {got}; it should fail")
    possible = _wordpiece_segmentations(word, pieces)
    expect(bool(possible), f"{word!r} is unknown, but no other way to cut it exists: nothing was lost to greed")


def _wordpiece_segmentations(word: str, pieces: set[str]) -> list[list[str]]:
    found = []
    for n in range(len(word)):
        for cuts in itertools.combinations(range(1, len(word)), n):
            edges = [0, *cuts, len(word)]
            parts = [("##" if i else "") + word[i:j] for i, j in itertools.pairwise(edges)]
            if pieces.issuperset(parts):
                found.append(parts)
    return found


@exercises.add("ex-pattern")
def _pattern(answer):
    expect(isinstance(answer, str), "expected a pattern, as a string")
    try:
        compiled = regex.compile(answer)
    except regex.error as error:
        raise Wrong(f"the pattern does not compile: {error}") from error

    def cut(text: str) -> list[str]:
        return [match.group() for match in compiled.finditer(text)]

    for text in ("I'll say: 2 films,   don't!", "  two\n\nlines\t", "映画は 100% 🎬", "x_1=3.14**2", "I'LL"):
        expect(
            "".join(cut(text)) == text, f"the pieces of {text!r} are {cut(text)}; joined, they must be the text again"
        )
    for text in ("1234567", "in 12345678", "1,234,567"):
        long = [piece for piece in cut(text) if sum(c.isdigit() for c in piece) > 3]
        expect(not long, f"{text!r} gives {long}; a piece may have at most three digits")
        glued = [piece for piece in cut(text) if regex.search(r"\d", piece) and regex.search(r"[^\s\d]", piece)]
        expect(not glued, f"{text!r} gives {glued}: digits joined with other signs")
    lower, upper = cut("I'll wait"), cut("I'LL WAIT")
    expect(
        [piece.upper() for piece in lower] == upper,
        f'"I\'ll wait" gives {lower} but "I\'LL WAIT" gives {upper}; case should not matter',
    )
    expect("'ll" in lower, f"\"I'll wait\" gives {lower}; the contraction 'll should be one piece")
    for text in ("a fine old film", "good.Bad", "so, yes"):
        crossing = [piece for piece in cut(text) if regex.search(r"\p{L}[^\p{L}]+\p{L}|\p{L}[.,]", piece)]
        expect(not crossing, f"{text!r} gives {crossing}; a piece must not go beyond one word")
    expect(
        " film" in cut("a fine old film"), f"'a fine old film' gives {cut('a fine old film')}; a word keeps its space"
    )
