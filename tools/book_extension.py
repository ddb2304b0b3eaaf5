"""What the book adds to Sphinx: pages made from the runs of other pages, and each page's cost under its title.

In: the executed notebooks as myst-nb keeps them, whose outputs carry claims and page records (`plm_tutorial.claims`,
`plm_tutorial.runtime`), and the committed record of other seeds. Out: the directives ``{claims}`` and
``{run-status}``, a line "This page ran in …" under the title of each executed page. And ``{exercises}``: lists of all
exercises, made from the pages' sources.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from plm_tutorial.claims import CLAIM_KEY, Claim
from plm_tutorial.runtime import PAGE_KEY

SEEDS_RECORD = Path("reference") / "seeds.json"


@dataclass
class Run:
    """What one executed page tells of itself."""

    docname: str
    claims: list[Claim]
    seconds: float | None  # first cell begun to last cell ended; None where timings were not recorded
    record: dict | None  # PageRecord as a dict; None in a plain `jupyter-book build`


def read_run(path: Path, docname: str) -> Run:
    """Return what the executed notebook at ``path`` says of its run."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    notes = [output.get("metadata", {}) for cell in cells for output in cell.outputs]
    claims = [Claim(**note[CLAIM_KEY]) for note in notes if CLAIM_KEY in note]
    records = [note[PAGE_KEY] for note in notes if PAGE_KEY in note]
    return Run(docname, claims, _seconds(cells), records[-1] if records else None)


