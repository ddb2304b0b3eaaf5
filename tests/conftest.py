"""What the tests share: where the repository and the built book are, and when a test may be skipped."""

import functools
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Two workers on two cores: one thread each. Set before anything imports torch or numpy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def ax():
    """Axes in the style of the book."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from plm_tutorial.figures import use_style

    with matplotlib.rc_context():
        use_style()
        yield pyplot.subplots()[1]
        pyplot.close("all")


def words(ax) -> list[str]:
    """Return what is written into axes."""
    return [text.get_text() for text in ax.texts]


@pytest.fixture
def study_script(root, monkeypatch, tmp_path):
    """Return a function that takes a study's name and returns its script as a function of its arguments.

    Its runs and its record go to a folder of their own.
    """
    from plm_tutorial import records

    def load(name: str):
        monkeypatch.syspath_prepend(root / "benchmarks")
        tokenizer = records.artifact_file("reviews_causal", "tokenizer.json")
        monkeypatch.setattr("plm_tutorial.experiments.review_tokens._tokenizer_file", lambda: tokenizer)
        monkeypatch.setattr(records, "artifacts", lambda: tmp_path / "artifacts")
        script = runpy.run_path(str(root / "benchmarks" / f"{name}.py"))
        monkeypatch.chdir(tmp_path)

        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
            script["main"]()
            return records.recorded(name)

        run.script = script
        return run

    return load


def recorded_or_skip(name: str):
    """Return a recorded study; until there is one its tests have nothing to look at."""
    from plm_tutorial import records

    try:
        return records.recorded(name)
    except records.RecordError:
        pytest.skip(f"not recorded yet: python benchmarks/{name}.py")


CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven over the pages; required in CI, skipped elsewhere when there is none."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("PLM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        if os.environ.get("CI"):
            pytest.fail("CI needs a browser: install Chromium or set PLM_CHROMIUM to its path")
        pytest.skip("no Chromium: install it, or set PLM_CHROMIUM to a browser's path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@functools.cache
def _registry_answers() -> bool:
    """Return whether pip can fetch a package here."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries", "0", "--no-cache-dir"]
        command += ["--timeout", "10", "-d", folder, "lazy-importer==0.1.0"]
        return subprocess.run(command, capture_output=True).returncode == 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    # On a reader's machine without a network these tests have nothing to say; in CI a skip would hide a failure.
    if item.get_closest_marker("network") and not os.environ.get("CI") and not _registry_answers():
        pytest.skip("no package registry can be reached")
