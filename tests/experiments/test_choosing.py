"""Choosing a model: texts of a domain, the number of texts that a difference needs, and how often a draw is right."""

import numpy as np
import pytest

from plm_tutorial.experiments.choosing import DOMAINS, TEXT_BYTES, domain_texts, open_model, seen_better, texts_needed


@pytest.mark.parametrize("domain", DOMAINS)
def test_texts_of_a_domain_are_different_and_not_too_long(domain):
    texts = domain_texts(domain, 8)
    assert len(set(texts)) == 8
    assert all(0 < len(text.encode()) <= TEXT_BYTES for text in texts)
    assert domain_texts(domain, 8) == texts


def test_bad_names_and_numbers():
    with pytest.raises(ValueError, match="there are: film reviews"):
        domain_texts("poems", 2)
    with pytest.raises(ValueError, match="expected 1 to"):
        domain_texts("German", 10_000)
    with pytest.raises(ValueError, match="MiniLM"):
        open_model("GPT-9")


@pytest.mark.parametrize(("difference", "disagreement"), [(0, 0.2), (0.3, 0.2), (0.1, 1.1), (-0.1, 0.2)])
def test_shares_out_of_range(difference, disagreement):
    with pytest.raises(ValueError, match="shares above 0"):
        texts_needed(difference, disagreement)


def test_power_out_of_range():
    with pytest.raises(ValueError, match="between 0 and 1"):
        texts_needed(0.1, 0.2, power=1.0)


def test_the_formula_by_hand():
    """10 in 100 points in 40: 1.96 √0.4 + 0.8416 √(0.4 - 0.01) = 1.2396 + 0.5256, squared over 0.01."""
    assert texts_needed(0.1, 0.4) == 312


@pytest.mark.parametrize(("difference", "disagreement"), [(0.05, 0.2), (0.1, 0.3)])
def test_so_many_texts_find_the_difference_as_often_as_promised(difference, disagreement):
    n = texts_needed(difference, disagreement)
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    counts = np.random.default_rng(0).multinomial(n, shares, size=20_000)  # (draws, 3): first alone, second alone, both
    z = (counts[:, 0] - counts[:, 1]) / np.sqrt(np.maximum(counts[:, 0] + counts[:, 1], 1))  # McNemar
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_how_often_a_draw_puts_the_better_one_first():
    first, second = np.array([1, 1, 1, 0]), np.array([0, 1, 1, 0])
    assert seen_better(first, first, 10) == 0.5
    assert seen_better(first, second, 1) == pytest.approx(0.25 + 0.75 / 2, abs=0.03)
    assert seen_better(first, second, 200) == 1.0
    assert seen_better(second, first, 200) == 0.0
