"""Exercises on text generation: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import codecs
import math

import numpy as np
import torch

from plm_tutorial.generation import keep_top_p

# --- right answers: as in the chapter, and other ways to be right


def nucleus(probs, p):
    order = np.argsort(-probs)
    before = np.cumsum(probs[order]) - probs[order]
    kept = np.zeros_like(probs)
    chosen = order[before < p]
    kept[chosen] = probs[chosen]
    return kept / kept.sum()


def nucleus_by_the_package(probs, p):
    return keep_top_p(torch.tensor(probs).log(), p).softmax(-1).numpy()


def blocked(ids, n):
    begin = ids[len(ids) - n + 1 :]
    starts = range(len(ids) - n + 1)
    return {ids[i + n - 1] for i in starts if ids[i : i + n - 1] == begin}


def labels(turns):
    ids = [token for _, part in turns for token in part]
    marked = [role == "assistant" for role, part in turns for _ in part]
    return [token if mark else -100 for token, mark in zip(ids[1:], marked[1:], strict=True)]


def pieces(chunks):
    waiting = b""
    for chunk in chunks:
        waiting += chunk
        for end in range(len(waiting), 0, -1):
            try:
                yield waiting[:end].decode()
            except UnicodeDecodeError:
                continue
            waiting = waiting[end:]
            break


def pieces_by_codecs(chunks):
    decoder = codecs.getincrementaldecoder("utf-8")()
    yield from (text for chunk in chunks if (text := decoder.decode(chunk)))


def replaced(chunks, errors="replace"):
    for chunk in chunks:
        yield chunk.decode(errors=errors)


def at_the_end(chunks):
    yield from b"".join(chunks).decode()


def with_an_empty_one(chunks):
    yield from pieces(chunks)
    yield ""


RIGHT = [
    ("ex-generation-temperature", lambda now, wanted: math.log(now) / math.log(wanted)),
    ("ex-generation-temperature", lambda now, wanted: np.log2(now) / np.log2(wanted)),
    ("ex-generation-nucleus", nucleus),
    ("ex-generation-nucleus", nucleus_by_the_package),
    ("ex-generation-block", blocked),
    ("ex-generation-block", lambda ids, n: sorted(blocked(ids, n))),
    ("ex-generation-speculation", lambda rate, n: sum(rate**i for i in range(n + 1))),
    ("ex-generation-speculation", lambda a, n: (1 - a ** (n + 1)) / (1 - a) if a < 1 else n + 1),
    ("ex-generation-labels", labels),
    ("ex-generation-labels", lambda turns: torch.tensor(labels(turns))),
    ("ex-generation-bytes", pieces),
    ("ex-generation-bytes", pieces_by_codecs),
]

# --- plausible mistakes


def by_cumsum(probs, p):
    """The token that crosses the border is lost."""
    order = np.argsort(-probs)
    kept = np.zeros_like(probs)
    chosen = order[np.cumsum(probs[order]) <= p]
    kept[chosen] = probs[chosen]
    return kept / max(kept.sum(), 1e-9)


def one_too_many(probs, p):
    order = np.argsort(-probs)
    kept = np.zeros_like(probs)
    chosen = order[: int((np.cumsum(probs[order]) <= p).sum()) + 1]
    kept[chosen] = probs[chosen]
    return kept / kept.sum()


def unsorted(probs, p):
    before = np.cumsum(probs) - probs
    kept = np.where(before < p, probs, 0)
    return kept / kept.sum()


WRONG = [
    ("ex-generation-temperature", lambda now, wanted: math.log(wanted) / math.log(now), "upside down"),
    ("ex-generation-temperature", lambda now, wanted: now / wanted, "difference is divided"),
    ("ex-generation-temperature", lambda now, wanted: math.log(now) - math.log(wanted), "does not shift"),
    ("ex-generation-temperature", lambda now, wanted: 1.0, "expected 0.5"),
    ("ex-generation-nucleus", by_cumsum, "not yet 0.6"),
    ("ex-generation-nucleus", one_too_many, "are enough to reach"),
    ("ex-generation-nucleus", unsorted, "are enough to reach"),
    ("ex-generation-nucleus", lambda probs, p: nucleus(probs, p) * 0.5, "scaled to sum to 1"),
    ("ex-generation-nucleus", lambda probs, p: (nucleus(probs, p) > 0) / (nucleus(probs, p) > 0).sum(), "proportions"),
    ("ex-generation-nucleus", lambda probs, p: probs * 0, "keeps no token"),
    ("ex-generation-nucleus", lambda probs, p: [0], "a probability for each token"),
    ("ex-generation-block", lambda ids, n: set(), "lacks 3"),
    ("ex-generation-block", lambda ids, n: set(ids), "has not occurred"),
    ("ex-generation-block", lambda ids, n: {ids[-1]}, "lacks 3"),
    ("ex-generation-speculation", lambda rate, n: n * rate + 1, "behind the first refusal"),
    ("ex-generation-speculation", lambda rate, n: n * rate, "behind the first refusal"),
    ("ex-generation-speculation", lambda rate, n: sum(rate**i for i in range(1, n + 1)), "the target's own"),
    ("ex-generation-speculation", lambda rate, n: sum(rate**i for i in range(n)), "adds one more"),
    ("ex-generation-speculation", lambda a, n: (1 - a ** (n + 1)) / (1 - a), "divides by zero"),
    ("ex-generation-labels", lambda turns: [t for _, part in turns for t in part][1:], "not learned"),
    (
        "ex-generation-labels",
        lambda turns: [t if role == "assistant" else -100 for role, part in turns for t in part],
        "one earlier",
    ),
    (
        "ex-generation-labels",
        lambda turns: [t if role == "assistant" else -100 for role, part in turns for t in part][:-1],
        "shift first",
    ),
    ("ex-generation-labels", lambda turns: [0 if t == -100 else t for t in labels(turns)], "expected"),
    ("ex-generation-bytes", replaced, "replacement"),
    ("ex-generation-bytes", lambda chunks: replaced(chunks, "ignore"), "in all"),
    ("ex-generation-bytes", at_the_end, "gave '' after 1 chunks"),
    ("ex-generation-bytes", lambda chunks: [*pieces(chunks)], "a generator says yield"),
    ("ex-generation-bytes", with_an_empty_one, "empty piece"),
]


def test_the_nucleus_is_that_of_the_package():
    draw = np.random.default_rng(0)
    for _ in range(20):
        probs = draw.dirichlet(np.ones(9))
        np.testing.assert_allclose(nucleus(probs, 0.7), nucleus_by_the_package(probs, 0.7), atol=1e-12)
