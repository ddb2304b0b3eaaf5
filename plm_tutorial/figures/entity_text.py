"""Sentences with their entities marked in the text: what is true above, what a tagger found below.

In: texts with true and predicted entities. Out: an object that a notebook displays. Kinds differ by the line under the
name and by its label, right and wrong by a sign, so that nothing is told by colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from plm_tutorial.entities import Entity, Sentence
from plm_tutorial.figures import COLOURS
from plm_tutorial.figures.explorer import Explorer

LINES = ("solid", "double", "dashed", "dotted")  # under the names, one a kind
SIGNS = {"right": "✓", "missed": "○", "wrong": "✗"}


def entity_text(
    sentences: Sequence[Sentence],
    predicted: Sequence[Iterable[Entity]],
    *,
    kinds: Sequence[str] = ("PER", "LOC", "ORG"),
    language: str = "zh",
    notes: Sequence[str] | None = None,
) -> Explorer:
    """Return the sentences, each with a line of true and a line of predicted entities.

    Args:
        predicted: the entities that a tagger found in each.
        language: of the text, for screen readers and fonts.
        notes: what is written above each sentence, such as the kind of mistake.

    Raises:
        ValueError: there is not one prediction, or one note, for each sentence.
    """
    notes = [""] * len(sentences) if notes is None else notes
    if not len(sentences) == len(predicted) == len(notes):
        raise ValueError(f"{len(sentences)} sentences, {len(predicted)} predictions, {len(notes)} notes; one each")
    legend = f"{SIGNS['right']} right   {SIGNS['missed']} missed   {SIGNS['wrong']} wrong"
    rows, plain = [], [legend]
    for (text, true), found, note in zip(sentences, predicted, notes, strict=True):
        true, found = set(map(tuple, true)), set(map(tuple, found))
        lines = {
            "true": _mark(text, {one: "right" if one in found else "missed" for one in true}),
            "found": _mark(text, {one: "right" if one in true else "wrong" for one in found}),
        }
        plain += [note] * bool(note) + [f"{name:6}{_plain(parts)}" for name, parts in lines.items()]
        head = f'<p style="margin:.9em 0 .1em;font-weight:600">{html.escape(note)}</p>' if note else ""
        rows.append(head + "".join(_row(name, parts, kinds, language) for name, parts in lines.items()))
    style = "line-height:2.1;border-left:3px solid #8a8a8a;padding-left:.8em"
    body = f'<p style="margin:0;font-size:.9em">{html.escape(legend)}</p>{"".join(rows)}'
    return Explorer(f'<div class="plm-entities" style="{style}">{body}</div>', "\n".join(plain))


def _mark(text: str, outcomes: dict[tuple, str]) -> list[tuple[str, str, str]]:
    """Return the text in parts: (characters, kind, outcome), both empty outside entities."""
    parts, at = [], 0
    for start, end, kind in sorted(outcomes):
        parts += [(text[at:start], "", ""), (text[start:end], kind, outcomes[start, end, kind])]
        at = end
    return [part for part in [*parts, (text[at:], "", "")] if part[0]]


def _plain(parts: list[tuple[str, str, str]]) -> str:
    return "".join(f"[{text} {kind}{SIGNS[outcome]}]" if kind else text for text, kind, outcome in parts)


def _row(name: str, parts: list[tuple[str, str, str]], kinds: Sequence[str], language: str) -> str:
    spans = []
    for text, kind, outcome in parts:
        if not kind:
            spans.append(html.escape(text))
            continue
        place = list(kinds).index(kind)
        line = f"border-bottom:3px {LINES[place % len(LINES)]} {COLOURS[place % len(COLOURS)]}"
        bold = "" if outcome == "right" else ";font-weight:700"
        label = f'<small lang="en" title="{outcome}">&#8201;{html.escape(kind)}{SIGNS[outcome]}</small>'
        spans.append(f'<span style="{line}{bold}">{html.escape(text)}</span>{label}')
    head = f'<span style="display:inline-block;min-width:3.5em;font-size:.8em">{name}</span>'
    return f'<div>{head}<span lang="{html.escape(language)}">{"".join(spans)}</span></div>'
