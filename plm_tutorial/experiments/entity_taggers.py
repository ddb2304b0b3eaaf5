"""What a neural tagger has to beat, and how tags are chosen: a dictionary, an averaged perceptron, Viterbi.

In: sentences with entities. Out: taggers with ``predict(texts)``, which gives the entities of each text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from plm_tutorial.entities import KINDS, Entity, Sentence, bio_tags, from_bio, may_follow, to_bio

# ---------------------------------------------------------------------------------------------------------- dictionary


class Dictionary:
    """Names seen in training, looked up again: of those that fit at a place, the longest.

    Args:
        sentences: training sentences.
        least: a name is kept if at least this share of its occurrences in the training text are that entity. So 高
            ("high", and a family name) is not taken for a person wherever it stands.
    """

    def __init__(self, sentences: Sequence[Sentence], least: float = 0.5):
        tagged: dict[str, Counter[str]] = defaultdict(Counter)
        for text, entities in sentences:
            for start, end, kind in entities:
                tagged[text[start:end]][kind] += 1
        occurs: Counter[str] = Counter()
        prefixes = _prefixes(tagged)
        for text, _ in sentences:
            for start in range(len(text)):
                occurs.update(text[start:end] for end in _ends(text, start, tagged, prefixes))
        self.kinds: dict[str, str] = {}  # name -> kind
        for name, kinds in tagged.items():
            kind, n = kinds.most_common(1)[0]
            if n >= least * occurs[name]:
                self.kinds[name] = kind
        self._known = _prefixes(self.kinds)

    def predict(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Return the entities of each text, found from left to right."""
        return [self._find(text) for text in texts]

    def _find(self, text: str) -> list[Entity]:
        found, at = [], 0
        while at < len(text):
            end = max(_ends(text, at, self.kinds, self._known), default=None)
            if end is not None:
                found.append(Entity(at, end, self.kinds[text[at:end]]))
            at = end or at + 1
        return found


def _prefixes(names: dict) -> set[str]:
    return {name[:i] for name in names for i in range(1, len(name) + 1)}


def _ends(text: str, start: int, names: dict, prefixes: set[str]) -> list[int]:
    """Return where names that begin at ``start`` end."""
    found, end = [], start + 1
    while end <= len(text) and text[start:end] in prefixes:
        if text[start:end] in names:
            found.append(end)
        end += 1
    return found


# ------------------------------------------------------------------------------------------------------------- Viterbi


