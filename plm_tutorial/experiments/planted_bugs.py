"""Programs that run without an error and are wrong, on purpose: the material of the page "Debugging lab".

In: a model, batches, a part of a training loop. Out: losses. The upper part is right: a source of symbols, a tiny
model, a loop whose parts can be exchanged. Below stand the parts with a planted bug, each under the name that a
colleague would give it. Do not copy from there; what is wrong with each is told on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plm_tutorial.experiments.markov_source import MarkovSource
from plm_tutorial.layers import attention, causal_mask, init_weights
from plm_tutorial.pretrained import load_model, load_tokenizer

SYMBOLS = 12  # of the source: 0 ... 11
PAD = 12  # the id that fills short rows
VOCABULARY = 13
LENGTH = 33  # symbols in a row, so 32 predictions

# ------------------------------------------------------------------------------------------------ what is right


def symbol_source(seed: int) -> MarkovSource:
    """Return a source of order 1, whose entropy is known: each symbol depends on the one before it."""
    return MarkovSource(SYMBOLS, 1, concentration=0.3, seed=seed)


def symbol_batches(source: MarkovSource, n: int, size: int = 16, seed: int = 0) -> Tensor:
    """Return ``n`` batches of rows of symbols, (n, size, LENGTH)."""
    return torch.from_numpy(source.sample(n * size * LENGTH, seed).reshape(n, size, LENGTH))


def padded_batches(batches: Tensor, shortest: int = 6, seed: int = 0) -> Tensor:
    """Return a copy whose rows end early, at random lengths, and are filled with PAD."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, LENGTH + 1, batches.shape[:2], generator=draw)  # (n, B)
    return batches.masked_fill(torch.arange(LENGTH) >= lengths[..., None], PAD)


def past_only(n: int) -> Tensor:
    """Return who may look at whom, (n, n) bool: each position at itself and at those before it."""
    return causal_mask(n, n)


class TinyModel(nn.Module):
    """One attention and one feed-forward: token ids (B, T) to logits (B, T, V).

    Args:
        may_look: from T to the mask of the attention, (T, T) bool.
        width: D.
        dropout: in training, of the embeddings and of what the feed-forward adds.
        longest: positions that have a vector.
    """

    def __init__(self, may_look: Callable = past_only, width: int = 32, dropout: float = 0.0, longest: int = 80):
        super().__init__()
        self.may_look = may_look
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(longest, width)
        self.look = nn.Linear(width, 3 * width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.apply(lambda module: init_weights(module, std=0.02))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.size(1))
        x = self.dropout(self.tokens(ids) + self.positions(places))  # (B, T, D)
        q, k, v = self.look(self.norms[0](x))[:, None].chunk(3, dim=-1)  # (B, 1, T, D): one head
        x = x + attention(q, k, v, mask=self.may_look(ids.size(1)))[:, 0]
        x = x + self.dropout(self.think(self.norms[1](x)))
        return self.head(self.norms[2](x))  # (B, T, V)


def next_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss, in nats, of predicting each next symbol from those before it."""
    logits = model(ids[:, :-1])  # (B, T - 1, V)
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable, ids: Tensor) -> float:
    """Make one step of training and return the loss before it."""
    optimizer.zero_grad()
    value = loss(model, ids)
    value.backward()
    optimizer.step()
    return value.item()


def constant_rate(step: int, peak: float = 0.01) -> float:
    """Return the same learning rate at every step."""
    return peak


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer of all parameters."""
    return torch.optim.Adam(model.parameters(), lr=0.01)


def train(
    model: nn.Module,
    batches: Tensor,
    loss: Callable = next_loss,
    rate: Callable = constant_rate,
    step: Callable = one_step,
    prepare: Callable = adam,
) -> list[float]:
    """Train on each batch once and return the losses."""
    optimizer = prepare(model)
    losses = []
    for i, ids in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(i)
        losses.append(step(model, optimizer, loss, ids))
    return losses


# ------------------------------------------------------------------------- from here on there is something wrong


