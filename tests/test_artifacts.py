"""The book's own models: what is stored scores what was recorded, and is as small and as well described as promised."""

import json

import pytest
import torch

from plm_tutorial import load_model, load_tokenizer, pretraining
from plm_tutorial.batches import Batches, PackedRows
from plm_tutorial.experiments.review_tokens import review_tokenizer, review_tokens
from plm_tutorial.objectives import predict_labels
from plm_tutorial.records import artifacts, recorded

WITHOUT_LOG = ("named_entities", "newspaper_masked")  # their records have curves and losses of parts instead
STORED = sorted(path.parent.name for path in artifacts().glob("*/model.safetensors"))


@pytest.mark.parametrize("name", STORED)
def test_a_stored_model_has_all_that_belongs_to_it(name):
    folder, record = artifacts() / name, recorded(name)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert record.scores["parameters"] == sum(parameter.numel() for parameter in model.parameters()) <= 5_000_000
    assert tokenizer.get_vocab_size() == model.config.vocab_size
    if name not in WITHOUT_LOG:
        log = record.table("log")
        assert len(log) == record.scores["training steps"] and log.tokens.sum() == record.scores["training tokens"]
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"


def test_all_artifacts_together_stay_small():
    assert sum(path.stat().st_size for path in artifacts().rglob("*") if path.is_file()) < 40e6


def test_the_causal_model_scores_what_its_log_says(root):
    config = pretraining.read_config(root / "configs" / "gpu_causal.toml")
    model = load_model(artifacts() / "reviews_causal", device="cpu")
    rows = PackedRows(review_tokens("validation"), config.batches.length)
    batches = Batches(rows, config.batches.size, seed=config.run.seed)
    with torch.no_grad():
        steps = config.batches.validation // config.batches.size
        losses = [predict_labels(model, batches[step]) for step in range(steps)]
    again = float(sum(losses[1:], start=losses[0]).mean)
    logged = recorded("reviews_causal").table("log").validation.dropna().iloc[-1]
    assert again == pytest.approx(logged, abs=3e-3)  # stored, and trained, in 16 bits
    counted = recorded("reviews_causal").scores["nats per token on the rows of the log, modified Kneser–Ney of order 5"]
    assert again < 0.92 * counted


def test_the_causal_model_beats_counting_on_all_held_out_reviews():
    scores = recorded("reviews_causal").scores
    for split in ("validation", "test"):
        assert scores[f"{split} reviews"] > 2_000
        assert scores[f"{split}: the same, low end of the 95 % interval"] > 0.1


def test_the_masked_model_fills_a_third_and_more_of_what_is_hidden():
    scores = recorded("reviews_masked").scores
    for split in ("validation", "test"):
        assert scores[f"{split}: hidden tokens"] > 100_000
        assert scores[f"{split}: the same, low end of the 95 % interval"] > 0.35


def test_the_stored_tokenizer_is_the_one_of_the_tokens():
    assert load_tokenizer(artifacts() / "reviews_causal").get_vocab() == review_tokenizer().get_vocab()
