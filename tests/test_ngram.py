"""Against NLTK, against dictionaries written from the formulas, against themselves token by token, and on reviews."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from plm_tutorial import text
from plm_tutorial.evaluation import bits_per_byte
from plm_tutorial.ngram import (
    FALLBACK,
    SMOOTHINGS,
    NGram,
    absolute_discounts,
    continuation_counts,
    count,
    modified_discounts,
    pack,
    split_documents,
)
from plm_tutorial.tokenizers import train_fast_bpe

V = 12


def zipf_documents(seed: int = 0, documents: int = 60, vocab_size: int = V) -> list[np.ndarray]:
    """Documents of 0 to 39 ids, uneven enough for counts of 1, 2, 3 and 4 in each order; the last ids never occur."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, vocab_size - 1)
    return [rng.choice(vocab_size - 2, size=rng.integers(40), p=p / p.sum()) for _ in range(documents)]


def windows(documents, order: int, boundary: int = V) -> list[tuple]:
    """The n-gram that ends at each token, without any packing."""
    padded = [[boundary] * (order - 1) + list(map(int, d)) for d in documents]
    return [tuple(d[i : i + order]) for d in padded for i in range(len(d) - order + 1)]


# ---- It is a distribution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 7])
def test_probabilities_sum_to_one(order, smoothing):
    documents = zipf_documents()
    model = NGram(order, V, smoothing).fit(documents)
    rng = np.random.default_rng(1)
    unseen = [rng.integers(V, size=length) for length in rng.integers(10, size=50)]
    seen = [d[: rng.integers(len(d) + 1)] for d in documents]
    for context in [[], [V - 1], [V - 1] * 9, *unseen, *seen]:  # id V - 1 never occurs
        p = model.probs(context)
        assert p.shape == (V,)
        assert p.min() > 0
        assert abs(p.sum() - 1) < 1e-10


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_log_probs_of_many_equal_probs_of_each(order, smoothing):
    model = NGram(order, V, smoothing).fit(zipf_documents(0))
    held_out = [*zipf_documents(1, documents=20), np.array([V - 1] * 3), np.array([], dtype=int)]
    got = model.log_probs(held_out)
    assert [len(g) for g in got] == [len(d) for d in held_out]
    for document, nats in zip(held_out, got, strict=True):
        one_by_one = [np.log(model.probs(document[:i])[document[i]]) for i in range(len(document))]
        np.testing.assert_allclose(nats, one_by_one, atol=1e-12)
        np.testing.assert_array_equal(model.log_probs(document), nats)


# ---- Against other implementations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_kneser_ney_equals_nltk(order, discount):
    """NLTK 3.9 does not discount the unigrams and has no uniform distribution below them; so D = 0 for order 1 here.

    Its own pipeline pads with <s> and counts n-grams that *end* in <s>, so that its models predict <s> within a text.
    Here it is given the n-grams, of all orders, that end in a token, which is what this package counts.
    """
    from nltk.lm import KneserNeyInterpolated, Vocabulary

    documents = [d for d in zipf_documents(3, documents=25) if len(d)]
    # In one text, orders 1 ... n; NLTK reads strings.
    grams = [tuple(map(str, w[n:])) for w in windows(documents, order) for n in range(order)]
    reference = KneserNeyInterpolated(order, discount=discount, vocabulary=Vocabulary(map(str, range(V + 1))))
    reference.fit([grams])
    model = NGram(order, V, "kneser_ney", discount=[0.0] + [discount] * (order - 1)).fit(documents)
    rng = np.random.default_rng(0)
    contexts = {w[:-1] for w in windows(documents, order)}
    contexts = sorted(contexts)[:40] + [tuple(rng.integers(V, size=order - 1)) for _ in range(20)]
    assert len(contexts) > 30
    for context in contexts:
        ours = model.probs([w for w in context if w != V])
        theirs = [reference.score(str(w), tuple(map(str, context))) for w in range(V)]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_nltk_gives_the_start_symbol_a_probability():
    """The quirk for which the comparison above cannot use NLTK's pipeline; if it is gone, simplify that test."""
    from nltk.lm import KneserNeyInterpolated
    from nltk.lm.preprocessing import padded_everygram_pipeline

    grams, vocabulary = padded_everygram_pipeline(3, [["a", "b", "a"], ["b", "b", "c"]])
    model = KneserNeyInterpolated(3)
    model.fit(grams, vocabulary)
    assert model.score("<s>", ["a", "b"]) > 0


