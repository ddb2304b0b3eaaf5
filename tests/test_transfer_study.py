"""The study of ways to adapt MiniLM: its plan, what it keeps, and what its record says."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from plm_tutorial import records
from plm_tutorial.adaptation import LoraConfig, count_parameters, inject
from plm_tutorial.experiments import transfer as ways
from plm_tutorial.experiments.transfer import BY_GRADIENT, METHODS, classifier
from plm_tutorial.models import Bert, BertConfig
from tests.conftest import recorded_or_skip


@pytest.fixture
def study(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.delitem(sys.modules, "transfer", raising=False)
    import sweep
    import transfer

    monkeypatch.setattr(sweep, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("PLM_DEVICE", "cpu")
    return transfer


def tiny_model(name, head, n_labels, pooling):
    """A small model with random weights in MiniLM's place: same vocabulary, same head."""
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_hidden": 32, "context_length": 256}
    return Bert(BertConfig(**shape, head=head, n_labels=n_labels, pooling=pooling)).eval()


def test_the_plan_fits_its_parts(study):
    plan = study.Study()
    assert plan.rates.keys() == set(BY_GRADIENT) and {plan.chosen_at, plan.variants_at} <= plan.epochs.keys()
    assert [plan.steps("LoRA", size, size or 5917) for size in plan.epochs] == [20, 24, 48, 96, 370]
    assert plan.steps("from scratch", None, 5917) == pytest.approx(2 * 370, abs=1)
    assert plan.seeds_of("LoRA", 64) == (0, 1, 2) and plan.seeds_of("LoRA", None) == (0, 1)
    assert plan.seeds_of("from scratch", None) == (0,)


def test_variants_of_lora_have_the_parameters_that_they_should(study):
    trained = {name: count_parameters(inject(classifier("full fine-tuning"), one)).trained
               for name, one in study.VARIANTS.items()}  # fmt: skip
    head = 384 * 384 + 384 + 2 * 384 + 2
    assert trained["rank 8"] == head + 6 * 8 * 2 * 2 * 384
    assert trained["rank 64"] - head == 8 * (trained["rank 8"] - head) == 64 * (trained["rank 1"] - head)
    wide = 2 * 8 * (384 + 1536)
    assert trained["rank 8, all linear layers"] == head + 6 * (4 * 8 * 2 * 384 + wide)
    assert study.VARIANTS["rank 8"] == LoraConfig()


def test_the_rate_is_chosen_on_validation_with_the_first_seed(study, monkeypatch):
    right = {3e-5: "0110", 1e-4: "1110", 3e-4: "1110"}

    def run(plan, method, size, seed, lr):
        assert (method, size, seed) == ("full fine-tuning", plan.chosen_at, 0)
        return {"validation": right[lr], "test": "1111" if lr == 3e-5 else "0000"}

    monkeypatch.setattr(study, "run", run)
    rate, tried = study.chosen_rate(study.Study(), "full fine-tuning")
    assert rate == 1e-4  # the smaller of equals
    assert [row["validation accuracy"] for row in tried] == [0.5, 0.75, 0.75]


def test_differences_are_paired_and_averaged_over_seeds(study):
    results = {
        ("a", None, 0): {"test": "1111"},
        ("a", None, 1): {"test": "1101"},
        ("b", None, 0): {"test": "1010"},
        ("a", 16, 0): {"test": "0000"},
    }
    found = study.compare(results, None, "a", "b")
    assert found["a minus b, most labels, points"] == pytest.approx(100 * (7 / 8 - 1 / 2))
    low, high = (found[f"a minus b, most labels, points, {end} end of the 95 % interval"] for end in ("low", "high"))
    assert low <= 37.5 <= high
    assert study.bits([True, False]) == "10" and study.by_text("10").tolist() == [1, 0]


def test_reviews_of_the_other_source_are_cut_and_written_alike(study):
    found = study.held_out("elsewhere", 10, 12)
    assert all(len(text.split()) == 12 and text == text.lower() for text in found.texts)
    halves = study.review_halves(7)
    assert len(halves.first) == len(halves.second) == 7


def test_the_study_runs_is_kept_and_recorded(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ways, "load_model", tiny_model)
    monkeypatch.setattr(study, "peak_of", lambda method: {"peak": 5_000_000})
    monkeypatch.setattr(study, "frozen", lambda: classifier("full fine-tuning"))
    monkeypatch.setattr(study, "VARIANTS", {"rank 8": LoraConfig(), "rank 1": LoraConfig(rank=1)})
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "--quick", "--name", "quick"])
    study.vectors.cache_clear()
    study.main()
    study.vectors.cache_clear()
    record = records.recorded("quick")
    json.dumps(record.scores)
    runs = record.table("runs")
    expected = {(method, size, seed) for method in METHODS for size in (4, 8) for seed in (0, 1)}
    assert set(zip(runs["method"], runs["labels"], runs["seed"], strict=True)) == expected
    assert runs["accuracy"].between(0, 1).all() and runs["seconds"].gt(0).all()
    assert runs.loc[runs["method"].isin(("TF-IDF", "from scratch")), "found"].isna().all()
    assert runs.loc[~runs["method"].isin(("TF-IDF", "from scratch")), "found"].notna().all()
    by_flops = runs.dropna(subset="FLOPs").groupby("method")["FLOPs"].mean()
    assert by_flops["linear probe"] < by_flops["LoRA"] < by_flops["full fine-tuning"]
    mean = runs.loc[(runs["method"] == "LoRA") & (runs["labels"] == 8), "accuracy"].mean()
    assert record.scores["LoRA, most labels: accuracy"] == pytest.approx(mean)
    assert len(record.table("rates")) == 4 * 2
    variants = record.table("variants")
    assert list(variants["variant"]) == ["rank 8"] * 2 + ["rank 1"] * 2 and set(variants["rank"]) == {1, 8}
    assert set(record.table("layers")["model"]) == {"pretrained", "random weights", "fine-tuned"}
    assert list(record.table("memory")["method"]) == ["linear probe", "LoRA", "full fine-tuning"]
    assert capsys.readouterr().out.count("transfer: ") > 20
    study.main()
    assert "transfer: " not in capsys.readouterr().out  # all runs were kept
    pd.testing.assert_frame_equal(records.recorded("quick").table("runs"), runs)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_this_process_s(study):
    before = study.peak_memory()
    torch.zeros(2**26).sum()  # 256 MB
    assert 2**20 < before <= study.peak_memory()
    assert study.peak_memory() >= 2**28


def test_what_is_recorded_has_the_tables():
    record = recorded_or_skip("transfer")
    runs = record.table("runs")
    assert set(runs["method"]) == set(METHODS) and len(record.seeds) >= 3
    most = runs["labels"] == record.scores["labels, most"]
    for method in METHODS:
        own = runs[most & (runs["method"] == method)]
        assert record.scores[f"{method}, most labels: accuracy"] == pytest.approx(own["accuracy"].mean())
        assert (runs[~most & (runs["method"] == method)].groupby("labels").size() == len(record.seeds)).all()
    for name, value in record.scores.items():
        if name.endswith("low end of the 95 % interval"):
            estimate = record.scores[name.removesuffix(", low end of the 95 % interval")]
            assert value <= estimate <= record.scores[name.replace("low end", "high end")]
    layers = record.table("layers")
    assert (layers.groupby(["model", "question"]).size() == 7).all()
    assert np.isfinite(record.table("memory").select_dtypes("number")).all(axis=None)
