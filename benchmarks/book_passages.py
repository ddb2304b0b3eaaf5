"""Freeze the prose of the chapters as plain text, one line of JSON for each section.

    python benchmarks/book_passages.py          a second; writes artifacts/book_passages/

In: the notebooks. Out: ``passages.jsonl`` with id, chapter, title, link and text of each section, and a record with its
hash. Code, outputs, quizzes and exercises are left out (a quiz's wrong answers are sentences, too), and so are
summaries and reading lists, which say again what a section says. Displayed formulas are dropped; short ones become
plain text. The snapshot stays as it is when the chapters change: questions point into it.
"""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentParser
from pathlib import Path

from docutils.nodes import make_id

from plm_tutorial.records import artifacts, write_record
from plm_tutorial.runtime import file_sha256

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = (*range(9), 13, 14, 15, 27)
LEFT_OUT = ("Summary", "Exercises", "Further reading")
SIGNS = {
    "cdot": "·", "times": "×", "approx": "≈", "beta": "β", "alpha": "α", "varepsilon": "ε", "sigma": "σ",
    "theta": "θ", "omega": "ω", "mu": "μ", "tau": "τ", "lambda": "λ", "gamma": "γ", "eta": "η", "ell": "ℓ",
    "Delta": "Δ", "delta": "δ", "pi": "π", "chi": "χ", "Phi": "Φ", "infty": "∞", "le": "≤", "ge": "≥",
    "ll": "≪", "pm": "±", "dots": "…", "sum": "Σ", "top": "ᵀ", "in": "∈", "odot": "⊙", "propto": "∝",
    "partial": "∂", "nabla": "∇", "leftarrow": "←", "mid": "|", "lceil": "⌈", "rceil": "⌉", "lfloor": "⌊",
    "rfloor": "⌋", "lVert": "‖", "rVert": "‖", "setminus": "∖", "prod": "Π",
}  # fmt: skip


def authors() -> dict[str, str]:
    """Return how each source of the bibliography is named in a sentence."""
    named = {}
    for entry in re.split(r"\n@\w+\{", (ROOT / "references.bib").read_text(encoding="utf-8"))[1:]:
        key = entry.split(",", 1)[0].strip()
        people = re.search(r"author\s*=\s*\{(.*?)\},?\s*\n", entry, re.S)
        year = re.search(r"year\s*=\s*\{?(\d{4})", entry)
        if people:
            names = [re.sub(r"[{}\\'\"^~`]", "", one).split(",")[0].strip() for one in people[1].split(" and ")]
            who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
            named[key] = f"{who} ({year[1]})" if year else who
    return named


