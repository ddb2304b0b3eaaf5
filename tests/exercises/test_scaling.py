"""Exercises on scaling: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import numpy as np
from scipy.optimize import minimize_scalar

# --- right answers: as in the chapter, and other ways to be right


def linear_fit(N, D, L, alpha, beta):
    columns = np.stack([np.ones_like(N), N**-alpha, D**-beta], axis=1)
    return np.linalg.lstsq(columns, L, rcond=None)[0]


def linear_fit_by_normal_equations(N, D, L, alpha, beta):
    X = np.array([N**0, N**-alpha, D**-beta])
    scale = np.linalg.norm(X, axis=1, keepdims=True)
    X = X / scale
    return tuple(np.linalg.solve(X @ X.T, X @ L) / scale[:, 0])


def best_size(law, flops, extra):
    sizes = np.geomspace(1e3, flops / 6e3, 100_000)
    return sizes[np.argmin(law(sizes, flops / (6 * (sizes + extra))))]


def best_size_by_search(law, flops, extra):
    def loss(log_n):
        n = math.exp(log_n)
        return float(law(n, flops / 6 / (n + extra)))

    return math.exp(minimize_scalar(loss, bounds=(math.log(1e2), math.log(flops / 1e3)), method="bounded").x)


def worth(epochs, half_life=15.387756):
    return (1 + half_life * (1 - math.exp(-(epochs - 1) / half_life))) / epochs


def tokens_needed(law, loss, N):
    return (law.B / (loss - law.E - law.A / N**law.alpha)) ** (1 / law.beta)


def cheapest(law, loss, served, train=6, serve=2):
    smallest = (law.A / (loss - law.E)) ** (1 / law.alpha)
    N = smallest * np.geomspace(1.001, 1e4, 100_000)
    return N[np.argmin(train * N * tokens_needed(law, loss, N) + serve * N * served)]


def chance_of_a_point(p, k, n):
    return 1 - (1 - p**k) ** n


RIGHT = [
    ("ex-scaling-linear", linear_fit),
    ("ex-scaling-linear", linear_fit_by_normal_equations),
    ("ex-scaling-vocabulary", best_size),
    ("ex-scaling-vocabulary", best_size_by_search),
    ("ex-scaling-repeats", worth),
    ("ex-scaling-served", cheapest),
    ("ex-scaling-resolution", chance_of_a_point),
]

# --- plausible mistakes


def linear_fit_without_floor(N, D, L, alpha, beta):
    A, B = np.linalg.lstsq(np.stack([N**-alpha, D**-beta], axis=1), L, rcond=None)[0]
    return 0, A, B


def linear_fit_swapped(N, D, L, alpha, beta):
    E, A, B = linear_fit(N, D, L, alpha, beta)
    return E, B, A


def linear_fit_of_logs(N, D, L, alpha, beta):
    columns = np.stack([np.ones_like(N), -alpha * np.log(N), -beta * np.log(D)], axis=1)
    return np.linalg.lstsq(columns, np.log(L), rcond=None)[0]


def best_size_for_free(law, flops, extra):
    return law.best(flops)[0]


def best_size_in_the_law(law, flops, extra):
    sizes = np.geomspace(1e2, flops / 6e3, 100_000)
    return sizes[np.argmin(law(sizes + extra, flops / (6 * (sizes + extra))))]


def best_tokens(law, flops, extra):
    return flops / 6 / (best_size(law, flops, extra) + extra)


WRONG = [
    ("ex-scaling-linear", linear_fit_without_floor, "E was left out"),
    ("ex-scaling-linear", linear_fit_swapped, "changed places"),
    ("ex-scaling-linear", linear_fit_of_logs, "the runs lie on"),
    ("ex-scaling-linear", lambda N, D, L, alpha, beta: linear_fit(N, D, L, alpha, beta)[:2], "three numbers"),
    ("ex-scaling-vocabulary", best_size_for_free, "costs nothing"),
    ("ex-scaling-vocabulary", best_size_in_the_law, "it is N alone"),
    ("ex-scaling-vocabulary", best_tokens, "asked for is the size"),
    ("ex-scaling-vocabulary", lambda law, flops, extra: best_size(law, flops, extra) + extra, "without them"),
    ("ex-scaling-repeats", lambda epochs: worth(epochs) * epochs, "its share of the tokens read"),
    ("ex-scaling-repeats", lambda epochs: worth(epochs + 1) * (epochs + 1) / epochs, "the first pass is no repetition"),
    ("ex-scaling-repeats", lambda epochs: worth(epochs) - 1 / epochs, "the first pass is missing"),
    ("ex-scaling-served", lambda law, loss, served: cheapest(law, loss, 0), "not in the bill"),
    ("ex-scaling-served", lambda law, loss, served: cheapest(law, loss, served, serve=6), "not 6N"),
    ("ex-scaling-served", lambda law, loss, served: 1e3, "no amount of text"),
    ("ex-scaling-resolution", lambda p, k, n: p**k, "one given answer"),
    ("ex-scaling-resolution", lambda p, k, n: n * p**k, "expected number"),
    ("ex-scaling-resolution", lambda p, k, n: (1 - p**k) ** n, "none is right"),
    ("ex-scaling-resolution", lambda p, k, n: 1 - (1 - p) ** n, "all k have to be"),
]
