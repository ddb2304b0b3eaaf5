"""The benchmarks run, with tiny sizes, and leave a record with the fields that they promise."""

import runpy
import sys

import pytest
import torch

from plm_tutorial import records
from tests.conftest import recorded_or_skip


def _scores(name, tmp_path, monkeypatch, root, *arguments):
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--rounds", "2", "--threads", "1", *arguments])
    monkeypatch.syspath_prepend(root / "benchmarks")
    runpy.run_path(str(root / "benchmarks" / f"{name}.py"), run_name="__main__")
    record = records.recorded(name)
    assert record.command == f"python benchmarks/{name}.py" and record.data
    return record.scores


# What is measured of each program, and between which of them.
OURS = ("ours", "ours, laid out for decoding")
THEIRS = ("transformers, as the texts come", "transformers, sorted by length")
PROGRAMS = {"decoding": ("transformers", *OURS), "encoding": (*THEIRS, "ours")}
MEASURES = {
    "decoding": ("tokens/s", "share of the bandwidth"),
    "encoding": ("sentences/s", "share of the matmul rate"),
}
PAIRS = {"decoding": OURS, "encoding": [f"ours against {one}" for one in THEIRS]}


def _fields(name):
    interval = [f"times as fast, {end} end of the 95 % interval" for end in ("low", "high")]
    fields = {f"{one}, {what}" for one in PROGRAMS[name] for what in MEASURES[name]}
    fields |= {f"{pair}, {part}" for pair in PAIRS[name] for part in ("times as fast", *interval)}
    return {f"1 thread: {field}" for field in (*fields, "memory read, GB/s", "float32 matmul, GFLOP/s")} | {"rounds"}


@pytest.mark.parametrize(("name", "size"), [("decoding", ("--tokens", "3")), ("encoding", ("--texts", "24"))])
def test_a_benchmark_runs_and_records(name, size, tmp_path, monkeypatch, root, capsys):
    scores = _scores(name, tmp_path, monkeypatch, root, *size)
    assert _fields(name) <= scores.keys()
    assert all(value > 0 for value in scores.values())
    printed = capsys.readouterr().out
    assert "limits: memory read" in printed and "95 % interval" in printed


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_recorded_has_the_fields(name):
    record = recorded_or_skip(name)
    assert _fields(name) <= record.scores.keys()


def test_the_gpu_benchmark_needs_a_gpu_and_found_the_models_equal(monkeypatch, root):
    scores = recorded_or_skip("gpu").scores
    assert scores["largest difference of the loss, nats"] < 1e-4
    for name in ("training, ours", "training, ours, compiled", "decoding, ours"):
        assert scores[f"{name}: the same, low end of the 95 % interval"] > 1.2
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["gpu"])
        monkeypatch.syspath_prepend(root / "benchmarks")
        with pytest.raises(SystemExit, match="needs a GPU with CUDA"):
            runpy.run_path(str(root / "benchmarks" / "gpu.py"), run_name="__main__")


def test_time_to_loss_runs_and_records(tmp_path, monkeypatch, root, capsys):
    tokenizer = records.artifact_file("reviews_causal", "tokenizer.json")
    monkeypatch.setattr("plm_tutorial.experiments.review_tokens._tokenizer_file", lambda: tokenizer)
    monkeypatch.chdir(tmp_path)
    sizes = ("--timed-steps", "1", "--steps", "4", "--batches", "1")
    scores = _scores("time_to_loss", tmp_path, monkeypatch, root, *sizes)
    assert {f"{name}: tokens/s" for name in ("transformers, GPT-2", "ours, GPT-2", "ours, modern")} <= scores.keys()
    assert 0 < scores["transformers, GPT-2: share of the matmul rate"] < 1.5
    table = records.recorded("time_to_loss").table("runs")
    assert set(table.seed) == {0, 1, 2} and table.nats.between(5, 9).all()
    kept = sorted((tmp_path / "runs" / "time_to_loss").glob("*.json"))
    assert len(kept) >= 3 * 3 + 6 + 2, "three rates with three seeds, six pairs, two more seeds"
    capsys.readouterr()
    _scores("time_to_loss", tmp_path, monkeypatch, root, *sizes)
    assert "time_to_loss: " not in capsys.readouterr().out, "finished runs are not run again"