def legal_transitions(tags: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return what may begin, (K,), and what may follow what, (K, K), a row the tag before: 0 if legal, else -inf."""
    legal = np.array([[may_follow(a, b) for b in tags] for a in tags])
    begin = np.array([may_follow("O", tag) for tag in tags])
    return np.where(begin, 0.0, -np.inf), np.where(legal, 0.0, -np.inf)


def counted_transitions(sentences: Sequence[Sentence], tags: Sequence[str], smoothing: float = 0.1) -> np.ndarray:
    """Return how much more often than by chance a tag follows another in training sentences, in nats, (K, K).

    log p(after | before) - log p(after), of counts with a little added to each. Of what a CRF learns about pairs of
    tags this is the part that can be had by counting.
    """
    label = {tag: i for i, tag in enumerate(tags)}
    counts = np.full((len(tags), len(tags)), smoothing)
    for text, entities in sentences:
        path = [label[tag] for tag in to_bio(len(text), entities)]
        np.add.at(counts, (path[:-1], path[1:]), 1)
    return np.log(counts / counts.sum(axis=1, keepdims=True)) - np.log(counts.sum(axis=0) / counts.sum())


def viterbi(scores: np.ndarray, begin: np.ndarray, transitions: np.ndarray) -> np.ndarray:
    """Return the path of the highest sum of scores, (T,) int64.

    Source: Viterbi 1967; as in Rabiner 1989, https://doi.org/10.1109/5.18626, section III.B, with sums of logarithms.

    Args:
        scores: (T, K), of each tag at each place.
        begin: (K,), added to the scores of the first place.
        transitions: (K, K), added when the tag of the row is followed by the tag of the column.

    Raises:
        ValueError: the shapes do not fit, or there is no place.
    """
    T, K = scores.shape
    if T < 1 or begin.shape != (K,) or transitions.shape != (K, K):
        raise ValueError(
            f"scores {scores.shape}, begin {begin.shape}, transitions {transitions.shape}; expected (T, K) with T at "
            "least 1, (K,) and (K, K)"
        )
    best = begin + scores[0]  # (K,): of the best path that ends with each tag
    came = np.zeros((T, K), np.int64)  # from which tag
    for t in range(1, T):
        paths = best[:, None] + transitions  # (K, K)
        came[t] = paths.argmax(axis=0)
        best = paths.max(axis=0) + scores[t]
    path = np.zeros(T, np.int64)
    path[-1] = best.argmax()
    for t in range(T - 1, 0, -1):
        path[t - 1] = came[t, path[t]]
    return path


# ----------------------------------------------------------------------------------------------------------- perceptron

# What the perceptron sees around a character at 0: characters alone, and two, three or four side by side.
TEMPLATES = (
    *((i,) for i in range(-3, 4)),
    *((i, i + 1) for i in range(-3, 3)),
    *((i, i + 1, i + 2) for i in range(-3, 2)),
    *((i, i + 1, i + 2, i + 3) for i in range(-3, 1)),
    (-1, 1),
)


class Perceptron:
    """A linear tagger trained by its mistakes: a score for each feature and tag, and for each pair of tags.

    Viterbi finds the best legal path; where it differs from the truth, the features on the true path gain 1 and those
    on the predicted path lose 1. What is kept is the average of the weights over all steps. Source: Collins 2002,
    https://aclanthology.org/W02-1001.

    Args:
        kinds: of entities.
        least: a feature is used if it occurs so often in training.
    """

    def __init__(self, kinds: Sequence[str] = KINDS, least: int = 2):
        self.tags, self.least = bio_tags(kinds), least
        self.begin, self.legal = legal_transitions(self.tags)

    def fit(self, sentences: Sequence[Sentence], epochs: int = 5, seed: int = 0) -> Perceptron:
        """Train on sentences, in a new order each epoch; return itself."""
        label = {tag: i for i, tag in enumerate(self.tags)}
        truth = [np.array([label[tag] for tag in to_bio(len(text), found)]) for text, found in sentences]
        features = self._learn_features([text for text, _ in sentences])
        K, generator, step = len(self.tags), np.random.default_rng(seed), 1
        weights, pairs = np.zeros((self.n_features + 1, K), np.float32), np.zeros((K, K))
        drift, pair_drift = np.zeros_like(weights), np.zeros_like(pairs)  # sums of step · change
        for _ in range(epochs):
            for i in generator.permutation(len(sentences)):
                x, y = features[i], truth[i]  # (T, templates), (T,)
                z = viterbi(weights[x].sum(axis=1), self.begin, self.legal + pairs)
                if (wrong := np.flatnonzero(z != y)).size:
                    at = x[wrong]
                    for tags, sign in ((y, 1), (z, -1)):
                        np.add.at(weights, (at, tags[wrong, None]), sign)
                        np.add.at(drift, (at, tags[wrong, None]), sign * step)
                        np.add.at(pairs, (tags[:-1], tags[1:]), sign)
                        np.add.at(pair_drift, (tags[:-1], tags[1:]), sign * step)
                    weights[-1] = drift[-1] = 0  # stands for all features that are not used
                step += 1
        self.weights, self.pairs = weights - drift / step, pairs - pair_drift / step
        return self

    def scores(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the scores of the tags of each text, (T, K) each, without those of pairs."""
        return [self.weights[x].sum(axis=1) for x in self._features(texts)]

    def predict(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Return the entities of each text."""
        transitions, found = self.legal + self.pairs, []
        for scores in self.scores(texts):
            path = viterbi(scores, self.begin, transitions) if len(scores) else []
            found.append(from_bio([self.tags[k] for k in path]))
        return found

    @property
    def n_features(self) -> int:
        """The number of features with weights."""
        return sum(map(len, self.known))

    def _learn_features(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.characters = {c: i + 2 for i, c in enumerate(sorted(set("".join(texts))))}  # 0: none; 1: not known
        self.known = []
        for codes in self._codes(texts).T:
            values, counts = np.unique(codes, return_counts=True)
            self.known.append(values[counts >= self.least])
        return self._features(texts)

    def _codes(self, texts: Sequence[str]) -> np.ndarray:
        """Return for each character of all texts a number for what each template sees, (characters, templates)."""
        edge = max(abs(i) for template in TEMPLATES for i in template)
        ids = [np.pad([self.characters.get(c, 1) for c in text], edge).astype(np.int64) for text in texts]
        joined, size = np.concatenate(ids), len(self.characters) + 2
        inside = np.concatenate([np.arange(len(one)) for one in ids])
        inside = (inside >= edge) & (inside < np.repeat([len(one) - edge for one in ids], [len(one) for one in ids]))
        at, columns = np.flatnonzero(inside), []
        for template in TEMPLATES:
            code = np.zeros(len(at), np.int64)
            for i in template:
                code = code * size + joined[at + i]
            columns.append(code)
        return np.stack(columns, axis=1)

    def _features(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the numbers of the features of each text, (T, templates); what is not used has the last number."""
        codes, begin = self._codes(texts), 0
        numbers = np.full(codes.shape, self.n_features, np.int32)
        for column, known in enumerate(self.known):
            place = np.searchsorted(known, codes[:, column]).clip(max=len(known) - 1)
            hit = known[place] == codes[:, column]
            numbers[hit, column] = begin + place[hit]
            begin += len(known)
        return np.split(numbers, np.cumsum([len(text) for text in texts])[:-1])