def literal_modified_kneser_ney(documents, order: int, vocab_size: int):
    """Chen & Goodman's formulas with dictionaries, one n-gram at a time; returns P(word, context of order - 1)."""
    counts = {order: Counter(windows(documents, order, vocab_size))}
    for j in range(order - 1, 0, -1):
        left = {}
        for gram in counts[j + 1]:
            left.setdefault(gram[1:], set()).add(gram[0])
        counts[j] = {gram: len(before) for gram, before in left.items()}

    followers_of = {}
    for grams in counts.values():
        for gram, c in grams.items():
            followers_of.setdefault(gram[:-1], {})[gram[-1]] = c

    def discounts(j):
        n = Counter(counts[j].values())
        y = n[1] / (n[1] + 2 * n[2])
        return 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]

    def p(word, context):
        j = len(context) + 1
        lower = p(word, context[1:]) if j > 1 else 1 / vocab_size
        followers = followers_of.get(context)
        if not followers:
            return lower
        d1, d2, d3 = discount[j]
        total = sum(followers.values())
        n1, n2 = (sum(c == k for c in followers.values()) for k in (1, 2))
        n3 = len(followers) - n1 - n2
        c = followers.get(word, 0)
        d = 0 if c == 0 else d1 if c == 1 else d2 if c == 2 else d3
        return (c - d) / total + (d1 * n1 + d2 * n2 + d3 * n3) / total * lower

    discount = {j: discounts(j) for j in counts}
    return p, discount


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_modified_kneser_ney_equals_the_formulas(order):
    size = 400  # enough for rare ids: every order has n-grams counted 1, 2, 3 and 4 times
    documents = zipf_documents(5, documents=150, vocab_size=size)
    model = NGram(order, size).fit(documents)
    p, discounts = literal_modified_kneser_ney(documents, order, size)
    for j in range(1, order + 1):
        assert not np.array_equal(model.discounts[j], FALLBACK)
        np.testing.assert_allclose(model.discounts[j][1:], discounts[j], atol=1e-12)
    rng = np.random.default_rng(0)
    contexts = [w[:-1] for w in windows(documents, order, size)[::60]]
    contexts += [tuple(rng.integers(size, size=order - 1).tolist()) for _ in range(5)]
    for context in contexts:
        expected = [p(w, context) for w in range(size)]
        np.testing.assert_allclose(model.probs([w for w in context if w != size]), expected, rtol=0, atol=1e-12)


def test_add_k_and_jelinek_mercer_equal_their_formulas():
    documents = zipf_documents(2)
    pairs, words = Counter(windows(documents, 2)), Counter(windows(documents, 1))
    first = Counter(h for h, _ in pairs.elements())
    add, mix = NGram(2, V, "add_k", k=0.3).fit(documents), NGram(2, V, "jelinek_mercer", weight=0.7).fit(documents)
    tokens = sum(map(len, documents))
    for h in range(V):
        unigram = [0.7 * words[(w,)] / tokens + 0.3 / V for w in range(V)]
        expected = [(pairs[h, w] + 0.3) / (first[h] + 0.3 * V) for w in range(V)]
        np.testing.assert_allclose(add.probs([h]), expected, atol=1e-14)
        expected = [0.7 * pairs[h, w] / first[h] + 0.3 * unigram[w] if first[h] else unigram[w] for w in range(V)]
        np.testing.assert_allclose(mix.probs([h]), expected, atol=1e-14)


