"""Pairs as batches, and translations: shapes, shifts and padding; a tiny model learns to reverse, with fit as it is."""

import numpy as np
import pytest
import torch

from plm_tutorial.batches import Batches
from plm_tutorial.models import Transformer, TransformerConfig
from plm_tutorial.objectives import IGNORED, predict_labels, token_loss
from plm_tutorial.pretrained import export, load_tokenizer
from plm_tutorial.seq2seq import BEGIN, END, PAD, PairRows, character_tokenizer, piece_tokenizer, translate
from plm_tutorial.training import TrainingConfig, fit

SOURCES, TARGETS = ["abc", "b", "cc年 a"], ["cba", "b", "a 年cc"]


@pytest.fixture
def tokenizer():
    return character_tokenizer([*SOURCES, *TARGETS], ["fr", "zh"])


def model_for(tokenizer, **changes):
    shape = {"context_length": 24, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 32, "dropout": 0.0}
    torch.manual_seed(0)
    return Transformer(TransformerConfig(tokenizer.get_vocab_size(), **shape | changes)).eval()


def test_characters_there_and_back(tokenizer, tmp_path):
    text = "cab 年\nc"
    assert tokenizer.encode("cab 年c").tokens == list("cab 年c")
    assert tokenizer.decode(tokenizer.encode("cab 年c").ids) == "cab 年c"
    assert tokenizer.encode(text).tokens[5] == "<unk>"
    assert len(tokenizer.encode("</s>").ids) == 4  # spelled out, it is text
    export(model_for(tokenizer), tmp_path / "model", tokenizer)
    assert load_tokenizer(tmp_path / "model").encode("cab").ids == tokenizer.encode("cab").ids


def test_pieces_are_merged_within_words_and_digits_stay_alone():
    texts = ["March 2024", "March 20, 2021", "2024年3月5日", "Marched back"] * 3
    pieces = piece_tokenizer(texts, 60, ["fr"])
    assert pieces.encode("March 20, 2021").tokens == ["March", " ", "2", "0", ",", " ", "2", "0", "2", "1"]
    assert pieces.encode("5年").tokens == ["5", "年"]
    for text in texts:
        assert pieces.decode(pieces.encode(text).ids) == text
    assert pieces.encode("xMarch").tokens[0] == "<unk>" and pieces.get_vocab_size() <= 60


def test_a_batch(tokenizer):
    rows = PairRows(SOURCES, TARGETS, ["fr", "zh", "fr"], tokenizer, 8)
    pad, begin, end, fr, zh = (tokenizer.token_to_id(t) for t in (PAD, BEGIN, END, "<fr>", "<zh>"))
    a, b, c = (tokenizer.token_to_id(t) for t in "abc")
    batch = rows.batch(np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[fr, a, b, c, end], [zh, b, end, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["decoder_input_ids"].tolist() == [[begin, c, b, a], [begin, b, pad, pad]]
    assert batch["labels"].tolist() == [[c, b, a, end], [b, end, IGNORED, IGNORED]]
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert rows.lengths.tolist() == [9, 5, 13]


def test_the_loss_does_not_depend_on_padding(tokenizer):
    model, rows = model_for(tokenizer), PairRows(SOURCES, TARGETS, ["fr"] * 3, tokenizer, 8)
    with torch.no_grad():
        together = predict_labels(model, rows.batch(np.arange(3)))
        alone = [predict_labels(model, rows.batch(np.array([i]))) for i in range(3)]
        batch = rows.batch(np.array([2]))
        memory = model.encode(batch["input_ids"])
        by_hand = token_loss(model.decode(batch["decoder_input_ids"], memory), batch["labels"])
    assert together.total.item() == pytest.approx(sum(one.total.item() for one in alone), rel=1e-5)
    assert alone[2].total.item() == pytest.approx(by_hand.total.item(), rel=1e-5)


def test_pairs_that_are_too_long_are_left_out(tokenizer):
    rows = PairRows(SOURCES, TARGETS, ["fr"] * 3, tokenizer, 5)
    assert len(rows) == 2 and rows.kept.tolist() == [0, 1]
    with pytest.raises(ValueError, match="length is 2, and the shortest pair has 3 tokens: allow more"):
        PairRows(SOURCES, TARGETS, ["fr"] * 3, tokenizer, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: PairRows(["a"], ["a", "b"], ["fr"], t, 8), "got 1 sources, 2 targets, 1 languages"),
        (lambda t: PairRows([], [], [], t, 8), "got 0 sources"),
        (lambda t: PairRows("a", "a", "f", t, 8), "in lists"),
        (lambda t: PairRows(["a"], ["a"], ["de"], t, 8), "has no token <de>; its special tokens are <pad>, <s>"),
        (lambda t: translate(model_for(t), t, "abc", "fr"), "texts is a single str; expected a list"),
        (lambda t: translate(model_for(t), t, ["abc"], "de"), "has no token <de>"),
        (lambda t: translate(model_for(t), t, ["a" * 30], "fr"), "context"),
    ],
)
def test_bad_calls(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)


def test_it_learns_to_reverse_and_translates_in_order():
    rng = np.random.default_rng(0)
    sources = ["".join(rng.choice(list("abcd"), size=rng.integers(1, 5))) for _ in range(400)]
    targets = [text[::-1] for text in sources]
    tokenizer = character_tokenizer(sources, ["fr"])
    model = model_for(tokenizer, d_model=32, d_hidden=64, norm="pre")
    rows = PairRows(sources, targets, ["fr"] * len(sources), tokenizer, 8)
    config = TrainingConfig(150, lr=3e-3, muon_lr=0.02, optimizer="muon", warmup=10, weight_decay=0.0)
    fit(model, Batches(rows, 32, bucket=4), config, progress=False)
    texts = ["abcd", "d", "bca", "aab", "cd"]
    assert translate(model, tokenizer, texts, "fr") == [text[::-1] for text in texts]
    assert translate(model, tokenizer, texts, "fr", n_beams=3, batch=2) == [text[::-1] for text in texts]
