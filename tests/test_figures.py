"""Figures: what Python writes. What the scripts do in a browser is tested in test_figures_browser.py."""

import base64
import html
import html.parser
import json
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from plm_tutorial import figures, runtime
from plm_tutorial.figures.interactive import Explorer, attention_explorer, tokenizer_explorer
from plm_tutorial.figures.tokenizer_explorer import MAX_DRAWN, javascript_pattern
from plm_tutorial.tokenizers import BPETokenizer, train_bpe, train_fast_bpe

NASTY = "<script>alert('x')</script> & \"quoted\" <b>"
VOID = {"br", "input"}


class Page(html.parser.HTMLParser):
    """A strict reading of HTML: what is open, which attributes occur, and the text of each chip."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.chips, self.scripts = [], [], [], []
        self.feed(markup)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append((tag, dict(attrs).get("class") or ""))
        if "plm-bpe-chip" in self.open[-1][1]:
            self.chips.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if any("plm-bpe-chip" in name for _, name in self.open):
            self.chips[-1] += data
        if self.open and self.open[-1][0] == "script":
            self.scripts[-1] += data

    def config(self) -> dict:
        return json.loads(self.scripts[0])

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return train_bpe(["the theme of the movie; the end of the movie.\n"] * 3, 300, ["<|end|>"])


def test_static_tokens_are_those_of_encode(tokenizer):
    text = "the movie\tof\ntheme"
    explorer = tokenizer_explorer(tokenizer, text)
    page = Page(explorer.html)
    titles = [a["title"] for tag, a in page.elements if tag == "span" and "title" in a]
    assert titles == [f"id {i}" for i in tokenizer.encode(text)]
    assert "".join(page.chips) == "the␣movie→of↵theme"


def test_static_part_needs_no_script(tokenizer):
    explorer = tokenizer_explorer(tokenizer, "the movie")
    tags = {tag for tag, _ in Page(explorer.html).elements}
    assert not tags & {"input", "textarea", "button", "details"}, "without the script, these would do nothing"
    for name, value in {"characters": 9, "UTF-8 bytes": 9, "tokens": len(tokenizer.encode("the movie"))}.items():
        assert f'<b data-count="{name}">{value}</b>' in explorer.html


def test_what_a_reader_gives_is_escaped(tokenizer):
    explorer = tokenizer_explorer(tokenizer, NASTY, label=NASTY, examples={NASTY: NASTY})
    page = Page(explorer.html)
    assert page.count("script") == 2, "the configuration and the figure's own script"
    assert page.count("b") == 4, "the four counts"
    controls = Page(page.config()["controls"])
    assert (controls.count("b"), controls.count("script")) == (1, 0), "the slider's name"
    assert "".join(page.chips) == NASTY.replace(" ", "␣")
    assert page.config()["text"] == NASTY and page.config()["examples"] == {NASTY: NASTY}
    assert page.elements[0][1]["aria-label"] == NASTY


def test_no_attribute_can_clash_with_another_instance(tokenizer):
    page = Page(tokenizer_explorer(tokenizer, "the", examples={"x": "y"}).html)
    parts = [page, Page(page.config()["controls"]), Page(page.config()["explanation"])]
    attributes = {key for part in parts for _, attrs in part.elements for key in attrs}
    assert not attributes & {"id", "for", "name", "onclick", "src", "href"}


@pytest.mark.parametrize(
    "text, chips",
    [
        ("", []),
        ("é", ["C3", "A9"]),  # no merge makes this character whole
        ("\0", ["U+0000"]),
        (" ", ["␣"]),
    ],
)
def test_unseen_characters_have_marks(tokenizer, text, chips):
    assert Page(tokenizer_explorer(tokenizer, text).html).chips == chips


def test_an_accent_alone_sits_on_a_circle():
    accents = train_bpe(["e\u0301 " * 3], 258)
    assert Page(tokenizer_explorer(accents, "\u0301").html).chips == ["◌\u0301"]
    assert Page(tokenizer_explorer(accents, "\ufeff").html).chips == ["EF", "BB", "BF"]


def test_line_ends_become_those_of_a_text_field(tokenizer):
    page = Page(tokenizer_explorer(tokenizer, "a\r\nb\rc", examples={"x": "\r\n"}).html)
    assert page.config()["text"] == "a\nb\nc" and page.config()["examples"] == {"x": "\n"}


def test_long_texts_are_counted_in_full_but_not_drawn(tokenizer):
    page = tokenizer_explorer(tokenizer, "z" * (MAX_DRAWN + 5)).html
    assert len(Page(page).chips) == MAX_DRAWN
    assert "5 more tokens" in page and f'data-count="tokens">{MAX_DRAWN + 5:,}<' in page


def test_configuration_rebuilds_the_tokenizer(tokenizer):
    config = Page(tokenizer_explorer(tokenizer, "the").html).config()
    assert [config["special"] + config["bytes"].index(byte) for byte in b"the"] == [
        tokenizer.vocab[bytes([b])] for b in b"the"
    ]
    token_of = {i: token for token, i in tokenizer.vocab.items()}
    flat = [token_of[i] for i in config["merges"]]
    assert list(zip(flat[::2], flat[1::2], strict=True)) == tokenizer.merges


def test_a_real_sized_vocabulary_stays_small():
    syllables = [a + b + c for a in "bcdfghjklmnprstvz" for b in "aeiou" for c in "lmnrst"]
    words = [x + syllables[(7 * i + j) % len(syllables)] for i, x in enumerate(syllables) for j in range(12)]
    library = train_fast_bpe([" ".join(words)], 4096, ["<|end|>"])
    big = BPETokenizer.from_library(library)
    assert len(big.merges) == 4096 - 257
    assert len(tokenizer_explorer(big, "a text").html) < 80_000
    assert len(Page(tokenizer_explorer(big, "a text").html).scripts[0]) < 60_000


def test_space_classes_are_written_out():
    pattern = javascript_pattern(r"[^\s\p{L}]+|\s+(?!\S)")
    assert r"\s" not in pattern and r"\S" not in pattern
    assert r"[^\t-\r \x85" in pattern and pattern.count(r"\u3000") == 3


def test_bundle_has_html_and_text(tokenizer):
    explorer = tokenizer_explorer(tokenizer, "the movie", label="Try it")
    bundle = explorer._repr_mimebundle_()
    assert isinstance(explorer, Explorer) and set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"] == str(explorer)
    assert str(explorer).startswith("Try it\n") and f"={tokenizer.encode('the')[0]}" in str(explorer)


def test_scripts_count_as_read_by_the_page(tokenizer, root):
    tokenizer_explorer(tokenizer, "the")
    reads = runtime.page_record().reads
    for name in ("bpe.js", "tokenizer_explorer.js", "tokenizer_explorer.css"):
        path = root / "plm_tutorial" / "figures" / name
        assert reads[f"plm_tutorial/figures/{name}"] == runtime.file_sha256(path)


def test_scripts_stay_small_and_ask_for_nothing(root):
    for path in (root / "plm_tutorial" / "figures").glob("*.[jc]s*"):
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) < 250
        for word in ("http", "import(", "fetch(", "eval(", "innerHTML", "</script", "url("):
            assert word not in source, f"{path.name} has {word}"


def test_another_kind_of_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match="from_library"):
        tokenizer_explorer(tokenizer.to_library(), "the")


@pytest.mark.parametrize("arguments", [{"text": "\ud800"}, {"text": "a", "examples": {"x": "\udfff"}}])
def test_half_a_surrogate_pair_is_refused(tokenizer, arguments):
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer_explorer(tokenizer, **arguments)


# ---- Attention explorer ----------------------------------------------------------------------------------------------

WORDS = ["[CLS]", "the", "##ory", "Ġfilm"]


def attention_maps(
    layers: int = 2, heads: int = 3, queries: int = 4, keys: int = 4, causal: bool = False
) -> np.ndarray:
    scores = 2 * np.random.default_rng(0).normal(size=(layers, heads, queries, keys))
    weights = np.exp(scores) * (np.tri(queries, keys) if causal else 1)
    return weights / weights.sum(-1, keepdims=True)


def unpacked(config: dict) -> np.ndarray:
    shape = config["layers"], config["heads"], len(config["queries"]), len(config["keys"])
    return np.frombuffer(base64.b64decode(config["levels"]), np.uint8).reshape(shape) / 255


def shown_map(markup: str) -> tuple[list[list[float]], list[str], list[str]]:
    """Return the numbers of a heat map, what its rows are called, and what its columns are called."""
    table = ElementTree.fromstring(re.search("<table.*?</table>", markup, re.DOTALL)[0])
    columns = ["".join(head.itertext()) for head in table.findall("thead/tr/th")]
    rows = ["".join(head.itertext()) for head in table.findall("tbody/tr/th")]
    return [[float(cell.text) for cell in row.findall("td")] for row in table.findall("tbody/tr")], rows, columns


@pytest.mark.parametrize("kind", ["array", "list", "float32", "float16 with gradient"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_equal_the_maps(kind, causal):
    maps = attention_maps(causal=causal)
    given = {
        "array": maps,
        "list": list(maps),
        "float32": torch.tensor(maps, dtype=torch.float32),
        "float16 with gradient": [torch.tensor(m, dtype=torch.float16, requires_grad=True) for m in maps],
    }[kind]
    explorer = attention_explorer(given, WORDS, layer=1, head=2)
    config = Page(explorer.html).config()
    assert np.abs(unpacked(config) - maps).max() < 0.51 / 255 + (0.001 if "16" in kind else 0)
    assert not causal or (unpacked(config)[:, :, np.triu_indices(4, 1)[0], np.triu_indices(4, 1)[1]] == 0).all()
    shown, rows, columns = shown_map(explorer.html)
    assert np.abs(np.array(shown) - maps[1, 2]).max() < 1 / 255 + 0.005, "two digits are shown"
    assert rows == columns == WORDS == config["queries"] == config["keys"]


def test_attention_between_two_texts_has_their_tokens():
    explorer = attention_explorer(attention_maps(keys=6), WORDS, list("abcdef"), layer=1)
    shown, rows, columns = shown_map(explorer.html)
    assert np.shape(shown) == (4, 6) and rows == WORDS and columns == list("abcdef")
    assert "Layer 1, head 0" in explorer.html


def test_attention_shades_grow_with_the_weights():
    explorer = attention_explorer(attention_maps(), WORDS)
    cells = re.findall(r'<td style="--w:([\d.]+)">([\d.]+)</td>', explorer.html)
    assert len(cells) == 16
    for opacity, number in cells:
        assert float(opacity) ** 2 == pytest.approx(float(number), abs=0.02)


def test_attention_static_part_is_complete():
    page = Page(attention_explorer(attention_maps(), WORDS).html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"input", "button", "select", "canvas"}, "without the script, these would do nothing"
    assert page.count("caption") == 1
    assert [attrs["scope"] for tag, attrs in page.elements if tag == "th"] == ["col"] * 4 + ["row"] * 4
    attributes = {key for _, attrs in page.elements for key in attrs}
    assert not attributes & {"id", "for", "name", "onclick", "src", "href"}, "two figures on a page would clash"


def test_attention_tokens_and_label_are_escaped():
    tokens = [NASTY, "</script>", "<!--", "&amp;"]
    page = Page(attention_explorer(attention_maps(), tokens, label=NASTY).html)
    assert page.count("script") == 2 and page.elements[0][1]["aria-label"] == NASTY
    assert page.config()["queries"] == [NASTY.replace(" ", "␣"), *tokens[1:]]
    assert shown_map(attention_explorer(attention_maps(), tokens).html)[1] == page.config()["queries"]


def test_attention_tokens_that_would_not_be_seen_have_marks():
    tokens = [" film", "\n", "\u0301", "\ud800"]
    assert shown_map(attention_explorer(attention_maps(), tokens).html)[1] == ["␣film", "↵", "◌\u0301", "U+D800"]


def test_attention_figure_stays_light():
    words = [f"Ġtoken{i}" for i in range(20)]
    markup = attention_explorer(attention_maps(30, 9, 20, 20), words).html
    assert len(markup.encode()) < 200_000


def test_attention_text_names_where_each_token_looks():
    maps = np.zeros((1, 1, 2, 2))
    maps[..., 0] = 1
    assert str(attention_explorer(maps, ["a", "b"], label="Maps")).splitlines() == [
        "Maps",
        "Layer 0, head 0: each token and where it looks most",
        "a → a 1.00",
        "b → a 1.00",
    ]


def test_attention_words_are_plain_text():
    from plm_tutorial.figures.attention_explorer import WORDS as words

    assert all(html.escape(text) == text for text in words.values())


def with_value(value: float) -> np.ndarray:
    maps = attention_maps()
    maps[1, 2, 3, 0] = value
    return maps


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"maps": []}, "no layers"),
        ({"maps": attention_maps()[0]}, r"layer 0 of maps has shape \(4, 4\); .* need \(heads, 4, 4\)"),
        ({"maps": attention_maps()[:, None]}, r"one text: \[layer\[0\] for layer in maps\]"),
        ({"maps": attention_maps(keys=5)}, "4 queries and 4 keys need"),
        ({"maps": attention_maps(heads=0)}, "need"),
        ({"maps": [attention_maps()[0], attention_maps(heads=2)[1]]}, "layer 1 of maps has 2 heads, but layer 0 has 3"),
        ({"queries": WORDS[:3]}, "3 queries and 3 keys"),
        ({"keys": WORDS[:3]}, "4 queries and 3 keys"),
        ({"maps": with_value(np.nan)}, "layer 1 of maps has NaN"),
        ({"maps": with_value(np.inf)}, "infinite"),
        ({"maps": with_value(-0.5)}, "negative"),
        ({"maps": with_value(2.0)}, "row 3 of layer 1, head 2 sums to .*, not to 1"),
        ({"maps": np.zeros((1, 1, 4, 4))}, "sums to 0.000, not to 1"),
        ({"maps": np.full((1, 1, 65, 65), 1 / 65), "queries": ["a"] * 65}, "65 tokens; pass 1 to 64"),
        ({"maps": np.zeros((1, 1, 0, 0)), "queries": []}, "0 tokens"),
        ({"queries": [101, 102, 103, 104]}, "101, of type int; pass the tokens as strings"),
        ({"layer": 2}, "layer=2 does not exist: the maps have layers 0 to 1"),
        ({"head": -1}, "head=-1 does not exist: the maps have heads 0 to 2"),
    ],
)
def test_attention_refuses_what_it_cannot_show(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_explorer(**{"maps": attention_maps(), "queries": WORDS} | arguments)


# ---- Static figures --------------------------------------------------------------------------------------------------


@pytest.fixture
def axes():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_lines_differ_by_more_than_colour(axes):
    returned = figures.lines(axes, [1, 2], {"a": [3, 4], "b": [5, 6]}, xlabel="x", ylabel="y")
    assert returned is axes
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert list(axes.lines[1].get_ydata()) == [5, 6]


def test_one_line_needs_no_legend(axes):
    assert figures.lines(axes, [1, 2], {"a": [3, 4]}, xlabel="x", ylabel="y").get_legend() is None


def test_bars_carry_their_values(axes):
    assert figures.bars(axes, {"first": 2.0, "second": 1.0}, xlabel="x") is axes
    assert [text.get_text() for text in axes.texts] == ["2", "1"]
    assert axes.yaxis_inverted(), "the first bar stands on top"


def test_style_draws_on_white():
    with matplotlib.rc_context():
        figures.use_style()
        assert matplotlib.rcParams["savefig.facecolor"] == "white"
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == figures.COLOURS


def test_colours_have_contrast_on_white():
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in figures.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, f"{colour} is too pale (WCAG 2.2, 1.4.11)"
