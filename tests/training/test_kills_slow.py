"""Fifty runs killed at random moments, from the first import to the last file: each ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plm_tutorial.records import write_record
from plm_tutorial.runtime import file_sha256
from tests.test_pretraining import CAUSAL, write_config, write_corpus

ROOT = Path(__file__).resolve().parents[2]
KILLS, SEED = 50, 0
STEPS = {"steps": 120, "checkpoint_every": 3, "evaluate_every": 20, "optimizer": "muon"}


def start(config):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PLM_DEVICE": "cpu", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "plm_tutorial.cli", "pretrain", "--config", str(config)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(config):
    process = start(config)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-3000:]


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)


def where(run):
    """Say what was being done when the run was killed, from what lies in its folder."""
    if (run / "record.json").exists():
        return "after everything"
    if (run / "model.safetensors").exists() or list(run.glob("*export*")):
        return "while the model was written"
    if list(run.glob("checkpoints/.*.part")):
        return "while a checkpoint was written"
    if list(run.glob("checkpoints/step-*")):
        return "between checkpoints"
    return "before the first checkpoint"


def kill_runs(folder, n, seed):
    """Kill n runs and let each go on; return how many ended with the weights of an undisturbed one, and the moments."""
    write_corpus(folder / "corpus.jsonl")
    straight = folder / "straight"
    config = write_config(folder, CAUSAL, training=STEPS, run={"folder": str(straight)})
    process = start(config)
    wait_for(straight, process)  # before the folder is there, a kill could damage nothing
    begun = time.perf_counter()
    wait_for(straight / "record.json", process)
    lasts = time.perf_counter() - begun
    process.communicate(timeout=600)
    expected = file_sha256(straight / "model.safetensors")

    generator, same, moments = random.Random(seed), 0, {}
    for number in range(n):
        run = folder / f"run-{number}"
        config = write_config(folder, CAUSAL, training=STEPS, run={"folder": str(run)})
        process = start(config)
        wait_for(run, process)
        time.sleep(generator.uniform(0, lasts))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)  # 0: it was faster than the undisturbed run, and done
        moment = where(run)
        moments[moment] = moments.get(moment, 0) + 1
        finish(config)
        same += file_sha256(run / "model.safetensors") == expected
        assert not list(run.rglob("*.part")) and not list(run.glob("*export*"))
    return same, moments


@pytest.mark.slow
def test_every_killed_run_ends_with_the_same_bits(tmp_path):
    same, moments = kill_runs(tmp_path, KILLS, SEED)
    scores = {"runs killed": KILLS, "ended with the same bits": same}
    scores |= {f"killed {moment}": number for moment, number in sorted(moments.items())}
    data = {"corpus.jsonl": file_sha256(tmp_path / "corpus.jsonl")}
    command = "python -m pytest -m slow tests/training/test_kills_slow.py"
    path = write_record("random_kills", scores, command=command, data=data, seeds=[SEED])
    assert json.loads(path.read_text())["scores"]["ended with the same bits"] == KILLS
