"""Interactive figures in a real browser, opened from a file with everything outside cut off."""

import json
import random

import numpy as np
import pytest
import regex

from plm_tutorial.figures.interactive import attention_explorer, tokenizer_explorer
from plm_tutorial.figures.tokenizer_explorer import javascript_pattern
from plm_tutorial.tokenizers import BPETokenizer, train_bpe

IMPACTS = {"serious", "critical"}
TEXT = "The movie's unforgettable ending wasn't dull!\n\nNaïve café — 電影 🎬"
EXAMPLES = {"Hindi": "यह फ़िल्म बहुत अच्छी है।", "<b>&": "</script><!-- & \"quoted\" 'text'"}
REVIEWS = [
    "The movie's ending, at 2:35 a.m., wasn't what we'd expected; they're brave.",
    "I've seen it 3 times -- it's THE best film of 1999!!! (10/10)\n\nA naïve café scene, déjà vu…",
    "यह फ़िल्म बहुत अच्छी है। मुझे कहानी पसंद आई।",
    "这部电影非常好看，我很喜欢。電影很長。",
    "Фильм был скучным. فيلم جميل جدا. סרט טוב. 映画はとても面白かった。영화가 정말 재미있었다.",
    "👍🏽 👩‍👩‍👧 🏳️‍🌈 🎬🍿 e\u0301 \u0301 ﬁ ½ Ⅷ ² ٣ ௧",
]
SPACES = "".join(map(chr, [*range(0, 33), 0x7F, *range(0x80, 0xA1), 0x1680, 0x180E, *range(0x2000, 0x2010)]))
SPACES += "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\ufffe\uffff"


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return train_bpe(
        REVIEWS * 4 + ["the theme of the unforgettable movie, and then the end  \n\n"] * 3, 700, ["<|end|>"]
    )


@pytest.fixture
def visit(browser, tokenizer, tmp_path):
    """Return a function that opens a page with figures; afterwards nothing may have gone out or wrong."""
    outside, errors, contexts = [], [], []

    def gate(route):
        if route.request.url.startswith("file:"):
            return route.continue_()
        outside.append(route.request.url)
        route.abort()

    def open_page(*markups: str, theme: str = "light", width: int = 1000, scripts: bool = True):
        ground = {"light": "#fff; color: #222832", "dark": "#121212; color: #ced6dd"}[theme]
        body = "\n".join(markups or [tokenizer_explorer(tokenizer, TEXT, examples=EXAMPLES).html])
        # The variables that the book's theme sets in the dark; in the light, the figure's own values must do.
        dark = "html[data-theme=dark] { --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af; "
        dark += "--pst-color-background: #14181e; --pst-color-border: #48566b; --pst-color-primary: #3fb1c5; }"
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Figures</title>'
        style = f"<style>{dark} body {{ background: {ground}; font-family: sans-serif; margin: 16px; }}</style>"
        file = tmp_path / f"page{len(contexts)}.html"
        page_html = f'<!doctype html><html lang="en" data-theme="{theme}"><head>{head}{style}</head>'
        page_html += f"<body><main><h1>A page</h1>{body}</main></body></html>"
        file.write_text(page_html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, java_script_enabled=scripts)
        contexts.append(context)
        context.route("**/*", gate)
        page = context.new_page()
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert outside == [], "requests to the outside"
    assert errors == [], "complaints in the console"


def part(page, name: str):
    return page.locator(f'[data-part="{name}"]')


def counts(page) -> dict[str, str]:
    return dict(page.eval_on_selector_all("[data-count]", "all => all.map(n => [n.dataset.count, n.textContent])"))


def shown_ids(page) -> list[int]:
    return page.eval_on_selector_all("[role=option]", "all => all.map(n => Number(n.ariaLabel.match(/id (\\d+)$/)[1]))")


def set_merges(page, number: int) -> None:
    part(page, "merges").fill(str(number))
    part(page, "merges").press("Enter")


