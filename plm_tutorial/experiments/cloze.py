"""Questions without anybody who asks: a part of a sentence becomes the answer, the rest the question.

In: passages of text. Out: questions, each with a passage in which the answer stands, to train an extractive reader.
Source: Lewis, Denoyer and Riedel 2019, "Unsupervised Question Answering by Cloze Translation",
https://arxiv.org/abs/1906.04980. As there, answers are names, numbers and noun phrases, the question is the clause
around the answer with a question word in front, and noise makes it differ from the passage: words are dropped, moved
and exchanged for similar ones. (There a parser finds the phrases; here, lists of small words do.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tokenizers
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from plm_tutorial.retrieval import sentences, words

_TOKEN = re.compile(r"[^\W_]+(?:[-’'.,][^\W_]+)*")
_NUMBER = re.compile(
    r"\d[\d,.]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundred"
)
_BORDER = re.compile(r"[,;:()“”\"–—]|\.\.\.|\b(?:which|because|although|while|whereas)\b")
_SMALL = ENGLISH_STOP_WORDS | {"don't", "doesn't", "didn't", "isn't", "it's", "that's", "can't", "won't", "i'm", "i've"}
_BEFORE_NOUNS = frozenset(
    "a an the this that these those its their his her our your my each every no some any few of in on at by for with "
    "from into as per".split()
)
_FEW, _MANY = 4, 30  # words that a question must have besides its question word, and may have in all
_ASK = {  # what a question about an answer of each kind may begin with
    "number": ("how many", "how much", "how long", "how large", "what number", "which"),
    "year": ("when", "in which year"),
    "name": ("who", "what", "which", "whose"),
    "thing": ("what", "which", "what kind of"),
}


@dataclass(frozen=True)
class Cloze:
    """A question that was made of a passage."""

    question: str
    passage: str
    answer: tuple[int, int]  # characters of the passage

    @property
    def answer_text(self) -> str:
        """Return the answer as it stands in the passage."""
        return self.passage[self.answer[0] : self.answer[1]]


@dataclass(frozen=True)
class Noise:
    """How much a question differs from the clause that it was made of."""

    drop: float = 0.3  # the share of its words that are left out
    move: int = 3  # how many places a word may move
    exchange: float = 0.3  # the share of its words that are exchanged for a similar one, where there is one
    in_front: bool = True  # the question word; False: it stays where the answer stood
    whole: float = 0.5  # the share of questions made of the whole sentence, and not of a clause


NO_NOISE = Noise(0.0, 0, 0.0, False, 1.0)


def spans_of(sentence: str) -> list[tuple[int, int]]:
    """Return candidates for answers, (start, end) in characters: runs of one to four content words.

    A run ends at a small word (of scikit-learn's list of English stop words) or a sign; an article before it is left
    out. A run in lower case counts only behind a word that nouns follow, such as an article or a preposition: so most
    verbs are left out. Within a run, names and numbers are candidates by themselves.
    """
    runs: list[tuple[str, list[re.Match]]] = [("", [])]  # the word before, and the run
    end, before = 0, ""
    for token in _TOKEN.finditer(sentence):
        small = token[0].lower() in _SMALL and not _NUMBER.fullmatch(token[0].lower())
        if small or not runs[-1][1] or sentence[end : token.start()].strip():
            runs.append((before, []))
        if not small:
            runs[-1][1].append(token)
        end, before = token.end(), token[0].lower()

    def opening(token: re.Match) -> bool:
        """Return whether a word opens the sentence, so that its capital letter says nothing."""
        return not sentence[: token.start()].strip(' "“(`-')

    found = set()
    for before, run in runs:
        plain = run and all(token[0].islower() for token in run)
        opens = len(run) == 1 and opening(run[0])
        if 1 <= len(run) <= 4 and not opens and (not plain or before in _BEFORE_NOUNS):
            found.add((run[0].start(), run[-1].end()))
        names = [token[0][0].isupper() and bool(i or not opening(run[0])) for i, token in enumerate(run)]
        for i, token in enumerate(run):
            if _NUMBER.fullmatch(token[0].lower()):
                found.add((token.start(), token.end()))
            if names[i] and not (i and names[i - 1]):  # the first of a few in a row
                last = next((j for j in range(i, len(run)) if not names[j]), len(run)) - 1
                found.add((token.start(), run[last].end()))
    return sorted(found)


def kind_of(answer: str) -> str:
    """Return what kind of answer it is, by its form: "number", "year", "name" or "thing"."""
    first = _TOKEN.search(answer)
    if re.fullmatch(r"(1[5-9]|20)\d\d", answer):
        return "year"
    if first and _NUMBER.fullmatch(first[0].lower()):
        return "number"
    return "name" if all(token[0].isupper() for token in _TOKEN.findall(answer)) else "thing"


def clause_around(sentence: str, start: int, end: int) -> tuple[str, str]:
    """Return what stands before and after an answer in its clause; the whole sentence if the clause is too short."""
    before, after = sentence[:start], sentence[end:]
    borders = [border.end() for border in _BORDER.finditer(before)]
    left = before[borders[-1] :] if borders else before
    border = _BORDER.search(after)
    right = after[: border.start()] if border else after
    if len(_TOKEN.findall(left + " " + right)) < _FEW:
        left, right = before, after
    return left, right


def make_questions(
    passage: str,
    n: int,
    noise: Noise,
    generator: random.Random,
    similar: Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]] = lambda word: (),
) -> list[Cloze]:
    """Return up to ``n`` questions about a passage, each about another span; numbers, names and things in turn.

    Spans that stand in the passage more than once are left out: such a question would have several answers.

    Args:
        similar: for a word, others that may stand for it; see :func:`similar_words`.
    """
    look_up = similar if callable(similar) else lambda word: similar.get(word, ())
    candidates, place = [], 0
    for sentence in sentences(passage):
        place = passage.index(sentence, place)
        for start, end in spans_of(sentence):
            answer = sentence[start:end]
            if len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", passage)) == 1:
                candidates.append((sentence, place, start, end))
        place += len(sentence)
    found = []
    for sentence, at, start, end in _mixed(candidates, generator):
        whole = generator.random() < noise.whole
        left, right = (sentence[:start], sentence[end:]) if whole else clause_around(sentence, start, end)
        asked = noisy(left, right, sentence[start:end], noise, generator, look_up)
        if _FEW < len(asked.split()) <= _MANY:
            found.append(Cloze(asked, passage, (at + start, at + end)))
        if len(found) == n:
            break
    return found


def _mixed(candidates: list[tuple[str, int, int, int]], generator: random.Random) -> list[tuple[str, int, int, int]]:
    """Return candidates in a random order in which each kind of answer has the same chance to come next."""
    by_kind: dict[str, list[tuple[str, int, int, int]]] = {}
    for candidate in generator.sample(candidates, len(candidates)):
        sentence, _, start, end = candidate
        by_kind.setdefault(kind_of(sentence[start:end]), []).append(candidate)
    order = []
    while by_kind:
        kind = generator.choice(sorted(by_kind))
        order.append(by_kind[kind].pop())
        if not by_kind[kind]:
            del by_kind[kind]
    return order


def noisy(
    left: str, right: str, answer: str, noise: Noise, generator: random.Random, similar: Callable[[str], Sequence[str]]
) -> str:
    """Return the question: the clause around the answer, with words dropped, exchanged and moved."""
    gap = generator.choice(_ASK[kind_of(answer)])
    before, after = _TOKEN.findall(left), _TOKEN.findall(right)
    clause = [*before, *after] if noise.in_front else [*before, gap, *after]
    kept = [word for word in clause if word == gap or generator.random() >= noise.drop]
    for i, word in enumerate(kept):
        if word != gap and generator.random() < noise.exchange and (others := similar(word.lower())):
            kept[i] = generator.choice(list(others))
    keys = [i + generator.uniform(0, noise.move) for i in range(len(kept))]
    kept = [word for _, word in sorted(zip(keys, kept, strict=True), key=lambda pair: pair[0])]
    return " ".join([gap, *kept] if noise.in_front else kept) + "?"


def similar_words(
    table: torch.Tensor, tokenizer: tokenizers.Tokenizer, n: int = 3, least: float = 0.5
) -> dict[str, list[str]]:
    """Return for each whole word of a vocabulary the words whose rows of the token table are nearest.

    Args:
        table: the encoder's token table, (V, D).
        n: the most words for each.
        least: the smallest cosine that counts as similar.
    """
    vocabulary = tokenizer.get_vocab()
    names = [word for word in vocabulary if re.fullmatch(r"[a-z]{4,}", word) and word not in _SMALL]
    rows = torch.nn.functional.normalize(table[[vocabulary[word] for word in names]].detach().float().cpu(), dim=-1)
    found: dict[str, list[str]] = {}
    for start in range(0, len(names), 2048):
        values, places = (rows[start : start + 2048] @ rows.T).topk(n + 1)
        for i, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            others = [names[j] for v, j in zip(value, place, strict=True) if v >= least and j != start + i]
            found[names[start + i]] = others[:n]
    return found


# ------------------------------------------------------------------------------------------------------- to be beaten


def guess_from_sentence(question: str, sentence: str) -> str:
    """Return a short guess at the answer from a sentence that was found: the heuristic that a reader has to beat.

    A question for a number gets the first number that the question does not have, one for a person the first name; all
    others the longest run of content words that shares no word with the question. Without such, the whole sentence.
    """
    asked = set(words(question))
    spans = [sentence[a:b] for a, b in spans_of(sentence)]
    new = [span for span in spans if not asked & set(words(span))]
    first = question.lower()
    if re.match(r"(in )?(how|to how|by how|at how|between which numbers|which rate|in which year|when)\b", first):
        new = [s for s in new if re.search(r"\d", s) or _NUMBER.fullmatch(s.split()[0].lower())] or new
        return new[0] if new else sentence
    if re.match(r"(after )?(who|whom|whose)\b", first):
        names = [s for s in new if s[0].isupper() and not sentence.startswith(s)] or [s for s in new if s[0].isupper()]
        return (names or new or [sentence])[0]
    return max(new, key=lambda span: len(span.split())) if new else sentence
