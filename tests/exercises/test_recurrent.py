"""Exercises on recurrent networks: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import torch

# --- right answers: as in the chapter, and other ways to be right


def gru_step(x, h, w_x, w_h):
    r_x, z_x, n_x = (x @ w_x.T).chunk(3, dim=-1)
    r_h, z_h, n_h = (h @ w_h.T).chunk(3, dim=-1)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    return (1 - z) * (n_x + r * n_h).tanh() + z * h


def gru_step_by_rows(x, h, w_x, w_h):
    D = h.size(-1)
    r = torch.sigmoid(x @ w_x[:D].T + h @ w_h[:D].T)
    z = torch.sigmoid(x @ w_x[D : 2 * D].T + h @ w_h[D : 2 * D].T)
    n = torch.tanh(x @ w_x[2 * D :].T + r * (h @ w_h[2 * D :].T))
    return n + z * (h - n)


def forget_bias(n):
    f = 0.5 ** (1 / n)
    return math.log(f / (1 - f))


def forget_bias_precisely(n):
    return -math.log(math.expm1(math.log(2) / n))


def combine(first, second):
    return second[0] * first[0], second[0] * first[1] + second[1]


def crossover(n_blocks, n_layers, d_model, n_heads, n_kv_heads):
    a_token = 2 * n_blocks * n_kv_heads * (d_model // n_heads)
    return 2 * n_layers * d_model // a_token + 1


RIGHT = [
    ("ex-recurrent-gru", gru_step),
    ("ex-recurrent-gru", gru_step_by_rows),
    ("ex-recurrent-bias", forget_bias),
    ("ex-recurrent-bias", forget_bias_precisely),
    ("ex-recurrent-combine", combine),
    ("ex-recurrent-crossover", crossover),
]

# --- plausible mistakes


def gru_step_turned(x, h, w_x, w_h):
    r_x, z_x, n_x = (x @ w_x.T).chunk(3, dim=-1)
    r_h, z_h, n_h = (h @ w_h.T).chunk(3, dim=-1)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    return z * (n_x + r * n_h).tanh() + (1 - z) * h


def gru_step_without_reset(x, h, w_x, w_h):
    _, z_x, n_x = (x @ w_x.T).chunk(3, dim=-1)
    _, z_h, n_h = (h @ w_h.T).chunk(3, dim=-1)
    z = (z_x + z_h).sigmoid()
    return (1 - z) * (n_x + n_h).tanh() + z * h


def crossover_of_all_heads(n_blocks, n_layers, d_model, n_heads, n_kv_heads):
    return 2 * n_layers * d_model // (2 * n_blocks * d_model) + 1


WRONG = [
    ("ex-recurrent-gru", gru_step_turned, "the other way round"),
    ("ex-recurrent-gru", gru_step_without_reset, "it is missing"),
    ("ex-recurrent-gru", lambda x, h, w_x, w_h: h.tanh(), "differs from torch.nn.GRUCell"),
    ("ex-recurrent-bias", lambda n: 0.5 ** (1 / n), "the gate f itself"),
    ("ex-recurrent-bias", lambda n: math.log(math.exp(-1 / n) / (1 - math.exp(-1 / n))), "not one half"),
    ("ex-recurrent-bias", lambda n: -forget_bias(n), "the sign"),
    ("ex-recurrent-combine", lambda p, q: combine(q, p), "the second step first"),
    ("ex-recurrent-combine", lambda p, q: (p[0] * q[0], p[1] + q[1]), "only in part"),
    ("ex-recurrent-combine", lambda p, q: (p[0] + q[0], combine(p, q)[1]), "a product is kept"),
    ("ex-recurrent-crossover", crossover_of_all_heads, "are kept of n_kv_heads"),
    ("ex-recurrent-crossover", lambda *a: crossover(*a) - 1, "not yet more"),
    ("ex-recurrent-crossover", lambda b, n, d, h, g: n * d // (2 * b * g * (d // h)) + 1, "two vectors a layer"),
]
