"""Keep what happens inside a model: attention maps and hidden states, for any model made of these blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from .blocks import Block
from .dot_product import MultiHeadAttention


@dataclass
class Call:
    """What one call of a model left in a recording."""

    attention: list[Tensor] = field(default_factory=list)  # self-attention of each layer: (B, H, T, S)
    cross: list[Tensor] = field(default_factory=list)  # cross-attention of each decoder layer: (B, H, T, S)
    hidden: list[Tensor] = field(default_factory=list)  # what the first block was given, then what each block returned


@dataclass
class Recording:
    """The calls of a model inside ``with record(model) as recording``, oldest first."""

    calls: list[Call] = field(default_factory=list)

    @property
    def attention(self) -> list[Tensor]:
        """The attention maps of the latest call, one a layer: (B, H, T, S), each row sums to 1."""
        return self._latest().attention

    @property
    def cross(self) -> list[Tensor]:
        """The maps of a decoder's cross-attention in the latest call, one a layer: (B, H, T, S), each row sums to 1."""
        return self._latest().cross

    @property
    def hidden(self) -> list[Tensor]:
        """The hidden states of the latest call: the input of the first block, then the output of each: (B, T, D)."""
        return self._latest().hidden

    def _latest(self) -> Call:
        if not self.calls:
            raise ValueError("nothing was recorded: call the model itself inside `with record(model) as recording:`")
        return self.calls[-1]


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Keep attention maps and hidden states, by layer, of each call of ``model`` inside the ``with`` block.

    Attention takes its explicit path meanwhile. A final norm of the model comes after the last hidden state. Of an
    encoder-decoder, the encoder's layers come first, then the decoder's; ``record(model.decoder)`` keeps those alone.

    Raises:
        ValueError: the model has no attention of this module, or is being recorded already.
    """
    attentions = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    if not attentions or not blocks:
        raise ValueError(f"{type(model).__name__} has no attention blocks of plm_tutorial.layers to record")
    if any(m.save is not None for m in attentions):
        raise ValueError(f"this {type(model).__name__} is being recorded already; leave the other `with record` first")
    crossing = {block.cross_attention for block in blocks}
    recording = Recording()

    def begin(*_) -> None:
        recording.calls.append(call := Call())
        for module in attentions:
            module.save = call.cross if module in crossing else call.attention

    hooks = [model.register_forward_pre_hook(begin)]
    hooks += [blocks[0].register_forward_pre_hook(lambda _, given: recording.hidden.append(given[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: recording.hidden.append(out)) for block in blocks]
    for module in attentions:
        module.save = []  # taken; each call brings its own list
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()
        for module in attentions:
            module.save = None
