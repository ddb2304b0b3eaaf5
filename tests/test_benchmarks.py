"""The benchmarks run, with tiny sizes, and leave a record with the fields that they promise."""

import runpy
import sys

import pytest

from plm_tutorial import records


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
    try:
        record = records.recorded(name)
    except records.RecordError:
        pytest.skip(f"not recorded yet: python benchmarks/{name}.py")
    assert _fields(name) <= record.scores.keys()
