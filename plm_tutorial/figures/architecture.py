"""The structure of a Transformer, read off a model and drawn.

In: a model of :mod:`plm_tutorial.models` (on the meta device will do). Out: an :class:`Architecture`, and a drawing of
several side by side. Nothing is typed in by hand, so the drawing cannot disagree with the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import nn

from plm_tutorial.figures import COLOURS
from plm_tutorial.layers import ACTIVATIONS, GatedFeedForward, LayerNorm, PreNormBlock, RelativeBias, RMSNorm
from plm_tutorial.layers.blocks import Block

NORMS = (LayerNorm, RMSNorm)


@dataclass(frozen=True)
class Stack:
    """A pile of equal blocks."""

    n_layers: int
    causal: bool  # whether a position sees only itself and what came before
    n_heads: int
    n_kv_heads: int
    cross: bool  # whether it also looks at an encoder's output
    pre_norm: bool  # where the norms stand: before each part of a block, or after each sum
    norm: str  # "LayerNorm" or "RMSNorm"
    final_norm: bool  # one more, after the last block
    activation: str  # as in layers.ACTIVATIONS
    gated: bool
    biases: bool  # of the linear layers


@dataclass(frozen=True)
class Architecture:
    """What a model consists of, without its sizes."""

    positions: str  # "learned", "rotary", "relative" or "sinusoidal"
    embedding_norm: bool  # whether the embeddings are normalised before the first block
    stacks: tuple[Stack, ...]  # one, or encoder and decoder


def describe(model: nn.Module) -> Architecture:
    """Return the structure of a model, read off its modules.

    Raises:
        ValueError: it has no blocks of :mod:`plm_tutorial.layers`.
    """
    modules = list(model.modules())
    first = next((i for i, module in enumerate(modules) if isinstance(module, Block)), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no blocks of plm_tutorial.layers; pass a model of plm_tutorial")
    two = hasattr(model, "encoder") and hasattr(model, "decoder")
    parts = [model.encoder, model.decoder] if two else [model]
    writes = hasattr(model, "new_cache")  # what has a cache writes from left to right
    stacks = [_stack(part, causal=writes and part is parts[-1]) for part in parts]
    early = [module for module in modules[:first] if isinstance(module, NORMS)]
    return Architecture(_positions(model), bool(early), tuple(stacks))


def _positions(model: nn.Module) -> str:
    if any(isinstance(module, RelativeBias) for module in model.modules()):
        return "relative"
    if hasattr(model.config, "rope_base"):
        return "rotary"
    learned = any(isinstance(m, nn.Embedding) and name.endswith("positions") for name, m in model.named_modules())
    return "learned" if learned else "sinusoidal"


def _stack(part: nn.Module, causal: bool) -> Stack:
    blocks = [module for module in part.modules() if isinstance(module, Block)]
    block = blocks[0]
    attention, feed_forward = block.attention, block.feed_forward
    return Stack(
        n_layers=len(blocks),
        causal=causal,
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        cross=block.cross_attention is not None,
        pre_norm=isinstance(block, PreNormBlock),
        norm=type(block.attention_norm).__name__,
        final_norm=any(isinstance(child, NORMS) for child in part.children()),
        activation=next(name for name, one in ACTIVATIONS.items() if one is feed_forward.activation),
        gated=isinstance(feed_forward, GatedFeedForward),
        biases=attention.query.bias is not None,
    )


# -------------------------------------------------------------------------------------------------------------- drawing

BLUE, ORANGE, GREEN, GREY = COLOURS[0], COLOURS[1], COLOURS[2], "#444444"
WIDTH = 3.4  # of a column, with the gap to the next
STREAM, BRANCH = 0.75, 2.15  # where, in a column, the residual stream runs and the parts of a block stand
NARROW, WIDE = 1.34, 1.95  # boxes: norms and embeddings; parts of a block
SHORT, LINE = 0.46, 0.3  # heights: of a box with one line of words, and of a line


def draw_architectures(ax: Axes, models: Mapping[str, Architecture]) -> Axes:
    """Draw models side by side, from the token ids at the bottom to the output at the top.

    The thick line is the residual stream. A box on it changes it, a box beside it only adds to it. The small square in
    an attention box shows which position (row) sees which (column). Models of the same structure share a drawing.
    """
    groups: dict[Architecture, list[str]] = {}
    for name, architecture in models.items():
        groups.setdefault(architecture, []).append(name)
    left, top = 0.0, 0.0
    for architecture, names in groups.items():
        title, tops = ", ".join(names), []
        for number, stack in enumerate(architecture.stacks):
            role = ["encoder", "decoder"][number] if len(architecture.stacks) > 1 else ""
            memory = (left - WIDTH, tops[-1]) if stack.cross else None
            tops.append(_column(ax, left, f"{title} {role}".strip(), architecture, stack, memory))
            left += WIDTH
        top = max(top, *tops)
    ax.set(xlim=(-0.1, left), ylim=(-0.65, top + 0.3), aspect="equal")
    ax.axis("off")
    return ax


def _column(ax: Axes, left: float, title: str, whole: Architecture, stack: Stack, memory) -> float:
    """Draw one stack; return the height of its top. ``memory``: where an encoder's column begins and ends, or None."""
    stream, branch = left + STREAM, left + BRANCH
    ax.text(left + (WIDTH - 0.2) / 2, -0.4, title, ha="center", va="center", fontsize=11.5, weight="bold")
    _box(ax, stream, 0, NARROW, SHORT, "tokens", GREY)
    y = SHORT
    if whole.positions in ("learned", "sinusoidal"):
        _box(ax, branch, 0, NARROW, SHORT, "positions", GREY)
        y = _join(ax, stream, branch, SHORT)
    if whole.embedding_norm:
        y = _box(ax, stream, y + 0.1, NARROW, SHORT, stack.norm, GREEN)
    foot = y + 0.2
    y = foot + 0.1
    for kind in ("attention", "cross-attention", "feed-forward") if stack.cross else ("attention", "feed-forward"):
        y = _part(ax, stream, branch, y, kind, stack, whole, memory)
    y += 0.1
    ax.add_patch(Rectangle((left, foot), WIDTH - 0.2, y - foot, fill=False, edgecolor="#999999", linewidth=1))
    ax.text(left + WIDTH - 0.3, foot + 0.18, f"× {stack.n_layers}", ha="right", va="center", fontsize=11)
    if stack.final_norm:
        y = _box(ax, stream, y + 0.15, NARROW, SHORT, stack.norm, GREEN)
    ax.plot([stream, stream], [SHORT, y], color="black", linewidth=2.2, zorder=1, solid_capstyle="butt")
    arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (stream, y + 0.45), (stream, y - 0.05), arrowprops=arrow)
    return y + 0.45


