"""Unigram: pieces with probabilities, the best segmentation of a word, and training by expectation maximisation.

In: strings and log probabilities. Out: segmentations and better log probabilities. Part of
:mod:`plm_tutorial.tokenizers`, which also gives these names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping


def viterbi(text_piece: str, logp: Mapping[str, float]) -> tuple[list[str], float]:
    """Return the most probable way to cut ``text_piece`` into known pieces, and its log probability (natural log).

    A segmentation has the product of its pieces' probabilities (Kudo 2018, eq. 1). The best one of the first ``end``
    characters is a best one of a shorter beginning plus one piece, so one pass over all ends finds it.

    Raises:
        ValueError: no sequence of known pieces makes up the text.
    """
    best = [0.0] + [-math.inf] * len(text_piece)  # best[end]: score of the best cut of the first `end` characters
    begin_of = [0] * len(best)  # where the last piece of that cut begins
    for end in range(1, len(best)):
        for begin in range(end):
            score = best[begin] + logp.get(text_piece[begin:end], -math.inf)
            if score > best[end]:
                best[end], begin_of[end] = score, begin
    if best[-1] == -math.inf:
        missing = [c for c in text_piece if c not in logp]
        raise ValueError(f"{text_piece!r} cannot be cut into known pieces; logp lacks the characters {missing}")
    pieces, end = [], len(text_piece)
    while end:  # walk back from the end
        pieces.append(text_piece[begin_of[end] : end])
        end = begin_of[end]
    return pieces[::-1], best[-1]


def unigram_em_step(words: Mapping[str, int], logp: Mapping[str, float]) -> dict[str, float]:
    """Return the pieces' log probabilities after one step of expectation maximisation on words and their counts.

    Expectation: how often each piece is used, averaged over all segmentations by their probability, which the
    forward-backward sums give without listing them. Maximisation: those counts divided by their sum. The likelihood of
    the words never falls; a piece that no segmentation uses is dropped. Source: Kudo 2018, section 3.2.

    Raises:
        ValueError: a word cannot be made of known pieces.
    """
    expected: Counter[str] = Counter()
    for word, count in words.items():
        n = len(word)
        spans = [(i, j) for i in range(n) for j in range(i + 1, n + 1) if word[i:j] in logp]
        before = [0.0] + [-math.inf] * n  # before[i]: log probability of the first i characters, over all cuts
        after = [-math.inf] * n + [0.0]  # after[i]: the same for what follows them
        for i, j in spans:
            before[j] = _log_add(before[j], before[i] + logp[word[i:j]])
        for i, j in reversed(spans):
            after[i] = _log_add(after[i], logp[word[i:j]] + after[j])
        if before[n] == -math.inf:
            raise ValueError(f"the word {word!r} cannot be cut into known pieces; give each character a probability")
        for i, j in spans:
            expected[word[i:j]] += count * math.exp(before[i] + logp[word[i:j]] + after[j] - before[n])
    total = sum(expected.values())
    return {piece: math.log(uses / total) for piece, uses in expected.items() if uses > 0}


def _log_add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) where exp(a) alone might underflow."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
