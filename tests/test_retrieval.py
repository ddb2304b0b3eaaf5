"""retrieval: BM25 equals its formula, fusion and measures their definitions, and passages keep every sentence."""

import math
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.embedding import embed
from plm_tutorial.retrieval import (
    BM25,
    DenseIndex,
    best_of_groups,
    cut,
    first_right,
    fuse,
    mean_reciprocal_rank,
    ranks,
    recall_at,
    sentences,
    words,
)


def random_documents(n: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(30)]
    weights = [1 / (i + 1) for i in range(30)]
    return [draw.choices(vocabulary, weights, k=draw.randint(1, 60)) for _ in range(n)]


def bm25_by_matrix(documents, query, k1, b):
    """The same by scikit-learn's counts and one matrix expression."""
    counter = CountVectorizer(analyzer=lambda document: document)
    counts = counter.fit_transform(documents).toarray().astype(float)
    n, df = len(documents), (counts > 0).sum(axis=0)
    idf = np.log1p((n - df + 0.5) / (df + 0.5))
    length = counts.sum(axis=1, keepdims=True)
    below = counts + k1 * (1 - b + b * length / length.mean())
    weights = np.where(counts > 0, idf * counts * (k1 + 1) / np.where(counts > 0, below, 1), 0)
    asked = counter.transform([query]).toarray()[0]
    return weights @ asked


@pytest.mark.parametrize("k1, b", [(1.2, 0.75), (0.0, 0.5), (2.0, 0.0), (0.9, 1.0)])
def test_bm25_equals_an_independent_implementation(k1, b):
    documents = random_documents(50, seed=1)
    index = BM25(documents, k1, b)
    for query in (["w0"], ["w3", "w29", "unknown"], ["w5", "w5", "w1"], []):
        np.testing.assert_allclose(index.scores(query), bm25_by_matrix(documents, query, k1, b), rtol=1e-12)


def test_bm25_by_hand():
    index = BM25([["a", "b"], ["a", "a", "c", "c"]], k1=1.0, b=1.0)
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert index.idf("c") == pytest.approx(idf) and index.idf("nowhere") == 0
    assert index.scores(["c"])[1] == pytest.approx(idf * 2 * 2 / (2 + 4 / 3))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([],), "no word in any document"),
        (([[], []],), "no word in any document"),
        ((["a text"],), "single str"),
        (([["a"]], -1.0), "k1 is -1.0"),
        (([["a"]], 1.0, 1.5), "b 1.5"),
    ],
)
def test_bad_documents_and_numbers_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        BM25(*arguments)


def test_words_lose_plurals_and_case():
    assert words("The Heads' queries, classes of glass bus") == ["the", "head", "query", "classe", "of", "glass", "bus"]
    assert words("Heads", stem=False) == ["heads"]
    assert words("d_k, GPT-2 and RoBERTa's ε") == ["d", "k", "gpt", "2", "and", "roberta", "ε"]


def test_vectors_are_compared_by_cosine():
    model, tokenizer = load_model("minilm"), load_tokenizer("minilm")
    texts = ["How attention is computed.", "A recipe for soup.", "Queries meet keys."]
    index = DenseIndex.of(model, tokenizer, texts)
    plain = embed(model, tokenizer, [*texts, "attention scores"], normalize=False).cpu().numpy()
    wanted = cosine_similarity(plain[3:], plain[:3])[0]
    np.testing.assert_allclose(index.scores("attention scores"), wanted, atol=1e-5)
    assert index.scores("attention scores").argmin() == 1


def test_a_single_vector_is_no_index():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        DenseIndex(None, None, [0.0, 1.0, 0.0])


def test_ranks_and_ties():
    assert ranks([0.1, 0.9, 0.5]).tolist() == [3, 1, 2]
    assert ranks([1.0, 1.0, 2.0]).tolist() == [2, 3, 1]


def test_fusion_is_the_sum_of_reciprocal_ranks():
    a, b = [3.0, 2.0, 1.0], [0.0, 10.0, 5.0]
    fused = fuse([a, b], constant=60)
    np.testing.assert_allclose(fused, [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])
    np.testing.assert_allclose(fused, fuse([np.exp(a), b], constant=60))  # only ranks count


def test_fusion_tells_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        fuse([[1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="constant is -1"):
        fuse([[1, 2]], -1)
    with pytest.raises(ValueError, match="expected the same"):
        fuse([])


def test_a_section_is_as_good_as_its_best_passage():
    assert best_of_groups([1, 5, 2, 4], [0, 0, 1, 1]).tolist() == [5, 4]
    assert best_of_groups([1.0], [2], 4).tolist() == [-np.inf, -np.inf, 1.0, -np.inf]


def test_measures():
    first = [1, 3, 10, first_right([0.1, 0.3, 0.2], [0, 2])]
    assert first[-1] == 2
    assert recall_at(first, 2) == 0.5 and recall_at(first, 5) == 0.75
    assert mean_reciprocal_rank(first) == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 2) / 4)


def test_measures_refuse_queries_without_an_answer():
    with pytest.raises(ValueError, match="no document answers"):
        first_right([1.0], [])
    for bad in ([], [0, 1], [[1]]):
        with pytest.raises(ValueError, match="from 1"):
            recall_at(bad, 5)


def test_sentences_are_cut_at_stops_and_not_in_numbers_or_names():
    text = "It has 3.5 million. That is 2.5 times more, e.g. for us! “Quoted.” And then\na line"
    assert sentences(text) == [
        "It has 3.5 million.",
        "That is 2.5 times more, e.g. for us!",
        "“Quoted.”",
        "And then",
        "a line",
    ]


@pytest.mark.parametrize("n_words", [5, 12, 40, 1000])
def test_passages_keep_every_sentence_in_order(n_words):
    draw = random.Random(n_words)
    some = [" ".join(["Word"] + ["word"] * draw.randint(0, 20)) + "." for _ in range(30)]
    text = "\n".join(" ".join(some[i : i + 3]) for i in range(0, 30, 3))
    passages = cut(text, n_words)
    assert [s for passage in passages for s in sentences(passage)] == some
    longest = max(len(sentence.split()) for sentence in some)
    assert all(len(passage.split()) <= max(n_words, longest) for passage in passages)


def test_lines_of_a_passage_stay_lines():
    assert cut("One. Two.\nThree.", 10) == ["One. Two.\nThree."]


def test_there_must_be_something_to_cut():
    with pytest.raises(ValueError, match="the text is empty"):
        cut(" \n ", 10)
    with pytest.raises(ValueError, match="n_words is 0"):
        cut("Some text.", 0)
