"""BERT: an encoder in which each position sees the whole text, in both directions.

Post-norm blocks, learned positions, a learned vector for each of two segments (token types), GELU feed-forwards.
Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805; initial weights as in its published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.layers import (
    ACTIVATIONS,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    PostNormBlock,
    init_weights,
    padding_mask,
)
from plm_tutorial.models.common import check_config, check_input, only, required


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT. The defaults are BERT-base's."""

    vocab_size: int = 30522  # V: entries of the tokenizer's vocabulary
    context_length: int = 512  # positions that have a learned vector
    n_token_types: int = 2  # segments that have a learned vector
    d_model: int = 768  # D: width of the hidden states
    n_layers: int = 12  # blocks
    n_heads: int = 12  # H: attention heads; each is D / H wide
    d_hidden: int = 3072  # width inside the feed-forward
    activation: str = "gelu"  # of the feed-forward; see layers.ACTIVATIONS
    norm_eps: float = 1e-12  # added to the variance in LayerNorm
    dropout: float = 0.1  # in training: of embeddings and of what a block adds
    attention_dropout: float = 0.1  # in training: of attention weights
    init_std: float = 0.02  # spread of the initial weights

    def __post_init__(self) -> None:
        check_config(self)
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} cannot be split evenly into n_heads = {self.n_heads}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; implemented here: {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> BertConfig:
        """Return the configuration that a published ``config.json`` describes.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        only(values, "position_embedding_type", "absolute")
        only(values, "is_decoder", False)
        only(values, "add_cross_attention", False)
        return cls(
            vocab_size=required(values, "vocab_size"),
            context_length=required(values, "max_position_embeddings"),
            n_token_types=required(values, "type_vocab_size"),
            d_model=required(values, "hidden_size"),
            n_layers=required(values, "num_hidden_layers"),
            n_heads=required(values, "num_attention_heads"),
            d_hidden=required(values, "intermediate_size"),
            activation=required(values, "hidden_act"),
            norm_eps=required(values, "layer_norm_eps"),
            dropout=values.get("hidden_dropout_prob", 0.1),
            attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
            init_std=values.get("initializer_range", 0.02),
        )


class BertEmbeddings(nn.Module):
    """The sum of a token's, a position's and a segment's vector, normalised."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.token_types = nn.Embedding(config.n_token_types, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # (B, T): all in the first segment
        positions = torch.arange(input_ids.size(1), device=input_ids.device)  # (T,)
        x = self.tokens(input_ids) + self.positions(positions) + self.token_types(token_type_ids)  # (B, T, D)
        return self.dropout(self.norm(x))


def bert_block(config: BertConfig) -> PostNormBlock:
    """Return one layer of BERT."""
    return PostNormBlock(
        MultiHeadAttention(config.d_model, config.n_heads, dropout=config.attention_dropout),
        FeedForward(config.d_model, config.d_hidden, config.activation),
        LayerNorm(config.d_model, config.norm_eps),
        LayerNorm(config.d_model, config.norm_eps),
        config.dropout,
    )


class Bert(nn.Module):
    """The encoder: token ids to hidden states. Heads for tasks are built on top of it."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(bert_block(config) for _ in range(config.n_layers))
        self.apply(partial(init_weights, std=config.init_std))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return the hidden states of the last layer, (B, T, D).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 = keep, 0 = padding, which no position looks at. None keeps all.
            token_type_ids: (B, T) int64, the segment of each token. None: all 0.

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids.
        """
        check_input(input_ids, attention_mask, self.config.context_length, self.config.vocab_size)
        mask = padding_mask(attention_mask)  # (B, 1, 1, T)
        x = self.embeddings(input_ids, token_type_ids)  # (B, T, D)
        for block in self.layers:
            x = block(x, mask=mask)  # (B, T, D)
        return x


# Which published tensor goes where; None is dropped on purpose. Names without "bert." in front: of a bare encoder.
HUB_WEIGHTS = {
    "embeddings.word_embeddings.weight": "embeddings.tokens.weight",
    "embeddings.position_embeddings.weight": "embeddings.positions.weight",
    "embeddings.token_type_embeddings.weight": "embeddings.token_types.weight",
    "embeddings.LayerNorm.weight": "embeddings.norm.weight",
    "embeddings.LayerNorm.bias": "embeddings.norm.bias",
    "embeddings.position_ids": None,  # 0, 1, 2, …: kept by older releases, computed here
    "encoder.layer.{layer}.attention.self.query.weight": "layers.{layer}.attention.query.weight",
    "encoder.layer.{layer}.attention.self.query.bias": "layers.{layer}.attention.query.bias",
    "encoder.layer.{layer}.attention.self.key.weight": "layers.{layer}.attention.key.weight",
    "encoder.layer.{layer}.attention.self.key.bias": "layers.{layer}.attention.key.bias",
    "encoder.layer.{layer}.attention.self.value.weight": "layers.{layer}.attention.value.weight",
    "encoder.layer.{layer}.attention.self.value.bias": "layers.{layer}.attention.value.bias",
    "encoder.layer.{layer}.attention.output.dense.weight": "layers.{layer}.attention.output.weight",
    "encoder.layer.{layer}.attention.output.dense.bias": "layers.{layer}.attention.output.bias",
    "encoder.layer.{layer}.attention.output.LayerNorm.weight": "layers.{layer}.attention_norm.weight",
    "encoder.layer.{layer}.attention.output.LayerNorm.bias": "layers.{layer}.attention_norm.bias",
    "encoder.layer.{layer}.intermediate.dense.weight": "layers.{layer}.feed_forward.up.weight",
    "encoder.layer.{layer}.intermediate.dense.bias": "layers.{layer}.feed_forward.up.bias",
    "encoder.layer.{layer}.output.dense.weight": "layers.{layer}.feed_forward.down.weight",
    "encoder.layer.{layer}.output.dense.bias": "layers.{layer}.feed_forward.down.bias",
    "encoder.layer.{layer}.output.LayerNorm.weight": "layers.{layer}.feed_forward_norm.weight",
    "encoder.layer.{layer}.output.LayerNorm.bias": "layers.{layer}.feed_forward_norm.bias",
    "pooler.dense.weight": None,  # a layer on top of the first position, for next-sentence prediction: a head, and
    "pooler.dense.bias": None,  # not used by the sentence encoders, which average all positions
}
