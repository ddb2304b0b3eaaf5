"""T5: an encoder that reads a text in both directions, and a decoder that writes an answer while looking at it.

Pre-norm blocks with RMSNorm, no biases, attention without scaling, and positions that are numbers added to the scores.
T5 1.1 has a gated feed-forward and an output layer of its own. Source: Raffel et al. 2019,
https://arxiv.org/abs/1910.10683, section 2.1; 1.1: Shazeer 2020, https://arxiv.org/abs/2002.05202, and the published
code of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.layers import (
    ACTIVATIONS,
    FeedForward,
    GatedFeedForward,
    KVCache,
    Linear,
    MultiHeadAttention,
    PreNormBlock,
    RelativeBias,
    RMSNorm,
    linear,
    padding_mask,
)
from plm_tutorial.models.common import TokenId, check_config, check_input, check_memory, only, required
from plm_tutorial.weights import Copy

NO_LIMIT = 2**62  # positions that the model can tell apart, as far as check_input is concerned


@dataclass(frozen=True)
class T5Config:
    """The shape of a T5. The defaults are T5-small's, of the first release."""

    vocab_size: int = 32128  # V: rows of the embedding; the tokenizer's 32100 entries, rounded up
    context_length: int = 512  # the longest text in its training. Distances have no end: longer input is taken
    d_model: int = 512  # D: width of the hidden states
    n_layers: int = 6  # blocks of the encoder
    n_decoder_layers: int = 6  # blocks of the decoder
    n_heads: int = 8  # H: attention heads
    d_head: int = 64  # K: width of a head; H · K need not be D
    d_hidden: int = 2048  # width inside the feed-forward
    activation: str = "relu"  # of the feed-forward, or of its gate; see layers.ACTIVATIONS
    gated: bool = False  # the feed-forward has a gate: T5 1.1
    tied: bool = True  # the output layer is the token embedding, and the logits are scaled by 1/√D; not so in T5 1.1
    n_buckets: int = 32  # distances that have a bias of their own, or share one
    max_distance: int = 128  # all distances from here on share one
    norm_eps: float = 1e-6  # added to the mean square in RMSNorm
    dropout: float = 0.1  # in training: of embeddings, attention weights, hidden features, what a block adds, output
    init_factor: float = 1.0  # scales the spread of all initial weights
    pad_id: TokenId = 0  # fills up a batch
    decoder_start_id: TokenId = 0  # the decoder's first input; published T5s take the padding for it

    def __post_init__(self) -> None:
        check_config(self)
        if self.activation not in list(ACTIVATIONS):
            raise ValueError(f"activation is {self.activation!r}; implemented here: {', '.join(ACTIVATIONS)}")
        if self.gated and self.activation == "gelu":
            raise ValueError("a gated feed-forward with activation 'gelu' is published with the formula 'gelu_new'")
        if self.n_buckets < 4 or self.max_distance <= self.n_buckets // 2:
            raise ValueError(
                f"n_buckets is {self.n_buckets}, max_distance {self.max_distance}; expected at least 4 buckets, and a "
                "distance of more than half their number: the near half has a bucket for each distance"
            )

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> T5Config:
        """Return the configuration that a published ``config.json`` describes.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        only(values, "is_encoder_decoder", True)
        only(values, "is_decoder", False)
        gated, activation = _feed_forward(values)
        n_layers, decoder_layers = required(values, "num_layers"), values.get("num_decoder_layers")
        pad_id, start_id = values.get("pad_token_id", 0), values.get("decoder_start_token_id")
        return cls(
            vocab_size=required(values, "vocab_size"),
            context_length=values.get("n_positions", 512),
            d_model=required(values, "d_model"),
            n_layers=n_layers,
            n_decoder_layers=n_layers if decoder_layers is None else decoder_layers,
            n_heads=required(values, "num_heads"),
            d_head=required(values, "d_kv"),
            d_hidden=required(values, "d_ff"),
            activation=activation,
            gated=gated,
            tied=_tied(values),
            n_buckets=required(values, "relative_attention_num_buckets"),
            max_distance=values.get("relative_attention_max_distance", 128),
            norm_eps=required(values, "layer_norm_epsilon"),
            dropout=values.get("dropout_rate", 0.1),
            init_factor=values.get("initializer_factor", 1.0),
            pad_id=pad_id,
            decoder_start_id=pad_id if start_id is None else start_id,
        )

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` from which :meth:`from_hub` and Transformers make this model."""
        activation = "gelu" if self.gated and self.activation == "gelu_new" else self.activation
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "vocab_size": self.vocab_size,
            "n_positions": self.context_length,
            "d_model": self.d_model,
            "num_layers": self.n_layers,
            "num_decoder_layers": self.n_decoder_layers,
            "num_heads": self.n_heads,
            "d_kv": self.d_head,
            "d_ff": self.d_hidden,
            "feed_forward_proj": f"gated-{activation}" if self.gated else activation,
            "tie_word_embeddings": self.tied,
            "relative_attention_num_buckets": self.n_buckets,
            "relative_attention_max_distance": self.max_distance,
            "layer_norm_epsilon": self.norm_eps,
            "dropout_rate": self.dropout,
            "initializer_factor": self.init_factor,
            "pad_token_id": self.pad_id,
            "decoder_start_token_id": self.decoder_start_id,
        }


