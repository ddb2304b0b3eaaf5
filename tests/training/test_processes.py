"""Real processes: several that train together, and one that is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def _run(*options, processes=1, expect=0):
    """Run the toy under torchrun (or alone) and return its losses."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [*start, "tests.training.toy", *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == expect, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]) if ran.stdout else None


@pytest.fixture(scope="module")
def alone():
    return {optimizer: _run("--optimizer", optimizer) for optimizer in ("adamw", "muon")}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_follow_the_curve_of_one(alone, strategy, optimizer):
    together = _run("--strategy", strategy, "--optimizer", optimizer, processes=2)
    assert together == pytest.approx(alone[optimizer], abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_checkpoint_opens_on_another_number_of_processes(alone, tmp_path, strategy, first, then):
    where = ("--folder", tmp_path, "--strategy", strategy)
    _run(*where, "--stop", 10, processes=first)
    assert max(p.name for p in tmp_path.glob("step-*")) == "step-00000008"
    assert _run(*where, processes=then) == pytest.approx(alone["adamw"], abs=1e-5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    _run("--folder", folder)
    return folder


@pytest.mark.parametrize(
    "moment", [("--kill", 1), ("--kill", 8), ("--kill", 11), ("--kill-in-save", 12), ("--kill", 19)]
)
def test_a_killed_run_ends_with_the_same_bits(undisturbed, tmp_path, moment):
    _run("--folder", tmp_path / "killed", *moment, expect=-signal.SIGKILL)
    _run("--folder", tmp_path / "killed")
    states = [_weights(folder / "step-00000020") for folder in (undisturbed, tmp_path / "killed")]
    assert states[0].keys() == states[1].keys() and states[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not list((tmp_path / "killed").glob(".*.part"))


def _weights(path):
    from plm_tutorial.training import checkpoints, make_optimizers
    from tests.training.toy import make_model

    model = make_model(seed=5)
    checkpoints.load(path, model, make_optimizers(model, lr=1e-2))
    return model.state_dict()
