"""The Llama type of decoder: each position sees itself and what came before, and predicts what comes next.

Pre-norm blocks, RMSNorm, rotary positions, gated feed-forwards (SwiGLU), key-value heads shared between query heads, no
biases. SmolLM2 is of this type. Source: Touvron et al. 2023, https://arxiv.org/abs/2302.13971, section 2.2. Mistral is
the same model with a window: each position looks at so many positions and none farther back. Source: Jiang et al. 2023,
https://arxiv.org/abs/2310.06825, section 2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plm_tutorial.layers import (
    GatedFeedForward,
    KVCache,
    Linear,
    MultiHeadAttention,
    PreNormBlock,
    RMSNorm,
    init_weights,
    linear,
    padding_mask,
    rotary_angles,
)
from plm_tutorial.models.common import check_config, check_input, check_keep, only, required
from plm_tutorial.weights import Change, Copy


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama-type model. The defaults are SmolLM2-135M's."""

    vocab_size: int = 49152  # V: entries of the tokenizer's vocabulary
    context_length: int = 8192  # the longest text that the model was trained for
    d_model: int = 576  # D: width of the hidden states
    n_layers: int = 30  # blocks
    n_heads: int = 9  # H: query heads
    n_kv_heads: int = 3  # G: key-value heads, each shared by H / G query heads
    d_head: int = 64  # K: width of a head
    d_hidden: int = 1536  # width inside the feed-forward
    norm_eps: float = 1e-5  # added to the mean square in RMSNorm
    rope_base: float = 100000.0  # rotary positions: the slowest pair turns once in about 2π · base positions
    tied: bool = True  # the output layer is the token embedding
    window: int | None = None  # Mistral: positions that one looks at, its own included; None: all before it
    init_std: float = 0.02  # spread of the initial weights

    def __post_init__(self) -> None:
        check_config(self)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads = {self.n_heads} cannot share n_kv_heads = {self.n_kv_heads} evenly")
        if self.d_head % 2:
            raise ValueError(f"d_head is {self.d_head}; rotary positions turn pairs of features, so it must be even")
        if self.rope_base < 1:
            raise ValueError(f"rope_base is {self.rope_base}; expected at least 1")

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> LlamaConfig:
        """Return the configuration that a published ``config.json`` describes.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        only(values, "hidden_act", "silu")
        only(values, "attention_bias", False)
        only(values, "mlp_bias", False)
        only(values, "attention_dropout", 0.0)
        only(values, "layer_types", None)  # a window in some layers and none in others
        if mistral := values.get("model_type") == "mistral":
            only(values, "architectures", ["MistralForCausalLM"], None)
        else:
            only(values, "architectures", ["LlamaForCausalLM"], None)
            only(values, "sliding_window", None)
        d_model, n_heads = required(values, "hidden_size"), required(values, "num_attention_heads")
        return cls(
            vocab_size=required(values, "vocab_size"),
            context_length=required(values, "max_position_embeddings"),
            d_model=d_model,
            n_layers=required(values, "num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=values.get("num_key_value_heads") or n_heads,
            d_head=values.get("head_dim") or _even_share(d_model, n_heads),
            d_hidden=required(values, "intermediate_size"),
            norm_eps=required(values, "rms_norm_eps"),
            rope_base=_rope_base(values),
            tied=values.get("tie_word_embeddings", False),
            window=values.get("sliding_window", 4096) if mistral else None,  # 4096 where Mistral's file does not say
            init_std=values.get("initializer_range", 0.02),
        )

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` from which :meth:`from_hub` and Transformers make this model.

        Without a window it is a Llama, whatever it was published as: the computation is the same.
        """
        values = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.d_head,
            "intermediate_size": self.d_hidden,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_base,  # where releases before Transformers 5 look
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_base},
            "tie_word_embeddings": self.tied,
            "initializer_range": self.init_std,
            "bos_token_id": None,  # left out, they would be 1 and 2, whatever the tokenizer says
            "eos_token_id": None,
        }
        if self.window is not None:
            values |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": self.window}
        return values

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Collection[str]) -> LlamaConfig:
        """Return the configuration that the metadata of a GGUF file and the names of its tensors describe.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        values = {key.removeprefix("llama."): v for key, v in metadata.items() if key.startswith("llama.")}
        if unknown := sorted(values.keys() - GGUF_KEYS):
            raise ValueError(
                f"it has an option that is not implemented here: llama.{unknown[0]} = {values[unknown[0]]!r}"
            )
        d_model, n_heads = required(values, "embedding_length"), required(values, "attention.head_count")
        d_head = values.get("attention.key_length") or _even_share(d_model, n_heads)
        only(values, "attention.value_length", d_head)
        only(values, "rope.dimension_count", d_head)  # turning only a part of a head is another model
        return cls(
            vocab_size=values.get("vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ())),
            context_length=required(values, "context_length"),
            d_model=d_model,
            n_layers=required(values, "block_count"),
            n_heads=n_heads,
            n_kv_heads=values.get("attention.head_count_kv", n_heads),
            d_head=d_head,
            d_hidden=required(values, "feed_forward_length"),
            norm_eps=required(values, "attention.layer_norm_rms_epsilon"),
            rope_base=required(values, "rope.freq_base"),
            tied="output.weight" not in tensors,
        )


def _even_share(d_model: Any, n_heads: Any) -> int:
    if not (type(d_model) is type(n_heads) is int and n_heads > 0 and d_model % n_heads == 0):
        raise ValueError(f"a width of {d_model!r} cannot be split evenly into {n_heads!r} heads")
    return d_model // n_heads


def _rope_base(values: Mapping[str, Any]) -> float:
    """Return the base of the rotary angles; Transformers 5 keeps it in ``rope_parameters``, older ones beside it."""
    rope = {}
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(part := values.get(key) or {}, Mapping):
            raise ValueError(f"its {key} is {part!r}; expected a table of options")
        only(part, "type", "default", None)
        only(part, "rope_type", "default", None)
        rope |= part
    only(rope, "partial_rotary_factor", 1.0, None)
    return rope.get("rope_theta", values.get("rope_theta", 10000.0))


def llama_block(config: LlamaConfig) -> PreNormBlock:
    """Return one layer of a Llama-type model."""
    return PreNormBlock(
        MultiHeadAttention(
            config.d_model, config.n_heads, config.n_kv_heads, config.d_head, bias=False, window=config.window
        ),
        GatedFeedForward(config.d_model, config.d_hidden),
        RMSNorm(config.d_model, config.norm_eps),
        RMSNorm(config.d_model, config.norm_eps),
    )


class Llama(nn.Module):
    """The decoder with its output layer: token ids to logits of the next token."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(llama_block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = None if config.tied else Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(partial(init_weights, std=config.init_std))

    def new_cache(self) -> KVCache:
        """Return an empty cache for this model, to be passed as ``cache=``."""
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

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), or (B, cache.length + T) with a cache; 1 = keep, 0 = padding, which no position
                looks at. None keeps all. Rotary attention depends on distances alone, so padding may stand on the left.
                Or (B, T, T): for each position, which ones it may look at, so that documents that share a row do not
                see each other.
            cache: the positions before these; is extended by these, in place. Not for training.
            last_only: leave out logits that nobody reads: of a long prompt they are larger than the model.
            keep: (B, T) bool: the N positions whose logits are wanted. The result is then (N, V).

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids.
        """
        past = cache.length if cache is not None else 0
        config = self.config
        check_input(input_ids, attention_mask, config.context_length, config.vocab_size, past, documents=True)
        check_keep(keep, input_ids)
        mask = padding_mask(attention_mask)  # (B, 1, 1, S) or (B, 1, T, T)
        positions = torch.arange(past, past + input_ids.size(1), device=input_ids.device)  # (T,)
        rotary = rotary_angles(positions, config.d_head, config.rope_base)  # (T, K/2) twice
        x = self.tokens(input_ids)  # (B, T, D)
        for i, block in enumerate(self.layers):
            x = block(x, mask=mask, causal=True, rotary=rotary, cache=cache, layer=i)  # (B, T, D)
        x = x[:, -1:] if last_only else x if keep is None else x[keep]
        x = self.norm(x)  # (B, T, D), (B, 1, D) or (N, D)
        output = self.tokens.weight if self.head is None else self.head.weight  # (V, D)
        return linear(x, output)  # (B, T, V), (B, 1, V) or (N, V)


def hub_weights(config: LlamaConfig) -> dict[str, str | None | Copy]:
    """Return which published tensor goes where in this Llama or Mistral; None is dropped on purpose."""
    return {
        "model.embed_tokens.weight": "tokens.weight",
        "model.layers.{layer}.input_layernorm.weight": "layers.{layer}.attention_norm.weight",
        "model.layers.{layer}.self_attn.q_proj.weight": "layers.{layer}.attention.query.weight",
        "model.layers.{layer}.self_attn.k_proj.weight": "layers.{layer}.attention.key.weight",
        "model.layers.{layer}.self_attn.v_proj.weight": "layers.{layer}.attention.value.weight",
        "model.layers.{layer}.self_attn.o_proj.weight": "layers.{layer}.attention.output.weight",
        "model.layers.{layer}.self_attn.rotary_emb.inv_freq": None,  # kept by older releases, computed here
        "model.layers.{layer}.post_attention_layernorm.weight": "layers.{layer}.feed_forward_norm.weight",
        "model.layers.{layer}.mlp.gate_proj.weight": "layers.{layer}.feed_forward.gate.weight",
        "model.layers.{layer}.mlp.up_proj.weight": "layers.{layer}.feed_forward.up.weight",
        "model.layers.{layer}.mlp.down_proj.weight": "layers.{layer}.feed_forward.down.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": Copy("tokens.weight") if config.tied else "head.weight",
    }


def half_split(weight: Tensor, d_head: int) -> Tensor:
    """Return the rows of a query or key weight (heads · K, D) in the order that ``layers.rotate`` expects.

    In a GGUF file, rows 2i and 2i + 1 of a head are the pair that turns together; here it is i and i + K/2.
    """
    pairs = weight.view(-1, d_head // 2, 2, weight.size(1))  # (heads, K/2, 2, D)
    return pairs.transpose(1, 2).reshape(weight.shape)  # (heads · K, D)


def interleaved(weight: Tensor, d_head: int) -> Tensor:
    """Return the rows of a query or key weight in the order of a GGUF file: the inverse of :func:`half_split`."""
    pairs = weight.view(-1, 2, d_head // 2, weight.size(1))  # (heads, 2, K/2, D)
    return pairs.transpose(1, 2).reshape(weight.shape)  # (heads · K, D)


def _rows(name: str) -> Change:
    return Change(
        (name,),
        split=lambda weight, config: [half_split(weight, config.d_head)],
        join=lambda weights, config: interleaved(weights[0], config.d_head),
    )


GGUF_WEIGHTS = {
    "token_embd.weight": "tokens.weight",
    "blk.{layer}.attn_norm.weight": "layers.{layer}.attention_norm.weight",
    "blk.{layer}.attn_q.weight": _rows("layers.{layer}.attention.query.weight"),
    "blk.{layer}.attn_k.weight": _rows("layers.{layer}.attention.key.weight"),
    "blk.{layer}.attn_v.weight": "layers.{layer}.attention.value.weight",
    "blk.{layer}.attn_output.weight": "layers.{layer}.attention.output.weight",
    "blk.{layer}.ffn_norm.weight": "layers.{layer}.feed_forward_norm.weight",
    "blk.{layer}.ffn_gate.weight": "layers.{layer}.feed_forward.gate.weight",
    "blk.{layer}.ffn_up.weight": "layers.{layer}.feed_forward.up.weight",
    "blk.{layer}.ffn_down.weight": "layers.{layer}.feed_forward.down.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",  # absent if tied
}


def gguf_weights(_: LlamaConfig) -> dict[str, str | Change]:
    """Return which tensor of a GGUF file goes where."""
    return GGUF_WEIGHTS


# The options of `llama.*` that are read. Any other may change what the model computes (experts, scaled angles, …).
GGUF_KEYS = {
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
}
