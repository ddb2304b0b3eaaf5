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
_MARKS = {" ": "·", "\n": "↵", "\t": "→"}


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
    words = _words(tokenizer, text)
    for example in examples.values():
        tokenizer.tokens(example)  # complains now, not in the reader's browser
    markup = _TEMPLATE.format(
        label=html.escape(label),
        style=_file("tokenizer_explorer.css"),
        buttons="".join(f'<button type="button">{html.escape(name)}</button>' for name in examples),
        all=len(tokenizer.merges),
        all_text=f"{len(tokenizer.merges):,}",
        counts=_counts(text, words),
        chips=_chips(words, tokenizer.vocab),
        config=_for_script(_config(tokenizer, text, examples)),
        script=_file("bpe.js") + _file("tokenizer_explorer.js"),
    )
    return Explorer(markup, _plain(label, text, words, tokenizer.vocab))


_TEMPLATE = """<div class="plm-bpe" role="group" aria-label="{label}">
<style>{style}</style>
<div class="plm-bpe-controls" hidden>
<div class="plm-bpe-examples" data-part="examples" role="group" aria-label="Example texts">{buttons}</div>
<label>Your text <textarea data-part="text" rows="3" maxlength="20000" spellcheck="false" autocomplete="off"></textarea></label>
<div class="plm-bpe-merges"><label for-slider>Merges used</label></div>
</div>
</div>
"""


def _file(name: str) -> str:
    """Return a script or style of this package, and note for the page's record that it was used."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    runtime.record_read(f"plm_tutorial/figures/{name}", hashlib.sha256(text.encode()).hexdigest())
    return text
