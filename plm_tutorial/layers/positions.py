"""How a model learns the order of its tokens: sinusoidal, rotary, relative positions. (Learned: an Embedding.)

Letters: B sequences, T positions that ask (queries), S positions that are looked at (keys), D width of the model,
H heads, G key-value heads (G = H unless heads share them), K width of one head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_positions(n_positions: int, d_model: int, device: torch.device | str | None = None) -> Tensor:
    """Return a vector for each position: sines and cosines of ever slower waves, (T, D) float32.

    PE(t, 2i) = sin(t / 10000^(2i/D)), PE(t, 2i + 1) = cos(t / 10000^(2i/D)). Source: Vaswani et al. 2017,
    https://arxiv.org/abs/1706.03762, section 3.5.

    Raises:
        ValueError: D is odd.
    """
    if d_model % 2:
        raise ValueError(f"d_model is {d_model}; sines and cosines come in pairs, so it must be even")
    cos, sin = rotary_angles(torch.arange(n_positions, device=device), d_model)  # (T, D/2) each
    return torch.stack((sin, cos), dim=-1).flatten(1)  # (T, D)


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


class RelativeBias(nn.Module):
    """A learned number for each head and distance between query and key, added to the scores of attention.

    Near distances have a number each, farther ones share it in buckets that widen logarithmically, and all beyond
    ``max_distance`` share the last. Source: Raffel et al. 2019, https://arxiv.org/abs/1910.10683, section 2.1, and the
    code published with it.

    Raises:
        ValueError: ``max_distance`` is not beyond the distances that have a bucket each, or these are none.
    """

    def __init__(self, n_heads: int, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True):
        super().__init__()
        exact = n_buckets // (4 if bidirectional else 2)  # distances with a bucket of their own
        if not 1 <= exact < max_distance:
            raise ValueError(
                f"n_buckets is {n_buckets} and max_distance {max_distance}; {n_buckets} buckets give {exact} distances "
                f"one of their own, expected at least 1, and a max_distance beyond them"
            )
        self.n_buckets, self.max_distance, self.bidirectional = n_buckets, max_distance, bidirectional
        self.weight = nn.Parameter(torch.zeros(n_buckets, n_heads))  # (buckets, H)

    def forward(self, n_queries: int, n_keys: int) -> Tensor:
        """Return the bias (1, H, T, S); the queries are the last T of the S positions."""
        query = torch.arange(n_keys - n_queries, n_keys, device=self.weight.device)[:, None]  # (T, 1)
        key = torch.arange(n_keys, device=self.weight.device)  # (S,)
        return self.weight[self.bucket(key - query)].permute(2, 0, 1)[None]  # (T, S, H) -> (1, H, T, S)

    def bucket(self, offset: Tensor) -> Tensor:
        """Return the bucket of each offset, key position minus query position: int64 of the same shape."""
        n, first = self.n_buckets, torch.zeros_like(offset)
        if self.bidirectional:
            n = n // 2
            first = n * (offset > 0)  # the upper half of the buckets is for keys that come later
            distance = offset.abs()
        else:
            distance = (-offset).clamp(min=0)  # later keys are masked; they get bucket 0
        exact = n // 2  # so many distances have a bucket of their own
        wide = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (n - exact)
        wide = (exact + wide.long()).clamp(max=n - 1)
        return first + torch.where(distance < exact, distance, wide)
