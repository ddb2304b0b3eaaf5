"""BERT and RoBERTa: an encoder in which each position sees the whole text, in both directions, and heads for tasks.

Post-norm blocks, learned positions, a learned vector for each of two segments (token types), GELU feed-forwards.
RoBERTa is the same model, trained longer and without segments; only its positions and the names of its heads differ.
Sources: Devlin et al. 2018, https://arxiv.org/abs/1810.04805; Liu et al. 2019, https://arxiv.org/abs/1907.11692; heads
and initial weights as in the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
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
from plm_tutorial.models.common import (
    TokenId,
    check_config,
    check_input,
    check_keep,
    count_positions,
    only,
    required,
)
from plm_tutorial.weights import Copy

HEADS = ("mlm", "sequence", "token", "span")
LABELLED = ("sequence", "token")  # the heads that have a number of labels
POOLINGS = ("first", "mean", "max")  # what the head "sequence" makes of a text's hidden states

# Which head a published model has, by its name in config.json.
ARCHITECTURES: dict[str, str | None] = {
    "Model": None,
    "ForMaskedLM": "mlm",
    "ForPreTraining": "mlm",  # and a head for next-sentence prediction, which is dropped
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}
BERT = {f"Bert{name}": head for name, head in ARCHITECTURES.items()}
ROBERTA = {f"Roberta{name}": head for name, head in ARCHITECTURES.items() if name != "ForPreTraining"}


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT. The defaults are BERT-base's."""

    vocab_size: int = 30522  # V: entries of the tokenizer's vocabulary
    context_length: int = 512  # the longest text: positions that have a learned vector
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

    pad_id: TokenId | None = (
        None  # RoBERTa: the id of padding, behind which positions begin; None: they begin at 0 (BERT)
    )
    head: str | None = None  # what is computed of the hidden states: None, "mlm", "sequence", "token" or "span"
    n_labels: int | None = None  # of the heads "sequence" and "token"
    label_names: tuple[str, ...] | None = None  # how the labels are called, in order; None: by their numbers
    tied: bool = True  # the output layer of the head "mlm" is the token embedding
    head_dropout: float | None = None  # in training: inside a head; None: as dropout
    pooling: str = "first"  # what the head "sequence" reads: the first position, as published; else "mean" or "max"

    def __post_init__(self) -> None:
        check_config(self)
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} cannot be split evenly into n_heads = {self.n_heads}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; implemented here: {', '.join(ACTIVATIONS)}")
        if self.head not in (None, *HEADS):
            raise ValueError(f"head is {self.head!r}; implemented here: {', '.join(HEADS)}")
        if self.head in LABELLED and self.n_labels is None:
            raise ValueError(
                f"a {self.head!r} head needs n_labels, the number of labels to choose from: say n_labels=2"
            )
        if self.head not in LABELLED and self.n_labels is not None:
            raise ValueError(
                f"n_labels is {self.n_labels}, head is {self.head!r}; only {' and '.join(LABELLED)} have labels"
            )
        if self.label_names is not None and len(self.label_names) != self.n_labels:
            raise ValueError(f"label_names has {len(self.label_names)} names, n_labels is {self.n_labels}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; implemented here: {', '.join(POOLINGS)}")
        if self.pooling != "first" and self.head != "sequence":
            raise ValueError(f"pooling is {self.pooling!r}, head is {self.head!r}; only 'sequence' pools a text")

    @classmethod
    def from_hub(cls, values: Mapping[str, Any]) -> BertConfig:
        """Return the configuration that a published ``config.json`` describes.

        Raises:
            ValueError: something is missing, senseless or not implemented here.
        """
        only(values, "position_embedding_type", "absolute")
        only(values, "is_decoder", False)
        only(values, "add_cross_attention", False)
        roberta = values.get("model_type") == "roberta"
        head = _head(values, ROBERTA if roberta else BERT)
        pad_id, n_positions = None, required(values, "max_position_embeddings")
        if roberta:  # positions 0 … pad_id belong to no text
            pad_id = values.get("pad_token_id", 1)
            if not (type(pad_id) is int and type(n_positions) is int and 0 <= pad_id < n_positions - 1):
                raise ValueError(
                    f"its pad_token_id is {pad_id!r} and max_position_embeddings {n_positions!r}; RoBERTa's positions "
                    "begin behind the former and end before the latter"
                )
            n_positions -= pad_id + 1
        return cls(
            vocab_size=required(values, "vocab_size"),
            context_length=n_positions,
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
            pad_id=pad_id,
            head=head,
            n_labels=_n_labels(values) if head in LABELLED else None,
            label_names=_label_names(values) if head in LABELLED else None,
            tied=values.get("tie_word_embeddings", True),
            head_dropout=values.get("classifier_dropout"),
        )

    def to_hub(self) -> dict[str, Any]:
        """Return the ``config.json`` from which :meth:`from_hub` and Transformers make this model.

        Raises:
            ValueError: the head pools as no published one does.
        """
        if self.pooling != "first":
            raise ValueError(
                f"the head of this model pools by {self.pooling!r}; the published form knows the first position alone "
                "and would compute something else. Train with pooling='first' what is to be kept or opened elsewhere"
            )
        roberta = self.pad_id is not None
        architectures = {head: name for name, head in reversed((ROBERTA if roberta else BERT).items())}
        values = {
            "architectures": [architectures[self.head]],
            "model_type": "roberta" if roberta else "bert",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length + (self.pad_id + 1 if roberta else 0),
            "type_vocab_size": self.n_token_types,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "intermediate_size": self.d_hidden,
            "hidden_act": self.activation,
            "layer_norm_eps": self.norm_eps,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.head_dropout,
            "initializer_range": self.init_std,
            "tie_word_embeddings": self.tied,
        }
        if roberta:
            values |= {"pad_token_id": self.pad_id, "bos_token_id": None, "eos_token_id": None}
        if self.n_labels is not None:
            labels = self.label_names or [f"LABEL_{i}" for i in range(self.n_labels)]
            values["id2label"] = {str(i): label for i, label in enumerate(labels)}
            values["label2id"] = {label: i for i, label in enumerate(labels)}
        return values


