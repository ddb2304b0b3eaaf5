"""The parts that every Transformer of this book is made of. Imports nothing of ours.

Letters: B sequences, T positions that ask (queries), S positions that are looked at (keys), D width of the model,
H heads, G key-value heads (G = H unless heads share them), K width of one head, V size of the vocabulary.
Order: norms, feed-forwards, masks, attention, rotary positions, key-value cache, attention module, blocks, recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------------------- norms


class LayerNorm(nn.Module):
    """Shift and scale each vector to mean 0 and variance 1, then scale and shift each feature by learned numbers.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)  # (..., D)


class RMSNorm(nn.Module):
    """Scale each vector to a mean square of 1, then scale each feature by a learned number; no shift.

    y = x / sqrt(mean(x²) + eps) * weight. Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """

    def __init__(self, d_model: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # (..., D)


# ----------------------------------------------------------------------------------------------------- feed-forwards

# Names as in the published configurations. "gelu" is x Φ(x) exactly, "gelu_new" replaces Φ by a formula with tanh.
# Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415. "silu" is x / (1 + exp(-x)).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Widen each vector, apply an activation, narrow it again; positions do not see each other."""

    def __init__(self, d_model: int, d_hidden: int, activation: str = "gelu", bias: bool = True):
        super().__init__()
        self.up = nn.Linear(d_model, d_hidden, bias)
        self.down = nn.Linear(d_hidden, d_model, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.up(x))  # (B, T, d_hidden)
        return self.down(hidden)  # (B, T, D)


class GatedFeedForward(nn.Module):
    """A feed-forward whose hidden features are each multiplied by a gate; with ``silu`` it is called SwiGLU.

    Source: Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6.
    """

    def __init__(self, d_model: int, d_hidden: int, activation: str = "silu", bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias)
        self.up = nn.Linear(d_model, d_hidden, bias)
        self.down = nn.Linear(d_hidden, d_model, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.gate(x)) * self.up(x)  # (B, T, d_hidden)
        return self.down(hidden)  # (B, T, D)


# ------------------------------------------------------------------------------------------------------------- masks


def causal_mask(n_queries: int, n_keys: int, device: torch.device | str | None = None) -> Tensor:
    """Return which key each query may look at: (T, S) bool, True at its own position and before.

    The queries are the last T of the S positions, as they are when earlier keys come from a cache.
    """
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]  # (T, 1)
    return torch.arange(n_keys, device=device) <= query  # (T, S)


def padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Return an ``attention_mask`` (B, S), 1 = keep, as a mask of :func:`attention`: (B, 1, 1, S) bool."""
    return None if attention_mask is None else attention_mask[:, None, None, :].bool()


def check_input(input_ids: Tensor, attention_mask: Tensor | None, context: int, vocab_size: int, past: int = 0) -> None:
    """Refuse input that a model cannot take: wrong shape or type, empty, too long, ids that it does not have.

    Args:
        input_ids: should be (B, T) int64 with ids below ``vocab_size``.
        attention_mask: should be None or (B, past + T).
        context: the most positions that the model handles.
        past: positions that a cache holds already.

    Raises:
        ValueError: with what was given and what was expected.
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and type {input_ids.dtype}; expected whole numbers of shape "
            "(B, T): B sequences of T token ids, so torch.tensor([ids]) for a single one"
        )
    total = past + input_ids.size(1)
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids is empty, with shape {tuple(input_ids.shape)}; pass at least one token")
    if total > context:
        raise ValueError(
            f"the text is {total} tokens long, this model's context is {context}: cut the text to {context} tokens, "
            "split it into several, or use a model with a longer context"
        )
    if attention_mask is not None and attention_mask.shape != (input_ids.size(0), total):
        cached = f" ({past} in the cache and {total - past} new)" if past else ""
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected {(input_ids.size(0), total)}: "
            f"1 or 0 for each of the {total} positions{cached} of each sequence"
        )
    # On a GPU this question would wait for all work before it; there the lookup itself fails.
    if input_ids.device.type == "cpu" and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocab_size:
        raise ValueError(
            f"input_ids holds ids from {int(input_ids.min())} to {int(input_ids.max())}; this model knows 0 to "
            f"{vocab_size - 1}. Does the tokenizer belong to this model?"
        )


