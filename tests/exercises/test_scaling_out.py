"""Exercises on several GPUs: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import math

import numpy as np
import torch

# --- right answers: as on the page, and other ways to be right


def combine(gradients, counts):
    weighted = [count * g for g, count in zip(gradients, counts, strict=True) if count]
    return sum(weighted) / sum(counts)


def combine_by_product(gradients, counts):
    table = torch.stack(list(gradients)).nan_to_num()
    shares = torch.tensor(counts, dtype=table.dtype) / sum(counts)
    return shares @ table


def bytes_per_gpu(parameters, gpus, stage):
    optimizer = 12 / gpus if stage >= 1 else 12
    gradient = 2 / gpus if stage >= 2 else 2
    parameter = 2 / gpus if stage >= 3 else 2
    return (parameter + gradient + optimizer) * parameters


def bytes_by_table(parameters, gpus, stage):
    return parameters * (16, 4 + 12 / gpus, 2 + 14 / gpus, 16 / gpus)[stage]


def micro_batches(stages, share):
    m = 1
    while (stages - 1) / (m + stages - 1) > share + 1e-12:
        m += 1
    return m


def micro_batches_solved(stages, share):
    return max(1, math.ceil((stages - 1) * (1 - share) / share - 1e-9))


def best_by_search(save, between_failures):
    intervals = np.geomspace(1e-2, 1e6, 200_001)
    return intervals[np.argmin(save / intervals + intervals / (2 * between_failures))]


RIGHT = [
    ("ex-scaling-out-average", combine),
    ("ex-scaling-out-average", combine_by_product),
    ("ex-scaling-out-zero", bytes_per_gpu),
    ("ex-scaling-out-zero", bytes_by_table),
    ("ex-scaling-out-bubble", micro_batches),
    ("ex-scaling-out-bubble", micro_batches_solved),
    ("ex-scaling-out-interval", lambda save, between: math.sqrt(2 * save * between)),
    ("ex-scaling-out-interval", best_by_search),
]

# --- plausible mistakes


def mean_of_means(gradients, counts):
    return sum(g for g, count in zip(gradients, counts, strict=True) if count) / len(gradients)


def summed(gradients, counts):
    return sum(count * g for g, count in zip(gradients, counts, strict=True) if count)


def in_place(gradients, counts):
    for g, count in zip(gradients, counts, strict=True):
        g *= count
    return sum(gradients) / sum(counts)


WRONG = [
    ("ex-scaling-out-average", mean_of_means, "that is the mean of the means"),
    ("ex-scaling-out-average", summed, "divide by how many there are"),
    ("ex-scaling-out-average", lambda g, c: summed(g, c) / len(g), "not by the number of processes"),
    ("ex-scaling-out-average", lambda g, c: sum(n * x for n, x in zip(c, g, strict=True)) / sum(c), "gave NaN"),
    ("ex-scaling-out-average", in_place, "changed the gradients it was given"),
    ("ex-scaling-out-average", lambda g, c: torch.stack(g), "gave shape (2, 4), expected (4,)"),
    ("ex-scaling-out-average", lambda g, c: 1.0, "gave a float"),
    ("ex-scaling-out-average", lambda g, c: g[0], "is off by"),
    ("ex-scaling-out-zero", lambda n, g, s: 16 * n, "at stage 1 something is divided"),
    ("ex-scaling-out-zero", lambda n, g, s: 16 * n / (g if s else 1), "only stage 3 divides everything"),
    ("ex-scaling-out-zero", lambda n, g, s: n * (14 + 2 / g) if s == 1 else bytes_per_gpu(n, g, s), "12 bytes"),
    ("ex-scaling-out-zero", lambda n, g, s: 2 * n, "expected 112000000000.0"),
    ("ex-scaling-out-bubble", lambda p, s: (p - 1) * (1 - s) / s, "expected a whole number"),
    ("ex-scaling-out-bubble", lambda p, s: math.ceil((p - 1) * (1 - s) / s), "micro_batches(4, 0.2) gave 13: with 12"),
    ("ex-scaling-out-bubble", lambda p, s: math.ceil((p - 1) * (1 - s) / s - 1e-9), "at least one micro-batch"),
    ("ex-scaling-out-bubble", lambda p, s: max(1, math.ceil((p - 1) / s)), "which is allowed"),
    ("ex-scaling-out-bubble", lambda p, s: max(1, p - 1), "the pipeline waits"),
    ("ex-scaling-out-interval", lambda s, m: math.sqrt(s * m), "not a whole one"),
    ("ex-scaling-out-interval", lambda s, m: m / 2, "another interval wastes"),
    ("ex-scaling-out-interval", lambda s, m: -1.0, "expected a positive number"),
]