def _head(values: Mapping[str, Any], architectures: Mapping[str, str | None]) -> str | None:
    """Return the head that a ``config.json`` speaks of; None if it does not say."""
    names = values.get("architectures") or list(architectures)[:1]  # the bare model
    if not (isinstance(names, list) and len(names) == 1 and names[0] in list(architectures)):
        raise ValueError(f"its architectures is {names!r}; implemented here: one of {', '.join(architectures)}")
    return architectures[names[0]]


def _n_labels(values: Mapping[str, Any]) -> Any:
    """Return the number of labels; where a ``config.json`` gives no names for them it means two."""
    names = values.get("id2label")
    return len(names) if isinstance(names, Mapping) else values.get("num_labels", 2)


def _label_names(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the labels' names, in order; None if they have none, or only their numbers."""
    names = values.get("id2label")
    if not isinstance(names, Mapping):
        return None
    found = tuple(str(names.get(str(i), names.get(i))) for i in range(len(names)))
    return None if found == tuple(f"LABEL_{i}" for i in range(len(names))) else found


class BertEmbeddings(nn.Module):
    """The sum of a token's, a position's and a segment's vector, normalised."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.pad_id = config.pad_id
        first = 0 if config.pad_id is None else config.pad_id + 1  # the position of a text's first token
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(first + config.context_length, config.d_model)
        self.token_types = nn.Embedding(config.n_token_types, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # (B, T): all in the first segment
        positions = self.number(input_ids, attention_mask)
        x = self.tokens(input_ids) + self.positions(positions) + self.token_types(token_type_ids)  # (B, T, D)
        return self.dropout(self.norm(x))

    def number(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the positions of tokens: (T,), or (B, T) for RoBERTa, which leaves out padding when it counts.

        So a RoBERTa may be padded on the left without harm. In a BERT that shifts all positions: pad on the right.
        With a mask (B, T, T) positions begin anew with each document of a row.
        """
        if attention_mask is not None and attention_mask.dim() == 3:
            return count_positions(attention_mask) + (0 if self.pad_id is None else self.pad_id + 1)  # (B, T)
        if self.pad_id is None:
            return torch.arange(input_ids.size(1), device=input_ids.device)  # (T,)
        kept = input_ids != self.pad_id  # (B, T)
        return self.pad_id + kept.cumsum(dim=1) * kept  # padding itself gets pad_id


def bert_block(config: BertConfig) -> PostNormBlock:
    """Return one layer of BERT."""
    return PostNormBlock(
        MultiHeadAttention(config.d_model, config.n_heads, dropout=config.attention_dropout),
        FeedForward(config.d_model, config.d_hidden, config.activation),
        LayerNorm(config.d_model, config.norm_eps),
        LayerNorm(config.d_model, config.norm_eps),
        config.dropout,
    )


class MaskedLMHead(nn.Module):
    """Hidden states (B, T, D) to logits (B, T, V) of the token that stands at each position."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        # RoBERTa's head has GELU whatever the feed-forwards have.
        self.activation = ACTIVATIONS["gelu" if config.pad_id is not None else config.activation]
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.output = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:  # (B, T, D), and the token embedding (V, D)
        x = self.norm(self.activation(self.dense(x)))  # (B, T, D)
        return F.linear(x, tokens if self.output is None else self.output.weight, self.bias)  # (B, T, V)


class SequenceHead(nn.Module):
    """The hidden states of a text, pooled to one vector, to logits (B, n_labels) of the whole text.

    As published, the vector is the first position's, which should hold the text's first token: one more reason to pad
    on the right. Or it is the mean, or for each feature the largest number, of all positions that are no padding.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.pooling = config.pooling
        dropout = config.dropout if config.head_dropout is None else config.head_dropout
        self.first_dropout = nn.Dropout(dropout if config.pad_id is not None else 0.0)  # RoBERTa alone has this one
        self.dense = nn.Linear(config.d_model, config.d_model)  # BERT calls it the pooler
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(config.d_model, config.n_labels)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # (B, T, D), (B, T)
        x = pool(x, self.pooling, attention_mask)  # (B, D)
        x = self.dense(self.first_dropout(x)).tanh()  # (B, D)
        return self.output(self.dropout(x))  # (B, n_labels)


def pool(x: Tensor, pooling: str, attention_mask: Tensor | None = None) -> Tensor:
    """Return one vector for each text, (B, D): its first position's, or the mean or maximum over all that are kept.

    Args:
        x: hidden states (B, T, D).
        pooling: one of POOLINGS.
        attention_mask: (B, T), 1 = keep. None keeps all.

    Raises:
        ValueError: several documents share a row, so that no mask says where one ends.
    """
    if pooling == "first":
        return x[:, 0]
    if attention_mask is not None and attention_mask.dim() == 3:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: rows of several documents have no {pooling}; "
            "pass one text a row, with a mask (B, T)"
        )
    keep = torch.ones_like(x[..., :1]) if attention_mask is None else attention_mask[..., None].to(x.dtype)  # (B, T, 1)
    if pooling == "mean":
        return (x * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
    return x.masked_fill(keep == 0, torch.finfo(x.dtype).min).amax(dim=1)


class TokenHead(nn.Module):
    """Each hidden state (B, T, D) to logits: of its label (B, T, n_labels), or of a span's start and end (B, T, 2)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        dropout = config.dropout if config.head_dropout is None else config.head_dropout
        self.dropout = nn.Dropout(dropout if config.head == "token" else 0.0)
        self.output = nn.Linear(config.d_model, config.n_labels if config.head == "token" else 2)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        return self.output(self.dropout(x))  # (B, T, n_labels) or (B, T, 2)


class Bert(nn.Module):
    """The encoder: token ids to hidden states, or with ``config.head`` to a task's logits."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(bert_block(config) for _ in range(config.n_layers))
        self.apply(partial(init_weights, std=config.init_std))
        self.draw_head()

    def draw_head(self) -> None:
        """Give the model a new head, as ``config.head`` says, with weights drawn at random."""
        kinds = {None: None, "mlm": MaskedLMHead, "sequence": SequenceHead, "token": TokenHead, "span": TokenHead}
        kind = kinds[self.config.head]
        self.head = None if kind is None else kind(self.config).apply(partial(init_weights, std=self.config.init_std))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return what ``config.head`` makes of the last layer's hidden states.

        None: themselves, (B, T, D). "mlm": logits of the token at each position, (B, T, V). "sequence": of the text's
        label, (B, n_labels). "token": of each token's label, (B, T, n_labels). "span": of being the first and the last
        token of an answer, (B, T, 2).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 = keep, 0 = padding, which no position looks at. None keeps all. Padding stands on
                the right; see :meth:`BertEmbeddings.number`. Or (B, T, T): for each position, which ones it may look
                at, so that documents that share a row do not see each other.
            token_type_ids: (B, T) int64, the segment of each token. None: all 0.
            keep: (B, T) bool, with the head "mlm": the N positions whose logits are wanted. The result is then (N, V).

        Raises:
            ValueError: the input has a wrong shape, is longer than the context, or has unknown ids.
        """
        config = self.config
        check_keep(keep, input_ids)
        if keep is not None and config.head != "mlm":
            raise ValueError(f"keep chooses among the logits of the head 'mlm'; this model's head is {config.head!r}")
        check_input(input_ids, attention_mask, config.context_length, config.vocab_size, documents=True)
        _check_token_types(token_type_ids, input_ids, config.n_token_types)
        mask = padding_mask(attention_mask)  # (B, 1, 1, T) or (B, 1, T, T)
        x = self.embeddings(input_ids, token_type_ids, attention_mask)  # (B, T, D)
        for block in self.layers:
            x = block(x, mask=mask)  # (B, T, D)
        if self.head is None:
            return x
        x = x if keep is None else x[keep]  # (N, D)
        if config.head == "mlm":
            return self.head(x, self.embeddings.tokens.weight)
        return self.head(x, attention_mask) if config.head == "sequence" else self.head(x)


def _check_token_types(token_type_ids: Tensor | None, input_ids: Tensor, n_token_types: int) -> None:
    if token_type_ids is None:
        return
    if token_type_ids.shape != input_ids.shape:
        raise ValueError(
            f"token_type_ids has shape {tuple(token_type_ids.shape)}; expected {tuple(input_ids.shape)}, as input_ids"
        )
    if (
        input_ids.device.type == "cpu"
        and not 0 <= int(token_type_ids.min()) <= int(token_type_ids.max()) < n_token_types
    ):
        raise ValueError(
            f"token_type_ids holds ids from {int(token_type_ids.min())} to {int(token_type_ids.max())}; the model "
            f"knows 0 to {n_token_types - 1}. A RoBERTa knows one type only: leave token_type_ids out"
        )


# Which published tensor goes where; None is dropped on purpose. A model with a head has "bert." or "roberta." in front.
BODY_WEIGHTS = {
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
}
# BERT's pooler is a layer on top of the first position, for next-sentence prediction. The head "sequence" begins with
# it; sentence encoders average all positions and do not use it.
POOLER = {"pooler.dense.weight": "head.dense.weight", "pooler.dense.bias": "head.dense.bias"}
LABEL_WEIGHTS = {"classifier.weight": "head.output.weight", "classifier.bias": "head.output.bias"}
SPAN_WEIGHTS = {"qa_outputs.weight": "head.output.weight", "qa_outputs.bias": "head.output.bias"}
BERT_HEADS = {
    "mlm": {
        "cls.predictions.transform.dense.weight": "head.dense.weight",
        "cls.predictions.transform.dense.bias": "head.dense.bias",
        "cls.predictions.transform.LayerNorm.weight": "head.norm.weight",
        "cls.predictions.transform.LayerNorm.bias": "head.norm.bias",
        "cls.predictions.bias": "head.bias",
        "cls.predictions.decoder.weight": "head.output.weight",
        "cls.predictions.decoder.bias": Copy("head.bias"),
        "cls.seq_relationship.weight": None,  # next-sentence prediction
        "cls.seq_relationship.bias": None,
    },
    "sequence": LABEL_WEIGHTS,
    "token": LABEL_WEIGHTS,
    "span": SPAN_WEIGHTS,
}
ROBERTA_HEADS = {
    "mlm": {
        "lm_head.dense.weight": "head.dense.weight",
        "lm_head.dense.bias": "head.dense.bias",
        "lm_head.layer_norm.weight": "head.norm.weight",
        "lm_head.layer_norm.bias": "head.norm.bias",
        "lm_head.bias": "head.bias",
        "lm_head.decoder.weight": "head.output.weight",
        "lm_head.decoder.bias": Copy("head.bias"),
    },
    "sequence": {
        "classifier.dense.weight": "head.dense.weight",
        "classifier.dense.bias": "head.dense.bias",
        "classifier.out_proj.weight": "head.output.weight",
        "classifier.out_proj.bias": "head.output.bias",
    },
    "token": LABEL_WEIGHTS,
    "span": SPAN_WEIGHTS,
}


def hub_weights(config: BertConfig) -> dict[str, str | None | Copy]:
    """Return which published tensor goes where in this BERT or RoBERTa; None is dropped on purpose."""
    roberta = config.pad_id is not None
    head = dict((ROBERTA_HEADS if roberta else BERT_HEADS)[config.head]) if config.head else {}
    if config.head == "mlm":
        output = "lm_head" if roberta else "cls.predictions"
        if config.tied:
            head[f"{output}.decoder.weight"] = Copy("embeddings.tokens.weight")
        else:  # then the published model reads the output layer's own bias, and the other is left at 0
            head |= {f"{output}.decoder.bias": "head.bias", f"{output}.bias": None}
    pooler = POOLER if config.head == "sequence" and not roberta else dict.fromkeys(POOLER)
    prefix = "" if config.head is None else "roberta." if roberta else "bert."
    return {f"{prefix}{name}": place for name, place in (BODY_WEIGHTS | pooler).items()} | head


def head_names(config: BertConfig) -> set[str]:
    """Return the names of all tensors that belong to a head of this family, whichever it is."""
    heads = ROBERTA_HEADS if config.pad_id is not None else BERT_HEADS
    return {name for head in heads.values() for name in head}


def bare_name(name: str) -> str:
    """Return the name of a published tensor without the model's in front, and as norms are named since 2019."""
    name = name.removeprefix("bert.").removeprefix("roberta.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
