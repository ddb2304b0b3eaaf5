"""Every built page, opened from a file in a real browser with everything outside cut off."""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.book.conftest import page_names

WIDTHS = {"light": 1280, "dark": 1280, "phone": 360}
RAW = re.compile(r"\{[a-z][a-z:_-]*\}`|^:{3,}|`{3}|\$\$|\{(exercise|solution|admonition|glossary)[a-z-]*\}", re.M)
PROSE = """() => {
  const copy = document.querySelector("main").cloneNode(true);
  copy.querySelectorAll("pre, code, script, style, mjx-container").forEach(node => node.remove());
  return copy.innerText;
}"""
IMPACTS = {"serious", "critical"}


class Visit:
    """One page opened in one look, with what it asked for and complained of."""

    def __init__(self, browser, path: Path, look: str):
        theme = "dark" if look == "dark" else "light"
        self.context = browser.new_context(viewport={"width": WIDTHS[look], "height": 900}, reduced_motion="reduce")
        self.context.add_init_script(f"localStorage.setItem('mode','{theme}');localStorage.setItem('theme','{theme}')")
        self.outside, self.errors = [], []
        self.context.route("**/*", self._gate)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")

    def _gate(self, route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser, html, request):
    name, look = request.param
    opened = Visit(browser, html / name, look)
    yield opened
    opened.close()


def looks() -> list:
    return [pytest.param((name, look), id=f"{name}-{look}") for name in page_names() for look in WIDTHS]


@pytest.mark.parametrize("visit", looks(), indirect=True)
def test_page(visit):
    page = visit.page
    assert visit.outside == [], "requests to the outside"
    assert visit.errors == [], "errors in the console"
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0, "a formula failed"
    assert page.locator(".math").count() == page.locator(".math mjx-container").count(), "a formula was not rendered"

    text = page.evaluate(PROSE)
    assert not RAW.search(text), f"raw markup in the page: {RAW.search(text).group()}"

    pictures = page.eval_on_selector_all(
        "main img", "all => all.map(i => [i.src.slice(-40), i.complete && i.naturalWidth > 0, (i.alt || '').trim()])"
    )
    for source, shown, alt in pictures:
        assert shown, f"{source} is not shown"
        assert len(alt) > 10 or "_static" in source, f"{source} has no description"

    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], f"the page is {width} px wide"

    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in IMPACTS]
    problems = [(v["id"], node["html"][:160]) for v in found for node in v["nodes"]]
    assert not problems, problems


def test_there_are_pages(html):
    assert {"index.html", "chapters/02_tokenization.html", "reference/claims.html", "search.html"} <= set(page_names())


@pytest.mark.parametrize("query", ["tokenization", "merge"])
def test_search_finds_the_chapter_from_a_file(browser, html, query):
    visit = Visit(browser, html / "search.html", "light")
    visit.page.goto((html / "search.html").as_uri() + f"?q={query}")
    visit.page.wait_for_selector("#search-results li", timeout=10_000)
    visit.page.wait_for_function("!document.querySelector('#search-summary')?.textContent.includes('Searching')")
    links = visit.page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
    assert any("02_tokenization" in link for link in links), links
    visit.close()


def test_theme_switch_changes_the_theme(browser, html):
    visit = Visit(browser, html / "index.html", "light")
    seen = set()
    for _ in range(3):  # the button goes round light, dark and the system's choice
        visit.page.locator("button.theme-switch-button:visible").first.click()
        seen.add(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2
    visit.close()