def with_merges(tokenizer: BPETokenizer, number: int) -> BPETokenizer:
    return BPETokenizer(tokenizer.merges[:number], tokenizer.special_tokens)


# ---- The same ids as Python ------------------------------------------------------------------------------------------

# The code points that each pattern matches.
CLASSIFY = """patterns => patterns.map(source => {
  const pattern = new RegExp(`^(?:${source})$`, "u");
  const found = [];
  for (let code = 0; code < 0xe1000; code++) {
    if (code === 0xd800) code = 0xe000; // no surrogates
    if (code === 0x40000) code = 0xe0000; // nothing is assigned between these
    if (pattern.test(String.fromCodePoint(code))) found.push(code);
  }
  return found;
})"""


@pytest.fixture
def classes(visit) -> list[tuple[set[int], set[int]]]:
    """Return the code points of \\s, \\p{L}, \\p{N} and \\p{Cn} (unassigned), each in Python and in the browser."""
    patterns = [r"\s", r"\p{L}", r"\p{N}", r"\p{Cn}"]
    there = visit().evaluate(CLASSIFY, [javascript_pattern(pattern) for pattern in patterns])
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]))
    here = [{ord(c) for c in regex.findall(pattern, every)} for pattern in patterns]
    return list(zip(here, map(set, there), strict=True))


def texts(unlike: set[int]) -> list[str]:
    """Return reviews, every kind of space in every neighbourhood, and random Unicode without the given characters."""
    rng = random.Random(0)
    spaces = [f"a{s}b{s}{s}c {s}d{s} e" for s in SPACES] + [
        "".join(rng.choices(SPACES + "ab.", k=60)) for _ in range(40)
    ]
    blocks = [(0, 0x250), (0x250, 0x3000), (0x3000, 0xD800), (0xE000, 0x10000), (0x1F000, 0x1FB00), (0x10000, 0x110000)]
    strings = []
    for number in range(240):
        low, high = blocks[number % len(blocks)]
        codes = [rng.randrange(low, high) for _ in range(40)]
        strings.append("".join(chr(c) + rng.choice(["", "", " ", "a", "'s", "\n"]) for c in codes if c not in unlike))
    words = " ".join(REVIEWS).split(" ")
    shuffled = [" ".join(rng.choices(words, k=30)) for _ in range(40)]
    return [
        "",
        "\ufeff",
        "\ufeffa",
        *REVIEWS,
        "".join(REVIEWS) * 3,
        "<|end|>",
        "a" * 500,
        " " * 300 + "x",
        *spaces,
        *strings,
        *shuffled,
    ]


def test_ids_equal_those_of_python(visit, tokenizer, classes):
    for here, there in classes[:1]:
        assert here == there, "white space"
    unassigned = classes[3][0] | classes[3][1]
    unlike = set().union(*(here ^ there for here, there in classes))
    assert unlike <= unassigned, "a character that both Unicode versions know has another class"
    many = texts(unlike)
    page = visit()
    config = json.loads(page.locator("script[type='application/json']").text_content())
    ask = """([config, texts, limit]) => {
      const tokenizer = new plmFigures.Tokenizer(config);
      return texts.map(text => tokenizer.encode(text, limit));
    }"""
    for limit in (0, 1, 17, 100, 250, len(tokenizer.merges)):
        found = page.evaluate(ask, [config, many, limit])
        python = with_merges(tokenizer, limit)
        for text, ids in zip(many, found, strict=True):
            assert ids == python.encode(text), f"with {limit} merges: {text!r}"


def test_merges_that_spell_the_same_token_share_an_id(visit):
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b"d")]
    python = BPETokenizer(merges)
    page = visit(tokenizer_explorer(python, "abc bcd abcd abd").html)
    assert shown_ids(page) == python.encode("abc bcd abcd abd")
    assert python.vocab_size == 256 + 4