def test_k_of_zero_is_maximum_likelihood():
    model = NGram(2, 4, "add_k", k=0).fit([0, 1, 0, 2, 0, 1])
    np.testing.assert_allclose(model.probs([0]), [0, 2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(model.probs([3]), np.full(4, 1 / 4))  # never seen
    assert model.log_probs([0, 3])[1] == -np.inf


def test_kneser_ney_keeps_the_frequency_of_each_word():
    """The property that continuation counts are derived from: sum over contexts of c(v) P(w | v) = c(w)."""
    documents = zipf_documents(4)
    model = NGram(2, V, "kneser_ney", discount=[0.0, 0.6]).fit(documents)
    contexts = Counter(v for v, _ in windows(documents, 2))
    expected = sum(c * model.probs([] if v == V else [v]) for v, c in contexts.items())
    actual = np.bincount(np.concatenate(documents), minlength=V)
    np.testing.assert_allclose(expected, actual, atol=1e-9)


def test_continuation_counts_are_not_frequencies():
    # 1 always follows 0; 2 follows 0, 1 and 3.
    grams, _ = count(pack([np.array([0, 1, 0, 1, 0, 1, 2, 0, 2, 3, 2])], order=2, base=5))
    words, contexts = continuation_counts(grams, base=5, order=1)
    assert dict(zip(words.tolist(), contexts.tolist(), strict=True)) == {0: 3, 1: 1, 2: 3, 3: 1}  # 0: boundary, 1, 2


# ---- Discounts -------------------------------------------------------------------------------------------------------


def test_discounts_by_hand():
    counts = np.repeat([1, 2, 3, 4, 9], [10, 4, 3, 2, 5])
    y = 10 / 18
    np.testing.assert_allclose(absolute_discounts(counts), [0, y, y, y])
    np.testing.assert_allclose(modified_discounts(counts), [0, 1 - 2 * y * 0.4, 2 - 3 * y * 3 / 4, 3 - 4 * y * 2 / 3])


@pytest.mark.parametrize(
    "counts",
    [[5, 5, 9], [2, 2, 3, 4], [1, 1, 3, 4], [1, 1, 2, 4], [1] * 9 + [2, 2, 3] + [3] * 9, [7]],
    ids=["none", "no 1", "no 2", "no 3", "D2 negative", "single"],
)
def test_degenerate_counts_of_counts_fall_back(counts):
    np.testing.assert_array_equal(modified_discounts(np.array(counts)), FALLBACK)
    discounts = absolute_discounts(np.array(counts))
    assert (discounts[1:] > 0).all() and (discounts[1:] <= 1).all()


@pytest.mark.parametrize("smoothing", ["kneser_ney", "modified_kneser_ney"])
@pytest.mark.parametrize("ids", [[0], [0] * 50, [0, 1] * 50, list(range(V))])
def test_degenerate_texts_still_give_distributions(ids, smoothing):
    model = NGram(3, V, smoothing).fit(ids)
    for context in ([], [0], [0, 1], [5, 5]):
        p = model.probs(context)
        assert abs(p.sum() - 1) < 1e-10 and p.min() > 0


# ---- Documents -------------------------------------------------------------------------------------------------------


def test_no_ngram_crosses_a_boundary():
    model = NGram(2, 5, "add_k", k=0).fit([[0, 1], [2, 3]])
    assert model.n_grams == {2: 4}  # (start 0) (0 1) (start 2) (2 3): no (1 2)
    np.testing.assert_allclose(model.probs([]), [0.5, 0, 0.5, 0, 0])
    np.testing.assert_allclose(model.probs([1]), np.full(5, 0.2))  # nothing ever followed 1


def test_separator_and_list_are_the_same():
    documents = [d for d in zipf_documents(6) if len(d)]
    flat = np.concatenate([np.append(d, V - 1) for d in documents])
    by_list, by_separator = NGram(3, V).fit(documents), NGram(3, V).fit(flat, separator=V - 1)
    for a, b in zip(by_list.levels, by_separator.levels, strict=True):
        np.testing.assert_array_equal(a.grams, b.grams)
        np.testing.assert_array_equal(a.alpha, b.alpha)
    outside = NGram(3, V).fit(np.where(flat == V - 1, -1, flat), separator=-1)
    assert outside.n_grams == by_list.n_grams
    assert [p.tolist() for p in split_documents(np.array([9, 1, 2, 9, 9, 3]), 9)] == [[], [1, 2], [], [3]]


def test_a_short_context_is_the_beginning_of_a_document():
    model = NGram(3, 4, "kneser_ney").fit([[0, 1, 2], [0, 1, 3], [1, 1, 1]])
    assert model.probs([])[0] > model.probs([2, 3])[0]  # two of three documents begin with 0


def test_lists_arrays_and_tensors_are_the_same():
    import torch

    ids = zipf_documents(7)[1]
    models = [NGram(2, V).fit(x) for x in (ids, ids.tolist(), tuple(ids.tolist()), torch.tensor(ids), [ids.tolist()])]
    expected = models[0].log_probs(ids)
    for model in models:
        np.testing.assert_array_equal(model.log_probs(ids.tolist()), expected)
    np.testing.assert_array_equal(models[0].log_probs(ids.astype(np.uint16)), expected)
    np.testing.assert_array_equal(models[0].probs(torch.tensor([1])), models[0].probs([1]))
    assert len(models[0].log_probs([])) == 0


def test_fitting_again_replaces():
    model = NGram(2, V).fit(zipf_documents(0)).fit(zipf_documents(1))
    np.testing.assert_array_equal(model.probs([1]), NGram(2, V).fit(zipf_documents(1)).probs([1]))


# ---- Samples ---------------------------------------------------------------------------------------------------------


def test_samples_follow_the_model_and_the_seed():
    model = NGram(2, V).fit(zipf_documents(0))
    ids = model.sample(20_000, seed=1)
    np.testing.assert_array_equal(model.sample(50, seed=1), ids[:50])
    np.testing.assert_array_equal(model.sample(50, np.random.default_rng(1)), ids[:50])
    after_0 = ids[1:][ids[:-1] == 0]
    share, p = np.bincount(after_0, minlength=V) / len(after_0), model.probs([0])
    assert (np.abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / len(after_0))).all()
    assert len(model.sample(0)) == 0


def test_a_sample_continues_its_context():
    model = NGram(3, 4, "add_k", k=0).fit([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    assert model.sample(5, context=[2, 3]).tolist() == [0, 1, 2, 3, 0]


# ---- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order is 0"),
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"order": 5, "vocab_size": 49152}, "pass an order up to 4"),
        ({"order": 3, "vocab_size": 2**21 - 1}, "pass an order up to 2"),
        ({"smoothing": "laplace"}, "unknown smoothing 'laplace'; known are add_k"),
        ({"smoothing": "add_k", "k": -1}, "k is -1"),
        ({"smoothing": "add_k", "k": float("nan")}, "k is nan"),
        ({"smoothing": "jelinek_mercer", "weight": 1.5}, "weight is 1.5"),
        ({"discount": 0.5}, "modified_kneser_ney does not use"),
        ({"smoothing": "kneser_ney", "discount": 1.2}, "one number from 0 to 1"),
        ({"smoothing": "kneser_ney", "discount": [0.1, 0.2]}, "or 3 of them"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        NGram(**{"order": 3, "vocab_size": 10, **settings})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no token"),
        ([[], []], "no token"),
        ([0, 10], "ids from 0 to 10"),
        ([[0, 1], [-1]], "ids from -1 to -1"),
        ([0.5, 1.0], "integers, got float64"),
        ([[[0, 1]]], "shape"),
        ("text", "integers"),
    ],
)
def test_wrong_texts(ids, message):
    with pytest.raises(ValueError, match=message):
        NGram(2, 10).fit(ids)


