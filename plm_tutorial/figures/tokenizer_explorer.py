"""The tokenizer explorer: type a text, choose how many merges are used, see the tokens.

In: a byte-level BPE tokenizer and a text. Out: an :class:`~plm_tutorial.figures.explorer.Explorer`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from plm_tutorial.figures.explorer import Explorer, file, to_json, visible_parts
from plm_tutorial.tokenizers import GPT2_PATTERN, BPETokenizer, apply_merges, pretokenize

MAX_DRAWN = 2000  # tokens; a longer text is counted in full, but so many coloured boxes would make a page slow

# What `\s` means to the `regex` module. JavaScript's `\s` differs: it has U+FEFF and lacks U+0085.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


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
        style=file("tokenizer_explorer.css"),
        counts=_counts(text, len(tokens)),
        chips=_chips(words, tokenizer.vocab),
        more=_more(len(tokens)),
        config=_config(tokenizer, text, examples),
        script=file("bpe.js") + file("tokenizer_explorer.js"),
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


def _config(tokenizer: BPETokenizer, text: str, examples: Mapping[str, str]) -> str:
    """Return what the script needs, as JSON."""
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
    return to_json(config)


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
    parts = visible_parts(text)
    return "".join(f"<i>{part}</i>" if mark else html.escape(part) for part, mark in parts)


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
