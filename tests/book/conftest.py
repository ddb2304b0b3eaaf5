"""The built book: its pages, and a browser that lets nothing out."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import book  # noqa: E402

CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


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
