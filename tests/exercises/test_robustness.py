"""Exercises on robustness: right answers, as in the chapter and otherwise, and plausible wrong ones."""

from collections import defaultdict

# --- right answers


def diluted(agreement, share):
    return (1 - share) * agreement + share / 2


def worst_group(right, groups):
    answers = {}
    for ok, name in zip(right, groups, strict=True):
        answers.setdefault(name, []).append(ok)
    score, name = min((sum(some) / len(some), name) for name, some in answers.items())
    return name, score


def worst_by_loop(right, groups):
    worst = None
    for name in sorted(set(groups)):
        some = [r for r, g in zip(right, groups, strict=True) if g == name]
        if worst is None or sum(some) / len(some) < worst[1]:
            worst = [name, sum(some) / len(some)]
    return worst


def one_slip(right, typed):
    n, m = len(right), len(typed)
    if m == n - 1:
        return any(right[:i] + right[i + 1 :] == typed for i in range(n))
    if m == n + 1:
        return any(right[: i + 1] + right[i:] == typed for i in range(n))
    different = [i for i in range(n) if m == n and right[i] != typed[i]]
    if len(different) == 2:
        i, j = different
        return j == i + 1 and right[i] == typed[j] and right[j] == typed[i]
    return len(different) == 1


def correct(word, vocabulary):
    if word in vocabulary:
        return word
    return next((other for other in vocabulary if one_slip(other, word)), word)


def slips(word):
    letters = "abcdefghijklmnopqrstuvwxyz"
    for i, letter in enumerate(word):
        yield word[:i] + word[i + 1 :]
        yield word[: i + 1] + word[i:]
        yield from (word[:i] + other + word[i + 1 :] for other in letters if other != letter)
        if i + 1 < len(word):
            yield word[:i] + word[i + 1] + letter + word[i + 2 :]


def correct_by_table(word, vocabulary):
    table = {slip: right for right in reversed(vocabulary) for slip in slips(right)}
    return word if word in vocabulary else table.get(word, word)


# --- plausible mistakes


def best_group(right, groups):
    answers = defaultdict(list)
    for ok, name in zip(right, groups, strict=True):
        answers[name].append(ok)
    score, name = max((sum(some) / len(some), name) for name, some in answers.items())
    return name, score


def fewest_right(right, groups):
    counts = defaultdict(int)
    for ok, name in zip(right, groups, strict=True):
        counts[name] += ok
    name = min(sorted(counts), key=counts.get)
    return name, counts[name] / groups.count(name)


def last_of_equals(right, groups):
    scores = {g: sum(r for r, h in zip(right, groups, strict=True) if h == g) / groups.count(g) for g in groups}
    low = min(scores.values())
    return max(name for name, score in scores.items() if score == low), low


def of_all(right, groups):
    return worst_group(right, groups)[0], sum(right) / len(right)


def corrects_known_words(word, vocabulary):
    return next((other for other in vocabulary if one_slip(other, word)), word)


def last_candidate(word, vocabulary):
    return correct(word, vocabulary) if word in vocabulary else correct(word, vocabulary[::-1])


def any_two_letters(word, vocabulary):
    same = [v for v in vocabulary if len(v) == len(word) and sum(a != b for a, b in zip(v, word, strict=True)) <= 2]
    return word if word in vocabulary else (same or [correct(word, vocabulary)])[0]


RIGHT = [
    ("ex-robustness-diluted", diluted),
    ("ex-robustness-worst", worst_group),
    ("ex-robustness-worst", worst_by_loop),
    ("ex-robustness-correct", correct),
    ("ex-robustness-correct", correct_by_table),
]

WRONG = [
    ("ex-robustness-diluted", lambda a, s: (1 - s) * a, "half still agree"),
    ("ex-robustness-diluted", lambda a, s: s * a + (1 - s) / 2, "the part that is treated"),
    ("ex-robustness-diluted", lambda a, s: (1 - s) * a + s, "half of the time"),
    ("ex-robustness-diluted", lambda a, s: a - s, "expected"),
    ("ex-robustness-diluted", lambda a, s: float("nan"), "gave nan"),
    ("ex-robustness-worst", best_group, "the best one"),
    ("ex-robustness-worst", fewest_right, "not the lowest share"),
    ("ex-robustness-worst", last_of_equals, "first in the alphabet"),
    ("ex-robustness-worst", of_all, "the accuracy of all texts"),
    ("ex-robustness-worst", lambda right, groups: worst_group(right, groups)[::-1], "the name comes first"),
    ("ex-robustness-worst", lambda right, groups: worst_group(right, groups)[0], "a name and an accuracy"),
    ("ex-robustness-correct", corrects_known_words, "must stay"),
    ("ex-robustness-correct", last_candidate, "the first of the vocabulary"),
    ("ex-robustness-correct", any_two_letters, "two"),
    ("ex-robustness-correct", lambda word, vocabulary: word, "left out"),
]