def test_the_modern_recipe_was_there_in_a_quarter_of_the_time():
    scores = records.recorded("time_to_loss").scores
    name = "ours: until our worst seed is as good as the reference's best seed, share of its time"
    assert scores[f"{name}, high end of the 95 % interval"] <= 1 / 4
    assert scores["GPT-2, tokens/s: ours against transformers"] >= 0.95


def test_the_fine_tuning_benchmark_runs_and_records(tmp_path, monkeypatch, root, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", ["finetuning", "--texts", "64", "--seeds", "1"])
    monkeypatch.syspath_prepend(root / "benchmarks")
    path = str(root / "benchmarks" / "finetuning.py")
    runpy.run_path(path, run_name="__main__")
    record = records.recorded("finetuning")
    assert record.scores["times as fast as transformers, median of the seeds"] > 0
    ours, theirs = (record.scores[f"{name}: tokens an epoch, padding included"] for name in ("ours", "transformers"))
    assert ours < theirs, "texts of about equal length share a batch"
    runs = record.table("runs")
    assert set(runs["program"]) == {"ours", "transformers"} and runs["accuracy"].between(0, 1).all()
    capsys.readouterr()
    runpy.run_path(path, run_name="__main__")
    assert "finetuning: " not in capsys.readouterr().out, "finished runs are not run again"


TINY = {
    "causal": """
[objective]
kind = "causal"
[model]
d_model = 16
n_layers = 1
n_heads = 2
d_hidden = 32
""",
    "masked": """
[objective]
kind = "masked"
[model]
d_model = 16
n_layers = 1
n_heads = 2
d_hidden = 32
""",
}
REST = """
[batches]
size = 4
length = 32
validation = 8
[training]
steps = 2
evaluate_every = 1
[run]
folder = "runs/tiny"
[data]
source = "imdb"
scored = 2
[tokenizer]
"""


@pytest.mark.parametrize("kind", TINY)
def test_the_reviews_models_are_trained_scored_and_kept(kind, tmp_path, monkeypatch, root):
    from plm_tutorial import load_model, text
    from plm_tutorial.experiments import review_tokens

    found = text.reviews
    monkeypatch.setattr(text, "reviews", lambda source, split: found(source, split).select(range(40)))
    file = records.artifact_file("reviews_causal", "tokenizer.json")
    monkeypatch.setattr(review_tokens, "_tokenizer_file", lambda: file)
    monkeypatch.setattr(review_tokens, "_folder", lambda: tmp_path)
    review_tokens.review_tokenizer(mask=kind == "masked").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "configs").mkdir()
    config = TINY[kind] + REST + f'path = "{tmp_path / "tokenizer.json"}"\n'
    (tmp_path / "configs" / f"gpu_{kind}.toml").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path / "artifacts")
    monkeypatch.setattr(sys, "argv", ["reviews", kind])
    monkeypatch.syspath_prepend(root / "benchmarks")
    runpy.run_path(str(root / "benchmarks" / "reviews.py"), run_name="__main__")
    record = records.recorded(f"reviews_{kind}")
    assert record.command == f"python benchmarks/reviews.py {kind}" and record.scores["training steps"] == 2
    assert record.table("log").validation.notna().all()
    assert load_model(tmp_path / "artifacts" / f"reviews_{kind}").config.d_model == 16
    if kind == "causal":
        share = record.scores["test: share of bits saved against modified Kneser–Ney of order 5"]
        ours, counted = (
            record.scores[f"test bits per byte{name}"] for name in ("", ", modified Kneser–Ney of order 5")
        )
        assert share == pytest.approx(1 - ours / counted) and share < 0, "two steps do not beat counting"
        assert record.scores["test: the same, low end of the 95 % interval"] < share
        rows = record.scores["nats per token on the rows of the log, modified Kneser–Ney of order 5"]
        assert 3 < rows < 9
    else:
        assert 0 <= record.scores["test top-1 accuracy at hidden tokens, 15 % hidden"] < 0.2
        assert record.scores["test nats per hidden token"] == pytest.approx(8.3, abs=0.3)
