"""The attention explorer: choose a layer, a head and a token, see where it looks.

In: attention maps, as ``record`` collects them, and the tokens. Out: an
:class:`~plm_tutorial.figures.explorer.Explorer`.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

import numpy as np

from plm_tutorial.figures.explorer import Explorer, file, to_json, visible_parts

MAX_TOKENS = 64  # a larger map is too fine to read and makes a page slow
TOLERANCE = 0.01  # of a row's sum: what half precision may lose

# Every word that a reader sees or hears, for translations.
WORDS = {
    "label": "Attention maps: which token looks at which",
    "layers": "Layer",
    "layer": "Layer {layer}",
    "heads": "Heads",
    "head": "Head {head}",
    "mean": "Mean",
    "mean_of": "Mean of all heads",
    "title": "Layer {layer}, head {head}",
    "title_mean": "Layer {layer}, mean of the {heads} heads",
    "summary": "{query} looks most at {keys}.",
    "token": "“{token}”",
    "weighted": "“{token}” ({weight})",
    "query": "Query",
    "query_hint": "choose a token",
    "key": "Key",
    "key_hint": "where it looks",
    "map": "Heat map",
    "caption": "Rows: queries. Columns: keys. Each row sums to 1.",
    "scale": "Weight",
    "static": "Where scripts run, you can choose layer, head and token here.",
}


def attention_explorer(
    maps: Sequence,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    label: str = WORDS["label"],
    layer: int = 0,
    head: int = 0,
) -> Explorer:
    """Return a figure in which the reader chooses a layer, a head and a token, and sees where that token looks.

    Layers and heads are numbered from 0, as in ``maps[layer][head]``. Weights are kept in steps of 1/255.

    Args:
        maps: one tensor or array (H, T, S) for each layer; a row holds weights from 0 to 1 that sum to 1.
        queries: the T tokens that look, shown as given; characters that would not be seen have marks.
        keys: the S tokens looked at. None: the same as ``queries``.
        label: the figure's name for screen readers, a few words.
        layer, head: what is shown at first.

    Raises:
        ValueError: a shape does not fit the tokens or another layer's, a row is no distribution, ``layer`` or ``head``
            does not exist, or there are more than 64 tokens.
    """
    queries = _tokens(queries, "queries")
    keys = queries if keys is None else _tokens(keys, "keys")
    weights = _weights(maps, len(queries), len(keys))  # (layers, H, T, S)
    n_layers, n_heads = weights.shape[:2]
    for name, value, number in (("layer", layer, n_layers), ("head", head, n_heads)):
        if value not in range(number):
            raise ValueError(f"{name}={value!r} does not exist: the maps have {name}s 0 to {number - 1}")
    levels = np.rint(255 * weights).astype(np.uint8)
    config = {
        "words": WORDS,
        "queries": queries,
        "keys": keys,
        "layers": n_layers,
        "heads": n_heads,
        "layer": layer,
        "head": head,
        "levels": base64.b64encode(levels.tobytes()).decode(),  # one byte for each weight
    }
    title = WORDS["title"].format(layer=layer, head=head)
    markup = _TEMPLATE.format(
        label=html.escape(label),
        style=file("attention_explorer.css"),
        title=title,
        map=WORDS["map"],
        columns=len(keys),
        table=_table(levels[layer, head], queries, keys),
        scale=_scale(),
        static=WORDS["static"],
        config=to_json(config),
        script=file("attention_explorer.js"),
    )
    strongest = levels[layer, head].argmax(axis=1)
    listed = "\n".join(
        f"{query} → {keys[key]} {levels[layer, head, i, key] / 255:.2f}"
        for i, (query, key) in enumerate(zip(queries, strongest, strict=True))
    )
    return Explorer(markup, f"{label}\n{title}: each token and where it looks most\n{listed}")


_TEMPLATE = """<div class="plm-att" role="group" aria-label="{label}">
<style>
{style}</style>
<p class="plm-att-state" data-part="state" aria-live="polite" aria-atomic="true"><b data-part="title">{title}</b>
<span data-part="summary"></span></p>
<div class="plm-att-views" data-part="views">
<div class="plm-att-scroll" style="--n:{columns}" tabindex="0" role="group" aria-label="{map}">
{table}
{scale}
</div>
</div>
<p class="plm-att-note" data-part="static">{static}</p>
<script type="application/json">{config}</script>
<script>
{script}</script>
</div>
"""


def _tokens(tokens: Sequence[str], name: str) -> list[str]:
    """Return tokens as they are shown."""
    tokens = list(tokens)
    for token in tokens:
        if not isinstance(token, str):
            raise ValueError(f"{name} has {token!r}, of type {type(token).__name__}; pass the tokens as strings")
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise ValueError(f"{name} has {len(tokens)} tokens; pass 1 to {MAX_TOKENS}, of a shorter text if need be")
    return ["".join(part for part, _ in visible_parts(token)) for token in tokens]


def _weights(maps: Sequence, n_queries: int, n_keys: int) -> np.ndarray:
    """Return the maps of all layers as one array (layers, H, T, S), checked."""
    layers = [_array(layer) for layer in maps]
    if not layers:
        raise ValueError("maps has no layers; pass one array (H, T, S) for each layer")
    for number, layer in enumerate(layers):
        if layer.ndim != 3 or layer.shape[1:] != (n_queries, n_keys) or not layer.shape[0]:
            batch = "; of a batch, pass one text: [layer[0] for layer in maps]" if layer.ndim == 4 else ""
            raise ValueError(
                f"layer {number} of maps has shape {layer.shape}; {n_queries} queries and {n_keys} keys "
                f"need (heads, {n_queries}, {n_keys}){batch}"
            )
        if len(layer) != len(layers[0]):
            raise ValueError(f"layer {number} of maps has {len(layer)} heads, but layer 0 has {len(layers[0])}")
        if not (np.isfinite(layer).all() and layer.min() >= -TOLERANCE):
            raise ValueError(f"layer {number} of maps has NaN, infinite or negative values; pass weights after softmax")
        sums = layer.sum(axis=-1)
        head, row = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        if abs(sums[head, row] - 1) > TOLERANCE:
            raise ValueError(
                f"row {row} of layer {number}, head {head} sums to {sums[head, row]:.3f}, not to 1; pass weights "
                "after softmax, with all the keys"
            )
    return np.stack(layers).clip(0, 1)


def _array(layer) -> np.ndarray:
    """Return a tensor (of any device and precision) or array as float64."""
    if hasattr(layer, "detach"):
        layer = layer.detach().cpu().double().numpy()
    return np.asarray(layer, dtype=np.float64)


def _table(levels: np.ndarray, queries: list[str], keys: list[str]) -> str:
    """Return a heat map as a table; the script changes its cells."""
    columns = "".join(f'<th scope="col"><span>{html.escape(key)}</span></th>' for key in keys)
    rows = "\n".join(
        f'<tr><th scope="row"><span>{html.escape(query)}</span></th>{"".join(map(_cell, row))}</tr>'
        for query, row in zip(queries, levels.tolist(), strict=True)
    )
    return (
        f'<table class="plm-att-map"><caption>{WORDS["caption"]}</caption>\n'
        f'<thead><tr><td></td>{columns}</tr></thead>\n<tbody data-part="cells">\n{rows}</tbody></table>'
    )


def _cell(level: int) -> str:
    return f'<td style="--w:{_shade(level / 255)}">{level / 255:.2f}</td>'


def _shade(weight: float) -> str:
    """Return the opacity that stands for a weight: its root, so that small weights can be told apart."""
    return f"{math.sqrt(weight):.2f}"


def _scale() -> str:
    steps = (0, 0.05, 0.2, 0.5, 1)
    swatches = "".join(f'<span><i style="--w:{_shade(step)}"></i>{step}</span>' for step in steps)
    return f'<p class="plm-att-scale"><b>{WORDS["scale"]}</b>{swatches}</p>'
