"""Execute the pages whose run is out of date, and build the HTML: what `make book` and `make test` call.

In: the repository. Out: `out/executed/<scale>-<seed>/` (each page with its outputs and the record of what its run
used), `out/stage/` (the book's sources with those pages) and `out/en/html/`.

A page's run is reused as long as nothing that it depended on has changed: its code cells, the modules of
`plm_tutorial` that its kernel had loaded, the assets and artifacts it read, the lock file, Python, scale and seed.

    python tools/book.py                 execute what is out of date, then build
    python tools/book.py execute [--all] [PAGE ...]
    python tools/book.py html
    python tools/book.py seeds 0 1 2 3 4 [PAGE ...]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"
STAGE = OUT / "stage"
HTML = OUT / "en" / "html"
LOCK = ROOT / "requirements" / "lock.txt"
SOURCES = ["_config.yml", "_toc.yml", "conf.py", "index.md", "references.bib", "_static", "chapters",
           "reference", "tools/book_extension.py"]  # fmt: skip
WORKERS = 2

sys.path.insert(0, str(ROOT / "tools"))
import book_extension  # noqa: E402
from book_extension import Run, read_run  # noqa: E402

from plm_tutorial import assets, runtime  # noqa: E402

SEEDS_RECORD = ROOT / book_extension.SEEDS_RECORD
RECORD_CELL = "from plm_tutorial import runtime\n\nruntime.page_record()"


def notebooks() -> list[str]:
    """Return the notebooks of _toc.yml, as paths relative to the repository, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [f"{name}.ipynb" for name in files if (ROOT / f"{name}.ipynb").exists()]


def executed_path(page: str) -> Path:
    """Return where the executed copy of ``page`` is kept for the current scale and seed."""
    return OUT / "executed" / f"{runtime.scale()}-{runtime.seed()}" / page


# --- is a run still good? ---------------------------------------------------------------------------------------------


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def code_sha256(notebook: nbformat.NotebookNode) -> str:
    """Return a hash of what the kernel is given; a change of prose does not alter it."""
    return text_sha256("\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))


def environment_sha256() -> str:
    """Return a hash of what every page depends on besides its own code."""
    record_code = text_sha256(RECORD_CELL)
    return text_sha256(f"{runtime.file_sha256(LOCK)} {sys.version} {record_code}")


def outdated(page: str) -> str | None:
    """Return why the kept run of ``page`` cannot be used, or None if it can."""
    path = executed_path(page)
    if not path.exists():
        return "not run yet"
    kept = nbformat.read(path, as_version=4)
    record = read_run(path, page).record
    if record is None:
        return "its run left no record"
    if kept.metadata.get("plm_code") != code_sha256(_read_source(page)):
        return "its code changed"
    if kept.metadata.get("plm_environment") != environment_sha256():
        return "the lock file or Python changed"
    for name, sha in record["modules"].items():
        spec = importlib.util.find_spec(name)
        if spec is None or runtime.file_sha256(Path(spec.origin)) != sha:
            return f"{name} changed"
    for key, sha in record["reads"].items():
        if _current_sha256(key) != sha:
            return f"{key} changed"
    return None


def _current_sha256(key: str) -> str | None:
    """Return the hash that a file read by a page has now: a registered asset's, or that of a file in the repository."""
    name, _, file = key.partition("/")
    if name in assets.REGISTRY:
        return next((entry.sha256 for entry in assets.REGISTRY[name].files if entry.name == file), None)
    return runtime.file_sha256(ROOT / key) if (ROOT / key).exists() else None


def _read_source(page: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / page, as_version=4)


# --- execution --------------------------------------------------------------------------------------------------------


class Progress:
    """A pytest plugin: one line when a page begins, one when it ends."""

    def __init__(self, total: int):
        self.total, self.done = total, 0

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        print(f"          {_page_of(nodeid)} …", flush=True)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call":
            return
        self.done += 1
        word = "failed after" if report.failed else "ran in"
        left = self.total - self.done
        print(f"[{self.done:2d}/{self.total}] {_page_of(report.nodeid)} {word} {report.duration:.0f} s, {left} left")
        sys.stdout.flush()


def _page_of(nodeid: str) -> str:
    return re.split(r"/?run-[^/]+/", nodeid.split("::")[0])[-1]


def execute(pages: list[str]) -> int:
    """Run ``pages`` through nbmake, two at a time with one thread each; keep those that pass.

    Returns:
        pytest's exit code.
    """
    if not pages:
        return 0  # without a path pytest would run every test there is
    import pytest

    pages = sorted(pages, key=_last_seconds, reverse=True)  # the slowest first, so that the end is not one long page
    os.environ.update(
        OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", PYDEVD_DISABLE_FILE_VALIDATION="1"
    )
    arguments = ["--nbmake", "--overwrite", "--nbmake-timeout=300", "-p", "no:cacheprovider", "-q", "--no-header"]
    arguments += ["-n", str(min(WORKERS, len(pages))), "--dist", "worksteal", "--rootdir", str(ROOT)]
    OUT.mkdir(exist_ok=True)
    # A folder of its own, so that two commands at once do not get into each other's way.
    with tempfile.TemporaryDirectory(prefix="run-", dir=OUT) as name:
        folder = Path(name)
        for page in pages:
            _write_with_record_cell(page, folder / page)
        code = pytest.main(arguments + [str(folder / page) for page in pages], plugins=[Progress(len(pages))])
        for page in pages:
            if _passed(folder / page):
                executed_path(page).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / page, executed_path(page))
    return int(code)