def fresh_weights(model: nn.Module) -> None:
    """Draw new weights, each layer in its own way; the head uses the token table, as GPT-2's does."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.head.weight = model.tokens.weight


def warmed_up_rate(step: int, peak: float = 0.01, warmup: int = 8) -> float:
    """Return a learning rate that is small at the beginning, while the optimizer knows little."""
    return peak * (step + 1) / warmup


def token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch of texts under a language model."""
    logits = model(ids)  # (B, T, V)
    return cross_entropy(logits.flatten(0, 1), ids.flatten())


def probability_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the cross-entropy of the model's probabilities."""
    probabilities = model(ids[:, :-1]).softmax(dim=-1)  # (B, T - 1, V)
    return cross_entropy(probabilities.flatten(0, 1), ids[:, 1:].flatten())


def lower_triangle(n: int) -> Tensor:
    """Return the causal mask: True where a position may look."""
    rows, columns = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return columns - rows <= 1  # (n, n)


def make_pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a batch of rows into inputs and labels."""
    return ids[:, :-1], ids[:, 1:]


def pairs_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of predicting the next token."""
    logits = model(inputs)[:, :-1]  # the last position has nothing to predict
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def mean_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss over a batch of rows of many lengths, filled with PAD."""
    logits = model(ids[:, :-1])
    losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T - 1)
    return losses.mean()


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable, ids: Tensor) -> float:
    """Make one step of training and return the loss before it."""
    value = loss(model, ids)
    value.backward()
    optimizer.step()
    return value.item()


def validate(model: nn.Module, batches: Tensor) -> float:
    """Return the mean loss over validation batches."""
    with torch.no_grad():
        return sum(next_loss(model, ids).item() for ids in batches) / len(batches)


def adam_for_head(model: nn.Module) -> torch.optim.Optimizer:
    """Freeze a trained model, give it a new head for a new task, and return the optimizer of the head."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.head.weight.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.head = nn.Linear(model.tokens.embedding_dim, VOCABULARY, bias=False)
    return optimizer


def tie(model: nn.Module) -> None:
    """Make the head use the token table, so that the model has fewer weights."""
    model.head.weight = nn.Parameter(model.tokens.weight.clone())


def save_tied(model: nn.Module) -> dict[str, Tensor]:
    """Return what has to be stored of a tied model: the head is the token table, so it is left out."""
    return {name: value.clone() for name, value in model.state_dict().items() if name != "head.weight"}


def load_tied(model: nn.Module, stored: dict[str, Tensor]) -> nn.Module:
    """Put stored weights into a model; the head gets the token table."""
    model.load_state_dict(stored | {"head.weight": stored["tokens.weight"]})
    return model


def open_model(folder: Path, tokenizer_file: Path) -> tuple[nn.Module, tokenizers.Tokenizer]:
    """Open a language model, with the tokenizer that was trained on the newer texts."""
    model, tokenizer = load_model(folder, device="cpu"), load_tokenizer(tokenizer_file)
    if tokenizer.get_vocab_size() != model.config.vocab_size:
        raise ValueError("this tokenizer does not belong to this model")
    return model, tokenizer


def pad_prompts(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return prompts of several lengths as one batch, (B, T), and its attention mask, (B, T)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def augment(texts: Sequence[str], copies: int = 3, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Return variants of each text, each with one word left out, and from which text each variant is, (N,)."""
    draw, variants = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        for _ in range(copies):
            gone = draw.integers(len(words))
            variants.append(" ".join(words[:gone] + words[gone + 1 :]))
    return variants, np.repeat(np.arange(len(texts)), copies)


def split(origin: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and test variants, at random; ``share`` of all are for the test."""
    order = np.random.default_rng(seed).permutation(len(origin))
    n_test = round(share * len(origin))
    return order[n_test:], order[:n_test]


def step_in_pieces(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable, ids: Tensor) -> float:
    """Make one step on a batch that does not fit into memory: a piece of four rows at a time."""
    pieces, total = ids.split(4), 0.0
    optimizer.zero_grad()
    for piece in pieces:
        value = loss(model, piece) / len(pieces)
        value.backward()
        total += value.item()
    optimizer.step()
    return total
