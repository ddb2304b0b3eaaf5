"""The model families, and which published architecture is which family.

Each has a frozen configuration, one class, and tables that say which published tensor goes where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from plm_tutorial.models import bert, decoder, gpt2, llama, t5, transformer
from plm_tutorial.models.bert import Bert, BertConfig
from plm_tutorial.models.decoder import Decoder, DecoderConfig, gpt2_recipe, modern_recipe
from plm_tutorial.models.gpt2 import GPT2, GPT2Config
from plm_tutorial.models.llama import Llama, LlamaConfig
from plm_tutorial.models.t5 import T5, T5Config
from plm_tutorial.models.transformer import Transformer, TransformerConfig, TransformerEncoder

__all__ = [
    "GGUF",
    "GPT2",
    "HUB",
    "T5",
    "Bert",
    "BertConfig",
    "Decoder",
    "DecoderConfig",
    "Family",
    "GPT2Config",
    "Llama",
    "LlamaConfig",
    "T5Config",
    "Transformer",
    "TransformerConfig",
    "TransformerEncoder",
    "gpt2_recipe",
    "modern_recipe",
]


@dataclass(frozen=True)
class Family:
    """How a published checkpoint becomes a model of ours, and a model of ours a checkpoint."""

    model: type[nn.Module]  # called with a configuration
    config: Callable[..., Any]  # what the checkpoint says of itself -> configuration
    weights: Callable[[Any], dict[str, Any]]  # configuration -> table: published name -> ours; see weights.load_weights
    rename: Callable[[str], str] = str  # published name -> the one under which the table's and the file's are compared
    head_names: Callable[[Any], set[str]] | None = (
        None  # configuration -> names of all heads' tensors, if there are any
    )


_BERT = Family(Bert, BertConfig.from_hub, bert.hub_weights, bert.bare_name, bert.head_names)
_LLAMA = Family(Llama, LlamaConfig.from_hub, llama.hub_weights)

# By the model_type of a config.json, and by the general.architecture of a GGUF file.
HUB = {
    "bert": _BERT,
    "roberta": _BERT,
    "gpt2": Family(GPT2, GPT2Config.from_hub, gpt2.hub_weights, gpt2.bare_name),
    "t5": Family(T5, T5Config.from_hub, t5.hub_weights),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "plm-decoder": Family(Decoder, DecoderConfig.from_hub, decoder.hub_weights),  # no published one: the book's own
    "plm-transformer": Family(Transformer, TransformerConfig.from_hub, transformer.hub_weights),  # likewise
}
GGUF = {"llama": Family(Llama, LlamaConfig.from_gguf, llama.gguf_weights)}