def test_half_a_surrogate_pair_becomes_the_replacement_character(visit, tokenizer):
    page = visit()
    page.evaluate("""() => {
      const text = document.querySelector("[data-part=text]");
      text.value = "a\\ud83d b\\udfffc";
      text.dispatchEvent(new Event("input"));
    }""")
    assert shown_ids(page) == tokenizer.encode("a\ufffd b\ufffdc")


# ---- What the reader does --------------------------------------------------------------------------------------------


def test_script_draws_what_python_drew(visit, tokenizer):
    chips = "all => all.map(n => [n.className, n.innerHTML])"
    text = TEXT + "\t\0 \u0301\u200d\xa0<&>\" '" + "".join(REVIEWS)
    markup = tokenizer_explorer(tokenizer, text).html
    with_script, without = visit(markup), visit(markup, scripts=False)
    tokens = "[data-part=tokens] > .plm-bpe-chip"
    drawn = with_script.eval_on_selector_all(tokens, chips)
    assert len(drawn) > 100 and drawn == without.eval_on_selector_all(tokens, chips)
    assert counts(with_script) == counts(without)


def test_without_scripts_tokens_show_and_controls_do_not(visit):
    page = visit(scripts=False)
    assert page.locator(".plm-bpe-chip").first.is_visible() and part(page, "static").is_visible()
    assert page.locator("input, textarea, button").count() == 0
    assert page.locator(".plm-bpe-bar").first.is_hidden()


def test_typing_changes_tokens_and_counts_at_once(visit, tokenizer):
    page = visit()
    page.get_by_label("Your text").fill("")
    assert counts(page) == {"characters": "0", "UTF-8 bytes": "0", "tokens": "0", "bytes per token": "–"}
    page.keyboard.type("the 電影")
    tokens = tokenizer.encode("the 電影")
    assert shown_ids(page) == tokens
    expected = {"characters": "6", "UTF-8 bytes": "10", "tokens": str(len(tokens))}
    assert counts(page) == expected | {"bytes per token": f"{10 / len(tokens):.2f}"}
    page.wait_for_function(
        "n => document.querySelector('[role=status]').textContent.startsWith(n + ' tokens')", arg=str(len(tokens))
    )


def test_slider_goes_from_bytes_to_tokens(visit, tokenizer):
    page = visit()
    slider = page.get_by_role("slider", name="Merges used")
    slider.focus()
    page.keyboard.press("Home")
    assert shown_ids(page) == with_merges(tokenizer, 0).encode(TEXT) and counts(page)["bytes per token"] == "1.00"
    for number in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        assert part(page, "merges").input_value() == str(number)
        assert shown_ids(page) == with_merges(tokenizer, number).encode(TEXT)
    assert slider.get_attribute("aria-valuetext") == f"3 of {len(tokenizer.merges)} merges"
    set_merges(page, 123)
    assert shown_ids(page) == with_merges(tokenizer, 123).encode(TEXT)
    set_merges(page, 10_000)
    assert part(page, "merges").input_value() == str(len(tokenizer.merges))
    slider.focus()
    page.keyboard.press("End")
    assert shown_ids(page) == tokenizer.encode(TEXT)


def test_example_buttons_put_their_text_into_the_field(visit, tokenizer):
    page = visit()
    for name, text in EXAMPLES.items():
        page.get_by_role("button", name=name).click()
        assert part(page, "text").input_value() == text
        assert shown_ids(page) == tokenizer.encode(text)


def test_pointer_and_tap_tell_about_a_token(visit, tokenizer):
    page = visit()
    ids = tokenizer.encode(TEXT)
    options = page.get_by_role("option")
    before = part(page, "detail").inner_text()
    options.nth(5).hover()
    assert f"id {ids[5]}" in part(page, "detail").inner_text() and "token 6 of" in part(page, "detail").inner_text()
    page.locator("h1").hover()
    assert part(page, "detail").inner_text() == before, "pointing is no choice"
    options.nth(5).click()
    page.locator("h1").hover()
    assert f"id {ids[5]}" in part(page, "detail").inner_text()
    assert options.nth(5).get_attribute("aria-selected") == "true"


