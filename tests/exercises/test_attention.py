"""Exercises on attention: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import math

import torch

from plm_tutorial.layers import causal_mask

# --- right answers: as in the chapter, and other ways to be right


def document_mask(documents):
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & causal_mask(documents.size(1), documents.size(1))


def document_mask_by_loops(documents):
    batch, n = documents.shape
    mask = torch.zeros(batch, 1, n, n, dtype=torch.bool)
    for b in range(batch):
        for t in range(n):
            for s in range(t + 1):
                mask[b, 0, t, s] = documents[b, t] == documents[b, s]
    return mask


def sink_mask(n_tokens, window, n_sinks):
    sink = torch.arange(n_tokens) < n_sinks
    return causal_mask(n_tokens, n_tokens, window=window) | (causal_mask(n_tokens, n_tokens) & sink)


def previous_token(n, loudness=20):
    return loudness * math.sqrt(n) * torch.diag(torch.ones(n - 1), diagonal=1), torch.eye(n)


def previous_token_by_keys(n):
    """The key of each position is what the next one asks for."""
    return torch.eye(n), 30 * math.sqrt(n) * torch.diag(torch.ones(n - 1), diagonal=-1)


def merge(first, second):
    (o1, m1, z1), (o2, m2, z2) = first, second
    top = max(m1, m2)
    a, b = math.exp(m1 - top), math.exp(m2 - top)
    return a * o1 + b * o2, top, a * z1 + b * z2


def merge_by_the_larger(first, second):
    if first[1] < second[1]:
        first, second = second, first
    shrink = math.exp(second[1] - first[1])
    return [first[0] + shrink * second[0], first[1], first[2] + shrink * second[2]]


def crossover(d, h, g, k, f, factor=2, kv=None, matrices=3):
    return factor * (2 * d * h * k + 2 * d * (kv or g) * k + matrices * d * f) / (4 * h * k)


def linear_attention(q, k, v):
    memory, out = torch.zeros(k.size(1), v.size(1)), []
    for t in range(len(q)):
        memory = memory + k[t][:, None] * v[t]
        out.append(q[t] @ memory)
    return torch.stack(out)


def linear_attention_by_cumsum(q, k, v):
    return torch.einsum("tk,tkv->tv", q, torch.einsum("tk,tv->tkv", k, v).cumsum(0))


RIGHT = [
    ("ex-attention-unit-scale", math.sqrt),
    ("ex-attention-unit-scale", lambda width: torch.tensor(width).sqrt()),
    ("ex-attention-documents", document_mask),
    ("ex-attention-documents", document_mask_by_loops),
    ("ex-attention-sink-mask", sink_mask),
    ("ex-attention-previous", previous_token),
    ("ex-attention-previous", previous_token_by_keys),
    ("ex-attention-merge", merge),
    ("ex-attention-merge", merge_by_the_larger),
    ("ex-attention-crossover", crossover),
    ("ex-attention-linear", linear_attention),
    ("ex-attention-linear", linear_attention_by_cumsum),
]

# --- wrong answers that a reader may well give, and what they are told


def same_document(documents):
    return documents[:, None, :, None] == documents[:, None, None, :]


def merge_without_shrinking(first, second):
    return first[0] + second[0], max(first[1], second[1]), first[2] + second[2]


def merge_to_the_smaller(first, second):
    (o1, m1, z1), (o2, m2, z2) = first, second
    low = min(m1, m2)
    a, b = math.exp(m1 - low), math.exp(m2 - low)
    return a * o1 + b * o2, low, a * z1 + b * z2


def merge_overflowing(first, second):
    (o1, m1, z1), (o2, m2, z2) = first, second
    top = max(m1, m2)
    a, b = math.exp(m1), math.exp(m2)
    return (a * o1 + b * o2) / math.exp(top), top, (a * z1 + b * z2) / math.exp(top)


def merge_to_an_average(first, second):
    o, m, z = merge(first, second)
    return o / z, m, z


def merge_forgetting_values(first, second):
    _, m, z = merge(first, second)
    return first[0] + second[0], m, z


WRONG = [
    ("ex-attention-unit-scale", lambda width: 1 / math.sqrt(width), "smaller still"),
    ("ex-attention-unit-scale", lambda width: width, "1 over the variance"),
    ("ex-attention-unit-scale", lambda width: 1, "variance 1 / K, not 1"),
    ("ex-attention-unit-scale", lambda width: 2 * width, "expected 2"),
    ("ex-attention-documents", same_document, "query 0 may look at key 1, but it should not"),
    ("ex-attention-documents", lambda d: causal_mask(d.size(1), d.size(1)), "has shape (3, 3)"),
    (
        "ex-attention-documents",
        lambda d: causal_mask(d.size(1), d.size(1)).expand(d.size(0), 1, -1, -1),
        "query 2 may look at key 0, but it should not",
    ),
    ("ex-attention-documents", lambda d: document_mask(d).int(), "expected bool"),
    ("ex-attention-documents", lambda d: ~document_mask(d), "query 0 may not look at key 0, but it should"),
    ("ex-attention-documents", lambda d: document_mask(d)[:, 0], "expected (1, 1, 3, 3)"),
    # lets every position see the sinks, the earlier ones too
    (
        "ex-attention-sink-mask",
        lambda n, w, s: causal_mask(n, n, window=w) | (torch.arange(n) < s),
        "query 0 may look at key 1, but it should not",
    ),
    # a window that does not count the position itself
    (
        "ex-attention-sink-mask",
        lambda n, w, s: sink_mask(n, w + 1, s),
        "query 3 may look at key 1, but it should not",
    ),
    ("ex-attention-sink-mask", lambda n, w, s: causal_mask(n, n, window=w), "query 2 may not look at key 0"),
    ("ex-attention-sink-mask", lambda n, w, s: sink_mask(n, w, s).tolist(), "expected a tensor"),
    ("ex-attention-previous", lambda n: (torch.eye(n), 30 * n * torch.eye(n)), "position 1 looks most at position 1"),
    # looks at the next one, which the mask forbids
    (
        "ex-attention-previous",
        lambda n: (30 * n * torch.diag(torch.ones(n - 1), diagonal=-1), torch.eye(n)),
        "expected at least 0.99",
    ),
    ("ex-attention-previous", lambda n: previous_token(n, loudness=1), "expected at least 0.99"),
    ("ex-attention-previous", lambda n: previous_token(n, loudness=1e38), "are not finite"),
    ("ex-attention-previous", lambda n: previous_token(n)[0], "must return two matrices"),
    ("ex-attention-previous", lambda n: (torch.eye(n - 1), torch.eye(n)), "W_Q has shape (3, 3)"),
    ("ex-attention-merge", merge_without_shrinking, "bring both parts to the common maximum first"),
    ("ex-attention-merge", merge_to_the_smaller, "the larger of the two"),
    ("ex-attention-merge", merge_overflowing, "an exponential overflows"),
    ("ex-attention-merge", merge_to_an_average, "the finished average"),
    ("ex-attention-merge", merge_forgetting_values, "o is wrong"),
    ("ex-attention-merge", lambda first, second: first[0] + second[0], "expected a triple"),
    ("ex-attention-crossover", lambda *sizes: crossover(*sizes, factor=1), "two FLOPs"),
    ("ex-attention-crossover", lambda d, h, g, k, f: crossover(d, h, g, k, f, kv=h), "only G heads"),
    ("ex-attention-crossover", lambda *sizes: crossover(*sizes, matrices=2), "three matrices"),
    ("ex-attention-crossover", lambda d, h, g, k, f: 6 * d, "only G heads"),
    ("ex-attention-crossover", lambda d, h, g, k, f: crossover(d, h, g, k, f) * h / g, "each of the H query heads"),
    ("ex-attention-crossover", lambda d, h, g, k, f: 2 * d, "expected"),
    ("ex-attention-linear", lambda q, k, v: q @ (k.T @ v), "depends on later tokens too"),
    ("ex-attention-linear", lambda q, k, v: (q @ k.T).tril(-1) @ v, "own key and value are missing"),
    ("ex-attention-linear", lambda q, k, v: linear_attention(q, k, v) / k.size(1) ** 0.5, "without softmax or scale"),
    ("ex-attention-linear", lambda q, k, v: linear_attention(q, k, v)[-1], "has shape (4,)"),
    ("ex-attention-linear", lambda q, k, v: linear_attention(q, k, v).tolist(), "expected a tensor"),
]
