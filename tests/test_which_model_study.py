"""The study of models at hand: its splits are those of today, its tables agree, and a part is scored again."""

import numpy as np
import pytest

from plm_tutorial.evaluation import corpus_bits_per_byte, score_texts
from plm_tutorial.experiments.choosing import DOMAINS, MODELS, domain_texts, open_model
from plm_tutorial.text import split_hashes
from tests.conftest import recorded_or_skip


@pytest.fixture(scope="module")
def study():
    return recorded_or_skip("which_model")


def test_it_was_made_of_the_splits_that_are_here(study):
    assert split_hashes(*study.data) == study.data


def test_answers_of_the_first_seed_are_near_the_mean_of_all(study):
    right = study.table("right")
    assert len(right) == study.scores["test snippets"]
    for name in ("TF-IDF", *MODELS):
        assert right[name].isin([0, 1]).all()
        assert right[name].mean() == pytest.approx(study.scores[f"{name}: accuracy"], abs=0.03)
        low, high = (study.scores[f"{name}: accuracy, {end} end"] for end in ("low", "high"))
        assert low < study.scores[f"{name}: accuracy"] < high


def test_every_decoder_was_scored_on_every_domain(study):
    writing = study.table("writing")
    assert (writing.groupby("model")["domain"].nunique() == len(DOMAINS)).all()
    assert (writing["low"] <= writing["bits per byte"]).all() and (writing["bits per byte"] <= writing["high"]).all()


def test_the_small_decoder_costs_again_what_was_recorded(study):
    model, tokenizer = open_model("reviews, causal")
    bos = tokenizer.token_to_id("<|endoftext|>")
    scores = score_texts(model, tokenizer, domain_texts("film reviews", 16), model.config.context_length, bos_id=bos)
    bits = corpus_bits_per_byte(np.stack([scores.nats, scores.n_bytes], axis=1))
    row = study.table("writing").set_index(["model", "domain"]).loc[("reviews, causal", "film reviews")]
    assert bits == pytest.approx(row["bits per byte"], rel=1e-3)