def _write_with_record_cell(page: str, target: Path) -> None:
    """Write the notebook to execute: the page, and a last cell that records what the run used."""
    notebook = _read_source(page)
    notebook.metadata["plm_code"] = code_sha256(notebook)
    notebook.metadata["plm_environment"] = environment_sha256()
    notebook.cells.append(nbformat.v4.new_code_cell(RECORD_CELL, metadata={"tags": ["remove-cell"]}))
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def _passed(path: Path) -> bool:
    """Return whether the last cell, which writes the page record, was reached."""
    return read_run(path, "").record is not None


def _last_seconds(page: str) -> float:
    path = executed_path(page)
    seconds = read_run(path, page).seconds if path.exists() else None
    return float("inf") if seconds is None else seconds


def execute_outdated() -> int:
    """Execute the pages whose runs are out of date, saying why for each."""
    reasons = {page: outdated(page) for page in notebooks()}
    stale = [page for page, reason in reasons.items() if reason]
    print(f"{len(reasons) - len(stale)} of {len(reasons)} pages are up to date")
    for page in stale:
        print(f"          {page}: {reasons[page]}")
    return execute(stale)


# --- HTML -------------------------------------------------------------------------------------------------------------


def stage() -> None:
    """Lay out `out/stage`: the sources, with each notebook's outputs from its kept run."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for name in SOURCES:
        source, target = ROOT / name, STAGE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        else:
            shutil.copy2(source, target)
    for page in notebooks():
        if reason := outdated(page):
            raise SystemExit(f"{page}: {reason}; run `make book`, which executes it first")
        nbformat.write(_with_outputs(page), STAGE / page)


def _with_outputs(page: str) -> nbformat.NotebookNode:
    """Return the notebook as it is now, its outputs taken from the kept run (whose prose may be older)."""
    current, kept = _read_source(page), nbformat.read(executed_path(page), as_version=4)
    ran = [cell for cell in kept.cells if cell.cell_type == "code"]
    code = [cell for cell in current.cells if cell.cell_type == "code"]
    for cell, old in zip(code, ran, strict=False):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
        cell.metadata["execution"] = old.metadata.get("execution", {})
    current.cells.append(ran[-1])  # the page record
    return current


def build_html() -> Path:
    """Build the HTML, warnings being errors, unless it is there already; return the path of its first page."""
    stage()
    key, stamp = _stage_sha256(), OUT / "en" / "key"
    index = HTML / "index.html"
    if index.exists() and stamp.exists() and stamp.read_text() == key:
        print("the HTML is up to date")
        return index
    stamp.unlink(missing_ok=True)
    shutil.rmtree(OUT / "en", ignore_errors=True)  # a page that left the book must not stay in it
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-E", "-W", "-n", "--keep-going", "-q"]
    command += ["-D", "nb_execution_mode=off", "-d", str(OUT / "en" / "doctrees"), str(STAGE), str(HTML)]
    if subprocess.run(command).returncode:
        raise SystemExit("the book has warnings (above); they count as errors")
    stamp.write_text(key)
    return index


def _stage_sha256() -> str:
    """Return a hash of everything the HTML is made from: the stage, the package (API pages) and the lock."""
    files = [path for path in sorted(STAGE.rglob("*")) if path.is_file()]
    files += [path for path in sorted((ROOT / "plm_tutorial").rglob("*")) if path.suffix in {".py", ".js", ".css"}]
    lines = [f"{path.relative_to(ROOT)} {runtime.file_sha256(path)}" for path in files]
    return text_sha256("\n".join([environment_sha256(), *lines]))


# --- other seeds ------------------------------------------------------------------------------------------------------


def run_seeds(seeds: list[int], pages: list[str]) -> int:
    """Run ``pages`` under each seed and write what became of their claims to `reference/seeds.json`."""
    failed = 0
    for seed in seeds:
        os.environ["PLM_SEED"] = str(seed)
        stale = [page for page in pages if outdated(page)]
        print(f"seed {seed}: {len(stale)} pages to run")
        failed += execute(stale) != 0 if stale else 0
    record = json.loads(SEEDS_RECORD.read_text(encoding="utf-8")) if SEEDS_RECORD.exists() else {}
    for page in pages:
        record[page.removesuffix(".ipynb")] = _seed_record(page, seeds)
    SEEDS_RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(failed > 0)


def _seed_record(page: str, seeds: list[int]) -> dict:
    """Return, for one page, each claim's value and whether it held, by seed."""
    claims: dict[str, dict] = {}
    for seed in seeds:
        os.environ["PLM_SEED"] = str(seed)
        path = executed_path(page)
        run = read_run(path, page) if path.exists() and outdated(page) is None else Run(page, [], None, None)
        for entry in run.claims:
            claims.setdefault(entry.statement, {})[str(seed)] = {"value": entry.value, "held": entry.held}
    return {"code": code_sha256(_read_source(page)), "seeds": seeds, "claims": claims}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    execution = commands.add_parser("execute")
    execution.add_argument("--all", action="store_true", help="also the pages that are up to date")
    execution.add_argument("pages", nargs="*")
    commands.add_parser("html")
    other_seeds = commands.add_parser("seeds")
    other_seeds.add_argument("seeds", nargs="+", type=int)
    other_seeds.add_argument("--pages", nargs="*", default=None)
    arguments = parser.parse_args()

    if arguments.command == "seeds":
        return run_seeds(arguments.seeds, arguments.pages or notebooks())
    if arguments.command == "execute":
        chosen = arguments.pages or notebooks()
        return execute(chosen if arguments.all else [page for page in chosen if outdated(page)])
    started = time.monotonic()
    if arguments.command is None and (code := execute_outdated()):
        return code
    index = build_html()
    print(f"The book is ready after {time.monotonic() - started:.0f} s: {index}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
