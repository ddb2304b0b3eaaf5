"""Recurrent language models, called like the book's decoder, and the instruments that compare the two.

In: token ids. Out: logits of the next token; a state of fixed size in place of a cache that grows; exercises in memory
(:class:`Recall`); how much of the gradient arrives from how far back; counts of parameters, products and bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from plm_tutorial.batches import Batch
from plm_tutorial.layers import KVCache, LayerNorm, init_weights, linear
from plm_tutorial.models.common import check_config, check_input, check_keep
from plm_tutorial.models.decoder import Decoder, modern_recipe
from plm_tutorial.objectives import IGNORED

CELLS = {"lstm": nn.LSTM, "tanh": nn.RNN}

# ------------------------------------------------------------------------------------------------------------ one step


def tanh_step(x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor) -> Tensor:
    """Return the next state (B, D) of the simplest recurrent network, from an input x (B, D) and the state h (B, D).

    h' = tanh(x W_xᵀ + h W_hᵀ + b). Source: Elman 1990, https://doi.org/10.1207/s15516709cog1402_1.
    """
    return torch.tanh(x @ w_x.T + h @ w_h.T + bias)


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next output h' and cell c', (B, D) each, of a long short-term memory.

    c' = f ⊙ c + i ⊙ g and h' = o ⊙ tanh(c'), where the gates i, f, o are sigmoids and g a tanh of x W_xᵀ + h W_hᵀ + b.
    Sources: Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735; the forget gate f: Gers et al.
    2000, https://doi.org/10.1162/089976600300015015. The rows of the weights (4D, D) are those of i, f, g, o, in this
    order, as in ``torch.nn.LSTM``.
    """
    i, f, g, o = (x @ w_x.T + h @ w_h.T + bias).chunk(4, dim=-1)  # (B, D) each
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()  # (B, D)
    return o.sigmoid() * c.tanh(), c


def scan(a: Tensor, b: Tensor) -> Tensor:
    """Return all states of h_t = a_t ⊙ h_{t-1} + b_t with h_0 = 0, (..., T, D), in ⌈log₂ T⌉ rounds instead of T steps.

    Two steps in a row are again one of the same form, (a, b) then (a', b') being (a' a, a' b + b'). So each round joins
    every position with what stands 1, 2, 4, … before it. It works only because nothing in a or b depends on h.

    Args:
        a: (..., T, D), what is kept of the state at each position.
        b: (..., T, D), what is added to it.
    """
    T, reach = a.size(-2), 1
    while reach < T:
        before_a = F.pad(a, (0, 0, reach, 0), value=1.0)[..., :T, :]  # nothing before the beginning: keep all, add 0
        before_b = F.pad(b, (0, 0, reach, 0))[..., :T, :]
        a, b = a * before_a, a * before_b + b
        reach *= 2
    return b


# ----------------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class RecurrentConfig:
    """The shape of a recurrent language model."""

    vocab_size: int  # V: entries of the tokenizer's vocabulary
    context_length: int = 2**20  # tokens of one call; the model itself has no limit, and no weight depends on it
    d_model: int = 128  # D: width of embeddings, states and outputs
    n_layers: int = 2  # recurrent layers, each of which reads the outputs of the one below
    cell: str = "lstm"  # or "tanh" (Elman 1990)
    residual: bool = False  # each layer reads a norm of the stream and adds to it, as a Transformer's blocks do
    forget_bias: float = 1.0  # of an LSTM at the start: f is 0.73 rather than one half (see Tallec and Ollivier 2018)
    tied: bool = True  # the output layer is the token embedding
    init_std: float = 0.02  # spread of the embedding's initial weights

    def __post_init__(self) -> None:
        check_config(self)
        if self.cell not in CELLS:
            raise ValueError(f"cell is {self.cell!r}; implemented here: {', '.join(CELLS)}")


