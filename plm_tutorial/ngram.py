"""Count-based language models: add-k, Jelinek-Mercer, Kneser-Ney and modified Kneser-Ney, for millions of tokens.

In: token ids. Out: probabilities of the next token. Every method here is one recursion from short to long contexts,

    P_j(w | h) = alpha_j(h w) + gamma_j(h) P_{j-1}(w | h without its first token),      P_0(w) = 1 / V,

where alpha is positive only for n-grams ``h w`` that were seen, and gamma is the mass that the context ``h`` leaves for
the shorter one (1 if ``h`` was never seen). A method is a way to choose alpha and gamma so that each P_j sums to 1.

Each n-gram is packed into one integer, its tokens being the digits of a number in base V + 1; counting is sorting. The
extra digit, V, stands for the boundary: order - 1 of them precede each document, so that the first token too has a full
context and no n-gram crosses into another document. The boundary is never predicted; to predict where a document
ends, put a token of your own at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SMOOTHINGS = ("add_k", "jelinek_mercer", "kneser_ney", "modified_kneser_ney")

# ---- Counting --------------------------------------------------------------------------------------------------------


def pack(documents: Sequence[np.ndarray], order: int, base: int) -> np.ndarray:
    """Return the code of the n-gram that ends at each token, (N,) int64, over all documents one after the other.

    The code of (w1 ... wn) is w1 * base**(n-1) + ... + wn. So ``code % base**j`` is its last j tokens, ``code // base``
    its context, and sorting codes brings equal contexts together.
    """
    padding = np.full(order - 1, base - 1, dtype=np.int64)
    tokens = np.concatenate([part for document in documents for part in (padding, document)])
    codes = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    for j in range(order):
        codes *= base
        codes += tokens[j : j + len(codes)]
    return codes[tokens[order - 1 :] != base - 1]  # the windows that end in a boundary predict nothing


def count(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct codes, sorted, and how often each occurs."""
    return np.unique(codes, return_counts=True)


