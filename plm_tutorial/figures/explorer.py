"""What all interactive figures share: the object that a page displays, and how files and data get into its HTML."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources

import regex

from plm_tutorial import runtime

_MARKS = {" ": "␣", "\n": "↵", "\t": "→"}


@dataclass(frozen=True)
class Explorer:
    """An interactive figure: HTML in notebooks and in the book, a text of the same content elsewhere."""

    html: str
    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": self.text, "text/html": self.html}


def file(name: str) -> str:
    """Return a script or style of this package, and note for the page's record that it was used."""
    content = resources.files(__package__).joinpath(name).read_bytes()
    runtime.record_read(f"plm_tutorial/figures/{name}", hashlib.sha256(content).hexdigest())
    return content.decode()


def to_json(config: dict) -> str:
    """Return what a script needs as JSON that may stand in a script element."""
    # JSON that holds "</script>" would end the element; "<" occurs in strings only, where an escape means the same.
    return json.dumps(config, separators=(",", ":")).replace("<", r"\u003c")


def visible_parts(text: str) -> list[tuple[str, bool]]:
    """Split a text into parts (what to show, whether it is a mark for something that would not be seen)."""
    text = regex.sub(r"^(?=\p{M})", "◌", text)  # an accent needs something to sit on
    parts = regex.findall(r"[\p{C}\p{Z}]|[^\p{C}\p{Z}]+", text)
    unseen = regex.compile(r"[\p{C}\p{Z}]")
    return [(_mark(part), True) if unseen.match(part) else (part, False) for part in parts]


def _mark(character: str) -> str:
    return _MARKS.get(character, f"U+{ord(character):04X}")
