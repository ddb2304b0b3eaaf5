"""The built book and its pages."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import book  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.book)


def page_names() -> list[str]:
    """The pages a reader can reach: those of the table of contents, the search page and the index."""
    if not book.HTML.exists():
        return []
    ours = [path for path in book.HTML.rglob("*.html") if not {"_modules", "_static"} & set(path.parts)]
    return sorted(str(path.relative_to(book.HTML)) for path in ours)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages."""
    if not (book.HTML / "index.html").exists():
        pytest.fail("the book is not built: run `make book` first")
    return book.HTML