def continuation_counts(grams: np.ndarray, base: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct n-grams of this order, and after how many different tokens each was seen.

    Args:
        grams: distinct n-grams of the next higher order; each is one different token before the shorter one.

    Why not how *often* (Kneser & Ney 1995): "Francisco" is frequent, but only after "San", where the bigram knows
    already; the lower order speaks only where the higher one has nothing to say. Formally, ask for the q(w) with which
    the smoothed bigram keeps the frequency of every word, sum_v c(v) P(w | v) = c(w). With the discount D, and N(v .)
    words seen after v, the left side is

        sum_v [max(c(v w) - D, 0) + D N(v .) q(w)] = c(w) - D N(. w) + D N(. .) q(w),

    so q(w) = N(. w) / N(. .): the share of different bigrams that end in w.
    """
    return count(grams % base**order)


# ---- Discounts -------------------------------------------------------------------------------------------------------

# Used where the formulas fail: half of the count. Small or artificial data have, say, no n-gram that was seen once.
FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])


def counts_of_counts(counts: np.ndarray) -> np.ndarray:
    """Return (n0, n1, n2, n3, n4): how many n-grams have each of these counts; n0 is 0."""
    return np.bincount(counts[counts <= 4], minlength=5)


def absolute_discounts(counts: np.ndarray) -> np.ndarray:
    """Return [0, D, D, D] with D = n1 / (n1 + 2 n2), the discount of Kneser-Ney for one order.

    What is seen once is the best guide to what is unseen: the fewer n-grams were seen once, the less is set aside.
    Without any the formula would set aside nothing; then D is one half (``FALLBACK``).
    """
    _, n1, n2, _, _ = counts_of_counts(counts).tolist()
    return np.array([0.0, 1, 1, 1]) * (n1 / (n1 + 2 * n2) if n1 else FALLBACK[1])


def modified_discounts(counts: np.ndarray) -> np.ndarray:
    """Return [0, D1, D2, D3+], the discounts of modified Kneser-Ney for one order: Chen & Goodman 1999, equation 26.

    D_c = c - (c + 1) Y n_{c+1} / n_c with Y = n1 / (n1 + 2 n2); n_c n-grams were seen c times. All three are replaced
    by ``FALLBACK`` if one is undefined (no n-gram seen once, twice or three times) or outside (0, c].
    """
    n = counts_of_counts(counts).astype(float)
    if n[1:4].min() == 0:
        return FALLBACK.copy()
    c = np.arange(1, 4)
    discounts = c - (c + 1) * n[1] / (n[1] + 2 * n[2]) * n[c + 1] / n[c]
    if (discounts <= 0).any() or (discounts > c).any():
        return FALLBACK.copy()
    return np.concatenate([[0.0], discounts])


# ---- One order -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """The tables of one order j: what is looked up in one step of the recursion."""

    order: int
    grams: np.ndarray  # (G,) int64, sorted codes of the n-grams seen
    alpha: np.ndarray  # (G,) share of its context that each keeps
    contexts: np.ndarray  # (C,) int64, sorted codes of the contexts seen
    gamma: np.ndarray  # (C,) share that each leaves to the lower order

    def step(self, codes: np.ndarray, lower: np.ndarray, base: int) -> np.ndarray:
        """Return P_j of the n-grams ``codes`` (N,), given P_{j-1} of their ends in ``lower`` (N,)."""
        codes = codes % base**self.order
        gamma = _look_up(self.contexts, self.gamma, codes // base, default=1.0)
        return _look_up(self.grams, self.alpha, codes, default=0.0) + gamma * lower


def _look_up(table: np.ndarray, values: np.ndarray, keys: np.ndarray, default: float) -> np.ndarray:
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[place] == keys, values[place], default)


def _by_context(grams: np.ndarray, counts: np.ndarray, base: int) -> tuple[np.ndarray, ...]:
    """Return the contexts of sorted n-grams, where each starts, its total count, and that total for each n-gram."""
    contexts = grams // base
    start = np.flatnonzero(np.diff(contexts, prepend=-1))
    total = np.add.reduceat(counts, start)
    return contexts[start], start, total, np.repeat(total, np.diff(start, append=len(grams)))


def discounted_level(order: int, grams: np.ndarray, counts: np.ndarray, base: int, discounts: np.ndarray) -> Level:
    """Return the interpolated Kneser-Ney tables of one order (Chen & Goodman 1999; one discount: Kneser & Ney 1995).

        alpha(h w) = (c(h w) - D(c(h w))) / c(h)        gamma(h) = (D1 N1(h) + D2 N2(h) + D3+ N3+(h)) / c(h)

    with N_c(h) the words seen c times after h: what is taken from the words seen is what the lower order receives.

    Args:
        counts: raw counts for the highest order, :func:`continuation_counts` below.
        discounts: (4,) what is taken from an n-gram counted 0, 1, 2, 3 or more times.
    """
    contexts, start, total, total_of_gram = _by_context(grams, counts, base)
    taken = discounts[np.minimum(counts, 3)]
    return Level(order, grams, (counts - taken) / total_of_gram, contexts, np.add.reduceat(taken, start) / total)


def add_k_level(order: int, grams: np.ndarray, counts: np.ndarray, base: int, k: float) -> Level:
    """Return P(w | h) = (c(h w) + k) / (c(h) + k V) as tables over the uniform distribution."""
    contexts, _, total, total_of_gram = _by_context(grams, counts, base)
    added = k * (base - 1)
    return Level(order, grams, counts / (total_of_gram + added), contexts, added / (total + added))


def mixed_level(order: int, grams: np.ndarray, counts: np.ndarray, base: int, weight: float) -> Level:
    """Return Jelinek-Mercer's P_j(w | h) = weight c(h w) / c(h) + (1 - weight) P_{j-1}: one fixed weight for all."""
    contexts, _, total, total_of_gram = _by_context(grams, counts, base)
    return Level(order, grams, weight * counts / total_of_gram, contexts, np.full(len(total), 1 - weight))


# ---- The model -------------------------------------------------------------------------------------------------------


class NGram:
    """An n-gram language model over the token ids 0 ... vocab_size - 1.

    Args:
        order: n; a token is predicted from the n - 1 before it.
        vocab_size: V. The codes must fit: (V + 1)**order < 2**63, that is order 5 up to V = 6,207, order 4 up to
            V = 55,107, order 3 up to V = 2,097,150.
        smoothing: ``modified_kneser_ney``, ``kneser_ney``, ``jelinek_mercer`` or ``add_k``. The first three fall back
            on shorter contexts and in the end on the uniform distribution. ``add_k`` is the textbook's: the highest
            order and the uniform distribution, nothing between.
        k: what ``add_k`` adds to each count. 0 gives maximum likelihood: probability 0 for what is new after a context
            that was seen, and the uniform distribution after a new one.
        weight: of each order in ``jelinek_mercer``, between 0 and 1.
        discount: for ``kneser_ney`` only: a fixed discount between 0 and 1, or one for each order from 1 to n,
            instead of the one estimated from the counts.

    Raises:
        ValueError: an argument is out of its range, or the codes do not fit.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        smoothing: str = "modified_kneser_ney",
        *,
        k: float = 1.0,
        weight: float = 0.5,
        discount: float | Sequence[float] | None = None,
    ):
        _check_settings(order, vocab_size, smoothing, k, weight, discount)
        self.order, self.vocab_size, self.smoothing = order, vocab_size, smoothing
        self.k, self.weight = k, weight
        self.discount = None if discount is None else np.broadcast_to(np.asarray(discount, dtype=float), order)
        self.levels: list[Level] = []  # from the lowest order to the highest, after fit
        self.discounts: dict[int, np.ndarray] = {}  # order -> (4,), for the Kneser-Ney methods

    @property
    def n_grams(self) -> dict[int, int]:
        """How many distinct n-grams are stored, by order."""
        return {level.order: len(level.grams) for level in self.levels}

    @property
    def nbytes(self) -> int:
        """Memory of the tables, in bytes."""
        return sum(t.nbytes for level in self.levels for t in (level.grams, level.alpha, level.contexts, level.gamma))

    def fit(self, ids: ArrayLike | Sequence[ArrayLike], separator: int | None = None) -> NGram:
        """Count the n-grams of a text, replacing what was counted before; return the model.

        Args:
            ids: one sequence of ids, or a list of them, one a document.
            separator: an id that stands between documents in ``ids``; it is taken out, and is not predicted.

        Raises:
            ValueError: no token, or an id outside the vocabulary.
        """
        documents, _ = self._documents(ids, separator)
        if not sum(map(len, documents)):
            raise ValueError("the text has no token; pass at least one document that is not empty")
        codes = pack(documents, self.order, self._base)
        if self.smoothing == "add_k":
            self.levels = [add_k_level(self.order, *count(codes), self._base, self.k)]
        elif self.smoothing == "jelinek_mercer":
            orders = range(1, self.order + 1)
            self.levels = [mixed_level(j, *count(codes % self._base**j), self._base, self.weight) for j in orders]
        else:
            self._fit_kneser_ney(codes)
        return self

    def _fit_kneser_ney(self, codes: np.ndarray) -> None:
        grams, counts = count(codes)
        levels = []
        for order in range(self.order, 0, -1):
            if order < self.order:
                grams, counts = continuation_counts(grams, self._base, order)
            if self.discount is not None:
                discounts = np.array([0.0, 1, 1, 1]) * self.discount[order - 1]
            else:
                estimate = modified_discounts if self.smoothing == "modified_kneser_ney" else absolute_discounts
                discounts = estimate(counts)
            self.discounts[order] = discounts
            levels.append(discounted_level(order, grams, counts, self._base, discounts))
        self.levels = levels[::-1]

    def probs(self, context: ArrayLike = ()) -> np.ndarray:
        """Return the distribution of the next token, (V,), after all that precedes it in its document.

        Only the last n - 1 ids count. A shorter context, or none, means the beginning of a document.

        Raises:
            ValueError: not fitted, or an id outside the vocabulary.
        """
        self._check_fitted()
        context = self._checked(self._usable(context))
        boundary = np.full(self.order - 1 - len(context), self._base - 1)
        code = 0
        for token in np.concatenate([boundary, context]).tolist():
            code = code * self._base + token
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for level in self.levels:
            seen = code % self._base ** (level.order - 1)
            # The n-grams with this context stand together in the sorted table.
            low, high = np.searchsorted(level.grams, [seen * self._base, (seen + 1) * self._base])
            if low < high:
                p *= level.gamma[np.searchsorted(level.contexts, seen)]
                p[level.grams[low:high] % self._base] += level.alpha[low:high]
        return p

    def log_probs(self, ids: ArrayLike | Sequence[ArrayLike]) -> np.ndarray | list[np.ndarray]:
        """Return the natural logarithm of the probability of each token given those before it in its document.

        Args:
            ids: one document, or a list of documents.

        Returns:
            (N,) nats for one document, a list of such arrays for a list; never above 0. Minus infinity is possible
            only if nothing is left for what is new: ``k``, or a discount, of 0.

        Raises:
            ValueError: not fitted, or an id outside the vocabulary.
        """
        self._check_fitted()
        documents, single = self._documents(ids)
        # Equal n-grams are looked up once, and in order, which keeps the processor's caches warm.
        codes, place = np.unique(pack(documents, self.order, self._base), return_inverse=True)
        p = np.full(len(codes), 1 / self.vocab_size)
        for level in self.levels:
            p = level.step(codes, p, self._base)
        with np.errstate(divide="ignore"):
            nats = np.log(p)[place]
        return nats if single else np.split(nats, np.cumsum([len(d) for d in documents])[:-1])

    def sample(self, n: int, seed: int | np.random.Generator = 0, context: ArrayLike = ()) -> np.ndarray:
        """Return ``n`` ids drawn one after the other, (n,), as a continuation of ``context``.

        Raises:
            ValueError: not fitted, ``n`` is negative, or an id outside the vocabulary.
        """
        if n < 0:
            raise ValueError(f"n is {n}; pass the number of tokens to draw, 0 or more")
        generator = np.random.default_rng(seed)
        ids = list(context)
        for _ in range(n):
            ids.append(generator.choice(self.vocab_size, p=self.probs(self._usable(ids))))
        return np.array(ids[len(ids) - n :], dtype=np.int64)

    @property
    def _base(self) -> int:
        return self.vocab_size + 1

    def _check_fitted(self) -> None:
        if not self.levels:
            raise ValueError("the model has not counted anything yet; call fit(ids) first")

    def _usable(self, context: ArrayLike) -> np.ndarray:
        """Return the last n - 1 ids, or all if there are fewer."""
        return np.asarray(context[max(0, len(context) - self.order + 1) :])

    def _documents(
        self, ids: ArrayLike | Sequence[ArrayLike], separator: int | None = None
    ) -> tuple[list[np.ndarray], bool]:
        """Return the documents as checked arrays, and whether ``ids`` was a single one."""
        single = len(ids) == 0 or np.ndim(ids[0]) == 0
        documents = [np.asarray(document) for document in ([ids] if single else ids)]
        if separator is not None:
            documents = [part for document in documents for part in split_documents(document, separator)]
        return [self._checked(document) for document in documents], single

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            raise ValueError(
                f"a document is a one-dimensional sequence of integers, got {ids.dtype} of shape {ids.shape}"
            )
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise ValueError(
                f"ids from {ids.min()} to {ids.max()}, but the vocabulary is 0 ... {self.vocab_size - 1}; pass the "
                "tokenizer's ids, and its size as vocab_size"
            )
        return ids.astype(np.int64)


def split_documents(ids: np.ndarray, separator: int) -> list[np.ndarray]:
    """Return the parts of ``ids`` between the separators, which are dropped; parts may be empty."""
    parts = np.split(ids, np.flatnonzero(ids == separator))
    return [parts[0], *(part[1:] for part in parts[1:])]


def _check_settings(order, vocab_size, smoothing, k, weight, discount) -> None:
    if order < 1 or vocab_size < 1:
        raise ValueError(f"order is {order} and vocab_size {vocab_size}; both must be 1 or more")
    highest = next(n for n in range(63, -1, -1) if (vocab_size + 1) ** n < 2**63)
    if order > highest:
        raise ValueError(
            f"n-grams of order {order} over {vocab_size} ids do not fit into 63 bits; pass an order up to {highest}, "
            "or use a smaller vocabulary"
        )
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"unknown smoothing {smoothing!r}; known are {', '.join(SMOOTHINGS)}")
    if not k >= 0:
        raise ValueError(f"k is {k}; it is added to counts: pass 0 or more")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; pass a number from 0 to 1")
    if discount is not None:
        if smoothing != "kneser_ney":
            raise ValueError(f"discount is {discount}, which {smoothing} does not use; leave it out, or use kneser_ney")
        values = np.asarray(discount, dtype=float)
        if values.shape not in ((), (order,)) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"discount is {discount}; pass one number from 0 to 1, or {order} of them, from order 1 on"
            )
