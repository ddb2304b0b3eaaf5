"""The book's own small decoder: between GPT-2 and today's recipes, each change a switch, so that it can be tried alone.

One switch, ``causal``, turns it into an encoder for masked training, with all else the same.

Pre-norm blocks like those of ``models.gpt2`` and ``models.llama``; with the options of either it computes the same.
What each switch does, and its source, stands beside it in :class:`DecoderConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.layers import (
    FeedForward,
    GatedFeedForward,
    KVCache,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    PreNormBlock,
    RMSNorm,
    init_weights,
    linear,
    padding_mask,
    rotary_angles,
)
from plm_tutorial.models.common import check_config, check_input, check_keep, count_positions, required

NORMS = {"layer": LayerNorm, "rms": RMSNorm}
CHOICES = {"positions": ("learned", "rotary"), "norm": tuple(NORMS), "activation": ("gelu_new", "relu2", "swiglu")}


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder, and its switches. The defaults are those of GPT-2's recipe, at a size for a CPU."""

    vocab_size: int  # V: entries of the tokenizer's vocabulary
    context_length: int = 256  # the longest text; with learned positions, how many have a vector
    d_model: int = 128  # D: width of the hidden states
    n_layers: int = 4  # blocks
    n_heads: int = 4  # H: attention heads; each is D / H wide
    d_hidden: int = 512  # width inside the feed-forward
    positions: str = "learned"  # or "rotary" (Su et al. 2021)
    norm: str = "layer"  # or "rms" (Zhang and Sennrich 2019)
    qk_norm: bool = False  # RMSNorm of queries and keys in each head, before rotation (Henry et al. 2020)
    activation: str = "gelu_new"  # or "relu2" (So et al. 2021), or "swiglu", which has a third matrix (Shazeer 2020)
    zero_init: bool = False  # what writes to the residual stream starts at zero, so each block at "add nothing"
    bias: bool = True  # linear layers add one
    tied: bool = True  # the output layer is the token embedding
    causal: bool = True  # a position looks at itself and what stands before it; False: at all, for masked training
    init_std: float = 0.02  # spread of the initial weights
    dropout: float = 0.0  # in training: of embeddings, of attention weights, of what a block adds
    norm_eps: float = 1e-5  # added to the variance, or the mean square, in every norm
    rope_base: float = 10000.0  # rotary positions: the slowest pair turns once in about 2π · base positions

    def __post_init__(self) -> None:
        check_config(self)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; implemented here: {', '.join(known)}")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} cannot be split evenly into n_heads = {self.n_heads}")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(
                f"d_model / n_heads is {self.d_head}; rotary positions turn pairs of features: make it even"
            )
        if self.rope_base < 1:
            raise ValueError(f"rope_base is {self.rope_base}; expected at least 1")

    @property
    def d_head(self) -> int:
        """K: the width of a head."""
        return self.d_model // self.n_heads

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """Return the configuration that a ``config.json`` written by :meth:`to_hub` describes.

        Raises:
            ValueError: something is missing or senseless.
        """
        return cls(**{one.name: required(values, one.name) for one in fields(cls)})

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` of this model. Only this book's package opens it: it is no published family."""
        return {"architectures": ["Decoder"], "model_type": "plm-decoder"} | asdict(self)


def gpt2_recipe(vocab_size: int, **shape: Any) -> DecoderConfig:
    """Return the recipe of 2019: learned positions, LayerNorm, GELU, biases, GPT-2's initial weights."""
    return DecoderConfig(vocab_size, **shape)


def modern_recipe(vocab_size: int, **shape: Any) -> DecoderConfig:
    """Return the same shape with today's parts: rotary positions, RMSNorm, QK-norm, ReLU², zero starts, no biases.

    ReLU² rather than SwiGLU, because it needs no third matrix: the two recipes then do nearly the same arithmetic.
    """
    modern = {"positions": "rotary", "norm": "rms", "qk_norm": True, "activation": "relu2", "zero_init": True}
    return DecoderConfig(vocab_size, **modern | {"bias": False} | shape)


def decoder_block(config: DecoderConfig) -> PreNormBlock:
    """Return one layer of the decoder."""
    norm = partial(NORMS[config.norm], config.d_model, config.norm_eps)
    if config.activation == "swiglu":
        feed_forward = GatedFeedForward(config.d_model, config.d_hidden, bias=config.bias)
    else:
        feed_forward = FeedForward(config.d_model, config.d_hidden, config.activation, config.bias)
    attention = MultiHeadAttention(
        config.d_model,
        config.n_heads,
        bias=config.bias,
        dropout=config.dropout,
        qk_norm=config.norm_eps if config.qk_norm else None,
    )
    return PreNormBlock(attention, feed_forward, norm(), norm(), config.dropout)


class Decoder(nn.Module):
    """The decoder with its output layer: token ids to logits of the next token."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.context_length, config.d_model) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(decoder_block(config) for _ in range(config.n_layers))
        self.norm = NORMS[config.norm](config.d_model, config.norm_eps)
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw initial weights as GPT-2 does; with ``zero_init`` each block's last projections are 0.

        Zero starts: Zhang et al. 2019, https://arxiv.org/abs/1901.09321, rule 1.
        """
        config = self.config
        self.apply(partial(init_weights, std=config.init_std))
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=config.init_std / 2)  # in GPT-2's code 0.01, the others 0.02
        for block in self.layers:
            for last in (block.attention.output, block.feed_forward.down):
                if config.zero_init:
                    nn.init.zeros_(last.weight)
                else:  # 2 · n_layers parts add to the residual stream; their sum keeps the spread of one
                    nn.init.normal_(last.weight, std=config.init_std / math.sqrt(2 * config.n_layers))

    def new_cache(self) -> KVCache:
        """Return an empty cache for this model, to be passed as ``cache=``.

        Raises:
            ValueError: the model is not causal.
        """
        if not self.config.causal:
            raise ValueError("this model looks both ways, so what follows changes what came before: it has no cache")
        return KVCache(self.config.n_layers, self.config.context_length)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of what follows each position, (B, T, V); with ``last_only`` the last one's, (B, 1, V).

        If the model is not causal, they are of what stands at each position, which the input may hide.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), or (B, cache.length + T) with a cache; 1 = keep, 0 = padding, which no position
                looks at; learned positions are counted over what is kept, so padding may stand on the left. None keeps
                all. Or (B, T, T): for each position, which ones it may look at, so that documents that share a row do
                not see each other; learned positions then begin anew with each document.
            cache: the positions before these; is extended by these, in place. Not for training.
            last_only: leave out logits that nobody reads: of a long prompt they are larger than the model.
            keep: (B, T) bool: the N positions whose logits are wanted. The result is then (N, V).

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids; a cache is given
                to a model that is not causal.
        """
        x = self.hidden(input_ids, attention_mask, cache, last_only, keep)
        output = self.tokens.weight if self.head is None else self.head.weight  # (V, D)
        return linear(x, output)  # (B, T, V), (B, 1, V) or (N, V)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return what the output layer reads, behind the last norm: (B, T, D), (B, 1, D) or (N, D); see ``forward``."""
        config, past = self.config, cache.length if cache is not None else 0
        check_input(input_ids, attention_mask, config.context_length, config.vocab_size, past, documents=True)
        check_keep(keep, input_ids)
        if cache is not None and not config.causal:
            raise ValueError("a model that looks both ways has no use for a cache; call it with the whole text")
        x, rotary = self.tokens(input_ids), None  # (B, T, D)
        positions = torch.arange(past, past + input_ids.size(1), device=input_ids.device)  # (T,)
        if self.positions is None:
            rotary = rotary_angles(positions, config.d_head, config.rope_base)  # (T, K/2) twice
        else:
            if attention_mask is not None:
                positions = count_positions(attention_mask)[:, past:]  # (B, T)
            x = x + self.positions(positions)  # (B, T, D)
        mask = padding_mask(attention_mask)  # (B, 1, 1, S) or (B, 1, T, T)
        x = self.dropout(x)
        for i, block in enumerate(self.layers):
            x = block(x, mask=mask, causal=config.causal, rotary=rotary, cache=cache, layer=i)  # (B, T, D)
        x = x[:, -1:] if last_only else x if keep is None else x[keep]
        return self.norm(x)


def hub_weights(_: DecoderConfig) -> dict[str, str]:
    """Return which stored tensor goes where in this decoder: each has the name that it has here."""
    parts = ("attention.query", "attention.key", "attention.value", "attention.output")
    parts += ("feed_forward.gate", "feed_forward.up", "feed_forward.down", "attention_norm", "feed_forward_norm")
    names = [f"layers.{{layer}}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    names += [f"layers.{{layer}}.attention.{part}_norm.weight" for part in ("query", "key")]
    names += ["tokens.weight", "positions.weight", "norm.weight", "norm.bias", "head.weight"]
    return {name: name for name in names}  # those that this configuration has no parameter for are left out
