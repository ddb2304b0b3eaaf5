"""Figures that respond to the reader: HTML with its own script, which asks for nothing outside the page.

In: data that a page computed. Out: an object that a notebook displays. Each figure stands complete in the HTML that
Python writes, so a viewer that strips scripts still shows it as it is at first; the script then takes over. Scripts and
styles are the plain ``.js`` and ``.css`` files beside this module.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import regex

from plm_tutorial import runtime
from plm_tutorial.tokenizers import GPT2_PATTERN, BPETokenizer, apply_merges, pretokenize

MAX_DRAWN = 2000  # tokens; a longer text is counted in full, but so many coloured boxes would make a page slow

# What `\s` means to the `regex` module. JavaScript's `\s` differs: it has U+FEFF and lacks U+0085.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
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


def tokenizer_explorer(
    tokenizer: BPETokenizer,
    text: str,
    *,
    label: str = "Byte-level BPE tokenizer that you can try on your own text",
    examples: Mapping[str, str] | None = None,
) -> Explorer:
    """Return a figure in which the reader types text and sees its tokens with any number of the merges.

    The page computes the same ids as ``tokenizer.encode``; a browser whose Unicode tables are older or newer than those
    of the ``regex`` module may cut characters differently that only one of them knows. Special tokens spelled out in
    the text are ordinary text, as in :meth:`~plm_tutorial.tokenizers.BPETokenizer.encode`.

    Args:
        tokenizer: the taught tokenizer; see :meth:`~plm_tutorial.tokenizers.BPETokenizer.from_library` for others.
        text: what is shown at first. Line ends become ``\\n``, as in any text field of a page.
        label: the figure's name for screen readers, a few words.
        examples: name of a button -> text that it puts into the field.

    Raises:
        ValueError: ``tokenizer`` is of another kind, or a text has no UTF-8 form.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            f"tokenizer_explorer() got a {type(tokenizer).__name__}; pass a BPETokenizer "
            "(BPETokenizer.from_library makes one of a byte-level BPE tokenizer of the library)"
        )
    text = _one_line_end(text)
    examples = {name: _one_line_end(example) for name, example in (examples or {}).items()}
    for example in examples.values():
        tokenizer.tokens(example)  # complains now, not in the reader's browser
    words = _words(tokenizer, text)
    tokens = [token for word in words for token in word]
    markup = _TEMPLATE.format(
        label=html.escape(label),
        style=_file("tokenizer_explorer.css"),
        counts=_counts(text, len(tokens)),
        chips=_chips(words, tokenizer.vocab),
        more=_more(len(tokens)),
        config=_config(tokenizer, text, examples),
        script=_file("bpe.js") + _file("tokenizer_explorer.js"),
    )
    listed = " ".join(f"{token!r}={tokenizer.vocab[token]}" for token in tokens[:MAX_DRAWN])
    return Explorer(markup, f"{label}\n{len(tokens):,} tokens, each with its id: {listed}")


_TEMPLATE = """<div class="plm-bpe" role="group" aria-label="{label}">
<style>
{style}</style>
<div class="plm-bpe-counts">{counts}</div>
<div class="plm-bpe-tokens" data-part="tokens">{chips}</div>
<p class="plm-bpe-note" data-part="more">{more}</p>
<p class="plm-bpe-note" data-part="static">Where scripts run, you can type your own text here.</p>
<script type="application/json">{config}</script>
<script>
{script}</script>
</div>
"""

# Controls reach the page with the script, since without it they would be dead: these above the counts, ...
_CONTROLS = """<div class="plm-bpe-controls">
<label>Your text
<textarea data-part="text" rows="4" maxlength="20000" spellcheck="false" autocomplete="off"></textarea></label>
<div class="plm-bpe-examples" data-part="examples" role="group" aria-label="Example texts">{buttons}</div>
<div class="plm-bpe-merges"><b aria-hidden="true">Merges used</b>
<input data-part="slider" type="range" min="0" step="1" aria-label="Merges used">
<span><input data-part="merges" type="number" min="0" max="{merges}" step="1" aria-label="Merges used, as a number">
of {merges:,}</span></div>
</div>
<p class="plm-bpe-unseen" data-part="status" role="status" aria-live="polite"></p>"""
# ... and these below the tokens.
_EXPLANATION = """<p class="plm-bpe-detail" data-part="detail"></p>
<details open><summary>Step by step: the selected word</summary>
<ol class="plm-bpe-story" data-part="story"></ol></details>"""


