"""GPT-2: a decoder in which each position sees itself and what came before, and predicts what comes next.

Pre-norm blocks, learned positions, GELU feed-forwards, and the token embedding as output layer. Source: Radford et al.
2019, Language Models are Unsupervised Multitask Learners, section 2.3, and the code published with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.layers import (
    ACTIVATIONS,
    FeedForward,
    KVCache,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    PreNormBlock,
    init_weights,
    linear,
    padding_mask,
)
from plm_tutorial.models.common import check_config, check_input, count_positions, only, required
from plm_tutorial.weights import Change, Copy


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2. The defaults are those of the smallest, with 124 million parameters."""

    vocab_size: int = 50257  # V: entries of the tokenizer's vocabulary
    context_length: int = 1024  # positions that have a learned vector
    d_model: int = 768  # D: width of the hidden states
    n_layers: int = 12  # blocks
    n_heads: int = 12  # H: attention heads; each is D / H wide
    d_hidden: int = 3072  # width inside the feed-forward
    activation: str = "gelu_new"  # of the feed-forward; see layers.ACTIVATIONS
    norm_eps: float = 1e-5  # added to the variance in LayerNorm
    tied: bool = True  # the output layer is the token embedding
    embedding_dropout: float = 0.1  # in training: of the sum of token and position
    attention_dropout: float = 0.1  # in training: of attention weights
    dropout: float = 0.1  # in training: of what a block adds
    init_std: float = 0.02  # spread of the initial weights

    def __post_init__(self) -> None:
        check_config(self)
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} cannot be split evenly into n_heads = {self.n_heads}")
        if self.activation not in list(ACTIVATIONS):
            raise ValueError(f"activation is {self.activation!r}; implemented here: {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> GPT2Config:
        """Return the configuration that a published ``config.json`` describes.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        only(values, "scale_attn_weights", True)
        only(values, "scale_attn_by_inverse_layer_idx", False)
        only(values, "reorder_and_upcast_attn", False)
        only(values, "add_cross_attention", False)
        d_model, d_hidden = required(values, "n_embd"), values.get("n_inner")
        return cls(
            vocab_size=required(values, "vocab_size"),
            context_length=required(values, "n_positions"),
            d_model=d_model,
            n_layers=required(values, "n_layer"),
            n_heads=required(values, "n_head"),
            d_hidden=4 * d_model if d_hidden is None and type(d_model) is int else d_hidden,
            activation=required(values, "activation_function"),
            norm_eps=required(values, "layer_norm_epsilon"),
            tied=values.get("tie_word_embeddings", True),
            embedding_dropout=values.get("embd_pdrop", 0.1),
            attention_dropout=values.get("attn_pdrop", 0.1),
            dropout=values.get("resid_pdrop", 0.1),
            init_std=values.get("initializer_range", 0.02),
        )

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` from which :meth:`from_hub` and Transformers make this model."""
        end = 50256 if self.vocab_size == 50257 else None  # <|endoftext|> of GPT-2's own vocabulary
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": self.context_length,
            "n_embd": self.d_model,
            "n_layer": self.n_layers,
            "n_head": self.n_heads,
            "n_inner": self.d_hidden,
            "activation_function": self.activation,
            "layer_norm_epsilon": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "embd_pdrop": self.embedding_dropout,
            "attn_pdrop": self.attention_dropout,
            "resid_pdrop": self.dropout,
            "initializer_range": self.init_std,
            "bos_token_id": end,
            "eos_token_id": end,
        }


def gpt2_block(config: GPT2Config) -> PreNormBlock:
    """Return one layer of GPT-2."""
    return PreNormBlock(
        MultiHeadAttention(config.d_model, config.n_heads, dropout=config.attention_dropout),
        FeedForward(config.d_model, config.d_hidden, config.activation),
        LayerNorm(config.d_model, config.norm_eps),
        LayerNorm(config.d_model, config.norm_eps),
        config.dropout,
    )


