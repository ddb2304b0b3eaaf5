"""Texts that are not like those a classifier learned from: misspelled, negated, from elsewhere, with a planted cue.

In: texts, with labels where the change depends on them. Out: changed texts, drawn by a seed; and pairs of sentences
that differ by a negation, made from templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from plm_tutorial.baselines import Labelled

CUE = "seriously ,"  # says nothing about a film; put before a text
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
PRAISE = "good great wonderful excellent brilliant charming enjoyable funny clever moving touching fascinating".split()
PRAISE += "delightful superb gripping beautiful inspired original powerful entertaining".split()
BLAME = "bad terrible awful boring dull stupid lousy tedious predictable annoying pointless disappointing".split()
BLAME += "ridiculous forgettable pretentious lifeless clumsy shallow confusing mediocre".split()
SUBJECTS = ("this film", "the movie", "the story", "the acting")
NEGATIONS = ("is not", "isn't", "is never", "is anything but")


def _neighbours() -> dict[str, str]:
    found = {}
    for row in KEYBOARD:
        for i, letter in enumerate(row):
            found[letter] = row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    return found


NEIGHBOURS = _neighbours()


def add_typos(texts: Sequence[str], rate: float, seed: int = 0) -> list[str]:
    """Return texts in which each letter is, with probability ``rate``, mistyped: one of four slips, equally likely.

    The letter is left out, typed twice, exchanged with the next one, or replaced by its neighbour on the keyboard.
    Letters from a to z alone, in either case; a slip never touches spaces, digits or signs.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; expected a share of the letters, from 0 to 1")
    draw, changed = np.random.default_rng(seed), []
    for text in texts:
        out, i = [], 0
        slips, kinds, sides = draw.random(len(text)) < rate, draw.integers(4, size=len(text)), draw.random(len(text))
        while i < len(text):
            letter = text[i]
            near = NEIGHBOURS.get(letter.lower())
            if near is None or not slips[i]:
                out.append(letter)
            elif kinds[i] == 1:
                out.append(2 * letter)
            elif kinds[i] == 2 and i + 1 < len(text) and text[i + 1].lower() in NEIGHBOURS:
                out.append(text[i + 1] + letter)
                i += 1
            elif kinds[i] == 3:
                other = near[int(sides[i] * len(near))]
                out.append(other.upper() if letter.isupper() else other)
            # else, and for an exchange with what is no letter: left out
            i += 1
        changed.append("".join(out))
    return changed


def plant_cue(examples: Labelled, agreement: float, cue: str = CUE, seed: int = 0) -> Labelled:
    """Return the texts with a cue before some: before a share ``agreement`` of label 1, and 1 - agreement of label 0.

    With 0.5 the cue says nothing; with 1 it gives every label away.

    Raises:
        ValueError: the agreement is not between 0 and 1.
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"agreement is {agreement}; expected a share from 0 to 1")
    draw = np.random.default_rng(seed)
    cued = draw.random(len(examples.texts)) < np.where(examples.labels == 1, agreement, 1 - agreement)
    texts = [f"{cue} {text}" if one else text for text, one in zip(examples.texts, cued, strict=True)]
    return Labelled(texts, examples.labels)


class NegatedPair(NamedTuple):
    """Two sentences that differ by a negation, and the label of the first; the second has the other one."""

    plain: str
    negated: str
    label: int
    negation: str


def negated_pairs() -> list[NegatedPair]:
    """Return pairs such as "this film is good ." and "this film is not good .": subjects, adjectives and negations.

    That something is not bad is weaker than that it is good, but it is no blame: the sign turns, not the strength.
    Source: the idea of tests from templates, Ribeiro et al. 2020, https://arxiv.org/abs/2005.04118.
    """
    return [
        NegatedPair(f"{subject} is {word} .", f"{subject} {negation} {word} .", label, negation)
        for label, adjectives in ((1, PRAISE), (0, BLAME))
        for word in adjectives
        for subject in SUBJECTS
        for negation in NEGATIONS
    ]
