"""What a translation model has to beat: copying, a dictionary of words, and the nearest text of the training data.

In: training pairs, and texts to translate. Out: a translation of each. None of them learns anything but counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer

from plm_tutorial.experiments.parallel_text import Pair

CHARACTERS = {"zh": 6}  # that one English word may become, in a language without spaces; in others so many words:
WORDS = 2
_TOKEN = r"%\(\w+\)\w|%\w|\{\w*\}|\w[\w'’-]*|[^\w\s]"  # a placeholder, a word or a mark


def copy_source(texts: Sequence[str]) -> list[str]:
    """Return the texts as they are: right for many names, numbers and placeholders."""
    return list(texts)


class NearestNeighbour:
    """Translate by looking up the training text that is most similar, and returning its translation unchanged.

    Similarity is the cosine of TF-IDF vectors of characters, one to four in a row within words.

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(self, pairs: Sequence[Pair]):
        if not pairs:
            raise ValueError("there are no training pairs to look up")
        self.pairs = list(pairs)
        self.features = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        self.vectors = self.features.fit_transform([pair.source for pair in pairs])  # (N, n-grams), of length 1

    def nearest(self, texts: Sequence[str]) -> list[Pair]:
        """Return the most similar training pair of each text."""
        similar = (self.features.transform(texts) @ self.vectors.T).toarray()  # (texts, N)
        return [self.pairs[i] for i in similar.argmax(axis=1)]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [pair.target for pair in self.nearest(texts)]


class Dictionary:
    """Translate word by word, in the order of the source, by a dictionary learned from the pairs.

    A word's translation is the unit of the target language that goes along with it most: the one with the highest Dice
    coefficient 2 n(w, u) / (n(w) + n(u)), where n counts training pairs. Units are one or two words in a row; in
    Chinese one to six characters. A whole text that was trained on is looked up as a whole; an unknown word is copied.
    Of equal units the shortest is taken, in Chinese the longest.

    Raises:
        ValueError: there are no pairs, or they are of several languages.

    Source: Dice 1945, https://doi.org/10.2307/1932409; for word pairs e.g. Smadja et al. 1996,
    https://aclanthology.org/J96-1001.
    """

    def __init__(self, pairs: Sequence[Pair]):
        languages = {pair.language for pair in pairs}
        if len(languages) != 1:
            raise ValueError(f"a dictionary is of one language; these {len(pairs)} pairs have {len(languages)}")
        self.language = languages.pop()
        self.whole = {pair.source: pair.target for pair in pairs}
        n_source, n_target, n_both = Counter(), Counter(), Counter()
        for pair in pairs:
            words, found = set(_words(pair.source)), set(_units(pair.target, self.language))
            n_source.update(words)
            n_target.update(found)
            n_both.update((word, unit) for word in words for unit in found)
        best: dict[str, tuple[float, int, str]] = {}
        for (word, unit), n in n_both.items():
            size = len(unit) if self.language in CHARACTERS else -len(unit)
            score = 2 * n / (n_source[word] + n_target[unit]), size, unit
            best[word] = max(best.get(word, score), score)
        self.words = {word: unit for word, (_, _, unit) in best.items()}

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [self.whole[text] if text in self.whole else self._by_words(text) for text in texts]

    def _by_words(self, text: str) -> str:
        found = [self.words.get(word.casefold(), word) for word in re.findall(_TOKEN, text)]
        return "".join(found) if self.language in CHARACTERS else re.sub(r" (?=[.,)\]])", "", " ".join(found))


def _words(text: str) -> list[str]:
    return re.findall(_TOKEN, text.casefold())


def _units(text: str, language: str) -> list[str]:
    """Return what may be the translation of one word."""
    if language in CHARACTERS:
        most = CHARACTERS[language]
        words = re.findall(_TOKEN, text)
        whole = [word for word in words if word[0] in "%{"]  # a placeholder
        parts = [word for word in words if word[0] not in "%{"]
        return whole + [w[i:j] for w in parts for i in range(len(w)) for j in range(i + 1, min(len(w), i + most) + 1)]
    words = re.findall(_TOKEN, text)
    return [" ".join(words[i : i + n]) for n in range(1, WORDS + 1) for i in range(len(words) - n + 1)]
