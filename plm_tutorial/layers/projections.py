"""Linear maps that are fast when there is a single vector to multiply, as there is when a decoder writes.

In: vectors (..., in). Out: vectors (..., out). Such a product does little arithmetic: it takes as long as it takes to
read the weight from memory. So it matters how many cores read, and in what order the numbers lie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear`` with the same parameters and the same numbers; a single vector is multiplied on all cores."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)  # (..., out)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weightᵀ + bias, (..., out), for x (..., in) and a weight (out, in).

    The library's product of a matrix with a single vector runs on one core of a CPU. So the rows of the weight are cut
    into as many parts as there are cores, and each core multiplies one: the sums are the same.
    """
    out, n_parts = weight.size(0), torch.get_num_threads()
    single = x.numel() == x.size(-1) and x.device.type == "cpu" and x.dtype == torch.float32
    if not single or n_parts == 1 or out % n_parts:
        return F.linear(x, weight, bias)
    parts = weight.view(n_parts, out // n_parts, -1).transpose(1, 2)  # (parts, in, out/parts), not a copy
    y = torch.bmm(x.reshape(1, 1, -1).expand(n_parts, 1, -1), parts)  # (parts, 1, out/parts)
    y = y.view(*x.shape[:-1], out)  # (..., out)
    return y if bias is None else y + bias


def for_decoding(model: nn.Module) -> nn.Module:
    """Lay a model's weights out in memory for reading them faster in decoding, in place; return the model.

    Each weight (out, in) with out > in, and the token embedding if it is also the output layer, is laid out along its
    longer side, column after column: memory is read the faster, the longer the stretches. Names, shapes and numbers
    stay, ``weight.stride()`` changes. Not for training; ``weight.contiguous()`` is the usual order, which files need.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    if getattr(model, "head", model) is None:
        weights.append(model.tokens.weight)
    for weight in weights:
        if weight.size(0) > weight.size(1):
            weight.data = weight.data.t().contiguous().t()  # (out, in) with strides (1, out)
    return model
