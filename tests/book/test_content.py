"""What the built pages hold: runs, claims, solutions, links, figures — read from files, without a browser."""

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import book
import nbformat
import pytest
from book_extension import read_run

from plm_tutorial.exercises import CHECK_KEY
from tests.book.conftest import page_names

NOTEBOOKS = book.notebooks()
PREFACE = "chapters/00_preface.ipynb"
CHAPTERS = [page for page in NOTEBOOKS if page.startswith("chapters/")]


def staged(page: str) -> nbformat.NotebookNode:
    return nbformat.read(book.STAGE / page, as_version=4)


def code_cells(page: str) -> list:
    return [cell for cell in staged(page).cells if cell.cell_type == "code"]


def prose(page: str) -> str:
    return "\n\n".join(cell.source for cell in staged(page).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_every_cell_was_executed_and_left_a_record(page):
    assert all(cell.execution_count for cell in code_cells(page) if cell.source.strip())
    run = read_run(book.STAGE / page, page)
    assert run.record and run.seconds > 0


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_no_cell_writes_to_stderr(page):
    for cell in code_cells(page):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"{cell.source[:80]} … wrote: {output.get('text', '')[:200]}"


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_exercise_has_a_solution_that_passes_and_an_answer_cell_that_is_silent(page):
    labels = re.findall(r"\{exercise-start\}\n:label: (\S+)", prose(page))
    solved = re.findall(r"\{solution-start\} (\S+)", prose(page))
    assert labels and labels == solved
    outcomes: dict[str, list[str]] = {label: [] for label in labels}
    for cell in code_cells(page):
        for label in re.findall(r'\bcheck\("([^"]+)"', cell.source):
            results = [o.metadata[CHECK_KEY] for o in cell.outputs if CHECK_KEY in o.get("metadata", {})]
            solution = "solution" in cell.metadata.get("tags", [])
            outcome = [result["outcome"] for result in results if result["label"] == label]
            assert outcome == (["right"] if solution else []), f"{label}: {results or 'no result'}"
            outcomes[label].append("solution" if solution else "answer")
    checked = {label: kinds for label, kinds in outcomes.items() if kinds}
    assert all(sorted(kinds) == ["answer", "solution"] for kinds in checked.values()), outcomes
    assert len(checked) >= len(labels) - 1, "at most one open-ended exercise may go without a check"


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_has_its_parts(page):
    text = prose(page)
    later = int(page.split("/")[1][:2]) > 9
    exercises, quizzes = (2, 1) if page == PREFACE else (3, 2) if later else (5, 4)
    assert len(re.findall(r"\{exercise-start\}", text)) >= exercises
    assert len(re.findall(r"\{admonition\} Check yourself", text)) >= quizzes
    assert 4 <= len(read_run(book.STAGE / page, page).claims)
    assert re.search(r"^## Summary", text, re.M) and re.search(r"^## Exercises", text, re.M)
    assert "{cite" in text


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_figures_have_caption_name_and_description(page):
    for cell in code_cells(page):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            notes = cell.metadata.get("mystnb", {})
            assert notes.get("figure", {}).get("caption") and notes["figure"].get("name"), cell.source
            assert len(notes.get("image", {}).get("alt", "")) > 40, cell.source


def test_the_page_of_claims_lists_every_claim(html):
    page = (html / "reference" / "claims.html").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        for entry in read_run(book.STAGE / name, name).claims:
            target = f"{name.removesuffix('.ipynb')}.html#{entry.anchor}"
            assert f'href="{target.removeprefix("reference/")}"' in page or f'href="../{target}"' in page, entry


def test_the_run_status_lists_every_page(html):
    page = (html / "reference" / "run_status.html").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert f"{name.removeprefix('reference/').removesuffix('.ipynb')}.html" in page


def test_the_page_of_exercises_lists_every_exercise(html):
    page = (html / "reference" / "exercises.html").read_text(encoding="utf-8")
    for name in CHAPTERS:
        for label in re.findall(r"\{exercise-start\}\n:label: (\S+)", prose(name)):
            assert f'href="../{name.removesuffix(".ipynb")}.html#{label}"' in page, label


def test_claims_held_under_several_seeds_for_the_code_as_it_is():
    """The committed record of other seeds belongs to the chapters' present code, and every claim held in it."""
    record = json.loads(book.SEEDS_RECORD.read_text(encoding="utf-8"))
    for page in CHAPTERS:
        entry = record[page.removesuffix(".ipynb")]
        source = nbformat.read(book.ROOT / page, as_version=4)
        assert entry["code"] == book.code_sha256(source), f"{page} changed since; run `make seeds`"
        assert len(entry["seeds"]) >= 5
        for claim in read_run(book.STAGE / page, page).claims:
            held = {seed: run["held"] for seed, run in entry["claims"][claim.statement].items()}
            assert held == {str(seed): True for seed in entry["seeds"]}, claim.statement


class Links(HTMLParser):
    """Collects the targets and the anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.duplicates: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" and value:
                self.duplicates |= {value} & self.ids
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.add(value)


def test_every_internal_link_leads_somewhere(html):
    parsed = {path.resolve(): Links(path.read_text(encoding="utf-8")) for path in html.rglob("*.html")}
    broken = []
    for name in page_names():
        path = (html / name).resolve()
        for target in parsed[path].targets:
            if re.match(r"[a-z]+:", target):
                continue
            file, fragment = urldefrag(target)
            there = (path.parent / unquote(file.split("?")[0])).resolve() if file else path
            if there.is_dir():
                there = there / "index.html"
            if not there.exists() or (fragment and there in parsed and unquote(fragment) not in parsed[there].ids):
                broken.append(f"{name} -> {target}")
    assert not broken, broken


@pytest.mark.parametrize("name", page_names())
def test_ids_are_unique_and_pages_are_light(html, name):
    text = (html / name).read_text(encoding="utf-8")
    assert not Links(text).duplicates
    assert len(text.encode()) < 1_500_000
