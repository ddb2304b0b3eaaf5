"""Exercises on tokenization: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import codecs
import functools
import math

from plm_tutorial.tokenizers import train_bpe_naive

# --- right answers: as in the chapter, and other ways to be right


def shortening(word, pair):
    saved, i = 0, 0
    while i < len(word) - 1:
        hit = (word[i], word[i + 1]) == pair
        saved, i = saved + hit, i + 1 + hit
    return saved


def stream(tokens):
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(token) for token in tokens]


def stream_by_hand(tokens):
    shown, waiting = [], b""
    for token in tokens:
        waiting += token
        text = waiting.decode(errors="ignore")
        waiting = waiting[len(text.encode()) :]
        shown.append(text)
    return shown


def n_segmentations(word, pieces):
    ways = [1] + [0] * len(word)
    for end in range(1, len(word) + 1):
        ways[end] = sum(ways[begin] for begin in range(end) if word[begin:end] in pieces)
    return ways[-1]


def n_segmentations_recursive(word, pieces):
    @functools.cache
    def count(rest):
        return not rest or sum(count(rest[len(p) :]) for p in pieces if rest.startswith(p))

    return count(word)


PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
RIGHT_TO_LEFT = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))")
ONE_DIGIT = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

RIGHT = [
    ("ex-first-merges", ["an", "ban", "ana"]),
    ("ex-first-merges", [("a", "n"), ("b", "an"), ("an", "a")]),
    ("ex-shortening", shortening),
    ("ex-stream", stream),
    ("ex-stream", stream_by_hand),
    ("ex-count-segmentations", n_segmentations),
    ("ex-count-segmentations", n_segmentations_recursive),
    ("ex-bits-per-byte", lambda loss, n_tokens, n_bytes: loss / math.log(2) * n_tokens / n_bytes),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 12 * layers * width * e / (1 - e)),
    ("ex-greedy-fails", ({"ab", "a", "##bc"}, "abc")),
    ("ex-greedy-fails", (["the", "them", "##me"], "theme")),
    ("ex-pattern", PATTERN),
    ("ex-pattern", RIGHT_TO_LEFT),
    ("ex-pattern", ONE_DIGIT),
]


def test_the_first_merges_are_those_of_the_package():
    text = " banana" * 3 + " bandana" * 2 + " cabana"
    merges = [left + right for left, right in train_bpe_naive([text.replace(" ", "\n")], 259).merges]
    assert merges == [b"an", b"ban", b"ana"]


# --- wrong answers that a reader may well give, and what they are told

WRONG = [
    ("ex-first-merges", ["an", "na", "ba"], "count again after the first"),
    ("ex-first-merges", ["an", "ana", "ban"], "of a tie the smaller ids win"),
    ("ex-first-merges", ["na", "ban", "ana"], "'a' followed by 'n' is more frequent"),
    ("ex-first-merges", ["an", "ban", "banan"], "'an' + 'a' is more frequent"),
    ("ex-first-merges", ["an", "ban"], "expected three merges, got 2"),
    ("ex-first-merges", "an ban ana", "expected a list of three strings"),
    # counts overlapping pairs, as the counting of BPE does
    ("ex-shortening", lambda w, p: sum(q == p for q in zip(w, w[1:], strict=False)), "gave 2, expected 1"),
    # forgets that symbols have borders
    ("ex-shortening", lambda w, p: "".join(w).count("".join(p)), "gave 1, expected 0"),
    ("ex-shortening", lambda w, p: p in zip(w, w[1:], strict=False), "gave True, expected 2"),
    ("ex-stream", lambda tokens: [t.decode(errors="replace") for t in tokens], "half a character was shown as U+FFFD"),
    ("ex-stream", lambda tokens: [t.decode(errors="ignore") for t in tokens], "which is not the text"),
    ("ex-stream", lambda tokens: [""] * (len(tokens) - 1) + [b"".join(tokens).decode()], "was complete"),
    ("ex-stream", lambda tokens: [b"".join(tokens).decode()], "one a token is wanted"),
    ("ex-stream", lambda tokens: [t.decode() for t in tokens], "raised UnicodeDecodeError"),
    ("ex-count-segmentations", lambda word, pieces: 2 ** (len(word) - 1), "gave 4, expected 3"),
    ("ex-count-segmentations", lambda word, pieces: sum(p in word for p in pieces), "gave 2, expected 3"),
    # follows only the longest piece
    ("ex-count-segmentations", lambda word, pieces: 1, "gave 1, expected 3"),
    ("ex-bits-per-byte", lambda loss, n_tokens, n_bytes: loss * n_tokens / n_bytes, "these are nats a byte"),
    ("ex-bits-per-byte", lambda loss, n_tokens, n_bytes: loss / math.log(2), "these are bits a token"),
    ("ex-bits-per-byte", lambda loss, n_tokens, n_bytes: loss / math.log(2) * n_bytes / n_tokens, "expected 1.0820"),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 12 * layers * width * e, "costs less"),
    (
        "ex-cheapest-vocabulary",
        lambda e, layers, width: 12.3 * layers * width * e / (1 - e),
        "near the minimum but not",
    ),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 24 * layers * width * e / (1 - e), "costs less"),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 12 * layers * width, "costs less"),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 12 * layers * width**2 * e / (1 - e), "costs less"),
    ("ex-cheapest-vocabulary", lambda e, layers, width: 0, "a positive size"),
    ("ex-greedy-fails", ({"ab"}, "abc"), "no other way to cut it exists"),
    ("ex-greedy-fails", ({"ab", "##c"}, "abc"), "it should fail"),
    ("ex-greedy-fails", ({"ab", "a", "bc"}, "abc"), "no other way to cut it exists"),  # forgot the ##
    ("ex-greedy-fails", "abc", "expected a pair"),
    ("ex-greedy-fails", ({"A", "AB", "##BC"}, "ABC"), "lower-case letters"),
    ("ex-pattern", r"\w+|\s+|[^\w\s]", "at most three digits"),
    (
        "ex-pattern",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "case should not matter",
    ),
    ("ex-pattern", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+", "must be the text again"),
    ("ex-pattern", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+", "a word keeps its space"),
    ("ex-pattern", r".{1,3}|\n", "digits joined with other signs"),
    ("ex-pattern", r"(?:'s|", "the pattern does not compile"),
    ("ex-pattern", 3, "expected a pattern"),
]