# --------------------------------------------------------------------------------------------------------- attention


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    *,
    dropout: float = 0.0,
    fused: bool = True,
    save: list[Tensor] | None = None,
) -> Tensor:
    """Return for each query an average of the values, weighted by softmax(q kᵀ / √K).

    Args:
        q: (B, H, T, K).
        k, v: (B, G, S, K), where G divides H: each key-value head serves H / G query heads.
        mask: bool, broadcastable to (B, H, T, S); True where a query may look at a key.
        causal: the queries are the last T of the S positions, and none looks at a later one.
        dropout: the share of the weights set to 0; pass 0 outside training.
        fused: compute with one library call that never stores the (T, S) weights.
        save: a list to which the weights (B, H, T, S), before dropout, are appended; turns ``fused`` off.

    Returns:
        (B, H, T, K). A query that may look at nothing gets zeros.

    Raises:
        ValueError: the mask is not bool, or G does not divide H.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1; shared key-value heads: Ainslie et al.
    2023, https://arxiv.org/abs/2305.13245.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected bool, True where a query may look: mask.bool() if 1 = keep")
    if q.size(1) % k.size(1):
        raise ValueError(f"{q.size(1)} query heads cannot share {k.size(1)} key-value heads evenly")
    if fused and save is None:
        return _fused_attention(q, k, v, mask, causal, dropout)

    k, v = repeat_heads(k, q.size(1)), repeat_heads(v, q.size(1))  # (B, H, S, K)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # (B, H, T, S)
    allowed = _combine(mask, causal, scores.size(-2), scores.size(-1), q.device)
    if allowed is not None:
        # The lowest number rather than -inf: a row of -inf alone would become NaN, in the gradient too.
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)  # (B, H, T, S), rows sum to 1
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0.0)  # changes only rows in which nothing is allowed
    if save is not None:
        save.append(weights)
    return F.dropout(weights, dropout) @ v  # (B, H, T, K)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """The same numbers by ``scaled_dot_product_attention``, which works block by block."""
    (B, H, T, K), G, S = q.shape, k.size(1), k.size(2)
    if causal and mask is None and T == S:
        k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, S, K)
        return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True)  # (B, H, T, K), the fastest
    allowed = _combine(mask, causal, T, S, q.device)
    if T == 1 and (allowed is None or allowed.dim() < 3 or allowed.size(-3) == 1):
        # Decoding: the query heads that share a key become the positions that look at it, and no key is copied.
        q = q.reshape(B, G, H // G, K)
    else:
        k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, S, K)
    out = F.scaled_dot_product_attention(q, k, v, allowed, dropout).reshape(B, H, T, K)
    # What the library gives where nothing is allowed depends on version and device.
    return out if allowed is None else out.masked_fill(~allowed.any(-1, keepdim=True), 0.0)


def _combine(mask: Tensor | None, causal: bool, T: int, S: int, device: torch.device) -> Tensor | None:
    """Return what both the mask and the order of positions allow; None if that is everything."""
    if not causal or T == 1:  # a single query is the last position: nothing comes later
        return mask
    order = causal_mask(T, S, device)  # (T, S)
    return order if mask is None else mask & order


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x (B, G, S, K) with each head repeated until there are H: (B, H, S, K); x itself if there are."""
    return x if x.size(1) == n_heads else x.repeat_interleave(n_heads // x.size(1), dim=1)


# -------------------------------------------------------------------------------------------------- rotary positions


def rotary_angles(positions: Tensor, d_head: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angles by which :func:`rotate` turns each pair of features: (T, K/2) each.

    Pair i of position t turns by t / base^(2i/K). Source: Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.
    """
    exponents = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float32) / d_head  # (K/2,)
    angles = positions.float()[:, None] / base**exponents  # (T, K/2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of features of x (B, H, T, K) by the angles of their positions.

    Feature i is paired with feature i + K/2 ("half-split"), as in the published Llama weights for Transformers. The
    paper pairs neighbours, 2i with 2i + 1 ("interleaved"), and so does GGUF: its rows of the query and key weights
    stand in that order, and ``models.llama`` sorts them back when it loads such a file.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)  # (T, K/2)
    first, second = x.chunk(2, dim=-1)  # (B, H, T, K/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)  # (B, H, T, K)


# --------------------------------------------------------------------------------------------------- key-value cache


class KVCache:
    """The keys and values of the positions already seen, for each layer; filled in place by a model's calls.

    Space is taken for more positions than there are and doubled when full, so that a new token copies only itself.

    Attributes:
        length: the number of positions that all layers hold.
    """

    def __init__(self, n_layers: int, max_length: int | None = None):
        self.n_layers = n_layers
        self.max_length = max_length  # the model's context; None: no limit
        self.length = 0
        self._keys: list[Tensor | None] = [None] * n_layers  # (B, G, space, K) each
        self._values: list[Tensor | None] = [None] * n_layers

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v (B, G, T, K) to a layer; return all its keys and values: (B, G, length + T, K).

        ``length`` grows when the last layer has been given its part. A call that is interrupted before leaves no
        trace: the next one writes over it.

        Raises:
            ValueError: there would be more than ``max_length`` positions, or another number of sequences than before.
        """
        end = self.length + k.size(2)
        if self.max_length is not None and end > self.max_length:
            raise ValueError(
                f"the cache holds {self.length} positions and cannot take {k.size(2)} more: the context is "
                f"{self.max_length}. Begin a new cache with the last part of the text"
            )
        self._keys[layer] = keys = self._store(self._keys[layer], k)
        self._values[layer] = values = self._store(self._values[layer], v)
        if layer == self.n_layers - 1:
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def _store(self, buffer: Tensor | None, new: Tensor) -> Tensor:
        """Write ``new`` behind the positions there are; return the buffer, or a larger one if it was too small."""
        B, G, T, K = new.shape
        end = self.length + T
        if buffer is not None and self.length and buffer.size(0) != B:
            raise ValueError(f"the cache holds {buffer.size(0)} sequences, the input has {B}; begin a new cache")
        if buffer is None or not self.length or buffer.size(2) < end:
            space = min(max(64, 2 * self.length, end), self.max_length or 2**62)
            larger = new.new_empty(B, G, space, K)
            if self.length:
                larger[:, :, : self.length] = buffer[:, :, : self.length]
            buffer = larger
        buffer[:, :, self.length : end] = new
        return buffer


# ---------------------------------------------------------------------------------------------- the attention module


class MultiHeadAttention(nn.Module):
    """Project to queries, keys and values, attend in each head, and project the joined heads back.

    Fewer key-value heads than query heads make it grouped-query attention. Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,  # None: as many as heads
        d_head: int | None = None,  # None: d_model / n_heads
        bias: bool = True,
        dropout: float = 0.0,  # of the attention weights
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads or n_heads
        self.d_head = d_head or d_model // n_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, self.n_heads * self.d_head, bias)
        self.key = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias)
        self.value = nn.Linear(d_model, self.n_kv_heads * self.d_head, bias)
        self.output = nn.Linear(self.n_heads * self.d_head, d_model, bias)
        self.save: list[Tensor] | None = None  # set by record()

    def forward(
        self,
        x: Tensor,  # (B, T, D)
        mask: Tensor | None = None,  # bool, broadcastable to (B, H, T, S)
        causal: bool = False,
        rotary: tuple[Tensor, Tensor] | None = None,  # cos and sin of the T positions
        cache: KVCache | None = None,
        layer: int = 0,  # which layer of the cache is this one's
    ) -> Tensor:
        B, T, _ = x.shape
        q = self.query(x).view(B, T, self.n_heads, self.d_head).transpose(1, 2)  # (B, H, T, K)
        k = self.key(x).view(B, T, self.n_kv_heads, self.d_head).transpose(1, 2)  # (B, G, T, K)
        v = self.value(x).view(B, T, self.n_kv_heads, self.d_head).transpose(1, 2)  # (B, G, T, K)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)  # as before
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, G, S, K): with all earlier positions
        heads = attention(q, k, v, mask, causal, dropout=self.dropout * self.training, save=self.save)  # (B, H, T, K)
        return self.output(heads.transpose(1, 2).flatten(2))  # (B, T, H K) -> (B, T, D)


# ------------------------------------------------------------------------------------------------------------ blocks


class Block(nn.Module):
    """One layer of a model: attention, then a feed-forward, each with a residual connection and a norm.

    Where the norm stands is the subclasses' matter. ``how`` are the further arguments of the attention.
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        attention_norm: nn.Module,
        feed_forward_norm: nn.Module,
        dropout: float = 0.0,  # of what is added to the residual stream
    ):
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.feed_forward = feed_forward
        self.feed_forward_norm = feed_forward_norm
        self.dropout = nn.Dropout(dropout)


class PostNormBlock(Block):
    """The norm comes after the sum, as in the Transformer of 2017 and BERT."""

    def forward(self, x: Tensor, **how) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, **how)))  # (B, T, D)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # (B, T, D)


