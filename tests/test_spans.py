"""spans: rows are what the tokenizer makes of a pair, the best span is the best of all, windows lose no answer."""

import pytest
import torch
from torch.nn import functional as F

from plm_tutorial import load_model, load_tokenizer, models
from plm_tutorial.spans import SpanRows, best_span, find_spans, predict_spans

QUESTION = "How many layers are there?"
PASSAGE = "The encoder was small. It had six layers of twelve heads, and it read reviews. " * 6


@pytest.fixture(scope="module")
def tokenizer():
    found = load_tokenizer("minilm")
    found.no_padding()
    found.no_truncation()
    return found


@pytest.fixture(scope="module")
def tiny(tokenizer):
    torch.manual_seed(0)
    shape = {"context_length": 512, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 16}
    return models.Bert(models.BertConfig(vocab_size=tokenizer.get_vocab_size(), head="span", **shape)).eval()


def test_a_row_is_the_tokenizers_pair(tokenizer):
    batch = SpanRows([QUESTION], [PASSAGE], None, tokenizer, 512).batch([0])
    pair = tokenizer.encode(QUESTION, PASSAGE)
    assert batch["input_ids"][0].tolist() == pair.ids
    assert batch["token_type_ids"][0].tolist() == pair.type_ids
    assert batch["attention_mask"][0].tolist() == [1] * len(pair.ids)


def test_padding_and_truncation_of_the_tokenizer_do_no_harm(tokenizer):
    other = load_tokenizer("minilm")
    other.enable_padding(length=128)
    rows = SpanRows([QUESTION, "Who?"], [PASSAGE, "Nobody."], None, other, 512)
    assert (
        rows.batch([0])["input_ids"].tolist()
        == SpanRows([QUESTION], [PASSAGE], None, tokenizer, 512).batch([0])["input_ids"].tolist()
    )
    assert rows.batch([0, 1])["attention_mask"].sum(1).tolist() == rows.lengths.tolist()


@pytest.mark.parametrize("length", [32, 48, 64])
def test_windows_overlap_and_cover_the_passage(tokenizer, length):
    rows = SpanRows([QUESTION], [PASSAGE], None, tokenizer, length, overlap=8)
    assert len(rows) > 2 and rows.lengths.max() == length
    offsets = [row.offsets for row in rows.rows]
    for before, after in zip(offsets, offsets[1:], strict=False):
        assert before[-8:] == after[:8]
    seen = {pair for some in offsets for pair in some}
    assert seen == set(tokenizer.encode(PASSAGE, add_special_tokens=False).offsets)


def test_labels_point_at_the_answer_in_each_window_that_has_it(tokenizer):
    start = PASSAGE.index("twelve heads", 150)
    answer = (start, start + len("twelve heads"))
    rows = SpanRows([QUESTION], [PASSAGE], [answer], tokenizer, 48, overlap=16)
    batch = rows.batch(range(len(rows)))
    found = 0
    for row, (first, last) in enumerate(batch["labels"].tolist()):
        if (first, last) != (0, 0):
            assert tokenizer.decode(batch["input_ids"][row, first : last + 1].tolist()) == "twelve heads"
            assert rows.rows[row].offsets[first - rows.rows[row].first][0] == answer[0]
            found += 1
    assert 1 <= found < len(rows)


@pytest.mark.parametrize(
    "questions, passages, answers, length, message",
    [
        ([], [], None, 64, "no question"),
        (["a"], ["b", "c"], None, 64, "1 questions, 2 passages, no answers"),
        (["a"], ["b"], [], 64, "1 passages, 0 answers"),
        (["a"], [""], None, 64, "passage 0 is empty"),
        (["a"], ["text"], [(2, 9)], 64, r"answer 0 is \(2, 9\).* which has 4"),
        (["a"], ["text"], [(2, 2)], 64, r"answer 0 is \(2, 2\)"),
        (["a  b"], ["c  d"], [(1, 2)], 64, "has no token"),
        (["word " * 40], ["text"], None, 64, "rows of 64 leave no room"),
    ],
)
def test_what_does_not_fit_is_told(tokenizer, questions, passages, answers, length, message):
    with pytest.raises(ValueError, match=message):
        SpanRows(questions, passages, answers, tokenizer, length)


def test_the_loss_is_the_mean_of_two_cross_entropies_without_padding(tokenizer, tiny):
    passages = [PASSAGE[:60], PASSAGE[:200]]
    rows = SpanRows([QUESTION] * 2, passages, [(4, 11), (30, 33)], tokenizer, 128)
    batch = rows.batch([0, 1])
    loss = predict_spans(tiny, batch)
    assert int(loss.count) == 4
    singly = []
    for i in range(2):
        one = rows.batch([i])
        labels = one.pop("labels")
        logits = tiny(**one)[0]  # (T, 2)
        singly += [F.cross_entropy(logits[None, :, side], labels[:, side]) for side in (0, 1)]
    torch.testing.assert_close(loss.mean, torch.stack(singly).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 3, 50])
def test_the_best_span_is_the_best_of_all(max_tokens):
    generator = torch.Generator().manual_seed(max_tokens)
    for S in (1, 2, 7, 20):
        starts, ends = torch.randn(2, S, generator=generator)
        legal = [(i, j) for i in range(S) for j in range(i, min(S, i + max_tokens))]
        wanted = max(legal, key=lambda pair: starts[pair[0]] + ends[pair[1]])
        first, last, score = best_span(starts, ends, max_tokens)
        assert (first, last) == wanted
        assert score == pytest.approx(float(starts[first] + ends[last]))


def test_best_span_tells_what_is_wrong():
    with pytest.raises(ValueError, match="max_tokens is 0"):
        best_span(torch.zeros(3), torch.zeros(3), 0)
    with pytest.raises(ValueError, match=r"\(3,\), \(4,\)"):
        best_span(torch.zeros(3), torch.zeros(4), 2)


def test_spans_are_those_of_the_passage_and_windows_change_nothing_that_fits(tokenizer, tiny):
    passages = [PASSAGE[:100], "Just two words", PASSAGE]
    rows = SpanRows([QUESTION] * 3, passages, None, tokenizer, 64, overlap=16)
    spans = find_spans(tiny, rows, max_tokens=4)
    for span, passage in zip(spans, passages, strict=True):
        assert passage[span.start : span.end] == span.text and span.text
    alone = find_spans(tiny, SpanRows([QUESTION], passages[:1], None, tokenizer, 512), max_tokens=4)[0]
    assert (alone.start, alone.end) == (spans[0].start, spans[0].end)
    assert alone.score == pytest.approx(spans[0].score, abs=1e-4)


def test_a_reader_learns_to_copy_what_it_is_shown(tokenizer):
    from plm_tutorial.adaptation import freeze
    from plm_tutorial.batches import Batches
    from plm_tutorial.training import TrainingConfig, fit

    torch.manual_seed(0)
    model = load_model("minilm", head="span")
    freeze(model, until=5)
    passages = [f"The {animal} sat near the {place}." for animal in ("cat", "dog", "hen") for place in ("door", "wall")]
    answers = [(4, 7)] * 6
    rows = SpanRows(["Who sat there?"] * 6, passages, answers, tokenizer, 64)
    history = fit(model, Batches(rows, 6), TrainingConfig(25, lr=3e-3), objective=predict_spans, progress=False)
    assert history.column("loss")[-1] < 0.2
    assert [span.text for span in find_spans(model, rows)] == ["cat", "cat", "dog", "dog", "hen", "hen"]
