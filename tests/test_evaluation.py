"""Costs with known answers, intervals on simulated data, and windows against a model asked token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from plm_tutorial.evaluation import (
    bits_per_byte,
    bootstrap_interval,
    corpus_bits_per_byte,
    paired_bootstrap,
    perplexity,
    score_texts,
    split_windows,
)
from plm_tutorial.ngram import NGram
from plm_tutorial.tokenizers import BPETokenizer, train_fast_bpe
from plm_tutorial.wordpiece import WordPieceTokenizer

BYTES = BPETokenizer([], ["<|end|>"])  # 257 ids: one special token, then a token for each byte
TEXTS = ["a", "Žižek's film — a dud.", "no " * 30, "the end of the world, again", "x" * 17]

# ---- Costs -----------------------------------------------------------------------------------------------------------


def test_costs_by_hand():
    assert bits_per_byte(8 * math.log(2), 1) == pytest.approx(8)
    assert bits_per_byte(0.0, 5) == 0
    assert bits_per_byte(math.inf, 5) == math.inf
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(math.inf) == math.inf
    rows = np.array([[math.log(2) * 10, 10], [math.log(2) * 300, 100]])
    assert corpus_bits_per_byte(rows) == pytest.approx(310 / 110)


def test_wrong_costs():
    for call, message in (
        (lambda: bits_per_byte(1.0, 0), "n_bytes is 0"),
        (lambda: bits_per_byte(-1.0, 5), "-sum"),
        (lambda: bits_per_byte(math.nan, 5), "nan"),
        (lambda: perplexity(-2.0), "-mean"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ---- Bootstrap -------------------------------------------------------------------------------------------------------


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    runs, units, level = 400, 80, 0.9
    covered = 0
    for run in range(runs):
        low, high = bootstrap_interval(rng.normal(3.0, 2.0, size=units), n=300, level=level, seed=run)
        covered += low <= 3.0 <= high
    # Four standard errors of a share, and a little for what a percentile interval of 80 units is too narrow.
    assert abs(covered / runs - level) < 4 * math.sqrt(level * (1 - level) / runs) + 0.01


def test_interval_has_the_width_of_the_theory():
    values = np.random.default_rng(1).normal(size=1000)
    low, high = bootstrap_interval(values, n=4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(1000), rel=0.05)
    narrow = bootstrap_interval(values, n=4000, level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_rows_are_drawn_whole():
    n_bytes = np.arange(1, 51)
    rows = np.column_stack([n_bytes * 2 * math.log(2), n_bytes])  # every text costs 2 bits a byte
    np.testing.assert_allclose(bootstrap_interval(rows, corpus_bits_per_byte), [2, 2])


def test_statistics_other_than_the_mean():
    values = np.random.default_rng(2).exponential(size=500)
    low, high = bootstrap_interval(values, np.median)
    assert low < math.log(2) < high


def test_the_seed_decides():
    values = np.random.default_rng(3).normal(size=50)
    assert bootstrap_interval(values) == bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def test_pairs_are_drawn_together():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 10, size=200)
    a, b = difficulty + 1, difficulty + rng.normal(0, 0.1, size=200)
    result = paired_bootstrap(a, b)
    assert result.low < 1 < result.high
    assert result.estimate == pytest.approx(a.mean() - b.mean())
    assert result.high - result.low < 0.1  # on its own each mean is uncertain by 2.8
    constant = paired_bootstrap(difficulty + 1, difficulty)
    np.testing.assert_allclose(constant, [1, 1, 1])
    assert paired_bootstrap(b, a).estimate == pytest.approx(-result.estimate)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, "at least two units"),
        ([1.0], {}, "at least two units"),
        (3.0, {}, "at least two units"),
        ([1.0, math.nan], {}, "1 values are NaN"),
        ([1.0, 2.0], {"n": 0}, "n is 0"),
        ([1.0, 2.0], {"level": 95}, "level 95"),
    ],
)
def test_wrong_bootstraps(values, settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **settings)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(values, values, **settings)


def test_pairs_of_different_length():
    with pytest.raises(ValueError, match="a has 3 units and b has 2"):
        paired_bootstrap([1, 2, 3], [1, 2])


# ---- Scoring texts ---------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A small random causal model, in float64: position t depends on all inputs up to t."""

    def __init__(self, vocab_size: int):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocab_size, 16)
        self.cell = nn.GRU(16, 16, batch_first=True)
        self.dropout = nn.Dropout(0.5)  # scoring must switch it off
        self.out = nn.Linear(16, vocab_size)
        self.longest = 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, ids.shape[1])
        return 3 * self.out(self.dropout(self.cell(self.embedding(ids))[0]))


def uniform(vocab_size: int):
    return lambda ids: torch.zeros(*ids.shape, vocab_size)


