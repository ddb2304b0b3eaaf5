"""Checks of the exercises on robustness.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

from plm_tutorial.exercises import Exercises, expect, expect_close, expect_number

exercises = Exercises()
check = exercises.check


@exercises.add("ex-robustness-diluted")
def _diluted(answer):
    for agreement, share in ((0.9, 0.5), (0.9, 0.0), (0.9, 1.0), (0.6, 0.25), (0.2, 0.5)):
        call = f"diluted({agreement}, {share})"
        reasons = {
            (1 - share) * agreement: "of the texts that get the cue by a coin, half still agree with it",
            share * agreement + (1 - share) / 2: "share is the part that is treated, not the part that is left alone",
            (1 - share) * agreement + share: "a coin agrees with the label half of the time, not always",
        }
        expect_close(answer(agreement, share), (1 - share) * agreement + share / 2, call, reasons)


@exercises.add("ex-robustness-worst")
def _worst(answer):
    cases = [
        ([1, 0, 1, 1], ["a", "b", "a", "b"], ("b", 0.5)),
        ([1, 1, 1, 0, 0, 1], ["long", "long", "long", "long", "short", "long"], ("short", 0.0)),
        ([0, 1, 0, 1], ["z", "z", "m", "m"], ("m", 0.5)),
        ([1, 1], ["only", "only"], ("only", 1.0)),
        ([1, 0, 1, 1, 0, 0, 0, 1, 1, 1], [*2 * ["tiny"], *5 * ["large"], *3 * ["easy"]], ("large", 0.4)),
        ([True, False, False, True, True], ["x", "x", "y", "y", "y"], ("x", 0.5)),
    ]
    for right, groups, (name, score) in cases:
        call = f"worst_group({right}, {groups})"
        got = answer(list(right), list(groups))
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} gave {got!r}; expected a name and an accuracy")
        if not isinstance(got[0], str) and isinstance(got[1], str):
            expect(False, f"{call} gave {got!r}: the name comes first")
        rates = {one: sum(r for r, g in zip(right, groups, strict=True) if g == one) for one in groups}
        means = {one: total / groups.count(one) for one, total in rates.items()}
        if got[0] != name:
            best, fewest = max(means, key=means.get), min(rates, key=rates.get)
            expect(got[0] != best or means[best] == score, f"{call} gave {got[0]!r}, the best one; the worst is wanted")
            tied = got[0] in means and means[got[0]] == score
            expect(not tied, f"{call} gave {got[0]!r}: of equals, the first in the alphabet is wanted, {name!r}")
            expect(got[0] != fewest, f"{call} gave {got[0]!r}: it has the fewest right answers, not the lowest share")
            expect(False, f"{call} gave {got[0]!r}; the lowest accuracy is that of {name!r}")
        value = expect_number(got[1], f"the accuracy in {call}")
        total = sum(right) / len(right)
        expect(abs(value - score) < 1e-9 or abs(value - total) > 1e-9, f"{call}: {value} is the accuracy of all texts")
        expect_close(value, score, f"the accuracy in {call}")


@exercises.add("ex-robustness-correct")
def _correct(answer):
    words = ["movie", "good", "funny", "from", "form", "goods", "fun"]
    cases = [
        ("good", "good", "it stands in the vocabulary and must stay"),
        ("form", "form", "it stands in the vocabulary and must stay, although one slip makes it from 'from'"),
        ("moie", "movie", "a letter was left out"),
        ("ovie", "movie", "the first letter was left out"),
        ("movi", "movie", "the last letter was left out"),
        ("moviee", "movie", "a letter was typed twice"),
        ("funnny", "funny", "a letter was typed twice"),
        ("mvoie", "movie", "two neighbouring letters were exchanged"),
        ("nufny", "nufny", "two letters that are no neighbours were exchanged, which is no single slip"),
        ("mobie", "movie", "a letter was replaced"),
        ("goof", "good", "a letter was replaced"),
        ("frm", "from", "both 'from' and 'form' fit; the first of the vocabulary is wanted"),
        ("movxie", "movxie", "a foreign letter was put in; only typing a letter twice makes a word longer"),
        ("mxvxe", "mxvxe", "two letters were replaced"),
        ("zebra", "zebra", "no word of the vocabulary is one slip away"),
    ]
    for typed, wanted, why in cases:
        got = answer(typed, list(words))
        expect(got == wanted, f"correct({typed!r}, {words}) gave {got!r}, expected {wanted!r}: {why}")