class State:
    """What a recurrent model keeps of all that it has read: some vectors a layer, however much that was.

    It stands where a decoder has its ``KVCache``, and is passed as ``cache=``.

    Attributes:
        layers: of each layer the output h, and of an LSTM the cell c: (1, B, D) each; None before the first token.
    """

    max_length = None  # no limit

    def __init__(self, n_layers: int):
        self.layers: list[tuple[Tensor, ...] | None] = [None] * n_layers
        self._length = 0

    @property
    def length(self) -> int:
        """The number of tokens read. To set it to less is an error: a state cannot forget just its last tokens."""
        return self._length

    @length.setter
    def length(self, value: int) -> None:
        if value < self._length:
            raise ValueError(
                f"this state has read {self._length} tokens and cannot go back to {value}: what was before the last "
                "ones is not kept. Begin with a new_cache(), and read the text again"
            )
        self._length = value

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(x.nbytes for layer in self.layers if layer is not None for x in layer)

    def select(self, rows: Tensor) -> None:
        """Make sequence i what sequence rows[i] was; rows (B',) may repeat some and leave out others."""
        self.layers = [None if layer is None else tuple(x[:, rows] for x in layer) for layer in self.layers]


class Recurrent(nn.Module):
    """A recurrent language model: token ids to logits of the next token.

    Plain, its layers compute what one ``torch.nn.LSTM`` (or ``RNN``) with as many layers does.
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config = config
        D, L = config.d_model, config.n_layers
        self.tokens = nn.Embedding(config.vocab_size, D)
        self.layers = nn.ModuleList(CELLS[config.cell](D, D, batch_first=True) for _ in range(L))
        self.norms = nn.ModuleList(LayerNorm(D) for _ in range(L)) if config.residual else None
        self.norm = LayerNorm(D) if config.residual else None
        self.head = None if config.tied else nn.Linear(D, config.vocab_size, bias=False)
        self.apply(partial(init_weights, std=config.init_std))
        for layer in self.layers:
            for bias in (layer.bias_ih_l0, layer.bias_hh_l0):  # torch adds up two; the second is left at 0
                nn.init.zeros_(bias)
            if config.cell == "lstm":
                nn.init.constant_(layer.bias_ih_l0[D : 2 * D], config.forget_bias)

    def new_cache(self) -> State:
        """Return the state before the first token, to be passed as ``cache=``."""
        return State(self.config.n_layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: State | None = None,
        last_only: bool = False,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of what follows each position, (B, T, V); with ``last_only`` the last one's, (B, 1, V).

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), or (B, cache.length + T) with a cache; 1 = keep, 0 = padding, at which the state
                stays as it is. None keeps all.
            cache: the state after the tokens before these; is moved on, in place. Not for training.
            last_only: leave out logits that nobody reads.
            keep: (B, T) bool: the N positions whose logits are wanted. The result is then (N, V).

        Raises:
            ValueError: the input has a wrong shape or unknown ids, or a sequence is nothing but padding.
        """
        x = self.hidden(input_ids, attention_mask, cache, last_only, keep)
        return linear(x, self.tokens.weight if self.head is None else self.head.weight)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: State | None = None,
        last_only: bool = False,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return what the output layer reads: (B, T, D), (B, 1, D) or (N, D); see ``forward``."""
        config, past = self.config, cache.length if cache is not None else 0
        check_input(input_ids, attention_mask, past + config.context_length, config.vocab_size, past)
        check_keep(keep, input_ids)
        x, kept = self.tokens(input_ids), None  # (B, T, D)
        if attention_mask is not None and not bool(attention_mask[:, past:].all()):
            kept = attention_mask[:, past:].bool()  # (B, T)
        for i, layer in enumerate(self.layers):
            begin = cache.layers[i] if cache is not None else None
            y, end = _run(layer, x if self.norms is None else self.norms[i](x), begin, kept)
            x = y if self.norms is None else x + y  # (B, T, D)
            if cache is not None:
                cache.layers[i] = end
        if cache is not None:
            cache.length = past + input_ids.size(1)
        x = x[:, -1:] if last_only else x if keep is None else x[keep]
        return x if self.norm is None else self.norm(x)


def _run(
    layer: nn.RNNBase, x: Tensor, begin: tuple[Tensor, ...] | None, kept: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return a layer's outputs (B, T, D) for x (B, T, D), and its last state; positions not kept do not move it."""
    pair = isinstance(layer, nn.LSTM)  # whose state is a pair in torch, and that of others a tensor
    begin = begin if begin is None or pair else begin[0]
    if kept is None:
        y, end = layer(x, begin)
        return y, end if pair else (end,)
    n_kept = kept.sum(1).cpu()  # (B,)
    if not n_kept.all():
        raise ValueError(f"sequence {int(n_kept.argmin())} is nothing but padding; leave it out of the batch")
    order = (~kept).long().argsort(dim=1, stable=True)[..., None].expand_as(x)  # what is kept to the front, in order
    packed = pack_padded_sequence(x.gather(1, order), n_kept, batch_first=True, enforce_sorted=False)
    y, end = layer(packed, begin)
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.size(1))
    return torch.zeros_like(y).scatter(1, order, y), end if pair else (end,)