def one_by_one(model: nn.Module, ids: list[int], context_length: int, stride: int, bos_id: int | None) -> float:
    """The cost of a text by the definition: for each token, find the context its window gives it, and ask."""
    ids = ids if bos_id is None else [bos_id, *ids]
    total = 0.0 if bos_id is not None else math.log(model.out.out_features)
    with torch.inference_mode():
        for t in range(1, len(ids)):
            later = max(0, -(-(t - context_length) // stride))  # windows after the first that had to be opened
            context = torch.tensor([ids[later * stride : t]])
            assert context.shape[1] <= context_length
            total -= model(context)[0, -1].log_softmax(-1)[ids[t]].item()
    return total


@pytest.mark.parametrize("bos_id", [None, 0])
@pytest.mark.parametrize(
    ("context_length", "stride"), [(200, 100), (16, 16), (16, 8), (16, 5), (16, 1), (1, 1), (3, 2)]
)
def test_windows_equal_asking_token_by_token(context_length, stride, bos_id):
    model = Recurrent(257).double().eval()
    scores = score_texts(model, BYTES, TEXTS, context_length, stride, bos_id=bos_id, batch_tokens=64)
    assert model.longest <= context_length
    expected = [one_by_one(model, BYTES.encode(t), context_length, stride, bos_id) for t in TEXTS]
    np.testing.assert_allclose(scores.nats, expected, rtol=1e-9)
    assert scores.n_bytes.tolist() == scores.n_tokens.tolist() == [len(t.encode()) for t in TEXTS]


def test_a_text_that_fits_is_scored_in_full_context():
    model = Recurrent(257).double().eval()
    wide = score_texts(model, BYTES, TEXTS, 1000)
    for stride in (1, 50, 100):
        np.testing.assert_allclose(score_texts(model, BYTES, TEXTS, 100, stride).nats, wide.nats, rtol=1e-9)
    cut = score_texts(model, BYTES, TEXTS, 8)
    assert not np.allclose(cut.nats[2], wide.nats[2])  # the test can fail: context matters to this model


@pytest.mark.parametrize("bos_id", [None, 0])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 17, 40])
def test_every_token_is_scored_once(n, bos_id):
    for context_length in (1, 2, 5, 8):
        for stride in range(1, context_length + 1):
            scored = []
            for window in split_windows(0, list(range(1, n + 1)), context_length, stride, bos_id):
                assert 1 <= len(window.inputs) == len(window.targets) <= context_length
                assert (window.inputs[1:] == window.targets[:-1]).all()
                new = window.targets[window.n_context :]
                assert len(new)
                if scored:
                    assert window.n_context == context_length - stride
                scored += new.tolist()
            assert scored == list(range(1 if bos_id == 0 else 2, n + 1))


@pytest.mark.parametrize("bos_id", [None, 0])
@pytest.mark.parametrize("context_length", [4, 500])
def test_a_uniform_model_costs_log_v_for_each_token(context_length, bos_id):
    scores = score_texts(uniform(257), BYTES, TEXTS, context_length, bos_id=bos_id)
    np.testing.assert_allclose(scores.nats, scores.n_tokens * math.log(257), rtol=1e-6)
    single = score_texts(uniform(257), BYTES, ["a", "b"], context_length, bos_id=bos_id)  # nothing else to predict
    np.testing.assert_allclose(single.nats, math.log(257), rtol=1e-6)
    rows = np.column_stack([scores.nats, scores.n_bytes])
    assert corpus_bits_per_byte(rows) == pytest.approx(math.log2(257), rel=1e-6)


def test_a_model_that_knows_costs_nothing():
    """Always certain that the next byte is one higher: "abcdef" is free but for its first letter, "aa" impossible."""

    def successor(ids):
        return torch.nn.functional.one_hot(ids + 1, 258).float() * 1000

    scores = score_texts(successor, BYTES, ["abcdef", "aa"], 4)
    assert scores.nats[0] == pytest.approx(math.log(258))
    assert scores.nats[1] == pytest.approx(1000 + math.log(258))


def test_the_module_is_left_as_it_was():
    model = Recurrent(257).train()
    first = score_texts(model, BYTES, TEXTS, 32)
    assert model.training
    np.testing.assert_array_equal(first.nats, score_texts(model, BYTES, TEXTS, 32).nats)  # no dropout
    assert all(p.grad is None for p in model.parameters())


def test_batches_do_not_change_the_result():
    model = Recurrent(257).double().eval()
    results = [score_texts(model, BYTES, TEXTS, 16, batch_tokens=n).nats for n in (1, 40, 100_000)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-9)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-9)


def test_the_librarys_tokenizer_and_ours_are_the_same():
    fast = train_fast_bpe(TEXTS, 257, ["<|end|>"])
    model = Recurrent(257).double().eval()
    a, b = (score_texts(model, t, [*TEXTS, "a<|end|>"][:5], 32, bos_id=0) for t in (fast, BYTES))
    np.testing.assert_allclose(a.nats, b.nats)


def test_the_same_scale_as_an_ngram_model():
    """A bigram table as a neural model costs what NGram says: both count the first token from the start."""
    ngram = NGram(2, 257).fit([BYTES.encode(t) for t in TEXTS])
    rows = [ngram.probs([]), *(ngram.probs([i]) for i in range(1, 257))]  # after <|end|> as BOS: a text begins
    logits = torch.tensor(np.log(np.array(rows)))
    scores = score_texts(lambda ids: logits[ids], BYTES, TEXTS, 8, bos_id=0)
    expected = [-nats.sum() for nats in ngram.log_probs([BYTES.encode(t) for t in TEXTS])]
    np.testing.assert_allclose(scores.nats, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "at least one text"),
        ("a text", {}, "at least one text"),
        (["a", ""], {}, "text 1 is empty"),
        (["a"], {"stride": 0}, "stride is 0"),
        (["a"], {"stride": 9}, "stride is 9 and context_length 8"),
        (["a"], {"context_length": 0}, "context_length 0"),
    ],
)
def test_wrong_texts(texts, settings, message):
    with pytest.raises(ValueError, match=message):
        score_texts(uniform(257), BYTES, texts, **{"context_length": 8, **settings})


def test_a_tokenizer_that_loses_something_is_refused():
    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dud"])}
    with pytest.raises(ValueError, match="decode to 'a dud'"):
        score_texts(uniform(7), WordPieceTokenizer(vocabulary), ["A dud"], 8)
