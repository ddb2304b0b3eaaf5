"""runtime: environment variables in, plain values out; nothing heavy at import."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from plm_tutorial import runtime


def test_defaults(monkeypatch):
    for name in ("PLM_SCALE", "PLM_SEED", "PLM_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.scale() == "cpu"
    assert runtime.seed() == 0
    assert runtime.home() == Path.home() / ".cache" / "plm_tutorial"


def test_values_are_read_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PLM_SCALE", "smoke")
    monkeypatch.setenv("PLM_SEED", "7")
    monkeypatch.setenv("PLM_HOME", str(tmp_path))
    assert runtime.by_scale(smoke=1, cpu=2, gpu=3) == 1
    assert runtime.seed() == 7
    assert runtime.home() == tmp_path


@pytest.mark.parametrize("value", ["big", "", "CPU"])
def test_wrong_scale_says_what_is_allowed(monkeypatch, value):
    monkeypatch.setenv("PLM_SCALE", value)
    with pytest.raises(ValueError, match="PLM_SCALE is .*; set it to one of smoke, cpu, gpu"):
        runtime.scale()


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "2147483648"])
def test_wrong_seed_says_what_is_allowed(monkeypatch, value):
    monkeypatch.setenv("PLM_SEED", value)
    with pytest.raises(ValueError, match="PLM_SEED is .* whole number"):
        runtime.seed()


def test_set_seed_makes_all_generators_repeat_and_seeds_differ(monkeypatch):
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    monkeypatch.setenv("PLM_SEED", "3")
    runtime.set_seed()
    first = draw()
    runtime.set_seed()
    assert draw() == first
    assert runtime.set_seed(offset=1) == 4
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_unavailable_device_names_those_there_are(monkeypatch):
    monkeypatch.delenv("PLM_DEVICE", raising=False)
    assert runtime.device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'tpu' is not available here; this machine has: cpu"):
        runtime.device("tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_preferred(monkeypatch):
    monkeypatch.delenv("PLM_DEVICE", raising=False)
    assert runtime.device().type == "cuda"


def test_page_record_lists_what_was_loaded_and_read(monkeypatch):
    monkeypatch.setattr(runtime, "_reads", {})
    runtime.record_read("asset/file", "0" * 64)
    record = runtime.page_record()
    assert record.modules["plm_tutorial.runtime"] == runtime.file_sha256(Path(runtime.__file__))
    assert record.reads == {"asset/file": "0" * 64}
    assert record.peak_memory > 10_000_000
    assert record._repr_mimebundle_()[1][runtime.PAGE_KEY]["seed"] == runtime.seed()


def test_importing_the_package_is_light():
    code = (
        "import sys, plm_tutorial; print([m for m in ('torch', 'numpy', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_unknown_attribute_of_the_package_is_an_attribute_error():
    import plm_tutorial

    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        plm_tutorial.load_everything  # noqa: B018


def test_freed_memory_is_kept():
    code = """
import resource, sys
from plm_tutorial import runtime
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    before = faults()
    for _ in range(20):
        b"x" * 2**26  # beyond what the C library keeps by itself
    return faults() - before
work()
print(work(), int(runtime.keep_freed_memory()), work() and work())
"""
    before, arranged, after = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    if not arranged:
        pytest.skip("not the GNU C library")
    assert after < before / 10, "the system still hands out fresh pages"