def _part(
    ax: Axes, stream: float, branch: float, y: float, kind: str, stack: Stack, whole: Architecture, memory
) -> float:
    """Draw one part of a block, with its norm and its way back into the stream; return the height reached."""
    start = y + 0.12
    y = start + 0.14
    ax.plot([stream, branch, branch], [start, start, y + 0.1], color="black", linewidth=1, zorder=1)
    if stack.pre_norm:
        y = _box(ax, branch, y, NARROW, SHORT, stack.norm, GREEN) + 0.14
        ax.plot([branch, branch], [y - 0.2, y + 0.1], color="black", linewidth=1, zorder=1)
    if kind == "feed-forward":
        words = [kind, ("gated " if stack.gated else "") + _spelled(stack.activation)]
        top = _box(ax, branch, y, WIDE, SHORT + LINE * (len(words) - 1), words, ORANGE)
    else:
        words = ["attention", f"{stack.n_heads} heads"]
        if stack.n_kv_heads != stack.n_heads:
            words.append(f"{stack.n_kv_heads} kv heads")
        if kind == "attention" and whole.positions in ("rotary", "relative"):
            words.append(whole.positions)
        top = _box(ax, branch, y, WIDE, SHORT + LINE * (len(words) - 1), words, BLUE, shift=-0.3)
        _mask(ax, branch + 0.41, (y + top) / 2, causal=stack.causal and kind == "attention")
        if kind == "cross-attention":
            _lead(ax, memory, stream, branch, (y + top) / 2)
    y = _join(ax, stream, branch, top)
    return y if stack.pre_norm else _box(ax, stream, y + 0.05, NARROW, SHORT, stack.norm, GREEN)


def _lead(ax: Axes, memory: tuple[float, float], stream: float, branch: float, y: float) -> None:
    """Lead the output of an encoder, whose column begins at x and ends at height ``memory``, into a box at y."""
    x, end = memory
    corner = stream - STREAM - 0.1
    path = [(x + STREAM, end), (x + STREAM, end + 0.2), (corner, end + 0.2), (corner, y), (branch - WIDE / 2, y)]
    for colour, width, order in (("white", 5, 1.5), (BLUE, 1.6, 1.6)):  # the white one keeps it apart from the stream
        ax.plot(*zip(*path, strict=True), color=colour, linewidth=width, zorder=order)


def _join(ax: Axes, stream: float, branch: float, y: float) -> float:
    """Lead a branch that ends at height y back into the stream, with a plus; return the height reached."""
    at = y + 0.17
    ax.plot([branch, branch, stream], [y, at, at], color="black", linewidth=1, zorder=1)
    ax.plot(stream, at, "o", markersize=9, markerfacecolor="white", markeredgecolor="black", zorder=3)
    ax.plot(stream, at, "+", markersize=6, color="black", zorder=4)
    return at + 0.12


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, words: str | list[str], colour: str, shift: float = 0
) -> float:
    """Draw a box with its middle at x and its foot at y, the words ``shift`` beside its middle; return its top."""
    style = "round,pad=0,rounding_size=0.08"
    box = FancyBboxPatch((x - width / 2, y), width, height, boxstyle=style, facecolor="white", edgecolor=colour)
    ax.add_patch(box)
    box.set(linewidth=1.6, zorder=2)
    text = words if isinstance(words, str) else "\n".join(words)
    ax.text(x + shift, y + height / 2, text, ha="center", va="center", fontsize=10, color=colour, zorder=5)
    return y + height


def _mask(ax: Axes, x: float, middle: float, causal: bool, n: int = 5, size: float = 0.46) -> None:
    """Draw which position (row) sees which (column)."""
    step = size / n
    for row in range(n):
        for column in range(n):
            sees = column <= row or not causal
            cell = Rectangle((x + column * step, middle + size / 2 - (row + 1) * step), step, step, linewidth=0.4)
            cell.set(facecolor=BLUE if sees else "white", edgecolor="white" if sees else "#999999", zorder=5)
            ax.add_patch(cell)


def _spelled(activation: str) -> str:
    """Return an activation as papers write it."""
    return {"relu": "ReLU", "silu": "SiLU"}.get(activation, "GELU")
