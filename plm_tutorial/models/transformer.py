"""The Transformer of 2017: an encoder that reads a source, and a decoder that writes a target while looking at it.

Sinusoidal positions, ReLU feed-forwards, post-norm blocks, and one embedding for source, target and output. Source:
Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3. :class:`TransformerEncoder` is the layer that is often
copied in its place: one block of the encoder, sequence first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_tutorial.layers import (
    ACTIVATIONS,
    Block,
    FeedForward,
    KVCache,
    LayerNorm,
    MultiHeadAttention,
    PostNormBlock,
    PreNormBlock,
    attention,
    linear,
    padding_mask,
    sinusoidal_positions,
)
from plm_tutorial.models.common import check_config, check_input, check_memory, required

BLOCKS: dict[str, type[Block]] = {"post": PostNormBlock, "pre": PreNormBlock}


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of an encoder-decoder. The defaults are the base model's of the paper (table 3)."""

    vocab_size: int = 37000  # V: entries of the vocabulary that source and target share
    context_length: int = 1024  # the longest source, and the longest target; sinusoids themselves have no end
    d_model: int = 512  # D: width of the hidden states
    n_layers: int = 6  # blocks of the encoder, and as many of the decoder
    n_heads: int = 8  # H: attention heads; each is D / H wide
    d_hidden: int = 2048  # width inside the feed-forward
    activation: str = "relu"  # of the feed-forward; see layers.ACTIVATIONS
    norm: str = "post"  # where the norm stands: "post" (the paper) or "pre", which needs one more after each stack
    norm_eps: float = 1e-5  # added to the variance in LayerNorm; the paper gives no number
    dropout: float = 0.1  # in training: of embeddings with positions, and of what a block adds

    def __post_init__(self) -> None:
        check_config(self)
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} cannot be split evenly into n_heads = {self.n_heads}")
        if self.d_model % 2:
            raise ValueError(f"d_model is {self.d_model}; sines and cosines come in pairs, so it must be even")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; implemented here: {', '.join(ACTIVATIONS)}")
        if self.norm not in BLOCKS:
            raise ValueError(f"norm is {self.norm!r}; expected 'post', as in the paper, or 'pre'")

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """Return the configuration that a ``config.json`` written by :meth:`to_hub` describes.

        Raises:
            ValueError: something is missing or senseless.
        """
        return cls(**{one.name: required(values, one.name) for one in fields(cls)})

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` of this model. Only this book's package opens it: it is no published family."""
        return {"architectures": ["Transformer"], "model_type": "plm-transformer"} | asdict(self)


def transformer_block(config: TransformerConfig, decoder: bool) -> Block:
    """Return one layer of the encoder, or of the decoder, which has cross-attention too."""

    def norm() -> LayerNorm:
        return LayerNorm(config.d_model, config.norm_eps)

    return BLOCKS[config.norm](
        MultiHeadAttention(config.d_model, config.n_heads),
        FeedForward(config.d_model, config.d_hidden, config.activation),
        norm(),
        norm(),
        config.dropout,
        MultiHeadAttention(config.d_model, config.n_heads) if decoder else None,
        norm() if decoder else None,
    )


class Stack(nn.Module):
    """The blocks of the encoder or of the decoder: hidden states (B, T, D) to hidden states.

    The sums of pre-norm blocks are never normalised, so such a stack ends with a norm of its own. Post-norm blocks end
    with one each.
    """

    def __init__(self, config: TransformerConfig, decoder: bool):
        super().__init__()
        self.causal = decoder
        self.layers = nn.ModuleList(transformer_block(config, decoder) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, config.norm_eps) if config.norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, **how) -> Tensor:
        """Return the hidden states (B, T, D); ``how`` holds what a :class:`~plm_tutorial.layers.blocks.Block` takes."""
        for i, block in enumerate(self.layers):
            x = block(x, causal=self.causal, layer=i, **how)  # (B, T, D)
        return self.norm(x)


class Transformer(nn.Module):
    """The encoder-decoder with its output layer: source ids and target ids to logits of the next target id."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.apply(_init_weights)

    def new_cache(self) -> KVCache:
        """Return an empty cache of the decoder, to be passed to :meth:`decode`."""
        return KVCache(self.config.n_layers, self.config.context_length)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor) -> Tensor:
        """Return the logits of what follows each position of the target, (B, T, V).

        Args:
            input_ids: (B, S) int64, the source.
            attention_mask: (B, S), 1 = keep, 0 = padding of the source, which nothing looks at. None keeps all.
            decoder_input_ids: (B, T) int64, the target so far; it begins with a token that means "begin". Padding goes
                on the right, where no earlier position looks at it.

        Raises:
            ValueError: an input has a wrong shape, is longer than the context, or has unknown ids.
        """
        return self.decode(decoder_input_ids, self.encode(input_ids, attention_mask), attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the encoder's output for a source (B, S), the decoder's memory: (B, S, D)."""
        check_input(input_ids, attention_mask, self.config.context_length, self.config.vocab_size)
        return self.encoder(self.embed(input_ids), mask=padding_mask(attention_mask))  # (B, S, D)

    def decode(
        self,
        decoder_input_ids: Tensor,
        memory: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Return the logits of what follows each position, (B, T, V); with ``last_only`` the last one's, (B, 1, V).

        Args:
            decoder_input_ids: (B, T) int64; with a cache, what comes after the positions that it holds.
            memory: (B, S, D), from :meth:`encode`. A cache keeps what it first made of it.
            attention_mask: (B, S), of the source. None keeps all.
            cache: the positions before these; is extended by these, in place. Not for training.
            last_only: leave out logits that nobody reads.

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids.
        """
        past = cache.length if cache is not None else 0
        check_input(decoder_input_ids, None, self.config.context_length, self.config.vocab_size, past)
        check_memory(decoder_input_ids, memory, attention_mask)
        x = self.embed(decoder_input_ids, past)  # (B, T, D)
        x = self.decoder(x, memory=memory, memory_mask=padding_mask(attention_mask), cache=cache)  # (B, T, D)
        x = x[:, -1:] if last_only else x
        return linear(x, self.tokens.weight)  # (B, T, V): the embedding is the output layer too

    def embed(self, input_ids: Tensor, past: int = 0) -> Tensor:
        """Return the tokens' vectors, scaled, plus their positions': (B, T, D). ``past`` tokens came before."""
        D, end = self.config.d_model, past + input_ids.size(1)
        x = self.tokens(input_ids) * math.sqrt(D)  # (B, T, D)
        positions = sinusoidal_positions(end, D, input_ids.device)[past:]  # (T, D)
        return self.dropout(x + positions.to(x.dtype))


def _init_weights(module: nn.Module) -> None:
    """Draw initial weights as the paper's published code does; the paper itself does not say how."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):  # 1/√D: the scaled embeddings, and the logits, have a variance of about 1
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def hub_weights(_: TransformerConfig) -> dict[str, str]:
    """Return which stored tensor goes where in this model: each has the name that it has here."""
    parts = [f"attention.{part}" for part in ("query", "key", "value", "output")]
    parts += ["attention_norm", "feed_forward.up", "feed_forward.down", "feed_forward_norm"]
    cross = [f"cross_attention.{part}" for part in ("query", "key", "value", "output")] + ["cross_norm"]
    blocks = [f"encoder.layers.{{layer}}.{part}" for part in parts]
    blocks += [f"decoder.layers.{{layer}}.{part}" for part in parts + cross]
    names = [f"{part}.{kind}" for part in (*blocks, "encoder.norm", "decoder.norm") for kind in ("weight", "bias")]
    return {name: name for name in ("tokens.weight", *names)}  # the norms of a stack are left out if it has none


# --------------------------------------------------------------------------------------- the layer that is often copied


class PackedSelfAttention(nn.Module):
    """Self-attention with one matrix for queries, keys and values, and names as in ``torch.nn.MultiheadAttention``."""

    def __init__(self, d_model: int, nhead: int, dropout: float):
        super().__init__()
        self.nhead, self.dropout = nhead, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))  # rows: queries, then keys, then values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:  # (T, B, D)
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (T, B, 3 D)
        q, k, v = packed.unflatten(-1, (3, self.nhead, -1)).permute(2, 1, 3, 0, 4)  # (B, H, T, K) each
        heads = attention(q, k, v, dropout=self.dropout * self.training)  # (B, H, T, K)
        return self.out_proj(heads.permute(2, 0, 1, 3).flatten(2))  # (T, B, H K) -> (T, B, D)


class TransformerEncoder(nn.Module):
    """One post-norm layer of an encoder, with ReLU, as it is often written around ``torch.nn.MultiheadAttention``.

    Its parameters have the names of ``torch.nn.TransformerEncoderLayer``, so each loads the other's state. Mind its
    layout, and that it takes no mask: it attends to padding and to later positions.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float = 0.1, layer_norm_eps: float = 1e-5
    ):
        super().__init__()
        if d_model % nhead:
            raise ValueError(f"d_model = {d_model} cannot be split evenly into nhead = {nhead}")
        self.self_attn = PackedSelfAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = LayerNorm(d_model, layer_norm_eps)
        self.norm2 = LayerNorm(d_model, layer_norm_eps)
        self.dropout = nn.Dropout(dropout)  # of the hidden features, and of what is added

    def forward(self, src: Tensor) -> Tensor:
        """Return the next hidden states, (T, B, D): positions first, then sequences.

        Raises:
            ValueError: ``src`` (T, B, D) has another number of dimensions, or another width.
        """
        if src.dim() != 3 or src.size(-1) != self.linear1.in_features:
            raise ValueError(
                f"src has shape {tuple(src.shape)}; expected (T, B, {self.linear1.in_features}), positions first: "
                "src.transpose(0, 1) of a batch (B, T, D)"
            )
        src = self.norm1(src + self.dropout(self.self_attn(src)))  # (T, B, D)
        hidden = self.dropout(F.relu(self.linear1(src)))  # (T, B, dim_feedforward)
        return self.norm2(src + self.dropout(self.linear2(hidden)))  # (T, B, D)