class GPT2(nn.Module):
    """The decoder with its output layer: token ids to logits of the next token."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(gpt2_block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw initial weights as the paper and its code do."""
        std = self.config.init_std
        self.apply(partial(init_weights, std=std))
        nn.init.normal_(self.positions.weight, std=std / 2)  # in the published code 0.01, the others 0.02
        for block in self.layers:
            # 2 · n_layers parts add to the residual stream; their sum keeps the spread of one.
            for last in (block.attention.output, block.feed_forward.down):
                nn.init.normal_(last.weight, std=std / math.sqrt(2 * self.config.n_layers))

    def new_cache(self) -> KVCache:
        """Return an empty cache for this model, to be passed as ``cache=``."""
        return KVCache(self.config.n_layers, self.config.context_length)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Return the logits of what follows each position, (B, T, V); with ``last_only`` the last one's, (B, 1, V).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), or (B, cache.length + T) with a cache; 1 = keep, 0 = padding, which no position
                looks at. Positions are counted over what is kept, so padding may stand on the left. None keeps all. Or
                (B, T, T): for each position, which ones it may look at, so that documents that share a row do not see
                each other; then positions begin anew with each document.
            cache: the positions before these; is extended by these, in place. Not for training.
            last_only: leave out logits that nobody reads: of a long prompt they are larger than the model.

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids.
        """
        past = cache.length if cache is not None else 0
        config = self.config
        check_input(input_ids, attention_mask, config.context_length, config.vocab_size, past, documents=True)
        if attention_mask is None:
            positions = torch.arange(past, past + input_ids.size(1), device=input_ids.device)  # (T,)
        else:
            positions = count_positions(attention_mask)[:, past:]  # (B, T)
        mask = padding_mask(attention_mask)  # (B, 1, 1, S) or (B, 1, T, T)
        x = self.dropout(self.tokens(input_ids) + self.positions(positions))  # (B, T, D)
        for i, block in enumerate(self.layers):
            x = block(x, mask=mask, causal=True, cache=cache, layer=i)  # (B, T, D)
        x = self.norm(x[:, -1:] if last_only else x)
        output = self.tokens.weight if self.head is None else self.head.weight  # (V, D)
        return linear(x, output)  # (B, T, V)


def _transposed(name: str) -> Change:
    """The published layers multiply x (T, in) by a weight (in, out); a linear layer of PyTorch keeps (out, in)."""
    return Change((name,), split=lambda weight, _: [weight.T], join=lambda weights, _: weights[0].T)


def _joined(kind: str) -> Change:
    """The published weight (D, 3 D), or bias (3 D,), makes queries, keys and values in one product."""
    return Change(
        tuple(f"layers.{{layer}}.attention.{part}.{kind}" for part in ("query", "key", "value")),
        split=lambda value, _: [part.T if kind == "weight" else part for part in value.chunk(3, dim=-1)],
        join=lambda parts, _: torch.cat([part.T if kind == "weight" else part for part in parts], dim=-1),
    )


def hub_weights(config: GPT2Config) -> dict[str, str | None | Change | Copy]:
    """Return which published tensor goes where in this GPT-2; None is dropped on purpose.

    The names have no "transformer." in front, as in the first published files; :func:`bare_name` takes it away.
    """
    return {
        "wte.weight": "tokens.weight",
        "wpe.weight": "positions.weight",
        "h.{layer}.ln_1.weight": "layers.{layer}.attention_norm.weight",
        "h.{layer}.ln_1.bias": "layers.{layer}.attention_norm.bias",
        "h.{layer}.attn.bias": None,  # the causal mask: kept by older releases, computed here
        "h.{layer}.attn.masked_bias": None,  # the number that stood for "not allowed" in it
        "h.{layer}.attn.c_attn.weight": _joined("weight"),
        "h.{layer}.attn.c_attn.bias": _joined("bias"),
        "h.{layer}.attn.c_proj.weight": _transposed("layers.{layer}.attention.output.weight"),
        "h.{layer}.attn.c_proj.bias": "layers.{layer}.attention.output.bias",
        "h.{layer}.ln_2.weight": "layers.{layer}.feed_forward_norm.weight",
        "h.{layer}.ln_2.bias": "layers.{layer}.feed_forward_norm.bias",
        "h.{layer}.mlp.c_fc.weight": _transposed("layers.{layer}.feed_forward.up.weight"),
        "h.{layer}.mlp.c_fc.bias": "layers.{layer}.feed_forward.up.bias",
        "h.{layer}.mlp.c_proj.weight": _transposed("layers.{layer}.feed_forward.down.weight"),
        "h.{layer}.mlp.c_proj.bias": "layers.{layer}.feed_forward.down.bias",
        "ln_f.weight": "norm.weight",
        "ln_f.bias": "norm.bias",
        "lm_head.weight": Copy("tokens.weight") if config.tied else "head.weight",
    }


def bare_name(name: str) -> str:
    """Return the name of a published tensor without "transformer." in front, which a model with a head puts there."""
    return name.removeprefix("transformer.")