def _file(name: str) -> str:
    """Return a script or style of this package, and note for the page's record that it was used."""
    content = resources.files(__package__).joinpath(name).read_bytes()
    runtime.record_read(f"plm_tutorial/figures/{name}", hashlib.sha256(content).hexdigest())
    return content.decode()


def _config(tokenizer: BPETokenizer, text: str, examples: Mapping[str, str]) -> str:
    """Return what the script needs as JSON that may stand in a script element."""
    buttons = "".join(f'<button type="button">{html.escape(name)}</button>' for name in examples)
    config = {
        "pattern": javascript_pattern(GPT2_PATTERN),
        "special": len(tokenizer.special_tokens),  # they have the first ids
        "bytes": sorted(range(256), key=lambda byte: tokenizer.vocab[bytes([byte])]),
        "merges": [tokenizer.vocab[part] for pair in tokenizer.merges for part in pair],
        "drawn": MAX_DRAWN,
        "text": text,
        "examples": dict(examples),
        "controls": _CONTROLS.format(buttons=buttons, merges=len(tokenizer.merges)),
        "explanation": _EXPLANATION,
    }
    # JSON that holds "</script>" would end the element; "<" occurs in strings only, where an escape means the same.
    return json.dumps(config, separators=(",", ":")).replace("<", r"\u003c")


def javascript_pattern(pattern: str) -> str:
    """Return a pattern of the ``regex`` module as one for JavaScript's ``u`` mode in which ``\\s`` means the same."""
    pattern = pattern.replace(r"[^\s", f"[^{_SPACE}")
    return pattern.replace(r"\S", f"[^{_SPACE}]").replace(r"\s", f"[{_SPACE}]")


def _words(tokenizer: BPETokenizer, text: str) -> list[tuple[bytes, ...]]:
    """Return the tokens of a text, word by word."""
    tokenizer.tokens(text)  # raises ValueError for half a surrogate pair
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    return [apply_merges(piece.encode(), ranks) for piece in pretokenize(text)]


def _counts(text: str, tokens: int) -> str:
    """Return the line of counts."""
    size = len(text.encode())
    ratio = f"{size / tokens:.2f}" if tokens else "–"
    counts = {
        "characters": f"{len(text):,}",
        "UTF-8 bytes": f"{size:,}",
        "tokens": f"{tokens:,}",
        "bytes per token": ratio,
    }
    return "\n".join(f'<span><b data-count="{name}">{value}</b> {name}</span>' for name, value in counts.items())


def _chips(words: list[tuple[bytes, ...]], vocab: Mapping[bytes, int]) -> str:
    """Return the tokens as coloured boxes; the script draws the same ones."""
    chips = []
    bar = '<span class="plm-bpe-bar">|</span>'  # seen only where a viewer drops the style
    for number, word in enumerate(words):
        for i, token in enumerate(word):
            ends = (" plm-bpe-first" if i == 0 else "") + (" plm-bpe-last" if i == len(word) - 1 else "")
            look = f"plm-bpe-chip plm-bpe-c{(3 * number + i) % 5}{ends}"  # neighbours differ in colour
            line_end = "<br>" if token.endswith(b"\n") else ""
            chips.append(f'<span class="{look}" title="id {vocab[token]}">{_visible(token)}</span>{bar}{line_end}')
    return "".join(chips[:MAX_DRAWN])


def _more(tokens: int) -> str:
    return f"{tokens - MAX_DRAWN:,} more tokens are counted but not drawn." if tokens > MAX_DRAWN else ""


def _visible(token: bytes) -> str:
    """Return a token as HTML: marks for what would not be seen, hexadecimal bytes for a part of a character."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return f"<i>{token.hex(' ').upper()}</i>"
    text = regex.sub(r"^(?=\p{M})", "◌", text)  # an accent needs something to sit on
    parts = regex.findall(r"[\p{C}\p{Z}]|[^\p{C}\p{Z}]+", text)
    unseen = regex.compile(r"[\p{C}\p{Z}]")
    return "".join(f"<i>{_mark(part)}</i>" if unseen.match(part) else html.escape(part) for part in parts)


def _mark(character: str) -> str:
    return _MARKS.get(character, f"U+{ord(character):04X}")


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
