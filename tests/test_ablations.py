"""The study of single changes: its recipes, what it keeps, and what its record says."""

import sys

import pytest

from plm_tutorial.models.decoder import Decoder
from tests.conftest import recorded_or_skip


@pytest.fixture
def ablations(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.delitem(sys.modules, "ablations", raising=False)
    import ablations
    import sweep

    monkeypatch.setattr(sweep, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(ablations, "device", lambda: "cpu")
    return ablations


def test_each_change_can_be_brought_in_and_taken_out(ablations):
    study = ablations.Study()
    old, new = ablations.recipes(study).values()
    for part, (bring, take) in ablations.changes(study).items():
        assert old.changed(**bring) != old, part
        if take:
            assert new.changed(**bring) == new and new.changed(**take) != new, part
    everything = {k: v for bring, take in ablations.changes(study).values() if take for k, v in bring.items()}
    assert old.changed(**everything) == new  # the two recipes differ in these parts, and in no other


def test_swiglu_has_about_as_many_parameters(ablations):
    study = ablations.Study()
    old = ablations.recipes(study)["GPT-2"]
    gated = old.changed(**ablations.changes(study)["SwiGLU"][0])
    sizes = [sum(p.numel() for p in Decoder(one.model).parameters()) for one in (old, gated)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.005


def test_the_rate_is_chosen_on_one_seed(ablations, monkeypatch):
    loss = {("adamw", 1e-3): 6.0, ("adamw", 2e-3): 5.0, ("adamw", 4e-3): 5.5}
    loss |= {("muon", 1e-3): 4.1, ("muon", 2e-3): 4.3, ("muon", 4e-3): 4.2}

    def run(study, recipe, seed):
        assert seed == study.seeds[0]
        return {"nats per token": loss[recipe.optimizer, recipe.lr]}

    monkeypatch.setattr(ablations, "run", run)
    made = {(start, part): recipe for start, part, recipe in ablations.variants(ablations.Study())}
    assert made["GPT-2", ""].lr == made["GPT-2", "RMSNorm"].lr == made["modern", "Muon"].lr == 2e-3
    assert made["modern", ""].lr == made["modern", "RMSNorm"].lr == made["GPT-2", "Muon"].lr == 1e-3
    assert len(made) == 22


def test_what_is_saved_is_positive_if_the_part_helps(ablations):
    study = ablations.Study(seeds=(0, 1, 2))
    rows = []
    for seed in study.seeds:
        for start, part, loss in (
            ("GPT-2", "", 6.0),
            ("GPT-2", "Muon", 5.5 + 0.01 * seed),
            ("modern", "", 5.0),
            ("modern", "Muon", 5.5 + 0.01 * seed),  # taken out
            ("modern", "untied output", 4.9),  # brought in
        ):
            rows.append({"start": start, "part": part, "seed": seed, "nats per token": loss + 0.1 * seed})
    added, taken, untied = ablations.effects(study, rows)
    assert added["change"] == untied["change"] == "added" and taken["change"] == "taken out"
    assert added["nats saved"] == pytest.approx(0.49) and taken["nats saved"] == pytest.approx(0.51)
    assert untied["nats saved"] == pytest.approx(0.1)
    half = 4.302653 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    assert added["high"] - added["nats saved"] == pytest.approx(half, rel=1e-4)
    assert untied["high"] == pytest.approx(untied["low"])


def test_the_study_runs_is_kept_and_recorded(ablations, tmp_path, monkeypatch, capsys):
    few = {name: change for name, change in ablations.changes(ablations.Study()).items() if name in ("Muon", "RMSNorm")}
    monkeypatch.setattr(ablations, "changes", lambda study: few)
    monkeypatch.setattr(sys, "argv", ["ablations", "--quick", "--name", "quick"])
    tables, written = {}, {}

    def write_record(name, scores, **more):
        tables.update(more["tables"])
        written.update({"name": name, **scores})

    monkeypatch.setattr(ablations, "write_record", write_record)
    ablations.main()
    assert written["name"] == "quick" and written["tokens of each run"] == 4 * 2 * 32
    assert len(tables["runs"]) == 2 * 3 * 2  # starts, the start and two parts, seeds
    assert {(row["start"], row["part"]) for row in tables["effects"]} == {
        (start, part) for start in ("GPT-2", "modern") for part in few
    }
    losses = [row["nats per token"] for row in tables["runs"]]
    assert all(8.0 < loss < 8.6 for loss in losses)  # after four steps: still about log 4096
    assert capsys.readouterr().out.count("ablations: ") > 10
    ablations.main()
    assert "ablations: " not in capsys.readouterr().out  # all runs were kept
    assert [row["nats per token"] for row in tables["runs"]] == losses


def test_what_is_recorded_has_the_tables():
    record = recorded_or_skip("ablations")
    runs, effects = record.table("runs"), record.table("effects")
    assert len(record.seeds) >= 3 and len(effects) == 20
    assert (effects["low"] <= effects["nats saved"]).all() and (effects["nats saved"] <= effects["high"]).all()
    base = runs[runs["part"].isna()].groupby("start")["nats per token"].mean()
    for start in ("GPT-2", "modern"):
        assert record.scores[f"{start} recipe, nats per token"] == pytest.approx(base[start])
