"""Exercises on the Transformer: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import torch
import torch.nn.functional as F

from plm_tutorial.layers import sinusoidal_positions
from plm_tutorial.models import GPT2, GPT2Config

# --- right answers: as in the chapter, and other ways to be right


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def pre_norm_block(x, attention, feed_forward, norm1, norm2):
    z = x + attention(norm1(x))
    return z + feed_forward(norm2(z))


def rotation(k, d_model):
    matrix = torch.zeros(d_model, d_model)
    for i in range(d_model // 2):
        angle = k * 10000 ** (-2 * i / d_model)
        cos, sin = math.cos(angle), math.sin(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cos, sin], [-sin, cos]])
    return matrix


def rotation_from_positions(k, d_model):
    """The waves themselves hold the sines and cosines of the angles."""
    waves = sinusoidal_positions(abs(k) + 1, d_model)[abs(k)]
    sign = 1 if k >= 0 else -1
    parts = [torch.tensor([[c, sign * s], [-sign * s, c]]) for s, c in waves.view(-1, 2)]
    return torch.block_diag(*parts)


def decoder_inputs(labels, begin, pad):
    first = torch.full_like(labels[:, :1], begin)
    return torch.cat([first, labels[:, :-1].masked_fill(labels[:, :-1] == -100, pad)], dim=1)


def decoder_inputs_by_roll(labels, begin, pad):
    ids = labels.roll(1, dims=1)
    ids[:, 0] = begin
    return ids.where(ids != -100, pad)


def gpt2_parameters(vocab_size, context_length, d_model, n_layers):
    per_block = 12 * d_model**2 + 13 * d_model
    return (vocab_size + context_length + 2) * d_model + n_layers * per_block


def gpt2_parameters_of_the_model(vocab_size, context_length, d_model, n_layers):
    config = GPT2Config(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=4,
        d_hidden=4 * d_model,
    )
    with torch.device("meta"):
        return sum(weight.numel() for weight in GPT2(config).parameters())


def batch_first(layer, x):
    return layer(x.transpose(0, 1)).transpose(0, 1)


RIGHT = [
    ("ex-transformer-layernorm", layer_norm),
    ("ex-transformer-layernorm", lambda x, weight, bias, eps: F.layer_norm(x, weight.shape, weight, bias, eps)),
    ("ex-transformer-pre-norm", pre_norm_block),
    ("ex-transformer-rotation", rotation),
    ("ex-transformer-rotation", rotation_from_positions),
    ("ex-transformer-shift", decoder_inputs),
    ("ex-transformer-shift", decoder_inputs_by_roll),
    ("ex-transformer-gpt2", gpt2_parameters),
    ("ex-transformer-gpt2", gpt2_parameters_of_the_model),
    ("ex-transformer-layout", batch_first),
    ("ex-transformer-layout", lambda layer, x: torch.stack([layer(one[:, None])[:, 0] for one in x])),
    ("ex-transformer-layout", lambda layer, x: layer(x.permute(1, 0, 2)).permute(1, 0, 2)),
]

# --- plausible mistakes


def with_statistics(x, weight, bias, eps, dim=-1, **options):
    return (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, **options) + eps).sqrt() * weight + bias


def standardise(x, weight, bias, eps):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, unbiased=False) + eps) * weight + bias


def rms_norm(x, weight, bias, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def post_norm_block(x, attention, feed_forward, norm1, norm2):
    z = norm1(x + attention(x))
    return norm2(z + feed_forward(z))


def parallel_block(x, attention, feed_forward, norm1, norm2):
    return x + attention(norm1(x)) + feed_forward(norm2(x))


def norm_once(x, attention, feed_forward, norm1, norm2):
    x = norm1(x)
    x = norm2(x + attention(x))
    return x + feed_forward(x)


def shift_left(labels, begin, pad):
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], pad)], dim=1)


def shift_in_place(labels, begin, pad):
    labels[labels == -100] = pad
    return torch.cat([torch.full_like(labels[:, :1], begin), labels[:, :-1]], dim=1)


def keep_minus_100(labels, begin, pad):
    return torch.cat([torch.full_like(labels[:, :1], begin), labels[:, :-1]], dim=1)


def one_longer(labels, begin, pad):
    return torch.cat([torch.full_like(labels[:, :1], begin), labels.clamp(min=pad)], dim=1)


def halves(k, d_model):
    """As rotary positions pair their features."""
    angles = k * 10000 ** (-torch.arange(0, d_model, 2) / d_model)
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])


def count(bias=1, norm=2, attentions=1, norms=2, final=1, tokens=1, positions=1):
    """A counter that forgets something, or adds what is not there."""

    def gpt2_parameters(vocab_size, context_length, d_model, n_layers):
        attention = 4 * (d_model**2 + bias * d_model)
        feed_forward = 8 * d_model**2 + 5 * bias * d_model
        block = attentions * attention + feed_forward + norms * norm * d_model
        return (tokens * vocab_size + positions * context_length + final * norm) * d_model + n_layers * block

    return gpt2_parameters


WRONG = [
    ("ex-transformer-layernorm", with_statistics, "divides by D - 1"),
    ("ex-transformer-layernorm", standardise, "it belongs under the root"),
    ("ex-transformer-layernorm", lambda x, w, b, e: F.layer_norm(x, w.shape, None, None, e), "scale and shift"),
    ("ex-transformer-layernorm", rms_norm, "that is RMSNorm"),
    ("ex-transformer-layernorm", lambda x, w, b, e: layer_norm(x, w, b, 0), "eps is left out"),
    ("ex-transformer-layernorm", lambda x, w, b, e: with_statistics(x, w, b, e, 0, unbiased=False), "is off by"),
    ("ex-transformer-layernorm", lambda x, w, b, e: x.mean(-1), "gave shape (2, 3), expected (2, 3, 8)"),
    ("ex-transformer-pre-norm", post_norm_block, "this is post-norm"),
    ("ex-transformer-pre-norm", parallel_block, "not to x"),
    ("ex-transformer-pre-norm", norm_once, "add x itself"),
    ("ex-transformer-pre-norm", lambda x, a, f, n1, n2: x + a(n1(x)), "the feed-forward is missing"),
    ("ex-transformer-pre-norm", lambda x, a, f, n1, n2: f(n2(x + a(n1(x)))), "second residual connection"),
    ("ex-transformer-pre-norm", lambda x, a, f, n1, n2: pre_norm_block(x, a, f, n2, n1), "changed places"),
    ("ex-transformer-pre-norm", lambda x, a, f, n1, n2: n2(pre_norm_block(x, a, f, n1, n2)), "is off by"),
    ("ex-transformer-rotation", lambda k, d: rotation(-k, d), "the signs of the sines are the wrong way round"),
    ("ex-transformer-rotation", halves, "here they alternate"),
    ("ex-transformer-rotation", lambda k, d: torch.eye(d), "away from PE(51)"),
    ("ex-transformer-rotation", lambda k, d: sinusoidal_positions(50, d)[k], "expected (2, 2)"),
    ("ex-transformer-shift", lambda labels, begin, pad: labels, "would be given its own answer"),
    ("ex-transformer-shift", shift_left, "expected [[1, 5, 6]]"),
    ("ex-transformer-shift", keep_minus_100, "-100 is no token id"),
    ("ex-transformer-shift", shift_in_place, "work on a copy"),
    ("ex-transformer-shift", one_longer, "expected [[1, 5, 6]]"),
    ("ex-transformer-gpt2", count(tokens=2), "counts once"),
    ("ex-transformer-gpt2", count(tokens=0), "the token table is missing"),
    ("ex-transformer-gpt2", count(positions=0), "the table of positions is missing"),
    ("ex-transformer-gpt2", count(final=0), "the final norm is missing"),
    ("ex-transformer-gpt2", count(norm=0), "the norms are missing"),
    ("ex-transformer-gpt2", count(norm=1), "a norm has a scale and a shift"),
    ("ex-transformer-gpt2", count(bias=0), "the biases are missing"),
    ("ex-transformer-gpt2", count(bias=0, norm=0), "norms and biases are missing"),
    ("ex-transformer-gpt2", count(attentions=2), "there is no cross-attention here"),
    ("ex-transformer-gpt2", count(attentions=2, norms=3), "no norm of one, here"),
    ("ex-transformer-gpt2", lambda v, c, d, n: 12 * n * d**2, "expected"),
    ("ex-transformer-layout", lambda layer, x: layer(x), "mixes the sequences of the batch"),
    ("ex-transformer-layout", lambda layer, x: layer(x.transpose(0, 1)), "still sequence first"),
    (
        "ex-transformer-layout",
        lambda layer, x: layer(x.reshape(x.size(1), x.size(0), -1)).reshape(x.shape),
        "reshape does not swap dimensions",
    ),
]
