"""A tagger of the book's own: an encoder over characters, first trained to fill in hidden ones, then with a token head.

In: sentences of the newspaper. Out: the encoder, the tagger, its scores for each tag of each character, and from these
the entities, with and without the rule that tags must be legal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plm_tutorial import pretrained, runtime
from plm_tutorial.batches import Batches, Masking, PackedRows, TokenFile, write_tokens
from plm_tutorial.entities import Entity, TaggedRows, token_entities
from plm_tutorial.experiments.entity_taggers import legal_transitions, viterbi
from plm_tutorial.models.decoder import Decoder, DecoderConfig, modern_recipe
from plm_tutorial.objectives import IGNORED, token_accuracy
from plm_tutorial.training import TrainingConfig

LENGTH = 128  # characters of a row
SHAPE = {"d_model": 192, "n_layers": 4, "n_heads": 4, "d_hidden": 576}
HEAD = "head.safetensors"


def encoder_config(vocab_size: int, **changes) -> DecoderConfig:
    """Return the shape of the encoder: today's recipe, looking both ways."""
    return modern_recipe(vocab_size, context_length=LENGTH, causal=False, **SHAPE | changes)


class Tagger(nn.Module):
    """An encoder with a token head: a linear layer that turns the vector of each token into a score for each tag."""

    def __init__(self, body: Decoder, n_tags: int):
        super().__init__()
        self.config, self.body = body.config, body
        self.head = nn.Linear(body.config.d_model, n_tags)
        nn.init.normal_(self.head.weight, std=body.config.init_std)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits of each token's tag, (B, T, K), for ids (B, T) and a mask (B, T), 1 = keep."""
        return self.head(self.body.hidden(input_ids, attention_mask))


def new_tagger(body: Decoder | DecoderConfig, n_tags: int, dropout: float = 0.1) -> Tagger:
    """Return a tagger with a new head on a copy of a trained body, or on a new body of this shape."""
    config = body if isinstance(body, DecoderConfig) else body.config
    made = Decoder(replace(config, dropout=dropout))
    if isinstance(body, Decoder):
        made.load_state_dict(body.state_dict())
    return Tagger(made, n_tags)


# -------------------------------------------------------------------------------------------------------- pretraining


def masked_batches(
    texts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    folder: str | Path,
    size: int,
    *,
    seed: int = 0,
    rate: float = 0.3,
    **masking: float,
) -> Batches:
    """Return batches of masked rows, (``size``, LENGTH), of texts laid end to end; their tokens lie in ``folder``."""
    special = [tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[MASK]", "[END]")]
    try:
        file = TokenFile.open(folder)
    except ValueError:
        file = write_tokens(texts, tokenizer, folder, end_id=special[-1])
    change = Masking(special[2], tokenizer.get_vocab_size(), special, rate=rate, **masking)
    return Batches(PackedRows(file, LENGTH), size, seed=seed, change=change)


@torch.no_grad()
def masked_accuracy(model: nn.Module, tokenizer: tokenizers.Tokenizer, texts: Sequence[str], size: int = 32) -> float:
    """Return the share of hidden characters that a masked model finds: 15 %, always the same, hidden by ``[MASK]``."""
    with tempfile.TemporaryDirectory() as folder:
        batches = masked_batches(texts, tokenizer, Path(folder) / "tokens", size, rate=0.15, keep=0.0, random=0.0)
        right = n = 0
        for step in range(max(1, len(batches.rows) // size)):
            batch = batches[step]
            hidden = batch["labels"] != IGNORED  # (B, T)
            some = token_accuracy(model(batch["input_ids"], keep=hidden), batch["labels"][hidden])
            right, n = right + some[0], n + some[1]
    return right / n


def recipe(steps: int, rate: float = 1.0, **changes) -> TrainingConfig:
    """Return how the encoder and the taggers are trained: Muon for the matrices, AdamW for the rest.

    Args:
        rate: a factor on both learning rates.
    """
    rates = {"lr": 3e-3 * rate, "muon_lr": 1e-2 * rate, "warmup": max(1, steps // 20)}
    return TrainingConfig(steps, **{"optimizer": "muon", "shape": "wsd", "decay": 0.5} | rates | changes)


# ------------------------------------------------------------------------------------------------------------ tagging


@torch.no_grad()
def tag_scores(model: nn.Module, rows: TaggedRows, size: int = 64) -> list[np.ndarray]:
    """Return the log-probabilities of the tags of each row, (T, K) each, in the order of the rows."""
    model.eval()
    device, found = next(model.parameters()).device, [np.empty(0)] * len(rows)
    for numbers, batch in rows.by_length(size):
        logits = model(batch["input_ids"].to(device), batch["attention_mask"].to(device))  # (B, T, K)
        logs = logits.log_softmax(-1).cpu().numpy()
        for number, row in zip(numbers, logs, strict=True):
            found[number] = row[: rows.lengths[number]]
    return found


def choose_tags(scores: Sequence[np.ndarray], tags: Sequence[str], legal: bool = True) -> list[list[str]]:
    """Return the tags of each row: at each place the likeliest, or of all legal sequences the likeliest."""
    if not legal:
        return [[tags[k] for k in row.argmax(-1)] for row in scores]
    rule = legal_transitions(tags)
    return [[tags[k] for k in viterbi(row, *rule)] for row in scores]


def find_entities(model: nn.Module, rows: TaggedRows, legal: bool = True) -> list[list[Entity]]:
    """Return the entities that a tagger finds in each row, in characters."""
    chosen = choose_tags(tag_scores(model, rows), rows.tags, legal)
    return [token_entities(at, tags) for at, tags in zip(rows.offsets, chosen, strict=True)]


# ------------------------------------------------------------------------------------------------------------- storing


def keep_tagger(model: Tagger, folder: str | Path, tokenizer: tokenizers.Tokenizer) -> Path:
    """Write a tagger in 16 bits: the body as ``load_model`` opens it, and the head beside it."""
    body = Decoder(replace(model.config, dropout=0.0))
    body.load_state_dict(model.body.state_dict())
    folder = pretrained.export(body.half(), folder, tokenizer, overwrite=True)
    part = Path(folder) / f"{HEAD}.part"
    save_file({name: value.detach().half().contiguous() for name, value in model.head.state_dict().items()}, part)
    part.replace(Path(folder) / HEAD)
    return Path(folder)


def load_tagger(folder: str | Path, n_tags: int) -> Tagger:
    """Return a tagger that :func:`keep_tagger` wrote, in evaluation mode.

    Raises:
        ValueError: the folder holds no such tagger.
    """
    path = Path(folder) / HEAD
    if not path.is_file():
        raise ValueError(f"{folder} has no {HEAD}: it holds no tagger; see keep_tagger")
    model = Tagger(pretrained.load_model(folder), n_tags)
    model.head.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.to(runtime.device()).eval()