def _feed_forward(values: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the feed-forward is gated, and its activation."""
    published = values.get("feed_forward_proj", "relu")
    kind, _, activation = str(published).rpartition("-")
    if kind not in ("", "gated"):
        raise ValueError(f"its feed_forward_proj is {published!r}; expected an activation, or 'gated-' and one")
    if (kind, activation) == ("gated", "gelu"):
        activation = "gelu_new"  # the published name is short for it
    only(values, "is_gated_act", kind == "gated")
    only(values, "dense_act_fn", activation)
    return kind == "gated", activation


def _tied(values: Mapping[str, Any]) -> bool:
    """Return whether the output layer is the embedding; Transformers 5 says so only by the scaling of the logits."""
    tied = values.get("tie_word_embeddings", True)
    if tied is False:
        only(values, "scale_decoder_outputs", False)  # scaled logits of an own output layer: published by nobody
        return False
    return values.get("scale_decoder_outputs", tied)


def shift_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """Return what the decoder is given so that it predicts the labels: (B, T), one position later, after a start.

    Args:
        labels: (B, T) int64; -100, where nothing is to be predicted, becomes ``pad_id``.
        start_id: of the token that the decoder begins with, ``config.decoder_start_id``.
        pad_id: ``config.pad_id``.
    """
    start = torch.full_like(labels[:, :1], start_id)  # (B, 1)
    shifted = labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad_id)  # (B, T - 1)
    return torch.cat((start, shifted), dim=1)  # (B, T)


def t5_block(config: T5Config, decoder: bool) -> PreNormBlock:
    """Return one layer of the encoder, or of the decoder, which looks at the encoder's output too."""

    def attention() -> MultiHeadAttention:
        return MultiHeadAttention(
            config.d_model, config.n_heads, d_head=config.d_head, bias=False, dropout=config.dropout, scale=1.0
        )

    def norm() -> RMSNorm:
        return RMSNorm(config.d_model, config.norm_eps)

    kind = GatedFeedForward if config.gated else FeedForward
    return PreNormBlock(
        attention(),
        kind(config.d_model, config.d_hidden, config.activation, bias=False, dropout=config.dropout),
        norm(),
        norm(),
        config.dropout,
        attention() if decoder else None,
        norm() if decoder else None,
    )


class Stack(nn.Module):
    """The encoder or the decoder: vectors of tokens (B, T, D) to hidden states (B, T, D)."""

    def __init__(self, config: T5Config, decoder: bool):
        super().__init__()
        self.causal = decoder
        self.bias = RelativeBias(config.n_heads, config.n_buckets, config.max_distance, bidirectional=not decoder)
        n_layers = config.n_decoder_layers if decoder else config.n_layers
        self.layers = nn.ModuleList(t5_block(config, decoder) for _ in range(n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,  # (B, T, D)
        mask: Tensor | None = None,  # bool, broadcastable to (B, H, T, T)
        memory: Tensor | None = None,  # (B, S, D), for a decoder
        memory_mask: Tensor | None = None,  # bool, broadcastable to (B, H, T, S)
        cache: KVCache | None = None,
    ) -> Tensor:
        past = cache.length if cache is not None else 0
        bias = self.bias(x.size(1), past + x.size(1))  # (1, H, T, past + T): one for all layers
        how = {"mask": mask, "causal": self.causal, "bias": bias, "memory": memory, "memory_mask": memory_mask}
        x = self.dropout(x)
        for i, block in enumerate(self.layers):
            x = block(x, cache=cache, layer=i, **how)  # (B, T, D)
        return self.dropout(self.norm(x))


class T5(nn.Module):
    """The encoder, the decoder and the output layer: token ids of both to logits of the decoder's next token.

    Load published weights in float32 or bfloat16, in which they were trained. Their sums can exceed float16's largest
    number, 65504; Transformers keeps a matrix of each feed-forward in float32 and cuts off what is too large, which is
    not done here.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw initial weights as the published code does: outputs of a linear layer are as large as its inputs.

        Queries are smaller by √K, in place of the scale that attention has elsewhere.
        """
        config = self.config
        nn.init.normal_(self.tokens.weight, std=config.init_factor)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                smaller = config.d_head if name.endswith("attention.query") else 1
                nn.init.normal_(module.weight, std=config.init_factor * (module.in_features * smaller) ** -0.5)
            if isinstance(module, RelativeBias):
                nn.init.normal_(module.weight, std=config.init_factor * config.d_model**-0.5)
            if isinstance(module, RMSNorm):
                nn.init.constant_(module.weight, config.init_factor)

    def new_cache(self) -> KVCache:
        """Return an empty cache of the decoder, to be passed to :meth:`decode`."""
        return KVCache(self.config.n_decoder_layers)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Tensor | None = None
    ) -> Tensor:
        """Return the logits of what follows each position of the decoder, (B, T, V).

        Args:
            input_ids: (B, S) int64, what the encoder reads.
            attention_mask: (B, S), 1 = keep, 0 = padding, which no position of encoder and decoder looks at. None keeps
                all. Only distances count, so padding may stand on either side.
            decoder_input_ids: (B, T) int64, begins with ``config.decoder_start_id``; see :func:`shift_right`. Padding
                stands on the right, where no earlier position looks.

        Raises:
            ValueError: an input is missing, has a wrong shape, or has unknown ids. No length is refused.
        """
        if decoder_input_ids is None:
            raise ValueError(
                "decoder_input_ids is missing: the decoder is given the labels, shifted right by one position and "
                "beginning with config.decoder_start_id; in training pass shift_right(labels, config.decoder_start_id, "
                "config.pad_id), to generate begin with that id alone"
            )
        return self.decode(decoder_input_ids, self.encode(input_ids, attention_mask), attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the encoder's output, (B, S, D), which the decoder looks at. Arguments as of :meth:`forward`."""
        check_input(input_ids, attention_mask, NO_LIMIT, self.config.vocab_size)
        return self.encoder(self.tokens(input_ids), padding_mask(attention_mask))  # (B, S, D)

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
            decoder_input_ids: (B, T) int64; with a cache, those that come after what it holds.
            memory: (B, S, D), from :meth:`encode`. A cache keeps what it computed of the memory of its first call.
            attention_mask: (B, S), of the memory: what :meth:`encode` was given.
            cache: the positions before these; is extended by these, in place. Not for training.
            last_only: leave out logits that nobody reads.

        Raises:
            ValueError: an input has a wrong shape, or there are unknown ids.
        """
        try:
            check_input(decoder_input_ids, None, NO_LIMIT, self.config.vocab_size)
        except ValueError as error:
            raise ValueError(f"decoder: {error}") from None
        check_memory(decoder_input_ids, memory, attention_mask)
        x = self.tokens(decoder_input_ids)  # (B, T, D)
        x = self.decoder(x, memory=memory, memory_mask=padding_mask(attention_mask), cache=cache)  # (B, T, D)
        x = x[:, -1:] if last_only else x
        if self.head is not None:
            return self.head(x)  # (B, T, V)
        return linear(x * self.config.d_model**-0.5, self.tokens.weight)  # (B, T, V)


# The parts of a published block in their order, layer.0, layer.1, …: our name of each, and of the norm before it.
PARTS = {
    "SelfAttention": ("attention", "attention_norm"),
    "EncDecAttention": ("cross_attention", "cross_norm"),  # of the decoder alone
    "DenseReluDense": ("feed_forward", "feed_forward_norm"),
}
MATRICES = {"q": "query", "k": "key", "v": "value", "o": "output", "wo": "down"}


def hub_weights(config: T5Config) -> dict[str, str | None | Copy]:
    """Return which published tensor goes where in this T5; None is dropped on purpose."""
    return {
        "shared.weight": "tokens.weight",
        "encoder.embed_tokens.weight": Copy("tokens.weight"),
        "decoder.embed_tokens.weight": Copy("tokens.weight"),
        "lm_head.weight": Copy("tokens.weight") if config.tied else "head.weight",
        **_stack_weights("encoder", "{layer}", config),
        **_stack_weights("decoder", "{decoder_layer}", config),
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,  # in old files, used by nobody
    }


def _stack_weights(stack: str, layer: str, config: T5Config) -> dict[str, str]:
    matrices = MATRICES | ({"wi_0": "gate", "wi_1": "up"} if config.gated else {"wi": "up"})
    table = {
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": f"{stack}.bias.weight",
        f"{stack}.final_layer_norm.weight": f"{stack}.norm.weight",
    }
    for i, part in enumerate(part for part in PARTS if stack == "decoder" or part != "EncDecAttention"):
        theirs, (ours, norm) = f"{stack}.block.{layer}.layer.{i}", PARTS[part]
        table[f"{theirs}.layer_norm.weight"] = f"{stack}.layers.{layer}.{norm}.weight"
        for letter, word in matrices.items():
            if letter.startswith("w") == (part == "DenseReluDense"):
                table[f"{theirs}.{part}.{letter}.weight"] = f"{stack}.layers.{layer}.{ours}.{word}.weight"
    return table