class PreNormBlock(Block):
    """The norm comes before each part, so that the sum itself is never normalised, as in GPT-2 and Llama."""

    def forward(self, x: Tensor, **how) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), **how))  # (B, T, D)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # (B, T, D)


def init_weights(module: nn.Module, std: float) -> None:
    """Draw the weights of a linear or embedding layer from a normal distribution and set biases to 0, as BERT does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


# --------------------------------------------------------------------------------------------------------- recording


@dataclass
class Call:
    """What one call of a model left in a recording."""

    attention: list[Tensor] = field(default_factory=list)  # of each layer: (B, H, T, S)
    hidden: list[Tensor] = field(default_factory=list)  # what the first block was given, then what each block returned


@dataclass
class Recording:
    """The calls of a model inside ``with record(model) as recording``, oldest first."""

    calls: list[Call] = field(default_factory=list)

    @property
    def attention(self) -> list[Tensor]:
        """The attention maps of the latest call, one a layer: (B, H, T, S), each row sums to 1."""
        return self._latest().attention

    @property
    def hidden(self) -> list[Tensor]:
        """The hidden states of the latest call: the input of the first block, then the output of each: (B, T, D)."""
        return self._latest().hidden

    def _latest(self) -> Call:
        if not self.calls:
            raise ValueError("nothing was recorded: call the model itself inside `with record(model) as recording:`")
        return self.calls[-1]


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Keep attention maps and hidden states, by layer, of each call of ``model`` inside the ``with`` block.

    Attention takes its explicit path meanwhile. A final norm of the model comes after the last hidden state.

    Raises:
        ValueError: the model has no attention of this module, or is being recorded already.
    """
    attentions = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    if not attentions or not blocks:
        raise ValueError(f"{type(model).__name__} has no attention blocks of plm_tutorial.layers to record")
    if any(m.save is not None for m in attentions):
        raise ValueError(f"this {type(model).__name__} is being recorded already; leave the other `with record` first")
    recording = Recording()

    def begin(*_) -> None:
        recording.calls.append(Call())
        for module in attentions:
            module.save = recording.calls[-1].attention

    hooks = [model.register_forward_pre_hook(begin)]
    hooks += [blocks[0].register_forward_pre_hook(lambda _, given: recording.hidden.append(given[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: recording.hidden.append(out)) for block in blocks]
    for module in attentions:
        module.save = []  # taken; each call brings its own list
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()
        for module in attentions:
            module.save = None
