"""A random source of symbols whose entropy rate is known exactly: the limit that no model of it can beat.

In: number of symbols, order, and how uneven the probabilities are. Out: samples, their true log-probabilities, and
the entropy rate in nats a symbol.
"""

from __future__ import annotations

import itertools
from bisect import bisect

import numpy as np
from numpy.typing import ArrayLike

MAX_CONTEXTS = 4096  # the stationary distribution is solved for with a dense matrix of this side: 134 MB, seconds


class MarkovSource:
    """A stationary Markov chain: the next symbol depends on the last ``order`` symbols, and on nothing before.

    Each context has its own distribution over the symbols, drawn from a symmetric Dirichlet distribution.

    Args:
        n_symbols: K, 2 or more; the symbols are 0 ... K - 1.
        order: 1, 2 or 3, and K**order at most 4,096.
        concentration: of the Dirichlet distribution. 1 draws uniformly from all distributions; below 1 a few symbols
            take most of the mass (easy to predict); far above 1 all are near 1/K (hopeless).
        seed: decides on the tables, not on the samples.

    Raises:
        ValueError: an argument is out of its range; or some probability is too small for a float, which could cut the
            source into parts that never meet.
    """

    def __init__(self, n_symbols: int, order: int, concentration: float = 0.5, seed: int = 0):
        if n_symbols < 2 or order not in (1, 2, 3) or n_symbols**order > MAX_CONTEXTS:
            raise ValueError(
                f"n_symbols is {n_symbols} and order {order}; pass 2 symbols or more, order 1, 2 or 3, and at most "
                f"{MAX_CONTEXTS} contexts (n_symbols**order)"
            )
        if not concentration > 0:
            raise ValueError(f"concentration is {concentration}; pass a positive number")
        self.n_symbols, self.order = n_symbols, order
        generator = np.random.default_rng(seed)
        # (K, ..., K): the last axis is the next symbol, those before are the context.
        self.table = generator.dirichlet(np.full(n_symbols, concentration), size=(n_symbols,) * order)
        if not self.table.min() > 0:  # NaN too
            raise ValueError(f"with concentration {concentration} a probability vanishes; pass a larger one")
        self.stationary = self._stationary()

    def _stationary(self) -> np.ndarray:
        """Return how often each context occurs in the long run, (K, ..., K) of ``order`` axes, by a linear solve.

        One step turns context (a, b) into (b, c) with probability table[a, b, c]. The stationary pi satisfies
        pi T = pi; one of these equations follows from the others, so sum(pi) = 1 takes its place.
        """
        k, states = self.n_symbols, self.n_symbols**self.order
        steps = np.zeros((states, states))
        here = np.repeat(np.arange(states), k)
        steps[here, (here * k + np.tile(np.arange(k), states)) % states] = self.table.ravel()
        equations = steps.T - np.eye(states)
        equations[-1] = 1
        solution = np.linalg.solve(equations, np.eye(states)[-1]).clip(min=0)  # rounding of what is very rare
        return (solution / solution.sum()).reshape((k,) * self.order)

    def entropy_rate(self) -> float:
        """Return H = -sum over contexts h of pi(h) sum over symbols s of P(s | h) log P(s | h), in nats a symbol.

        No model, whatever its size and data, has a lower expected cost on this source (Shannon 1948).
        """
        return float(-(self.stationary[..., None] * self.table * np.log(self.table)).sum())

    def sample(self, n: int, generator: np.random.Generator | int = 0) -> np.ndarray:
        """Return ``n`` symbols in a row, (n,) int64, from the stationary chain.

        Raises:
            ValueError: ``n`` is negative.
        """
        if n < 0:
            raise ValueError(f"n is {n}; pass the number of symbols to draw, 0 or more")
        generator = np.random.default_rng(generator)
        states = self.n_symbols**self.order
        context = int(generator.choice(states, p=self.stationary.ravel()))
        symbols = list(np.unravel_index(context, self.stationary.shape))
        # Up to the last symbol only, so that rounding cannot draw a symbol beyond it.
        edges = np.cumsum(self.table, axis=-1)[..., :-1].reshape(states, -1).tolist()
        for u in generator.random(max(0, n - self.order)).tolist():
            symbol = bisect(edges[context], u)
            context = (context * self.n_symbols + symbol) % states
            symbols.append(symbol)
        return np.array(symbols[:n], dtype=np.int64)

    def log_probs(self, symbols: ArrayLike) -> np.ndarray:
        """Return the true log-probability of each symbol given all before it, (N,) nats: the best model there is.

        The first symbols, whose context is not complete, are weighed by the stationary distribution.

        Raises:
            ValueError: not a row of symbols 0 ... K - 1.
        """
        symbols = np.asarray(symbols, dtype=np.int64)
        if symbols.ndim != 1 or (symbols.size and not 0 <= symbols.min() <= symbols.max() < self.n_symbols):
            raise ValueError(f"pass one row of symbols from 0 to {self.n_symbols - 1}, got shape {symbols.shape}")
        start = [self._log_start(symbols[: i + 1]) for i in range(min(self.order, len(symbols)))]
        windows = tuple(symbols[i : len(symbols) - self.order + i] for i in range(self.order + 1))
        rest = np.log(self.table[windows]) if len(symbols) > self.order else np.zeros(0)
        first = [now - before for before, now in itertools.pairwise([0.0, *start])]
        return np.concatenate([first, rest])

    def _log_start(self, symbols: np.ndarray) -> float:
        """Return the log-probability that the source begins with these symbols, at most ``order`` of them."""
        return float(np.log(self.stationary[tuple(symbols)].sum()))
