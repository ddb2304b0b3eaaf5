"""Norms, feed-forwards, and the block that joins them with attention.

In: hidden states (B, T, D). Out: hidden states (B, T, D).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .projections import Linear

if TYPE_CHECKING:
    from .dot_product import KVCache

# ------------------------------------------------------------------------------------------------------------- norms


class LayerNorm(nn.Module):
    """Shift and scale each vector to mean 0 and variance 1, then scale and shift each feature by learned numbers.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)  # (..., D)


class RMSNorm(nn.Module):
    """Scale each vector to a mean square of 1, then scale each feature by a learned number; no shift.

    y = x / sqrt(mean(x²) + eps) * weight. Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # (..., D)


# ----------------------------------------------------------------------------------------------------- feed-forwards


def relu_squared(x: Tensor) -> Tensor:
    """Return max(x, 0)². Source: So et al. 2021 ("Primer"), https://arxiv.org/abs/2109.08668."""
    return F.relu(x).square()


# Names as in the published configurations. "gelu" is x Φ(x) exactly, "gelu_new" replaces Φ by a formula with tanh.
# Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415. "silu" is x / (1 + exp(-x)).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu2": relu_squared,
}


class FeedForward(nn.Module):
    """Widen each vector, apply an activation, narrow it again; positions do not see each other."""

    def __init__(self, d_model: int, d_hidden: int, activation: str = "gelu", bias: bool = True, dropout: float = 0.0):
        super().__init__()
        self.up = Linear(d_model, d_hidden, bias)
        self.down = Linear(d_hidden, d_model, bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)  # of the hidden features

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.up(x))  # (B, T, d_hidden)
        return self.down(self.dropout(hidden))  # (B, T, D)


class GatedFeedForward(nn.Module):
    """A feed-forward whose hidden features are each multiplied by a gate; with ``silu`` it is called SwiGLU.

    Source: Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6.
    """

    def __init__(self, d_model: int, d_hidden: int, activation: str = "silu", bias: bool = False, dropout: float = 0.0):
        super().__init__()
        self.gate = Linear(d_model, d_hidden, bias)
        self.up = Linear(d_model, d_hidden, bias)
        self.down = Linear(d_hidden, d_model, bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)  # of the hidden features

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.gate(x)) * self.up(x)  # (B, T, d_hidden)
        return self.down(self.dropout(hidden))  # (B, T, D)


# ------------------------------------------------------------------------------------------------------------ blocks


class Block(nn.Module):
    """One layer of a model: attention, then a feed-forward, each with a residual connection and a norm.

    A decoder's block that also reads an encoder's output has cross-attention between the two. Where the norm stands is
    the subclasses' matter (:meth:`residual`).
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        attention_norm: nn.Module,
        feed_forward_norm: nn.Module,
        dropout: float = 0.0,  # of what is added to the residual stream
        cross_attention: nn.Module | None = None,
        cross_norm: nn.Module | None = None,
    ):
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.cross_attention = cross_attention
        self.cross_norm = cross_norm
        self.feed_forward = feed_forward
        self.feed_forward_norm = feed_forward_norm
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        **how,
    ) -> Tensor:
        """Return the next hidden states (B, T, D).

        Args:
            x: (B, T, D).
            memory: (B, S, D), the encoder's output, for the cross-attention.
            memory_mask: bool, broadcastable to (B, H, T, S); True where it may be looked at.
            cache, layer: see :class:`MultiHeadAttention`.
            how: further arguments of the self-attention: mask, causal, rotary, bias.
        """
        x = self.residual(x, self.attention_norm, partial(self.attention, cache=cache, layer=layer, **how))
        if self.cross_attention is not None:
            look = partial(self.cross_attention, mask=memory_mask, memory=memory, cache=cache, layer=layer)
            x = self.residual(x, self.cross_norm, look)
        return self.residual(x, self.feed_forward_norm, self.feed_forward)

    def residual(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x (B, T, D) with what a part of the block has to add."""
        raise NotImplementedError


class PostNormBlock(Block):
    """The norm comes after the sum, as in the Transformer of 2017 and BERT."""

    def residual(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        return norm(x + self.dropout(part(x)))  # (B, T, D)


class PreNormBlock(Block):
    """The norm comes before each part, so that the sum itself is never normalised, as in GPT-2, T5 and Llama."""

    def residual(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        return x + self.dropout(part(norm(x)))  # (B, T, D)


def init_weights(module: nn.Module, std: float) -> None:
    """Draw the weights of a linear or embedding layer from a normal distribution and set biases to 0, as BERT does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