def test_keyboard_alone_reaches_everything_and_leaves_again(visit, tokenizer):
    page = visit(
        "<button>before</button>", tokenizer_explorer(tokenizer, TEXT, examples=EXAMPLES).html, "<button>after</button>"
    )
    page.get_by_role("button", name="before").focus()
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("(n => n.dataset.part || n.role || n.textContent)(document.activeElement)"))
        if stops[-1] == "option":
            check_arrow_keys(page, tokenizer.encode(TEXT))
        if stops[-1] == "after":
            break
    story = "Step by step: the selected word"
    assert stops == ["text", *EXAMPLES, "slider", "merges", "option", story, "after"]


def check_arrow_keys(page, ids: list[int]) -> None:
    focused = "() => document.activeElement.ariaLabel"
    keys = {"Home": 0, "ArrowRight": 1, "ArrowDown": 2, "ArrowLeft": 1, "End": len(ids) - 1}
    for key, place in keys.items():
        page.keyboard.press(key)
        assert page.evaluate(focused).endswith(f"id {ids[place]}")
        assert f"token {place + 1} of {len(ids)}" in part(page, "detail").inner_text()
    page.keyboard.press("ArrowRight")  # nothing after the last
    assert page.evaluate(focused).endswith(f"id {ids[-1]}")
    assert page.locator("[role=option][tabindex='0']").count() == 1


def test_word_is_shown_merge_by_merge(visit, tokenizer):
    page = visit(tokenizer_explorer(tokenizer, "an unforgettable end").html)
    lines = part(page, "story").locator("li")
    # What the merges do to " unforgettable", by the definition: the word with one more of the merges each time.
    states = [with_merges(tokenizer, number).tokens(" unforgettable") for number in range(len(tokenizer.merges) + 1)]
    changes = [number for number in range(1, len(states)) if states[number] != states[number - 1]]
    assert lines.count() == len(changes) + 1
    for line, number in zip(lines.all()[1:], changes, strict=True):
        left, right = (part.decode().replace(" ", "␣") for part in tokenizer.merges[number - 1])
        label = line.locator(".plm-bpe-step").inner_text()
        assert label.split() == ["merge", str(number), left, "+", right]
        row = line.locator(".plm-bpe-row > .plm-bpe-chip").all_inner_texts()
        assert row == [token.decode().replace(" ", "␣") for token in states[number]]


def test_selection_stays_at_its_place_when_merges_change(visit, tokenizer):
    page = visit(tokenizer_explorer(tokenizer, "the end of the movie").html)
    set_merges(page, 0)
    page.get_by_role("option").nth(5).click()  # the n of "end"
    page.locator("h1").hover()  # or the pointer would tell about whatever token comes to lie under it
    set_merges(page, len(tokenizer.merges))
    tokens = tokenizer.tokens("the end of the movie")
    held = next(i for i in range(len(tokens)) if len(b"".join(tokens[: i + 1])) > 5)
    assert f"token {held + 1} of" in part(page, "detail").inner_text()


def test_long_texts_stay_usable(visit, tokenizer):
    page = visit()
    word = "".join(regex.findall("[a-z]", " ".join(REVIEWS) * 100))[:5000]
    part(page, "text").fill(word)
    assert counts(page)["tokens"] == f"{len(tokenizer.encode(word)):,}"
    assert part(page, "story").locator(".plm-bpe-chip").count() == 0 and "too long" in part(page, "story").inner_text()
    part(page, "text").fill("word " * 3000)
    assert counts(page)["characters"] == "15,000"
    assert page.get_by_role("option").count() == 2000 and part(page, "more").is_visible()


# ---- Several figures, themes, sizes ----------------------------------------------------------------------------------


