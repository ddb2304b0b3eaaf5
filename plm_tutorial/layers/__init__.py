"""The parts that every Transformer of this book is made of. Imports nothing of ours from outside this folder.

In: tensors (B, T, D), or queries, keys and values (B, H, T, K). Out: the same shapes. Bottom-up: ``positions``,
``projections``, ``blocks``, ``dot_product`` (attention), ``recording``.
"""

from .blocks import (
    ACTIVATIONS,
    Block,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    PostNormBlock,
    PreNormBlock,
    RMSNorm,
    init_weights,
    relu_squared,
)
from .dot_product import KVCache, MultiHeadAttention, attention, causal_mask, padding_mask, repeat_heads
from .positions import RelativeBias, rotary_angles, rotate, sinusoidal_positions
from .projections import Linear, for_decoding, linear
from .recording import Call, Recording, record

__all__ = [
    "ACTIVATIONS",
    "Block",
    "Call",
    "FeedForward",
    "GatedFeedForward",
    "KVCache",
    "Linear",
    "LayerNorm",
    "MultiHeadAttention",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "Recording",
    "RelativeBias",
    "attention",
    "causal_mask",
    "for_decoding",
    "init_weights",
    "linear",
    "padding_mask",
    "record",
    "relu_squared",
    "repeat_heads",
    "rotary_angles",
    "rotate",
    "sinusoidal_positions",
]
