"""tools/book.py: a page is executed again when, and only when, something it depends on has changed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "a": ["from plm_tutorial.claims import claim", "claim('a holds', 1, '<', 2)"],
    "b": ["from plm_tutorial import runtime", "runtime.seed()"],
}

TOC = """\
format: jb-book
root: index
parts:
  - chapters:
      - file: chapters/a
      - file: chapters/b
"""
OUTDATED = (
    "import sys; sys.path.insert(0, 'tools'); import book; print({p: book.outdated(p) for p in book.notebooks()})"
)


class Book:
    """A tiny book of two pages with its own copy of the package."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("plm_tutorial", "tools", "requirements"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        toc = (
            "format: jb-book\nroot: index\nparts:\n  - chapters:\n      - file: chapters/a\n      - file: chapters/b\n"
        )
        (folder / "_toc.yml").write_text(toc)
        (folder / "chapters").mkdir()
        for name, cells in PAGES.items():
            self.write(name, cells)

    def write(self, name: str, cells: list[str], prose: str = "# Page") -> None:
        nodes = [nbformat.v4.new_markdown_cell(prose), *map(nbformat.v4.new_code_cell, cells)]
        for node in nodes:
            del node["id"]
        notebook = nbformat.v4.new_notebook(cells=nodes, nbformat_minor=4)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / "chapters" / f"{name}.ipynb")

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        environment.pop("PYTEST_XDIST_WORKER", None)
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def execute(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self.python("tools/book.py", "execute", *arguments, **environment)

    def outdated(self, **environment: str) -> dict[str, str]:
        ran = self.python("-c", OUTDATED, **environment)
        assert ran.returncode == 0, ran.stderr
        return {Path(page).stem: reason for page, reason in ast.literal_eval(ran.stdout).items() if reason}


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Book:
    book = Book(tmp_path_factory.mktemp("book"))
    assert book.outdated() == {"a": "not run yet", "b": "not run yet"}
    ran = book.execute()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout and "[ 2/2]" in ran.stdout and "0 left" in ran.stdout
    return book


@pytest.fixture
def book(executed, tmp_path) -> Book:
    copy = tmp_path / "book"
    shutil.copytree(executed.folder, copy)
    fresh = Book.__new__(Book)
    fresh.folder = copy
    return fresh


def test_nothing_changed_nothing_to_do(book):
    assert book.outdated() == {}


def test_a_changed_module_concerns_just_the_pages_that_loaded_it(book):
    path = book.folder / "plm_tutorial" / "claims.py"
    path.write_text(path.read_text().replace("def _plain", "def _plain_number").replace("_plain(", "_plain_number("))
    assert book.outdated() == {"a": "plm_tutorial.claims changed"}


def test_prose_does_not_count_and_code_does(book):
    book.write("a", PAGES["a"], prose="# Page\n\nBetter words.")
    book.write("b", ["from plm_tutorial import runtime", "runtime.scale()"])
    assert book.outdated() == {"b": "its code changed"}


def test_another_seed_or_scale_is_another_run(book):
    assert set(book.outdated(PLM_SEED="1")) == {"a", "b"}
    assert set(book.outdated(PLM_SCALE="smoke")) == {"a", "b"}


def test_a_changed_lock_concerns_every_page(book):
    path = book.folder / "requirements" / "lock.txt"
    path.write_text(path.read_text() + "another-package==1.0\n")
    assert set(book.outdated().values()) == {"the lock file or Python changed"}


def test_a_failing_page_fails_the_run_and_leaves_the_last_good_one(book):
    book.write("b", ["from plm_tutorial import runtime", "1 / 0"])
    ran = book.execute()
    assert ran.returncode == 1 and "ZeroDivisionError" in ran.stdout and "chapters/b.ipynb failed after" in ran.stdout
    assert book.outdated() == {"b": "its code changed"}


def test_html_is_not_built_from_an_outdated_run(book):
    book.write("b", ["2"])
    for name in ("_config.yml", "conf.py", "references.bib", "index.md"):
        shutil.copy(ROOT / name, book.folder / name)
    for name in ("_static", "reference"):
        (book.folder / name).mkdir()
    ran = book.python("tools/book.py", "html")
    assert ran.returncode == 1 and "chapters/b.ipynb: its code changed; run `make book`" in ran.stderr


def test_seeds_are_recorded(book):
    (book.folder / "reference").mkdir()
    ran = book.python("tools/book.py", "seeds", "0", "1", "--pages", "chapters/a.ipynb")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    record = json.loads((book.folder / "reference" / "seeds.json").read_text())["chapters/a"]
    assert record["seeds"] == [0, 1]
    assert record["claims"]["a holds"] == {"0": {"value": 1, "held": True}, "1": {"value": 1, "held": True}}