def _seconds(cells: list) -> float | None:
    stamps = [stamp for cell in cells for stamp in cell.metadata.get("execution", {}).values()]
    times = [datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")) for stamp in stamps]
    return (max(times) - min(times)).total_seconds() if times else None


def runs(app: Sphinx) -> list[Run]:
    """Return the runs of all executed pages, in the book's order."""
    folder = Path(app.outdir).parent / "jupyter_execute"
    found = []
    for docname in _reading_order(app):
        path = folder / f"{docname}.ipynb"
        if app.env.doc2path(docname).endswith(".ipynb") and path.exists():
            found.append(read_run(path, docname))
    return found


def _reading_order(app: Sphinx) -> list[str]:
    order, queue = [], [app.config.root_doc]
    while queue:
        docname = queue.pop(0)
        if docname not in order:
            order.append(docname)
            queue = app.env.toctree_includes.get(docname, []) + queue
    return order


class Placeholder(nodes.General, nodes.Element):
    """Stands for a table until all pages have been read."""


class TableDirective(SphinxDirective):
    """``{claims}`` or ``{run-status}``: a table made from all runs."""

    def run(self) -> list[nodes.Node]:
        return [Placeholder(kind=self.name)]


@dataclass
class Exercise:
    """What a list of exercises says of one."""

    docname: str
    label: str
    kind: str  # "warm-up", "check" or "open-ended"
    sentence: str  # its first, in Markdown


@cache
def read_exercises(path: Path, docname: str) -> list[Exercise]:
    """Return the exercises of a page's source, in their order; a page is read once for all lists."""
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = []
    pattern = r"```\{exercise-start\}\n:label: (\S+)\n```\n+(.*?)```\{exercise-end"
    for label, text in re.findall(pattern, prose, re.DOTALL):
        lead = re.match(r"\*(Warm-up|Open-ended)\.\*\s+", text)
        kind = lead.group(1).lower() if lead else "check"
        paragraph = text[lead.end() if lead else 0 :].split("\n\n")[0].replace("\n", " ")
        first = re.match(r".+?[.?!](?=\s|$)", paragraph)
        sentence = first.group() if first else paragraph.rstrip(": ")
        sentence = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", sentence)  # links are the page's own
        found.append(Exercise(docname, label, kind, sentence))
    return found


class ExercisesDirective(SphinxDirective):
    """``{exercises} warm-up``: the exercises of one kind, by page, each with a link and its first sentence."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for page in sorted(Path(self.env.srcdir, "chapters").glob("*.ipynb")):
            docname = f"chapters/{page.stem}"
            some = [one for one in read_exercises(page, docname) if one.kind == self.arguments[0]]
            if some and docname in self.env.found_docs:
                lines += ["", f"**{{doc}}`/{docname}`**", ""]
                lines += [f"- {{ref}}`{one.label}`: {one.sentence}" for one in some]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, "exercises"), 0, box)
        return box.children


def fill_placeholders(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for placeholder in list(doctree.findall(Placeholder)):
        make = {"claims": claims_table, "run-status": status_table}[placeholder["kind"]]
        placeholder.replace_self(make(app, docname))
    if run := next((run for run in _cached_runs(app) if run.docname == docname), None):
        _insert_cost(doctree, run)


def _cached_runs(app: Sphinx) -> list[Run]:
    if not hasattr(app, "_book_runs"):
        app._book_runs = runs(app)
    return app._book_runs


def _insert_cost(doctree: nodes.document, run: Run) -> None:
    title = next(iter(doctree.findall(nodes.title)), None)
    if run.seconds is None or run.record is None or title is None:
        return
    text = f"This page ran in {run.seconds:.0f} s on one CPU core and used {_gigabytes(run.record)} of memory."
    section = title.parent
    section.insert(section.index(title) + 1, nodes.paragraph("", text, classes=["plm-cost"]))


def _gigabytes(record: dict) -> str:
    return f"{record['peak_memory'] / 1e9:.1f} GB"


def status_table(app: Sphinx, here: str) -> nodes.Node:
    """Return one row a page: seconds, memory, scale, seed."""
    rows = []
    for run in _cached_runs(app):
        seconds = "not recorded" if run.seconds is None else f"{run.seconds:.0f} s"
        record = run.record or {}
        memory = _gigabytes(record) if record else "not recorded"
        rows.append(
            [_link(app, here, run.docname), seconds, memory, record.get("scale", ""), str(record.get("seed", ""))]
        )
    return _table(["Page", "Time", "Memory", "Scale", "Seed"], rows)


def claims_table(app: Sphinx, here: str) -> nodes.Node:
    """Return one row a claim: statement, place, value and bound, seeds under which it held."""
    path = Path(app.srcdir) / SEEDS_RECORD
    seeds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = []
    for run in _cached_runs(app):
        record = seeds.get(run.docname, {}).get("claims", {})
        for entry in run.claims:
            comparison = str(entry).removeprefix(entry.statement + ": ")
            place = _link(app, here, run.docname, f"#{entry.anchor}")
            rows.append([entry.statement, place, comparison, seeds_held(record.get(entry.statement))])
    return _table(["Claim", "Where", "Value and bound", "Held under seeds"], rows)


def seeds_held(record: dict | None) -> str:
    """Return the seeds of a committed record for which the claim held, as text."""
    if not record:
        return "not yet run"
    held = [seed for seed, entry in record.items() if entry["held"]]
    return ", ".join(held) if len(held) == len(record) else f"{', '.join(held)} (of {len(record)})"


def _link(app: Sphinx, here: str, docname: str, fragment: str = "") -> nodes.Node:
    uri = app.builder.get_relative_uri(here, docname) + fragment
    title = app.env.titles[docname].astext()
    return nodes.reference("", title, refuri=uri, internal=True)


def _table(header: list[str], rows: list[list]) -> nodes.Node:
    if not rows:
        return nodes.paragraph("", "No page has been executed in this build.")
    group = nodes.tgroup(cols=len(header))
    group.extend(nodes.colspec(colwidth=1) for _ in header)
    head, body = nodes.thead(), nodes.tbody()
    head.append(_row(header))
    body.extend(_row(row) for row in rows)
    group.extend([head, body])
    table = nodes.table("", group, classes=["plm-table"])
    return nodes.container("", table, classes=["plm-scroll"])


def _row(cells: list) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        content = cell if isinstance(cell, nodes.Node) else nodes.Text(cell)
        row.append(nodes.entry("", nodes.paragraph("", "", content)))
    return row


def number_contents(doctree: nodes.document) -> None:
    """Give the bodies of exercises and solutions ids of their own; sphinx-exercise gives them all the same."""
    for number, section in enumerate(doctree.findall(nodes.section)):
        if section["ids"] and section["ids"][0] in ("exercise-content", "solution-content"):
            section["ids"] = [f"{section['ids'][0]}-{number}"]


def always_outdated(app, env, added, changed, removed) -> list[str]:
    """Rebuild the pages that are made from others whenever anything is rebuilt."""
    made = ("reference/claims", "reference/run_status", "reference/exercises")
    return [docname for docname in made if docname in env.found_docs]


def setup(app: Sphinx) -> dict:
    app.add_node(Placeholder)
    app.add_directive("claims", TableDirective)
    app.add_directive("run-status", TableDirective)
    app.add_directive("exercises", ExercisesDirective)
    app.connect("doctree-resolved", fill_placeholders)
    app.connect("doctree-resolved", lambda app, doctree, docname: number_contents(doctree))
    app.connect("env-get-outdated", always_outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
