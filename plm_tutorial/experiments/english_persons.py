"""Persons in English film reviews without a tagged corpus: weak labels, and a small set tagged by hand to score them.

In: the movie reviews. Out: sentences with the persons that a rule finds in them, and the hand-tagged sentences. The
reviews are other people's, so what is kept here is where the sentences stand and what is tagged, not their text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from plm_tutorial.entities import Entity, Sentence
from plm_tutorial.text import reviews

PERSON = ("PER",)  # the one kind

_SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?!\s|$))*[.!?]*[\"')\]]*")
_WORD = r"[A-Z](?:['’][A-Z])?[a-z]+(?:[A-Z][a-z]+)*"  # Neeson, O'Brien, McIntire
_RUN = re.compile(rf"\b{_WORD}(?:[ -]{_WORD})*")
_CUE = re.compile(
    rf"(?:\b(?:[Dd]irected|[Pp]layed|[Ww]ritten) by|\b(?:actor|actress|director|starring)) ({_WORD}) ({_WORD})"
)

# How the set was made (2026): of all sentences of the IMDb test reviews with 40 to 200 characters and a capital inside,
# 60 were drawn (numpy's default_rng(12).choice); two were left out, in which it is not clear whether a name is meant.
# Tagged by reading, by one person, in one pass: every name of a person, real or invented, without titles (Dr.) and
# without 's. Not tagged: titles of films, shows and books that are made of a name ("Dick Tracy", the film), and words
# made from names (Rambo-ish).
# Each row: number of the review in reviews("imdb", "test"), where the sentence begins and ends in it, the first eight
# digits of the sentence's SHA-256, and where in the sentence persons begin and end.
HAND_TAGGED: tuple[tuple[int, int, int, str, tuple[tuple[int, int], ...]], ...] = (
    (6, 524, 670, "9dedf68c", ((21, 31),)),
    (
        187,
        511,
        575,
        "c8c5a9f9",
        (
            (30, 40),
            (45, 56),
        ),
    ),
    (188, 80, 209, "5a41de8c", ((40, 50),)),
    (288, 904, 964, "7af52185", ((51, 54),)),
    (312, 555, 659, "48eec021", ()),
    (
        442,
        787,
        865,
        "910ae4e4",
        (
            (0, 8),
            (18, 23),
        ),
    ),
    (492, 327, 429, "1692240d", ((0, 14),)),
    (512, 2143, 2226, "70696291", ()),
    (516, 357, 482, "d4c5ac0f", ((24, 29),)),
    (542, 0, 149, "c15f4b9f", ()),
    (599, 3397, 3509, "4db4f6a5", ()),
    (
        602,
        1012,
        1110,
        "d2f80dd6",
        (
            (0, 7),
            (37, 42),
        ),
    ),
    (636, 2078, 2178, "846e5cd3", ()),
    (688, 210, 389, "aef4c17a", ((0, 18),)),
    (712, 0, 101, "ff3515ff", ()),
    (715, 141, 298, "82941ef3", ((69, 81),)),
    (810, 2519, 2673, "5150033a", ((47, 53),)),
    (821, 1242, 1391, "2b49ec5c", ()),
    (
        851,
        258,
        394,
        "b2468dde",
        (
            (6, 10),
            (61, 67),
        ),
    ),
    (898, 578, 698, "c35936c7", ((113, 120),)),
    (
        937,
        116,
        261,
        "ff70bcc2",
        (
            (41, 47),
            (125, 132),
        ),
    ),
    (942, 833, 955, "984518ed", ()),
    (1116, 260, 331, "cf8b6dd7", ((0, 10),)),
    (1144, 129, 202, "343ef47c", ()),
    (
        1173,
        1857,
        1967,
        "581ea8d2",
        (
            (48, 59),
            (64, 73),
        ),
    ),
    (1248, 0, 95, "7a584d38", ()),
    (1285, 797, 891, "910606cb", ((28, 33),)),
    (1291, 217, 259, "13e5a4b2", ((14, 19),)),
    (
        1302,
        1172,
        1288,
        "e32b70ac",
        (
            (0, 5),
            (26, 35),
        ),
    ),
    (1324, 1566, 1699, "848c9ab8", ()),
    (1452, 495, 592, "0f738836", ((3, 15),)),
    (1498, 378, 564, "23901999", ((67, 75),)),
    (1548, 0, 117, "b18377e4", ((9, 19),)),
    (1601, 548, 609, "86c1b205", ()),
    (1687, 1902, 1979, "f2f5abbd", ((45, 53),)),
    (
        1715,
        784,
        858,
        "e27dd78b",
        (
            (0, 6),
            (49, 55),
        ),
    ),
    (1726, 1451, 1558, "b87889a5", ()),
    (1732, 2410, 2557, "4644b0c0", ((109, 118),)),
    (1751, 729, 797, "dfd7c3b5", ((0, 11),)),
    (1783, 1638, 1716, "89692e2a", ()),
    (
        1853,
        726,
        794,
        "871c2744",
        (
            (0, 3),
            (22, 26),
            (49, 54),
        ),
    ),
    (1903, 180, 259, "afbcebd3", ((17, 25),)),
    (1991, 1762, 1835, "cf02e931", ()),
    (1997, 417, 480, "b204d4cb", ()),
    (2102, 1027, 1082, "e329aae3", ()),
    (2124, 0, 156, "541e5ded", ((85, 101),)),
    (2142, 1170, 1284, "781710a4", ()),
    (2151, 1567, 1700, "9672d0cf", ()),
    (2182, 94, 219, "1e507b55", ()),
    (
        2203,
        604,
        760,
        "bffb7762",
        (
            (0, 5),
            (10, 16),
            (133, 138),
            (143, 149),
        ),
    ),
    (2228, 72, 112, "1e565fb0", ((16, 25),)),
    (2315, 4214, 4376, "77bb3ac6", ((134, 140),)),
    (
        2325,
        1782,
        1980,
        "c733b4f3",
        (
            (40, 50),
            (78, 86),
        ),
    ),
    (2354, 790, 880, "b68c157f", ((5, 19),)),
    (
        2367,
        802,
        980,
        "ce2426e4",
        (
            (19, 31),
            (158, 166),
            (170, 177),
        ),
    ),
    (2376, 452, 591, "c7f94368", ()),
    (2423, 2608, 2705, "5fa5d87b", ((19, 24),)),
    (2448, 980, 1157, "9420b438", ()),
)


def english_sentences(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end: behind . ! ? before a blank, and at line breaks."""
    return [match.span() for match in _SENTENCE.finditer(text)]


