"""The model families, and which published architecture is which family.

Each has a frozen configuration, one class, and tables that say which published tensor goes where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from plm_tutorial.models import bert, llama
from plm_tutorial.models.bert import Bert, BertConfig
from plm_tutorial.models.llama import Llama, LlamaConfig

__all__ = ["GGUF", "HUB", "Bert", "BertConfig", "Family", "Llama", "LlamaConfig"]


@dataclass(frozen=True)
class Family:
    """How a published checkpoint becomes a model of ours."""

    model: type[nn.Module]  # called with a configuration
    config: Callable[..., Any]  # what the checkpoint says of itself -> configuration
    weights: dict[str, Any]  # published name -> ours; see weights.load_weights


# By the model_type of a config.json, and by the general.architecture of a GGUF file.
HUB = {
    "bert": Family(Bert, BertConfig.from_hub, bert.HUB_WEIGHTS),
    "llama": Family(Llama, LlamaConfig.from_hub, llama.HUB_WEIGHTS),
}
GGUF = {"llama": Family(Llama, LlamaConfig.from_gguf, llama.GGUF_WEIGHTS)}