def test_two_figures_do_not_disturb_each_other(visit, tokenizer):
    one = tokenizer_explorer(tokenizer, "the first").html
    two = tokenizer_explorer(with_merges(tokenizer, 20), "the second").html
    page = visit(one, two)
    part(page, "text").nth(0).fill("changed")
    assert part(page, "text").nth(1).input_value() == "the second"
    second = page.locator(".plm-bpe").nth(1).locator("[role=option]")
    assert second.count() == len(with_merges(tokenizer, 20).tokens("the second"))
    names = "() => Object.getOwnPropertyNames(window)"
    assert set(page.evaluate(names)) - set(visit("<p>nothing</p>").evaluate(names)) == {"plmFigures"}


def test_output_may_be_rendered_twice(visit, tokenizer):
    """A notebook puts the HTML into the page and runs its scripts, for a second view of the same output once more."""
    page = visit("<div id='one'></div><div id='two'></div>")
    markup = tokenizer_explorer(tokenizer, "the end").html
    render = """([id, markup]) => {
      const host = document.getElementById(id);
      host.innerHTML = markup;
      for (const old of host.querySelectorAll("script:not([type])")) {
        const script = document.createElement("script");
        script.textContent = old.textContent;
        old.replaceWith(script);
      }
    }"""
    for id in ("one", "two", "two", "one"):
        page.evaluate(render, [id, markup])
    page.locator("#two textarea").fill("the movie")
    assert page.locator("#two [role=option]").count() == len(tokenizer.encode("the movie"))
    assert page.locator("#one [role=option]").count() == len(tokenizer.encode("the end"))
    # A viewer that runs scripts away from their place: every figure is set up, and only once.
    apart = """markup => {
      const host = document.body.appendChild(document.createElement("section"));
      host.innerHTML = markup;
      const script = document.createElement("script");
      script.textContent = host.querySelector("script:not([type])").textContent;
      document.head.append(script);
    }"""
    page.evaluate(apart, markup)
    assert page.locator("section [role=option]").count() == len(tokenizer.encode("the end"))
    assert page.locator("#two textarea").input_value() == "the movie"


@pytest.mark.parametrize("theme, width", [("light", 1000), ("dark", 1000), ("light", 360), ("dark", 360)])
def test_page_is_accessible_and_fits(visit, tokenizer, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    text = TEXT + "\n" + "x" * 200 + "\n" + REVIEWS[5]
    page = visit(tokenizer_explorer(tokenizer, text, examples=EXAMPLES).html, theme=theme, width=width)
    for merges in (len(tokenizer.merges), 0):
        set_merges(page, merges)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in IMPACTS]
        assert not found, [(v["id"], node["html"][:160]) for v in found for node in v["nodes"]]


def test_neighbours_differ_by_a_border_too(visit):
    page = visit()
    read = """node => {
      const style = getComputedStyle(node);
      return [style.borderRightWidth, style.borderRightStyle, style.borderRightColor, style.backgroundColor];
    }"""
    width, kind, edge, ground = page.get_by_role("option").first.evaluate(read)
    assert (width, kind) == ("1px", "solid") and edge != ground


def test_nothing_moves_by_itself(visit):
    page = visit()
    assert page.evaluate("document.getAnimations().length") == 0
    durations = "all => [...new Set(all.map(node => getComputedStyle(node).transitionDuration))]"
    assert page.eval_on_selector_all(".plm-bpe *", durations) == ["0s"]


# ---- Attention explorer ----------------------------------------------------------------------------------------------

WORDS = ["[CLS]", "the", "##ory", "<b>film</b>", "ĠĠis", "."]


def attention_maps(layers: int = 3, heads: int = 4, queries: int = 6, keys: int = 6, causal: bool = False):
    scores = 2 * np.random.default_rng(1).normal(size=(layers, heads, queries, keys))
    weights = np.exp(scores) * (np.tri(queries, keys) if causal else 1)
    return weights / weights.sum(-1, keepdims=True)


