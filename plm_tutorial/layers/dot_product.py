"""Attention: which position looks at which (masks), the average itself, its cache, and the module with its projections.

Letters: B sequences, T positions that ask (queries), S positions that are looked at (keys), D width of the model,
H heads, G key-value heads (G = H unless heads share them), K width of one head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import RMSNorm
from .positions import rotate
from .projections import Linear

# ------------------------------------------------------------------------------------------------------------- masks


def causal_mask(
    n_queries: int, n_keys: int, device: torch.device | str | None = None, window: int | None = None
) -> Tensor:
    """Return which key each query may look at: (T, S) bool, True at its own position and before.

    The queries are the last T of the S positions, as they are when earlier keys come from a cache. With a ``window`` a
    query looks at that many positions, its own included, and at none farther back.
    """
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]  # (T, 1)
    key = torch.arange(n_keys, device=device)  # (S,)
    return key <= query if window is None else (key <= query) & (key > query - window)  # (T, S)


def padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Return an ``attention_mask``, 1 = may be looked at, as a mask of :func:`attention`.

    (B, S) becomes (B, 1, 1, S) bool; (B, T, S), where each query has a row of its own, (B, 1, T, S).
    """
    if attention_mask is None:
        return None
    return (attention_mask[:, None, None] if attention_mask.dim() == 2 else attention_mask[:, None]).bool()


# --------------------------------------------------------------------------------------------------------- attention


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    *,
    window: int | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
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
        window: with ``causal``, the number of positions that a query looks at, its own included; None: all before it.
        scale: what the products are multiplied by; None: 1 / √K.
        bias: added to the scaled products, broadcastable to (B, H, T, S).
        dropout: the share of the weights set to 0; pass 0 outside training.
        fused: compute with one library call that never stores the (T, S) weights.
        save: a list to which the weights (B, H, T, S), before dropout, are appended; turns ``fused`` off.

    Returns:
        (B, H, T, K). A query that may look at nothing gets zeros.

    Raises:
        ValueError: the mask is not bool, G does not divide H, or there is a window without ``causal``.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1; shared key-value heads: Ainslie et al.
    2023, https://arxiv.org/abs/2305.13245.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected bool, True where a query may look: mask.bool() if 1 = keep")
    if q.size(1) % k.size(1):
        raise ValueError(f"{q.size(1)} query heads cannot share {k.size(1)} key-value heads evenly")
    if window is not None and not (causal and window >= 1):
        raise ValueError(
            f"window is {window}, causal is {causal}; a window of at least 1 position goes with causal=True"
        )
    scale = 1 / math.sqrt(q.size(-1)) if scale is None else scale
    if fused and save is None:
        return _fused_attention(q, k, v, mask, causal, window, scale, bias, dropout)

    k, v = repeat_heads(k, q.size(1)), repeat_heads(v, q.size(1))  # (B, H, S, K)
    scores = q @ k.transpose(-2, -1) * scale  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    allowed = _combine(mask, causal, window, scores.size(-2), scores.size(-1), q.device)
    if allowed is not None:
        # The lowest number rather than -inf: a row of -inf alone would become NaN, in the gradient too.
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)  # (B, H, T, S), rows sum to 1
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0.0)  # changes only rows in which nothing is allowed
    if save is not None:
        save.append(weights)
    return F.dropout(weights, dropout) @ v  # (B, H, T, K)