def hand_tagged() -> list[Sentence]:
    """Return the sentences tagged by hand, from the IMDb test reviews.

    Raises:
        ValueError: the reviews are not those that were tagged.
    """
    texts, found = reviews("imdb", "test")["text"][:], []
    for number, start, end, digest, persons in HAND_TAGGED:
        text = texts[number][start:end] if number < len(texts) else ""
        if hashlib.sha256(text.encode()).hexdigest()[:8] != digest:
            raise ValueError(f"review {number} is not the one that was tagged; the reviews have been prepared anew")
        found.append(Sentence(text, tuple(Entity(a, b, "PER") for a, b in persons)))
    return found


def by_capitals(text: str) -> list[Entity]:
    """Return each run of capitalised words of a sentence as a person, but for a single word at its beginning."""
    runs = [match.span() for match in _RUN.finditer(text)]
    return [Entity(a, b, "PER") for a, b in runs if a > 0 or re.search("[ -]", text[a:b])]


class NameList:
    """First and last names that reviewers introduce: "directed by …", "the actor …"; a run must be made of them.

    Args:
        texts: training reviews.
        least: a name counts if it was introduced so often.
    """

    def __init__(self, texts: Iterable[str], least: int = 2):
        first, last = Counter(), Counter()
        for text in texts:
            for one, other in _CUE.findall(text):
                first[one] += 1
                last[other] += 1
        self.first = {name for name, n in first.items() if n >= least}
        self.last = {name for name, n in last.items() if n >= least}

    def find(self, text: str) -> list[Entity]:
        """Return the runs of capitalised words whose first word is a first name, and single words that are a name."""
        found = []
        for match in _RUN.finditer(text):
            words = re.split("[ -]", match[0])
            known = words[0] in self.first if len(words) > 1 else words[0] in self.first | self.last
            if known and (match.start() > 0 or len(words) > 1):
                found.append(Entity(*match.span(), "PER"))
        return found

    def agree(self, text: str) -> list[Entity] | None:
        """Return the same, or None if a capital stands where no known name is: then it may be an unknown one."""
        found = self.find(text)
        return found if set(by_capitals(text)) <= set(found) else None


def weak_sentences(find: Callable[[str], list[Entity] | None], n: int, seed: int = 0) -> list[Sentence]:
    """Return sentences of IMDb training reviews with the persons that a rule finds, half of them with one at least.

    Args:
        find: from a sentence to its persons; None leaves the sentence out.
    """
    texts, generator = reviews("imdb", "train")["text"][:], np.random.default_rng(seed)
    parts: tuple[list[Sentence], list[Sentence]] = ([], [])  # without, with a person
    for i in generator.permutation(len(texts)):
        for start, end in english_sentences(texts[i]):
            sentence = texts[i][start:end]
            if 40 <= len(sentence) <= 200:
                found = find(sentence)
                if found is not None and len(parts[bool(found)]) < n // 2:
                    parts[bool(found)].append(Sentence(sentence, tuple(found)))
        if min(map(len, parts)) >= n // 2:
            break
    both = [*parts[0], *parts[1]]
    return [both[i] for i in generator.permutation(len(both))]