def check_attention(page, weights, query: int) -> None:
    """Check that the heat map, the keys and their shades show these weights (T, S), the keys those of one query."""
    read = "all => all.map(n => [n.textContent, n.style.getPropertyValue('--w')])"
    cells = page.eval_on_selector_all("[data-part=cells] td", read)
    shown = np.array(cells, dtype=float).reshape(*weights.shape, 2)
    assert np.abs(shown[..., 0] - weights).max() < 1 / 255 + 0.005
    assert np.abs(shown[..., 1] - np.sqrt(weights)).max() < 0.05
    rows = "all => all.map(row => [row.querySelector('b').textContent, row.style.getPropertyValue('--w')])"
    keys = np.array(page.eval_on_selector_all("[data-part=keys] li", rows), dtype=float)
    assert (keys == shown[query]).all()
    visible = "all => all.map(n => getComputedStyle(n).visibility === 'visible')"
    named = np.array(page.eval_on_selector_all("[data-part=keys] b", visible))
    strong = (weights[query] > 0.05) | (weights[query] == weights[query].max())
    clear = np.abs(weights[query] - 0.05) > 1 / 255  # nearer, it depends on the rounding
    assert (named == strong)[clear].all(), "the strong ones have their number"
    assert page.locator("[data-part=cells] .plm-att-chosen th").inner_text() == WORDS[query]
    assert page.locator("[data-part=queries] .plm-att-chosen").inner_text() == WORDS[query]
    top = int(np.argmax(weights[query]))
    assert f"“{WORDS[query]}” looks most at “" in part(page, "summary").inner_text()
    assert f"({keys[top, 0]:.2f})" in part(page, "summary").inner_text()


def thumbnails(page) -> list[str]:
    return page.eval_on_selector_all("[role=radio] svg", "all => all.map(n => n.innerHTML)")


def test_attention_slider_changes_the_maps(visit):
    maps = attention_maps()
    page = visit(attention_explorer(maps, WORDS, layer=1, head=2).html)
    check_attention(page, maps[1, 2], query=3)
    before = thumbnails(page)
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    check_attention(page, maps[2, 2], query=3)
    assert part(page, "title").inner_text() == "Layer 2, head 2"
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == "Layer 2"
    assert len(before) == 5 and all(old != new for old, new in zip(before, thumbnails(page), strict=True))


def test_attention_heads_and_their_mean_can_be_chosen(visit):
    maps = attention_maps()
    page = visit(attention_explorer(maps, WORDS).html)
    page.get_by_role("radio", name="Head 3").click()
    check_attention(page, maps[0, 3], query=3)
    page.get_by_role("radio", name="Mean of all heads").click()
    check_attention(page, maps[0].mean(0), query=3)
    assert part(page, "title").inner_text() == "Layer 0, mean of the 4 heads"
    assert page.get_by_role("radio", checked=True).count() == 1


def test_attention_thumbnail_has_a_square_for_each_weight(visit):
    page = visit(attention_explorer(attention_maps(causal=True), WORDS).html)
    for drawn in thumbnails(page):
        squares = {(int(x), int(y)) for x, y in regex.findall(r"M(\d+) (\d+)h1v1h-1z", drawn)}
        assert len(squares) > 12 and all(x <= y for x, y in squares), "a causal map has nothing above its diagonal"


def test_attention_curves_lead_from_the_query_to_its_keys(visit):
    weights = np.eye(6)[[5, 4, 3, 2, 1, 0]][None, None]
    page = visit(attention_explorer(weights, WORDS).html)
    page.get_by_role("option").nth(1).click()
    curves = "all => all.map(n => n.getAttribute('d'))"
    chosen = page.eval_on_selector_all("[data-part=curves] svg > g:not(.plm-att-others) path", curves)
    assert chosen == ["M0 1.5C50 1.5 50 4.5 100 4.5"]
    others = page.eval_on_selector_all("[data-part=curves] .plm-att-others path", curves)
    assert len(others) == 5


