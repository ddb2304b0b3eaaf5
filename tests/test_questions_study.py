"""The study of questions: what is kept answers as it was recorded, and the scores are those of its tables."""

import numpy as np
import pytest

from plm_tutorial import load_model, load_tokenizer
from plm_tutorial.ask import BookIndex, answer
from plm_tutorial.book_passages import book_questions, span_questions
from plm_tutorial.evaluation import contains_answer, exact_match, token_f1
from plm_tutorial.records import artifacts
from plm_tutorial.retrieval import mean_reciprocal_rank, recall_at
from plm_tutorial.runtime import file_sha256
from plm_tutorial.spans import SpanRows, find_spans
from plm_tutorial.text import split_hashes
from tests.conftest import recorded_or_skip


@pytest.fixture(scope="module")
def study():
    return recorded_or_skip("questions")


def test_it_was_made_of_the_files_that_are_here(study):
    files = {name: sha256 for name, sha256 in study.data.items() if not name.startswith("imdb/")}
    assert len(files) == 3 and {file: file_sha256(artifacts() / file) for file in files} == files


@pytest.mark.parametrize("name", ["questions", "book_reader"])
def test_the_reader_learned_from_reviews_of_training_and_was_chosen_by_validation(name):
    data = recorded_or_skip(name).data
    splits = ("imdb/train", "imdb/validation")
    assert {split: data[split] for split in splits} == split_hashes(*splits)
    assert not any("test" in source for source in data)


def test_the_adapter_is_that_of_its_run(study):
    adapter, runs = recorded_or_skip("book_reader"), study.table("reader_runs")
    run = runs[(runs.kind == "noisy") & (runs.seed == adapter.seeds[0])].iloc[0]
    assert adapter.scores == {name: run[name] for name in adapter.scores} and len(adapter.scores) == 4


def test_scores_of_retrieval_are_those_of_its_ranks(study):
    ranks = study.table("ranks")
    assert len(ranks) == len(book_questions()) and ranks.answerable.sum() >= 100
    for part in ("validation", "test", "all"):
        some = ranks[ranks.answerable & ((ranks.part == part) | (part == "all"))]
        for way in ("BM25", "vectors", "both"):
            first = some[f"rank {way}"].to_numpy()
            for k in (1, 5):
                assert study.scores[f"{way}, {part}: recall at {k}"] == pytest.approx(recall_at(first, k))
            mean = mean_reciprocal_rank(first)
            assert study.scores[f"{way}, {part}: mean reciprocal rank"] == pytest.approx(mean)


def test_the_kept_index_ranks_as_recorded(study):
    index, ranks = BookIndex.load(), study.table("ranks")
    for i in np.flatnonzero(ranks.answerable)[::10]:
        question, wanted = book_questions()[i], int(ranks["rank both"][i])
        last = max(wanted + 1, int(wanted / 0.9))  # a place behind it is too far off
        found = [hit.section.id for hit in index.ask(question.question, last).hits]
        places = [1 + found.index(one) for one in question.sections if one in found]
        assert places, question.question
        first = min(places)
        assert abs(first - wanted) <= max(1, 0.1 * first), question.question  # near ties


def test_choices_were_made_on_validation_questions(study):
    choices = study.table("choices")
    both = choices[choices.kind == "both"].sort_values(["recall at 5", "mean reciprocal rank"]).iloc[-1]
    assert both["words"] == study.scores["chosen: n_words"] and both.titled == study.scores["chosen: titled"]
    assert both["recall at 5"] == pytest.approx(study.scores["both, validation: recall at 5"])


def test_scores_of_the_reader_are_those_of_its_answers(study):
    answers, asked = study.table("answers").fillna("").astype(str), span_questions()
    for name, columns in (
        ("reader", [f"noisy {seed}" for seed in study.seeds]),
        ("sentence by words", ["sentence by words"]),
        ("guess by vectors", ["guess by vectors"]),
    ):
        for score, function in (("F1", token_f1), ("exact match", exact_match)):
            again = [function(a, q.answers) for one in columns for a, q in zip(answers[one], asked, strict=True)]
            assert np.mean(again) == pytest.approx(study.scores[f"{name}: {score}"])


def test_the_kept_reader_answers_as_recorded(study):
    model, tokenizer = load_model("minilm", adapter=artifacts() / "book_reader"), load_tokenizer("minilm")
    asked = span_questions()[::5]
    rows = SpanRows([q.question for q in asked], [q.passage for q in asked], None, tokenizer, 256)
    said = [span.text for span in find_spans(model, rows, 8)]
    recorded = study.table("answers")["noisy 0"].astype(str)[::5].tolist()
    assert np.mean([a == b for a, b in zip(said, recorded, strict=True)]) > 0.9


def test_scores_of_the_writer_are_those_of_its_answers_and_one_is_written_again(study):
    written = study.table("written").fillna("")
    asked = [book_questions()[i] for i in written.question]
    for way in ("memory", "found", "right"):
        holds = [contains_answer(str(a), q.answers) for a, q in zip(written[way], asked, strict=True)]
        assert np.mean(holds) == pytest.approx(study.scores[f"written from {way}: share that holds the answer"])
    decoder = load_model("smollm2"), load_tokenizer("smollm2")
    text = "".join(answer(*decoder, asked[0].question, None, 8)).strip()
    assert str(written.memory[0]).startswith(text[:12])