def equal_model(kind: str, vocab_size: int, d_model: int, blocks: int, context: int, **how: Any) -> Decoder | Recurrent:
    """Return a Transformer of so many blocks, or an LSTM of the same width with as many weights: 3 layers for 2 blocks.

    A block has 4 D² weights of attention and 8 D² of its feed-forward; an LSTM's layer has 8 D².

    Args:
        kind: "Transformer"; "LSTM", whose layers read a norm of a residual stream; "plain LSTM", one upon the other.
        blocks: an even number.
        context: tokens that the Transformer may read at once.
        how: fields of a :class:`RecurrentConfig`.

    Raises:
        ValueError: there is no such kind, or no whole number of layers for so many blocks.
    """
    if kind not in ("Transformer", "LSTM", "plain LSTM") or blocks % 2 or blocks < 2:
        raise ValueError(
            f"kind is {kind!r} and blocks {blocks}; expected Transformer, LSTM or plain LSTM, and 2, 4, 6 …"
        )
    if kind == "Transformer":
        shape = {"d_model": d_model, "n_layers": blocks, "n_heads": max(1, d_model // 32), "d_hidden": 4 * d_model}
        return Decoder(modern_recipe(vocab_size, **shape, context_length=context, zero_init=False, tied=False))
    how = {"residual": kind == "LSTM", "init_std": 0.02 if kind == "LSTM" else 0.1} | how
    return Recurrent(RecurrentConfig(vocab_size, d_model=d_model, n_layers=3 * blocks // 2, tied=False, **how))


# ------------------------------------------------------------------------------------------------------------ counting


class _Chains(TorchDispatchMode):
    """Notes for each tensor how many products of matrices had to come one after the other before it was there."""

    def __init__(self) -> None:
        super().__init__()
        self.longest, self.before = 0, WeakTensorKeyDictionary()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        parts = torch.utils._pytree.tree_leaves((args, kwargs))
        chain = max((self.before.get(part, 0) for part in parts if isinstance(part, Tensor)), default=0)
        chain += operation.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm")
        for part in torch.utils._pytree.tree_leaves(out):
            if isinstance(part, Tensor):
                self.before[part] = chain
        self.longest = max(self.longest, chain)
        return out


@torch.no_grad()
def longest_chain(run: Callable[[], Any]) -> int:
    """Return how many products of matrices must wait for one another while ``run`` is called: no machine can save that.

    Operations that do several products within, fused attention or torch's recurrent layers, are not looked into: give
    it code that has each product by itself.
    """
    with _Chains() as chains:
        run()
    return chains.longest


def forward_flops(config: RecurrentConfig) -> int:
    """Return the FLOPs of a forward pass for each token, products of matrices alone; the text's length is no part."""
    gates = 4 if config.cell == "lstm" else 1
    return config.n_layers * gates * 4 * config.d_model**2 + 2 * config.vocab_size * config.d_model


def state_bytes(config: RecurrentConfig, batch: int = 1, size: int = 4) -> int:
    """Return the bytes of a state, of numbers of ``size`` bytes: L vectors, and with an LSTM twice as many."""
    return (2 if config.cell == "lstm" else 1) * config.n_layers * config.d_model * batch * size


def cache_bytes(config: Any, length: int, batch: int = 1, size: int = 4) -> int:
    """Return the bytes of the keys and values of ``length`` positions in a decoder without shared heads: 2 L T D."""
    return 2 * config.n_layers * length * config.d_model * batch * size


def bytes_kept(cache: State | KVCache) -> int:
    """Return the bytes that are kept of the text so far; space that a cache holds ready for more is not counted."""
    if isinstance(cache, State):
        return cache.nbytes
    parts = [x for x in (*cache._keys, *cache._values) if x is not None]
    return sum(x[:, :, : cache.length].numel() * x.element_size() for x in parts)


# ----------------------------------------------------------------------------------------------------------- distance


class Recall:
    """Texts that begin with items, go on with noise, and end by asking for the items, in order: batches for ``fit``.

    A row is ``items | noise × distance | ? × items``. The label at each ? is the item of the same rank; all else is
    unlabelled, and noise is drawn from letters of its own. To be right by guessing has the chance 1 / ``n_values``.

    Args:
        distance: tokens between the last item and the first question.
        n_items: how many items are to be kept; each is log₂ ``n_values`` bits.
        rows: of a batch.
        seed: with the step it determines a batch. Steps below 0 are never trained on: ask them for judging.
    """

    def __init__(
        self, distance: int, n_items: int = 1, *, n_values: int = 8, n_noise: int = 8, rows: int = 32, seed: int = 0
    ):
        if distance < 0 or n_items < 1:
            raise ValueError(f"distance is {distance} and n_items {n_items}; expected at least 0 and at least 1")
        self.distance, self.n_items, self.n_values, self.n_noise = distance, n_items, n_values, n_noise
        self.rows, self.seed = rows, seed

    @property
    def vocab_size(self) -> int:
        """The items' letters, those of the noise, and the question."""
        return self.n_values + self.n_noise + 1

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return 2 * self.n_items + self.distance

    def __getitem__(self, step: int) -> Batch:
        mixed = (self.seed * 1_000_003 + (2 * step if step >= 0 else -2 * step - 1)) * 31 + self.distance
        draw = torch.Generator().manual_seed(mixed % 2**63)
        items = torch.randint(self.n_values, (self.rows, self.n_items), generator=draw)
        noise = torch.randint(self.n_noise, (self.rows, self.distance), generator=draw) + self.n_values
        asked = torch.full_like(items, self.vocab_size - 1)
        labels = torch.full((self.rows, self.length), IGNORED)
        labels[:, -self.n_items :] = items
        return {"input_ids": torch.cat((items, noise, asked), dim=1), "labels": labels}


@torch.inference_mode()
def recall_accuracy(model: nn.Module, task: Recall, n_batches: int = 4) -> float:
    """Return the share of items that a model recalls, in batches that it was not trained on."""
    device, right, n = next(model.parameters()).device, 0, 0
    for step in range(-n_batches, 0):
        batch = task[step]
        asked = batch["labels"] != IGNORED
        logits = model(batch["input_ids"].to(device), keep=asked.to(device))  # (N, V)
        right += int((logits.argmax(-1).cpu() == batch["labels"][asked]).sum())
        n += int(asked.sum())
    return right / n


def gradient_by_distance(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return how strongly the loss at the last position pulls at each token's vector, by distance: (T,), 0 = itself.

    That is the norm of the gradient of -log p(label) with respect to the embedding of the token so many places back:
    the mean over sequences. It goes through time, however the model does that.

    Args:
        model: has its embedding as ``tokens``.
        input_ids: (B, T).
        labels: (B,), what follows each sequence.
    """
    seen = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    was_training = model.training
    model.train()  # cuDNN computes gradients of recurrent layers in training mode alone; there is no dropout here
    handle = model.tokens.register_forward_hook(keep)
    try:
        loss = F.cross_entropy(model(input_ids, last_only=True)[:, 0].float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, seen[0])  # (B, T, D)
    finally:
        handle.remove()
        model.train(was_training)
    return gradient.norm(dim=-1).mean(0).flip(0).cpu()


@torch.inference_mode()
def nats_by_position(model: nn.Module, input_ids: Tensor, labels: Tensor, rows: int = 8) -> Tensor:
    """Return the mean loss at each position, (T,), of sequences (N, T): how a model fares the further it reads."""
    total = torch.zeros(input_ids.size(1), dtype=torch.float64)
    for ids, wanted in zip(input_ids.split(rows), labels.split(rows), strict=True):
        logits = model(ids).float()  # (B, T, V)
        total += F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").double().sum(0).cpu()
    return total / len(input_ids)