def test_attention_pointing_looks_ahead_and_clicking_stays(visit):
    maps = attention_maps()
    page = visit(attention_explorer(maps, WORDS).html)
    page.get_by_role("option").nth(0).hover()
    check_attention(page, maps[0, 0], query=0)
    page.locator("h1").hover()
    check_attention(page, maps[0, 0], query=3)
    page.get_by_role("option").nth(5).click()
    page.locator("h1").hover()
    check_attention(page, maps[0, 0], query=5)
    weakest = int(np.argmin(maps[0, 0, 1]))
    page.locator("[data-part=cells] tr").nth(1).locator("td").nth(weakest).click()
    pointed = page.locator("[data-part=keys] li").nth(weakest)
    assert pointed.locator("b").is_visible(), "what the reader points at is named, weak or not"
    page.locator("h1").hover()
    check_attention(page, maps[0, 0], query=1)


def test_attention_by_keyboard_alone(visit):
    maps = attention_maps()
    figure = attention_explorer(maps, WORDS).html
    page = visit("<button>before</button>", figure, "<button>after</button>")
    page.get_by_role("button", name="before").focus()
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("(n => n.role || n.type)(document.activeElement)"))
        if stops[-1] == "radio":
            keys = {"ArrowRight": 1, "End": 4, "ArrowDown": 4, "ArrowLeft": 3, "Home": 0, "ArrowUp": 0}
            for key, head in keys.items():
                page.keyboard.press(key)
                assert page.get_by_role("radio").nth(head).get_attribute("aria-checked") == "true"
                assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
        if stops[-1] == "option":
            for key, query in {"Home": 0, "ArrowDown": 1, "End": 5, "ArrowRight": 5, "ArrowUp": 4}.items():
                page.keyboard.press(key)
                check_attention(page, maps[0, 0], query)
                assert page.evaluate("document.activeElement.textContent") == WORDS[query]
    assert stops == ["range", "radio", "option", "group", "submit"], "the group is the heat map, which may scroll"


def test_attention_state_is_read_aloud(visit):
    page = visit(attention_explorer(attention_maps(), WORDS).html)
    state = part(page, "state")
    assert (state.get_attribute("aria-live"), state.get_attribute("aria-atomic")) == ("polite", "true")
    assert state.inner_text().startswith("Layer 0, head 0 “<b>film</b>” looks most at “")
    assert page.get_by_role("listbox", name="Query choose a token").count() == 1
    assert page.get_by_role("radiogroup", name="Heads").count() == 1
    assert page.locator("caption", has_text="Rows: queries.").count() == 1


def test_attention_without_scripts_is_one_heat_map(visit):
    maps = attention_maps()
    markup = attention_explorer(maps, WORDS, layer=2, head=1).html
    without, with_script = visit(markup, scripts=False), visit(markup)
    assert without.locator("table").is_visible() and part(without, "static").is_visible()
    assert without.locator("input, [role=radio], [role=option]").count() == 0
    assert part(without, "title").inner_text() == "Layer 2, head 1"
    assert part(with_script, "static").count() == 0
    same = (
        "node => node.innerHTML.replaceAll(/ class=\"[^\"]*\"/g, '').replaceAll(/--w: /g, '--w:').replaceAll(';', '')"
    )
    cells = [part(page, "cells").evaluate(same) for page in (without, with_script)]
    assert cells[0] == cells[1], "the script draws what Python drew"


def test_attention_from_one_text_to_another(visit):
    maps = attention_maps(queries=2, keys=9)
    page = visit(attention_explorer(maps, ["ein", "Film"], [*"abcdefghi"]).html)
    assert page.get_by_role("option").count() == 2 and part(page, "keys").locator("li").count() == 9
    assert part(page, "cells").locator("td").count() == 18
    assert page.locator(".plm-att-curves svg").get_attribute("viewBox") == "0 0 100 9"


def test_attention_of_one_layer_and_head_has_no_choices(visit):
    page = visit(attention_explorer(np.ones((1, 1, 1, 1)), ["a"]).html)
    assert page.get_by_role("slider").count() == 0 and page.get_by_role("radio").count() == 0
    assert part(page, "summary").inner_text() == "“a” looks most at “a” (1.00)."