def test_wrong_use():
    model = NGram(2, 10)
    for use in (lambda: model.probs([1]), lambda: model.log_probs([1]), lambda: model.sample(1)):
        with pytest.raises(ValueError, match="call fit"):
            use()
    model.fit([1, 2])
    with pytest.raises(ValueError, match="ids from 10 to 10"):
        model.probs([10])
    with pytest.raises(ValueError, match="n is -1"):
        model.sample(-1)


def test_largest_vocabulary_of_each_order_fits():
    for order, vocab_size in ((5, 6207), (4, 55107), (3, 2097150)):  # as the docstring says
        ids = [vocab_size - 1] * 3
        model = NGram(order, vocab_size).fit(ids)
        assert all(level.grams.min() >= 0 for level in model.levels)
        assert np.exp(model.log_probs(ids)[-1]) == pytest.approx(model.probs(ids[:-1])[-1])
        with pytest.raises(ValueError, match="do not fit"):
            NGram(order, vocab_size + 1)


# ---- Real text -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews() -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Ids of 3,000 training reviews and 200 for validation, and the bytes of the latter."""
    train = text.reviews(split="train").shuffle(seed=0)["text"][:3000]
    held_out = text.reviews(split="validation").shuffle(seed=0)["text"][:200]
    tokenizer = train_fast_bpe(train, 1024)

    def encode(texts):
        return [np.array(e.ids) for e in tokenizer.encode_batch(texts)]

    return encode(train), encode(held_out), sum(len(t.encode()) for t in held_out)


def bits(model: NGram, held_out, n_bytes: int) -> float:
    return bits_per_byte(-sum(nats.sum() for nats in model.log_probs(held_out)), n_bytes)


def test_order_smoothing_and_data_help_on_reviews(reviews):
    train, held_out, n_bytes = reviews
    by_order = [bits(NGram(n, 1024).fit(train), held_out, n_bytes) for n in (1, 2, 3)]
    assert by_order[0] > by_order[1] > by_order[2]
    assert 1 < by_order[2] < 3
    assert bits(NGram(3, 1024).fit(train[:300]), held_out, n_bytes) > by_order[2]
    assert bits(NGram(3, 1024, "add_k").fit(train), held_out, n_bytes) > by_order[2] + 0.2


def test_tables_are_small_and_faster_than_a_dictionary(reviews):
    tokens = np.concatenate(reviews[0])[:400_000]
    assert len(tokens) == 400_000
    start = time.process_time()
    model = NGram(4, 1024).fit(tokens)
    model.log_probs(tokens[:100_000])
    packed = time.process_time() - start
    start = time.process_time()
    ids = tokens.tolist()
    for n in range(1, 5):
        Counter(zip(*(ids[i:] for i in range(n)), strict=False))
    dictionary = time.process_time() - start
    assert packed < 3 * dictionary  # in fact less than half of it, and that only counts
    assert model.nbytes <= 32 * sum(model.n_grams.values())
