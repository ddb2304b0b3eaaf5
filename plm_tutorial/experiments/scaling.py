"""Scaling: what a decoder costs, one training run of a given size, and the law that is fitted to many of them.

In: a width and a number of tokens; or the parameters, tokens and losses of runs. Out: a trained model and a row of what
was measured; or a :class:`Law`, which says what loss to expect of other sizes. Losses are in nats per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from torch import Tensor, nn

from plm_tutorial.batches import Batch, Batches, PackedRows, TokenFile
from plm_tutorial.experiments.review_tokens import review_tokenizer
from plm_tutorial.layers import record
from plm_tutorial.models.decoder import Decoder, DecoderConfig, modern_recipe
from plm_tutorial.objectives import token_loss
from plm_tutorial.text import reviews
from plm_tutorial.training import TrainingConfig, fit

# ------------------------------------------------------------------------------------------------------------ counting


class Parts(NamedTuple):
    """A count, split by where it belongs in a decoder."""

    blocks: int  # attention and feed-forward matrices, and norms
    tables: int  # token embedding and output layer
    looking: int = 0  # scores and averages of attention, which have no parameters

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def count_parameters(config: DecoderConfig) -> Parts:
    """Return the number of parameters of a decoder without biases, with two matrices in the feed-forward.

    Raises:
        ValueError: the configuration has other parts than that.
    """
    _check(config)
    D, F, norms = config.d_model, config.d_hidden, 2 * config.d_model + 2 * config.d_head * config.qk_norm
    blocks = config.n_layers * (4 * D**2 + 2 * D * F + norms) + D  # + the final norm
    return Parts(blocks, (1 if config.tied else 2) * config.vocab_size * D)


def forward_flops(config: DecoderConfig, length: int) -> Parts:
    """Return the FLOPs of a forward pass for each token of a row of so many; products of matrices alone.

    Attention is counted in full, as is usual, though the causal half would do. To look up an embedding costs nothing.
    A training step takes three times as much: the backward pass has two products for each of the forward pass.

    Raises:
        ValueError: the configuration has other parts than :func:`count_parameters` knows.
    """
    _check(config)
    D, F, L = config.d_model, config.d_hidden, config.n_layers
    return Parts(L * (8 * D**2 + 4 * D * F), 2 * config.vocab_size * D, L * 4 * length * D)


def training_flops(config: DecoderConfig, length: int, tokens: int) -> int:
    """Return what it costs to train a decoder on so many tokens, in rows of ``length``."""
    return 3 * forward_flops(config, length).total * tokens


def _check(config: DecoderConfig) -> None:
    if config.bias or config.activation == "swiglu" or (config.positions, config.norm) != ("rotary", "rms"):
        raise ValueError("these formulas are for modern_recipe; count another model by its parameters(), or in torch")


# ------------------------------------------------------------------------------------------------------------ one run

LENGTH = 256  # tokens of a row
ROWS = 8  # of a batch


def recipe(width: int, vocab_size: int = 4096) -> DecoderConfig:
    """Return the family of this study: 4 blocks, 4 heads, only the width varies; 256 gives ``reviews_causal``."""
    shape = {"d_model": width, "n_layers": 4, "n_heads": 4, "d_hidden": 3 * width, "context_length": LENGTH}
    return modern_recipe(vocab_size, **shape, tied=False)


def train(
    width: int, tokens: int, train_file: TokenFile, *, seed: int = 0, rate: float = 1.0, device: str = "cpu"
) -> tuple[Decoder, dict[str, float]]:
    """Train one decoder with a learning-rate schedule of its own, and return it with what describes the run.

    Args:
        tokens: rounded down to whole batches. The rows come in random order, none twice while there are unread ones.
        seed: of the first weights and of the order.
        rate: a factor on both learning rates of ``configs/cpu_causal.toml``.
    """
    config = recipe(width, train_file.vocab_size)
    steps = max(1, tokens // (ROWS * LENGTH))
    torch.manual_seed(seed)
    model = Decoder(config).to(device)
    training = TrainingConfig(
        steps=steps,
        lr=3e-3 * rate,
        optimizer="muon",
        muon_lr=5e-3 * rate,
        warmup=min(20, steps // 4),
        shape="wsd",  # so a run's loss is that of a finished training, not of a point on the way of a longer one
        decay=0.25,
    )
    fit(model, Batches(PackedRows(train_file, LENGTH), ROWS, seed=seed), training, progress=False)
    read, parameters = steps * ROWS * LENGTH, count_parameters(config)
    about = {"width": width, "parameters": parameters.total, "non_embedding": parameters.blocks, "tokens": read}
    return model, about | {"flops": training_flops(config, LENGTH, read), "seed": seed, "rate": rate}


def fixed_rows(file: TokenFile, n_rows: int) -> list[Batch]:
    """Return batches of rows that lie evenly over a file: the same for every model."""
    rows = PackedRows(file, LENGTH)
    chosen = np.linspace(0, len(rows) - 1, n_rows).astype(int)
    return [rows.batch(part) for part in np.array_split(chosen, max(1, n_rows // ROWS))]


@torch.no_grad()
def measure(model: nn.Module, batches: Sequence[Batch], runs: Sequence[int] = (1, 2, 4, 6)) -> dict[str, float]:
    """Return the validation loss of a causal model, and how often it gets k tokens in a row right, for each k.

    "Right" is the likeliest token. A model that writes greedily from the same beginning would write these k tokens.
    """
    device, total, count, right = next(model.parameters()).device, 0.0, 0, []
    for batch in batches:
        labels = batch["labels"].to(device)
        logits = model(batch["input_ids"].to(device))  # (B, T, V)
        loss = token_loss(logits, labels)
        total, count = total + float(loss.total), count + int(loss.count)
        right.append((logits.argmax(-1) == labels).cpu())
    all_right = torch.cat(right)  # (rows, T)
    return {"validation_loss": total / count} | {f"exact_{k}": runs_right(all_right, k) for k in runs}


def runs_right(right: Tensor, k: int) -> float:
    """Return the share of places in rows (B, T) of right or wrong tokens from which k tokens in a row are right."""
    return right.unfold(1, k, 1).all(-1).float().mean().item()


def labelled_reviews(split: str, n: int, length: int = 96) -> tuple[list[list[int]], list[int]]:
    """Return the first tokens of n reviews of a split that have so many, and the labels: 1 if a review is positive."""
    some = reviews("imdb", split).shuffle(seed=0).select(range(2 * n))
    encoded = review_tokenizer().encode_batch(some["text"][:])
    pairs = [(e.ids[:length], y) for e, y in zip(encoded, some["label"][:], strict=True) if len(e.ids) >= length][:n]
    return [ids for ids, _ in pairs], [label for _, label in pairs]


@torch.no_grad()
def features(model: Decoder, texts: Sequence[Sequence[int]], at_once: int = 50) -> Tensor:
    """Return for each text the mean of the last hidden states of its tokens, (N, D); all are equally long."""
    means, device = [], next(model.parameters()).device
    for start in range(0, len(texts), at_once):
        with record(model) as recording:
            model(torch.tensor(texts[start : start + at_once], device=device), last_only=True)
        means.append(recording.hidden[-1].mean(1).cpu())  # (at_once, D)
    return torch.cat(means)


def probe(model: Decoder, train: tuple[Sequence, Sequence[int]], test: tuple[Sequence, Sequence[int]]) -> float:
    """Return the accuracy on ``test`` of a ridge regression from features to a label 0 or 1, fitted on ``train``.

    Both are (texts as ids of one length, labels). The model is not changed.
    """
    (x, y), (x_test, y_test) = ((features(model, ids).double(), torch.tensor(labels)) for ids, labels in (train, test))
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / spread, (x_test - mean) / spread  # (N, D)
    penalty = 0.1 * len(x) * torch.eye(x.size(1), dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (2.0 * y - 1).double())  # (D,)
    return ((x_test @ weights > 0) == y_test.bool()).float().mean().item()


# ------------------------------------------------------------------------------------------------------------- the law


@dataclass(frozen=True)
class Law:
    """L = E + A / N^alpha + B / D^beta: Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, equation 2."""

    E: float  # what no size and no data removes
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, parameters: ArrayLike, tokens: ArrayLike) -> np.ndarray:
        """Return the loss of a model of N parameters after D tokens."""
        N, D = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    def __str__(self) -> str:
        return f"E = {self.E:.3f}, A = {self.A:.4g}, α = {self.alpha:.3f}, B = {self.B:.4g}, β = {self.beta:.3f}"

    def best(self, flops: float) -> tuple[float, float]:
        """Return the parameters and tokens of the lowest loss for a budget of C = 6 N D (their equation 4)."""
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        share = self.beta / (self.alpha + self.beta)
        parameters = G * (flops / 6) ** share
        return parameters, flops / 6 / parameters


def fit_law(
    parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike, *, delta: float = 1e-3, starts: Sequence | None = None
) -> Law:
    """Return the law that fits runs best: the Huber loss of log L, least over several starts.

    As in Hoffmann et al. 2022, equation 3. Errors of log L beyond ``delta`` count in proportion, not squared, so that a
    single odd run does not bend the law.

    Args:
        starts: (share of the lowest loss that E is, alpha, beta), where the search begins.

    Raises:
        ValueError: fewer runs than the law has constants, or not more than one size or number of tokens.
    """
    N, D, L = (np.asarray(values, float) for values in (parameters, tokens, losses))
    if len(L) < 5 or len(set(N)) < 2 or len(set(D)) < 2:
        raise ValueError(f"got {len(L)} runs of {len(set(N))} sizes; five constants need five, of different N and D")
    n0, d0 = np.log(N).mean(), np.log(D).mean()
    x, y = np.log(N) - n0, np.log(D) - d0  # centred: then the constants hardly depend on each other

    def terms(p: np.ndarray) -> np.ndarray:  # (3, runs): log of E, of A/N^alpha, of B/D^beta
        return np.stack([np.full_like(x, p[0]), p[1] - p[2] * x, p[3] - p[4] * y])

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(terms(p)) - np.log(L)

    def slopes(p: np.ndarray) -> np.ndarray:
        logs = terms(p)
        e, a, b = np.exp(logs - np.logaddexp.reduce(logs))  # the shares of the three terms
        return np.stack([e, a, -a * x, b, -b * y], axis=1)

    low, high = [math.log(1e-3), -20, 0.01, -20, 0.01], [math.log(L.min()), 5, 3, 5, 3]
    found = []
    for share, alpha, beta in starts or product((0.1, 0.5, 0.9), (0.2, 0.7), (0.2, 0.7)):
        rest = math.log(max(L.mean() - share * L.min(), 1e-3) / 2)
        start = [math.log(share * L.min()), rest, alpha, rest, beta]
        fitted = least_squares(
            residuals, start, slopes, bounds=(low, high), loss="huber", f_scale=delta, x_scale="jac", max_nfev=500
        )
        found.append((fitted.cost, fitted.x.tolist()))
    e, a, alpha, b, beta = min(found)[1]
    return Law(math.exp(e), math.exp(a + alpha * n0), alpha, math.exp(b + beta * d0), beta)


def bootstrap_laws(
    parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike, *, n: int = 200, seed: int = 0
) -> list[Law]:
    """Return the laws fitted to runs drawn again with replacement: how far the fit depends on which runs were made.

    Each search begins at the law of all runs.

    Raises:
        ValueError: as :func:`fit_law`, or there are only two sizes or numbers of tokens.
    """
    N, D, L = (np.asarray(values, float) for values in (parameters, tokens, losses))
    if min(len(set(N)), len(set(D))) < 3:
        raise ValueError(
            f"got {len(set(N))} sizes and {len(set(D))} numbers of tokens; pass at least three of each, or a power "
            "cannot be told from a constant"
        )
    law, draw, laws = fit_law(N, D, L), np.random.default_rng(seed), []
    start = (min(max(law.E / L.min(), 0.05), 0.95), law.alpha, law.beta)
    while len(laws) < n:
        rows = draw.integers(len(L), size=len(L))
        if min(len(set(N[rows])), len(set(D[rows]))) > 2:
            laws.append(fit_law(N[rows], D[rows], L[rows], starts=[start]))
    return laws


def effective_tokens(tokens: float, unique: float, half_life: float = 15.387756) -> float:
    """Return how many fresh tokens are worth as much as ``tokens`` read from ``unique`` ones, again and again.

    Source: Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264, section 3.1; the constant, R*, from appendix A.
    """
    if tokens <= unique:
        return float(tokens)
    repeats = tokens / unique - 1
    return unique + unique * half_life * -math.expm1(-repeats / half_life)