def plain_formula(tex: str) -> str:
    """Return a short formula as a reader would type it."""
    tex = re.sub(r"\\sqrt\{([^{}]*)\}", lambda m: f"√{m[1]}" if len(m[1]) < 4 else f"√({m[1]})", tex)
    tex = re.sub(r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", tex)
    tex = re.sub(
        r"\\(?:mathbf|text|operatorname|mathrm|mathcal|mathbb|hat|tilde|bar|boldsymbol)\{([^{}]*)\}", r"\1", tex
    )
    tex = re.sub(r"\\(?:big|Big|left|right|quad|qquad)(?![a-zA-Z])", "", tex)
    tex = re.sub(r"\\([a-zA-Z]+)", lambda m: SIGNS.get(m[1], m[1]), tex)
    tex = re.sub(r"[_^]\{([^{}]*)\}", lambda m: (m[0][0] if len(m[1]) > 0 else "") + m[1], tex)
    return re.sub(r"\s+", " ", re.sub(r"\\[,;:! ]?", "", tex).replace("{", "").replace("}", "")).strip()


def table_row(match: re.Match) -> str:
    """Return a row of a table as a line of its own."""
    return "\n" + ", ".join(cell.strip() for cell in match[1].split("|") if cell.strip()) + "\n"


def plain(text: str, named: dict[str, str]) -> str:
    """Return the paragraphs of MyST Markdown as plain lines."""
    text = re.sub(r"^(`{3,}|:{3,})\{?.*?^\1\s*$", "", text, flags=re.M | re.S)  # fences: code, quizzes, exercises
    text = re.sub(r"\$\$.*?\$\$(\s*\(eq-[\w-]+\))?", "", text, flags=re.S)
    text = re.sub(r"`([^`$]+)`", lambda m: m[0].replace("$", "＄"), text)
    text = re.sub(r"\$([^$]+)\$", lambda m: plain_formula(m[1]), text).replace("＄", "$")

    def cited(match: re.Match) -> str:
        return " and ".join(named.get(key.strip(), key.strip()) for key in match[1].split(","))

    text = re.sub(r"\s*\{cite:p\}`[^`]*`", "", text)
    text = re.sub(r"\{cite:t\}`([^`]*)`", cited, text)
    text = re.sub(r"\{term\}`([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", text)
    text = re.sub(r"\{numref\}`fig[^`]*`", "the figure", text)
    text = re.sub(r"\{numref\}`[^`]*`", "the table", text)
    text = re.sub(r"\{eq\}`[^`]*`", "the equation", text)
    text = re.sub(r"\{glue:text\}`[^`]*`", "(a measured number)", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = text.replace("\\*", "×")
    text = re.sub(r"(?<![\w*])\*{1,2}([^*]+?)\*{1,2}(?![\w*])", r"\1", text)
    text = re.sub(r"^\|[-:| ]+\|\s*$", "", text, flags=re.M)
    text = re.sub(r"^\|(.*)\|\s*$", table_row, text, flags=re.M)
    blocks = re.split(r"\n\s*\n", text)
    lines = []
    for block in blocks:
        parts = re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", block) if re.match(r"\s*(?:[-*]|\d+\.) ", block) else [block]
        lines += [re.sub(r"\s+", " ", part).strip() for part in parts]
    return "\n".join(line for line in lines if line)


def anchor(title: str, seen: set[str]) -> str:
    """Return the id that Sphinx gives a heading: its words, or a running number where they are taken."""
    made = make_id(re.sub(r"[$\\{}*`]", "", title))
    if not made or made in seen:
        made = f"id{sum(one.startswith('id') and one[2:].isdigit() for one in seen) + 1}"
    seen.add(made)
    return made


def sections(path: Path, named: dict[str, str]) -> list[dict]:
    """Return the sections of a page, in its order; the text above the first heading belongs to the page's title."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found, chapter, above, seen, counter = [], "", "", set(), 0
    prose = re.sub(r"^(`{3,})(.*?)^\1\s*$", lambda m: re.sub(r"^#", " #", m[0], flags=re.M), prose, flags=re.M | re.S)
    for part in re.split(r"(?m)^(?=#{1,3} )", prose):
        heading, _, body = part.strip().partition("\n")
        level = len(heading) - len(heading.lstrip("#"))
        if not level:
            continue
        title = heading.lstrip("# ").strip()
        link = anchor(title, seen)
        shown = re.sub(r"\$([^$]+)\$", lambda m: plain_formula(m[1]), title)
        number = re.match(r"(\d+)\. ", shown)
        if level == 1:
            chapter = shown
        if level <= 2:
            above, counter = (number[1] if number else "0" if level == 1 else shown), 0
        else:
            counter += 1
        text = plain(body, named)
        if above in LEFT_OUT or not text:
            continue
        found.append(
            {
                "id": f"{path.stem[:2]}.{above}" + (f".{counter}" if level == 3 else ""),
                "chapter": chapter,
                "title": re.sub(r"^\d+\. ", "", shown),
                "link": f"chapters/{path.stem}.html#{link}",
                "text": text,
            }
        )
    return found


def main() -> None:
    ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    named, rows, data = authors(), [], {}
    for number in NUMBERS:
        folder = next(f for f in ("chapters", "drafts") if list((ROOT / f).glob(f"{number:02}_*.ipynb")))
        (path,) = (ROOT / folder).glob(f"{number:02}_*.ipynb")
        rows += sections(path, named)
        data[f"{folder}/{path.name}"] = file_sha256(path)
    target = artifacts() / "book_passages" / "passages.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(new, target)
    scores = {"chapters": len(NUMBERS), "sections": len(rows), "words": sum(len(row["text"].split()) for row in rows)}
    command = "python benchmarks/book_passages.py"
    data["passages.jsonl"] = file_sha256(target)
    print(write_record("book_passages", scores, command=command, data=data, seeds=[]), scores)


if __name__ == "__main__":
    main()