def test_attention_figures_of_both_kinds_share_a_page(visit, tokenizer):
    one, two = (attention_explorer(attention_maps(), WORDS, layer=layer).html for layer in (0, 1))
    page = visit(one, tokenizer_explorer(tokenizer, "the end").html, two)
    page.locator(".plm-att").nth(0).get_by_role("radio").nth(2).click()
    titles = part(page, "title").all_inner_texts()
    assert titles == ["Layer 0, head 2", "Layer 1, head 0"]
    assert page.locator(".plm-bpe [role=option]").count() == len(tokenizer.encode("the end"))
    apart = """() => {
      const script = document.createElement("script");
      script.textContent = document.querySelector(".plm-att > script:not([type])").textContent;
      document.head.append(script);
    }"""
    page.evaluate(apart)  # a notebook that runs the script once more: nothing is set up twice
    assert page.get_by_role("slider").count() == 3 and part(page, "title").all_inner_texts() == titles


@pytest.mark.parametrize("theme, width", [("light", 1000), ("dark", 1000), ("light", 360), ("dark", 360)])
def test_attention_is_accessible_and_fits(visit, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    words = [*WORDS, "averyverylongtokenindeedyes", "x", *[f"Ġtoken{i}" for i in range(12)]]
    maps = attention_maps(2, 12, 20, 20)
    page = visit(attention_explorer(maps, words).html, theme=theme, width=width)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in IMPACTS]
        assert not found, [(v["id"], node["html"][:160]) for v in found for node in v["nodes"]]
        page.get_by_role("slider").press("End")
    if width == 360:
        sides = part(page, "cells").evaluate("n => [n.getBoundingClientRect().right, innerWidth]")
        assert sides[0] <= sides[1], "twenty tokens fit a phone"
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("width", [1000, 700, 360])
def test_attention_tokens_stay_under_the_pointer(visit, width):
    words = ["a", "averyverylongtoken", "b", "anotherlongtoken", "c", "thelastlongtoken"]
    maps = np.eye(6)[None, None].repeat(3, axis=1)
    maps[0, 1] = np.full((6, 6), 1 / 6)
    page = visit(attention_explorer(maps, words).html, width=width)
    boxes = "all => all.map(n => { const box = n.getBoundingClientRect(); return [box.x, box.y, box.width]; })"
    places = []
    for head in range(3):
        page.get_by_role("radio").nth(head).click()
        for option in page.get_by_role("option").all():
            option.click()
            places.append(page.eval_on_selector_all("[role=option], [data-part=keys] li, td", boxes))
    assert all(place == places[0] for place in places)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_attention_text_is_readable_on_every_shade(visit, theme):
    weights = np.stack([np.linspace(0, 1, 51), 1 - np.linspace(0, 1, 51)], -1)[None, None]  # (1, 1, 51, 2)
    page = visit(attention_explorer(weights, [f"q{i}" for i in range(51)], ["a", "b"]).html, theme=theme)
    read = """() => {
      const token = document.querySelector("[data-part=keys] .plm-att-token");
      const style = getComputedStyle(token);
      return [style.color, style.backgroundImage, style.backgroundColor];
    }"""
    for option in page.get_by_role("option").all():
        option.click()
        text, shade, paper = (parse_colour(colour) for colour in page.evaluate(read))
        ground = [a * shade[3] + b * (1 - shade[3]) for a, b in zip(shade[:3], paper[:3], strict=True)]
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.4


def parse_colour(style: str) -> list[float]:
    numbers = [float(n) for n in regex.findall(r"[\d.]+", regex.search(r"rgba?\([^)]*\)", style)[0])]
    return numbers if len(numbers) == 4 else [*numbers, 1.0]


def luminance(colour: list[float]) -> float:
    channels = [c / 255 for c in colour[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