def _fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    window: int | None,
    scale: float,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    """The same numbers by ``scaled_dot_product_attention``, which works block by block."""
    (B, H, T, K), G, S = q.shape, k.size(1), k.size(2)
    if causal and mask is None and bias is None and T == S and (window is None or window >= S):
        k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, S, K)
        # The fastest: no mask is ever made.
        return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, scale=scale)  # (B, H, T, K)
    allowed = _combine(mask, causal, window, T, S, q.device)
    if T == 1 and bias is None and (allowed is None or allowed.dim() < 3 or allowed.size(-3) == 1):
        # Decoding: the query heads that share a key become the positions that look at it, and no key is copied.
        q = q.reshape(B, G, H // G, K)
    else:
        k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, S, K)
    if bias is not None:
        terms = (
            bias.to(q.dtype) if allowed is None else bias.to(q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
        )
    else:
        terms = allowed
    out = F.scaled_dot_product_attention(q, k, v, terms, dropout, scale=scale).reshape(B, H, T, K)
    # What the library gives where nothing is allowed depends on version and device.
    return out if allowed is None else out.masked_fill(~allowed.any(-1, keepdim=True), 0.0)


def _combine(
    mask: Tensor | None, causal: bool, window: int | None, T: int, S: int, device: torch.device
) -> Tensor | None:
    """Return what both the mask and the order of positions allow; None if that is everything."""
    # A single query is the last position: nothing comes later, and a wide window leaves nothing out.
    if not causal or (T == 1 and (window is None or window >= S)):
        return mask
    order = causal_mask(T, S, device, window)  # (T, S)
    return order if mask is None else mask & order


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x (B, G, S, K) with each head repeated until there are H: (B, H, S, K); x itself if there are."""
    return x if x.size(1) == n_heads else x.repeat_interleave(n_heads // x.size(1), dim=1)


# --------------------------------------------------------------------------------------------------- key-value cache


class KVCache:
    """The keys and values of the positions already seen, for each layer; filled in place by a model's calls.

    Space is taken for more positions than there are and doubled when full, so that a new token copies only itself.

    Attributes:
        length: the number of positions that all layers hold.
        memory: of each layer that looks at an encoder's output, the keys and values of that: it does not change while
            the decoder writes, so they are computed once.
    """

    def __init__(self, n_layers: int, max_length: int | None = None):
        self.n_layers = n_layers
        self.max_length = max_length  # the model's context; None: no limit
        self.length = 0
        self.memory: list[tuple[Tensor, Tensor] | None] = [None] * n_layers  # (B, G, S, K) twice
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

    def select(self, rows: Tensor) -> None:
        """Make sequence i what sequence rows[i] was; rows (B',) may repeat some and leave out others."""
        for part in (self._keys, self._values):
            part[:] = [None if x is None else x[rows] for x in part]
        self.memory = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.memory]

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

    Fewer key-value heads than query heads make it grouped-query attention; with ``memory`` the keys and values come
    from another sequence (cross-attention). Source: Vaswani et al. 2017, section 3.2.2.

    With ``qk_norm`` each query and key is normalised within its head, before rotation: however large weights grow, the
    scores stay within a range that the norms' weights set. Idea: Henry et al. 2020, https://arxiv.org/abs/2010.04245;
    in this form: Yang et al. 2025 (Qwen3), https://arxiv.org/abs/2505.09388, and the code published with it.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,  # None: as many as heads
        d_head: int | None = None,  # None: d_model / n_heads
        bias: bool = True,
        dropout: float = 0.0,  # of the attention weights
        scale: float | None = None,  # None: 1 / √K
        window: int | None = None,  # with causal: positions that a query looks at; None: all before it
        qk_norm: float | None = None,  # RMSNorm of queries and keys, with this eps; None: none
    ):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads or n_heads
        self.d_head = d_head or d_model // n_heads
        self.dropout, self.scale, self.window = dropout, scale, window
        self.query = Linear(d_model, self.n_heads * self.d_head, bias)
        self.key = Linear(d_model, self.n_kv_heads * self.d_head, bias)
        self.value = Linear(d_model, self.n_kv_heads * self.d_head, bias)
        self.output = Linear(self.n_heads * self.d_head, d_model, bias)
        self.query_norm = None if qk_norm is None else RMSNorm(self.d_head, qk_norm)
        self.key_norm = None if qk_norm is None else RMSNorm(self.d_head, qk_norm)
        self.save: list[Tensor] | None = None  # set by record()

    def forward(
        self,
        x: Tensor,  # (B, T, D)
        mask: Tensor | None = None,  # bool, broadcastable to (B, H, T, S)
        causal: bool = False,
        rotary: tuple[Tensor, Tensor] | None = None,  # cos and sin of the T positions
        bias: Tensor | None = None,  # added to the scores, broadcastable to (B, H, T, S)
        memory: Tensor | None = None,  # (B, S, D): what is looked at, if it is not x
        cache: KVCache | None = None,
        layer: int = 0,  # which layer of the cache is this one's
    ) -> Tensor:
        q = self._heads(self.query(x), self.n_heads, self.query_norm)  # (B, H, T, K)
        if memory is None:
            k, v = self._keys_and_values(x)  # (B, G, T, K) each
            if rotary is not None:
                q, k = rotate(q, *rotary), rotate(k, *rotary)  # as before
            if cache is not None:
                k, v = cache.update(layer, k, v)  # (B, G, S, K): with all earlier positions
        elif cache is None:
            k, v = self._keys_and_values(memory)  # (B, G, S, K)
        else:
            if cache.memory[layer] is None:
                cache.memory[layer] = self._keys_and_values(memory)
            k, v = cache.memory[layer]  # (B, G, S, K)
        heads = attention(
            q,
            k,
            v,
            mask,
            causal,
            window=self.window if causal else None,
            scale=self.scale,
            bias=bias,
            dropout=self.dropout * self.training,
            save=self.save,
        )  # (B, H, T, K)
        return self.output(heads.transpose(1, 2).flatten(2))  # (B, T, H K) -> (B, T, D)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.key(x), self.n_kv_heads, self.key_norm), self._heads(self.value(x), self.n_kv_heads)

    def _heads(self, x: Tensor, n: int, norm: nn.Module | None = None) -> Tensor:
        x = x.view(x.size(0), x.size(1), n, self.d_head)  # (B, T, n K) -> (B, T, n, K)
        return (x if norm is None else norm(x)).transpose(1, 2)  # (B, n, T, K)
