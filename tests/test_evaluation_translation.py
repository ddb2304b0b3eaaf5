"""Translation metrics: equal to sacrebleu's own on corpora and on choices of texts, and clear about bad input."""

import random

import numpy as np
import pytest
import sacrebleu

from plm_tutorial.evaluation import (
    bleu,
    chrf,
    exact_share,
    score_counts,
    translation_counts,
    translation_difference,
    translation_interval,
)

WORDS = "the a small red house of my friend in Paris is not far 5 March 2024 , .".split()


def corpus(n, seed, chinese=False):
    rng = random.Random(seed)
    made = [rng.choices(WORDS, k=rng.randint(1, 14)) for _ in range(n)]
    spoiled = [[w if rng.random() < 0.7 else rng.choice(WORDS) for w in text] for text in made]
    if chinese:
        sign = {word: chr(0x4E00 + 7 * i) for i, word in enumerate(WORDS)}
        return [["".join(sign[w] for w in text) for text in some] for some in (made, spoiled)]
    return [[" ".join(text) for text in some] for some in (made, spoiled)]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_sacrebleus(seed):
    references, outputs = corpus(60, seed)
    assert bleu(references, outputs, "fr") == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    assert chrf(references, outputs) == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score)
    references, outputs = corpus(60, seed, chinese=True)
    wanted = sacrebleu.corpus_bleu(outputs, [references], tokenize="zh").score
    assert bleu(references, outputs, "zh") == pytest.approx(wanted)
    assert wanted > sacrebleu.corpus_bleu(outputs, [references]).score + 10  # a text as a single word


def test_counts_of_a_choice_of_texts_give_its_score():
    references, outputs = corpus(40, 5)
    rows = np.random.default_rng(0).integers(40, size=40)
    some = [references[i] for i in rows], [outputs[i] for i in rows]
    for metric, score in (("chrF", chrf(*some)), ("BLEU", bleu(*some, "de"))):
        counts = translation_counts(metric, references, outputs, "de")
        assert score_counts(metric, counts[rows]) == pytest.approx(score)


def test_exact_match():
    assert exact_share(["5 mars", "a", "b", "c"], ["5 mars", "a", "b ", "C"]) == 0.5


def test_intervals():
    references, outputs = corpus(80, 2)
    low, high = translation_interval("chrF", references, outputs, n=200)
    assert low < chrf(references, outputs) < high
    better = [a if i % 3 else b for i, (a, b) in enumerate(zip(references, outputs, strict=True))]
    for metric in ("chrF", "BLEU"):
        difference = translation_difference(metric, references, better, outputs, "fr", n=200)
        assert 0 < difference.low < difference.estimate < difference.high
        assert translation_difference(metric, references, outputs, outputs, "fr", n=50) == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chrf(["a"], ["a", "b"]), "got 1 references and 2 outputs; expected one output for each"),
        (lambda: exact_share([], []), "got 0 references and 0 outputs"),
        (lambda: bleu("a b", ["a b"], "fr"), "references is a single str; expected a list of texts"),
        (lambda: chrf(["a b"], "a b"), "outputs is a single str"),
        (lambda: translation_counts("TER", ["a"], ["a"]), "metric is 'TER'; implemented here: chrF, BLEU"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
