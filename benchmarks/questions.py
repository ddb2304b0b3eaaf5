"""Questions about this book: which section answers, which words answer, and what a small decoder makes of them.

    python benchmarks/questions.py        40 minutes on a core; writes artifacts/questions, book_index, book_reader

Stopped, it goes on where it was; ``--only retrieval`` (or ``reader``, ``writer``) does a part. What has to be chosen is
chosen on the validation questions (retrieval, threshold) or on held-out generated questions (the reader's learning
rate). Test questions play no part in it. The questions, their sections and answers were written by hand from reading
the sections (artifacts/book_questions); passages with a span question are kept out of the reader's training.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import sweep
import torch
from sweep import kept

from plm_tutorial import load_model, load_tokenizer, runtime
from plm_tutorial.adaptation import LoraConfig, count_parameters, inject
from plm_tutorial.ask import BookIndex, Settings, answer, indexed_text
from plm_tutorial.batches import Batches
from plm_tutorial.book_passages import BookQuestion, book_questions, passages, sections, span_questions
from plm_tutorial.embedding import embed
from plm_tutorial.evaluation import (
    bootstrap_interval,
    choose_threshold,
    contains_answer,
    exact_match,
    paired_bootstrap,
    token_f1,
)
from plm_tutorial.experiments.cloze import (
    NO_NOISE,
    Cloze,
    Noise,
    guess_from_sentence,
    make_questions,
    similar_words,
)
from plm_tutorial.pretrained import save_adapter
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.retrieval import (
    BM25,
    best_of_groups,
    cut,
    first_right,
    fuse,
    mean_reciprocal_rank,
    recall_at,
    sentences,
    words,
)
from plm_tutorial.runtime import file_sha256
from plm_tutorial.spans import SpanRows, find_spans, predict_spans
from plm_tutorial.text import reviews, split_hashes
from plm_tutorial.training import TrainingConfig, fit

NAME = "questions"
LORA = LoraConfig(rank=8, alpha=16.0, targets=("query", "key", "value", "output", "up", "down"))
RATES = (1e-3, 2e-3)
UNTRIED = Settings(240, False, 1.2, 0.75, 60.0, 0.0)  # of the tiny setting
COMMAND = "python benchmarks/questions.py"
READ = ("imdb/train", "imdb/validation")  # the reader learns from generated questions on these, too
PRECISION = 0.8  # share of answered questions whose section shall be among the first 3, for the threshold


@dataclass(frozen=True)
class Study:
    """What is tried, and how much."""

    sizes: tuple[int, ...] = (60, 120, 240)  # the most words of a passage
    titles: tuple[bool, ...] = (False, True)  # whether passages are indexed behind their titles
    k1: tuple[float, ...] = (0.6, 0.9, 1.2, 2.0)
    b: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    constants: tuple[float, ...] = (1.0, 5.0, 20.0, 60.0)
    steps: int = 250  # of the reader's training
    size: int = 16  # questions of a batch
    length: int = 256  # tokens of a row
    words: int = 60  # of a passage that questions are made of
    n_cloze: int = 4_000  # questions to train on; half from the book, half from reviews
    n_held_out: int = 200
    max_tokens: int = 8  # of an answer
    seeds: tuple[int, ...] = (0, 1, 2)
    n_written: int | None = None  # questions that the decoder answers; None: all that have short answers
    n_tokens: int = 40  # of an answer that it writes
    writes: bool = True  # the index and the reader's adapter, under artifacts/

    @property
    def key(self) -> str:
        """Name what a training of the reader depends on besides its kind, rate and seed."""
        return f"{self.steps}-{self.size}-{self.length}-{self.words}-{self.n_cloze}-{self.max_tokens}"


# ----------------------------------------------------------------------------------------------------------- retrieval


def answerable() -> list[BookQuestion]:
    """Return the questions that the book answers."""
    return [one for one in book_questions() if one.sections]


@cache
def encoder():
    return load_model("minilm", head="none"), load_tokenizer("minilm")


@cache
def question_vectors() -> np.ndarray:
    return embed(*encoder(), [one.question for one in book_questions()]).cpu().numpy()


@cache
def passage_vectors(n_words: int, titled: bool) -> np.ndarray:
    """Return the vectors of all passages, rounded to 16 bits as they are stored; kept between runs."""
    from safetensors.numpy import load_file, save_file

    texts = [indexed_text(passage, titled) for passage in passages(n_words)]
    path = sweep.RUNS / NAME / f"vectors-{n_words}-{titled}.safetensors"
    if path.is_file() and len(found := load_file(path)["vectors"]) == len(texts):
        return found.astype(np.float32)
    print(f"{NAME}: vectors of {len(texts)} passages", flush=True)
    found = embed(*encoder(), texts).cpu().numpy().astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": found}, path)
    return found.astype(np.float32)


def section_scores(n_words: int, titled: bool, k1: float | None = None, b: float | None = None) -> np.ndarray:
    """Return the score of each section for each question, (Q, S): by BM25, or by vectors where k1 is None."""
    found = passages(n_words)
    owner = np.array([passage.section for passage in found])
    if k1 is None:
        scores = question_vectors() @ passage_vectors(n_words, titled).T
    else:
        index = BM25([words(indexed_text(passage, titled)) for passage in found], k1, b)
        scores = np.array([index.scores(words(one.question)) for one in book_questions()])
    return np.array([best_of_groups(row, owner, len(sections())) for row in scores])


def firsts(scores: np.ndarray) -> np.ndarray:
    """Return the rank of the first right section for each question, 0 for those that the book does not answer."""
    number = {section.id: i for i, section in enumerate(sections())}
    right = [[number[one] for one in question.sections] for question in book_questions()]
    return np.array([first_right(row, some) if some else 0 for row, some in zip(scores, right, strict=True)])


def in_part(part: str) -> np.ndarray:
    """Return which questions are answerable and of a part, (Q,) bool; "all" for both parts."""
    return np.array([bool(one.sections) and part in ("all", one.part) for one in book_questions()])


def quality(first: np.ndarray) -> tuple[float, float]:
    """Return what is chosen by: recall at 5 on validation questions, then the mean reciprocal rank."""
    first = first[in_part("validation")]
    return recall_at(first, 5), mean_reciprocal_rank(first)


def retrieval(study: Study) -> tuple[dict, dict]:
    """Choose and measure; return scores and tables, and write the index."""
    choices, by_words, by_vectors = [], {}, {}
    for form in [(n, titled) for n in study.sizes for titled in study.titles]:
        tried = {(k1, b): section_scores(*form, k1, b) for k1 in study.k1 for b in study.b}
        best = max(tried, key=lambda one: quality(firsts(tried[one])))
        by_words[form], by_vectors[form] = (best, tried[best]), section_scores(*form)
        for (k1, b), scores in tried.items():
            choices.append({"kind": "BM25", "k1": k1, "b": b} | _row(form, scores))
        choices.append({"kind": "vectors"} | _row(form, by_vectors[form]))
        for constant in study.constants:
            choices.append(
                {"kind": "both", "constant": constant} | _row(form, both(by_words, by_vectors, form, constant))
            )
    best_words = max(by_words, key=lambda form: quality(firsts(by_words[form][1])))
    best_vectors = max(by_vectors, key=lambda form: quality(firsts(by_vectors[form])))
    form, constant = max(
        ((form, constant) for form in by_words for constant in study.constants),
        key=lambda one: quality(firsts(both(by_words, by_vectors, *one))),
    )
    found = {
        "BM25": firsts(by_words[best_words][1]),
        "vectors": firsts(by_vectors[best_vectors]),
        "both": firsts(both(by_words, by_vectors, form, constant)),
    }
    scores = {"sections": len(sections()), "questions that the book answers": int(in_part("all").sum())}
    for part in ("validation", "test", "all"):
        for name, first in found.items():
            first = first[in_part(part)]
            scores |= {f"{name}, {part}: recall at {k}": recall_at(first, k) for k in (1, 5)}
            scores[f"{name}, {part}: mean reciprocal rank"] = mean_reciprocal_rank(first)
    for part in ("test", "all"):
        hits = {name: (first[in_part(part)] <= 5).astype(float) for name, first in found.items()}
        scores |= _interval(f"both, {part}: recall at 5", hits["both"])
        for rival in ("BM25", "vectors"):
            scores |= _difference(f"both less {rival}, {part}: recall at 5", hits["both"], hits[rival])
    (k1, b), _ = by_words[form]
    chosen = Settings(*form, k1, b, constant, -1.0)
    threshold, rows = silence(chosen, found)
    chosen = replace(chosen, threshold=threshold)
    for part in ("validation", "test"):
        some = [row for row in rows if row["part"] == part]
        kept_ones = [row for row in some if row["cosine"] >= threshold]
        of_book = [row for row in some if row["answerable"]]
        scores |= {
            f"silence, {part}: questions": len(some),
            f"silence, {part}: share of them that the book does not answer": 1 - len(of_book) / len(some),
            f"silence, {part}: coverage": len(kept_ones) / len(some),
            f"silence, {part}: risk": 1 - float(np.mean([row["right"] for row in kept_ones])),
            f"silence, {part}: risk without a threshold": 1 - float(np.mean([row["right"] for row in some])),
            f"silence, {part}: answerable questions answered": float(
                np.mean([r["cosine"] >= threshold for r in of_book])
            ),
            f"silence, {part}: others refused": float(
                np.mean([row["cosine"] < threshold for row in some if not row["answerable"]])
            ),
        }
    scores |= {f"chosen: {name}": value for name, value in asdict(chosen).items()}
    if study.writes:
        write_index(chosen)
    table = []
    for i, one in enumerate(book_questions()):
        ranked = {f"rank {name}": int(first[i]) for name, first in found.items()}
        table.append({"question": i, "part": one.part, "answerable": bool(one.sections)} | ranked)
        table[-1] |= {name: rows[i][name] for name in ("cosine", "BM25 score", "right")}
    return scores, {"choices": choices, "ranks": table}


def both(by_words: dict, by_vectors: dict, form: tuple[int, bool], constant: float) -> np.ndarray:
    """Return the fused scores of all sections for all questions, (Q, S)."""
    pairs = zip(by_words[form][1], by_vectors[form], strict=True)
    return np.array([fuse(pair, constant) for pair in pairs])


def silence(chosen: Settings, found: dict[str, np.ndarray]) -> tuple[float, list[dict]]:
    """Return the threshold on the best cosine that was chosen on validation questions, and a row for each question."""
    form = (chosen.n_words, chosen.titled)
    cosines = section_scores(*form).max(axis=1)
    counted = section_scores(*form, chosen.k1, chosen.b).max(axis=1)
    rows = []
    for i, one in enumerate(book_questions()):
        right = bool(one.sections) and int(found["both"][i]) <= 3
        rows.append({"part": one.part, "answerable": bool(one.sections), "right": right})
        rows[-1] |= {"cosine": round(float(cosines[i]), 4), "BM25 score": round(float(counted[i]), 4)}
    some = [row for row in rows if row["part"] == "validation"]
    labels, scores = [int(row["right"]) for row in some], [row["cosine"] for row in some]
    return float(choose_threshold(labels, scores, precision=PRECISION).threshold), rows


def write_index(chosen: Settings) -> None:
    """Write the index that `plm-tutorial ask` reads."""
    from safetensors.numpy import save_file

    folder = artifacts() / "book_index"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = passage_vectors(chosen.n_words, chosen.titled).astype(np.float16)
    save_file({"vectors": vectors}, folder / "vectors.safetensors.new")
    os.replace(folder / "vectors.safetensors.new", folder / "vectors.safetensors")
    (folder / "settings.json").write_text(json.dumps(asdict(chosen), indent=1) + "\n", encoding="utf-8")


def _row(form: tuple[int, bool], scores: np.ndarray) -> dict:
    recall, reciprocal = quality(firsts(scores))
    return {"words": form[0], "titled": form[1], "recall at 5": recall, "mean reciprocal rank": reciprocal}


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(np.asarray(values, dtype=float), n=10_000)
    return {f"{name}, low end of the 95 % interval": low, f"{name}, high end": high}


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    found = paired_bootstrap(np.asarray(a, dtype=float), np.asarray(b, dtype=float), n=10_000)
    return {f"{name}, points": 100 * found.estimate, f"{name}, low": 100 * found.low, f"{name}, high": 100 * found.high}


# -------------------------------------------------------------------------------------------------------------- reader


def cloze_questions(study: Study, source: str, n: int, noise: Noise, seed: int, split: str = "train") -> list[Cloze]:
    """Return generated questions: of the book's passages without a span question, or of reviews."""
    generator = random.Random(f"{source}-{split}-{seed}")
    similar = similar_words(encoder()[0].embeddings.tokens.weight, encoder()[1])
    if source == "book":
        asked = {one.passage for one in span_questions()}
        held_out = [i % 10 == 0 for i in range(len(sections()))]
        texts = []
        for passage in passages(study.words):
            inside = any(passage.text in one or one in passage.text or _overlap(passage.text, one) for one in asked)
            if not inside and held_out[passage.section] == (split != "train"):
                texts.append(passage.text)
    else:
        some = reviews("imdb", split)["text"][: 6 * n]
        texts = [passage for text in some if len((passage := cut(text, study.words)[0]).split()) <= study.words]
    generator.shuffle(texts)
    found: list[Cloze] = []
    for turn in range(20):
        for text in texts:
            found += make_questions(text, 2 if source == "reviews" else 4, noise, generator, similar)
        if len(found) >= n or turn and source == "reviews":
            break
    generator.shuffle(found)
    return found[:n]


def _overlap(passage: str, other: str) -> bool:
    """Return whether two passages share a sentence of some length."""
    return bool({s for s in sentences(passage) if len(s) > 40} & {s for s in sentences(other) if len(s) > 40})


def rows_of(study: Study, questions: list[Cloze]) -> SpanRows:
    return SpanRows(
        [one.question for one in questions],
        [one.passage for one in questions],
        [one.answer for one in questions],
        encoder()[1],
        study.length,
    )


KINDS: dict[str, tuple[tuple[str, ...], Noise]] = {
    "noisy": (("book", "reviews"), Noise()),
    "gaps": (("book", "reviews"), NO_NOISE),
    "reviews alone": (("reviews",), Noise()),
}


def train_reader(study: Study, kind: str, rate: float, seed: int) -> dict:
    """Return what a trained reader answers, and what it took; its adapter is kept beside."""
    sources, noise = KINDS[kind]
    share = study.n_cloze // len(sources)
    questions = [q for source in sources for q in cloze_questions(study, source, share, noise, seed)]
    torch.manual_seed(seed)
    model = load_model("minilm", head="span")
    inject(model, LORA)
    counts = count_parameters(model)
    batches = Batches(rows_of(study, questions), study.size, seed=seed, bucket=16)
    config = TrainingConfig(study.steps, lr=rate, warmup=study.steps // 10, weight_decay=0.01, seed=seed)
    begun = time.perf_counter()
    history = fit(model, batches, config, objective=predict_spans, progress=False)
    seconds = time.perf_counter() - begun
    held_out = [
        q
        for s in ("book", "reviews")
        for q in cloze_questions(study, s, study.n_held_out // 2, Noise(), 0, "validation")
    ]
    spans = find_spans(model, rows_of(study, held_out), study.max_tokens)
    f1 = float(np.mean([token_f1(s.text, q.answer_text) for s, q in zip(spans, held_out, strict=True)]))
    found = read_all(study, model)
    folder = sweep.RUNS / NAME / f"reader-{kind}-{rate:g}-{seed}-{study.key}"
    save_adapter(model, folder, base="minilm", overwrite=True, dtype=torch.float16)
    tenths = [float(np.mean(part)) for part in np.array_split(history.column("loss"), min(10, study.steps))]
    return {
        "answers": [span.text for span in found],
        "generated, F1": f1,
        "generated questions": len(questions),
        "trained": counts.trained,
        "seconds": seconds,
        "training loss": tenths,
        "folder": str(folder),
        "machine": runtime.machine(),
    }


def read_all(study: Study, model: torch.nn.Module):
    """Return the reader's span for each of the hand-written span questions."""
    asked = span_questions()
    rows = SpanRows([q.question for q in asked], [q.passage for q in asked], None, encoder()[1], study.length)
    return find_spans(model, rows, study.max_tokens)


def matched_sentences(by: str) -> list[str]:
    """Return for each span question the sentence of its passage that is nearest to it."""
    found = []
    for question in span_questions():
        cut_up = sentences(question.passage)
        if by == "words":
            index = BM25([words(one) for one in cut_up])
            scores = index.scores(words(question.question))
        else:
            vectors = embed(*encoder(), [question.question, *cut_up]).cpu().numpy()
            scores = vectors[1:] @ vectors[0]
        found.append(cut_up[int(np.argmax(scores))])
    return found


def reader(study: Study) -> tuple[dict, dict]:
    """Train and measure; return scores and tables, and write the adapter of the first seed."""

    def run(kind: str, rate: float, seed: int) -> dict:
        key = f"{kind}-{rate:g}-seed{seed}-{study.key}"
        return kept(NAME, key, lambda: train_reader(study, kind, rate, seed))

    asked, runs, answers = span_questions(), [], {}
    tried = {rate: run("noisy", rate, study.seeds[0]) for rate in RATES}
    rate = max(tried, key=lambda one: tried[one]["generated, F1"])
    plan = [("noisy", rate, seed) for seed in study.seeds]
    plan += [(kind, rate, study.seeds[0]) for kind in ("gaps", "reviews alone")]
    for kind, lr, seed in plan:
        result = run(kind, lr, seed)
        answers[f"{kind} {seed}"] = result["answers"]
        names = ("generated, F1", "generated questions", "trained", "seconds")
        runs.append({"kind": kind, "lr": lr, "seed": seed} | {name: result[name] for name in names})
        runs[-1] |= {f"loss {i}": loss for i, loss in enumerate(result["training loss"])}
    for by in ("words", "vectors"):
        near = kept(NAME, f"sentences-{by}-{len(asked)}", lambda by=by: {"found": matched_sentences(by)})["found"]
        answers[f"sentence by {by}"] = near
        answers[f"guess by {by}"] = [guess_from_sentence(q.question, s) for q, s in zip(asked, near, strict=True)]
    f1 = {
        name: np.array([token_f1(a, q.answers) for a, q in zip(some, asked, strict=True)])
        for name, some in answers.items()
    }
    exact = {
        n: np.array([exact_match(a, q.answers) for a, q in zip(some, asked, strict=True)])
        for n, some in answers.items()
    }
    scores = {"span questions": len(asked), "reader: learning rate": rate}
    scores |= {f"tried, {lr:g}: F1 on generated questions": one["generated, F1"] for lr, one in tried.items()}
    groups = {"reader": [f"noisy {seed}" for seed in study.seeds]}
    groups |= {kind: [f"{kind} {study.seeds[0]}"] for kind in ("gaps", "reviews alone")}
    groups |= {name: [name] for name in answers if " by " in name}
    mean = {name: np.mean([f1[one] for one in some], axis=0) for name, some in groups.items()}
    for name, some in groups.items():
        scores[f"{name}: F1"] = float(mean[name].mean())
        scores[f"{name}: exact match"] = float(np.mean([exact[one].mean() for one in some]))
    scores |= _interval("reader: F1", mean["reader"])
    rival = max((name for name in groups if " by " in name), key=lambda name: mean[name].mean())
    scores |= _difference("reader less the best of sentence matching: F1", mean["reader"], mean[rival])
    scores |= _difference("noisy less gaps: F1", f1[f"noisy {study.seeds[0]}"], mean["gaps"])
    table = [{"question": i} | {name: some[i] for name, some in answers.items()} for i in range(len(asked))]
    if study.writes:
        copy_reader(run("noisy", rate, study.seeds[0])["folder"])
        record_reader(runs[0])
    return scores, {"answers": table, "reader_runs": runs}


def copy_reader(folder: str) -> None:
    """Put the adapter into artifacts/book_reader."""
    import shutil

    target = artifacts() / "book_reader"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)


def record_reader(run: dict) -> None:
    """Say beside the adapter what it was trained on and how."""
    data = data_used("book_passages/passages.jsonl", "book_questions/spans.jsonl", splits=READ)
    scores = {name: run[name] for name in ("lr", "generated questions", "seconds", "generated, F1")}
    print(write_record("book_reader", scores, command=COMMAND, data=data, seeds=[run["seed"]]))


def data_used(*files: str, splits: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the hashes of files under artifacts/ and of splits of the reviews."""
    return {file: file_sha256(artifacts() / file) for file in files} | split_hashes(*splits)


# -------------------------------------------------------------------------------------------------------------- writer


def writer(study: Study) -> tuple[dict, dict]:
    """Let SmolLM2 answer with nothing, with what was found, and with the right passage; return scores and a table."""
    asked = [(i, one) for i, one in enumerate(book_questions()) if one.answers][: study.n_written]
    index = BookIndex.load() if study.writes else BookIndex(UNTRIED, *encoder(), passage_vectors(240, False))
    decoder = None
    number = {section.id: i for i, section in enumerate(sections())}

    def text_for(one: BookQuestion, way: str) -> str | None:
        if way == "memory":
            return None
        if way == "found":
            return index.ask(one.question, 1).hits[0].passage
        right = {number[name] for name in one.sections}
        some = [p.text for p in index.passages if p.section in right]
        holding = [text for text in some if contains_answer(text, one.answers)] or some
        scores = embed(*encoder(), [one.question, *holding]).cpu().numpy()
        return holding[int(np.argmax(scores[1:] @ scores[0]))]

    def write(one: BookQuestion, text: str | None) -> dict:
        nonlocal decoder
        decoder = decoder or (load_model("smollm2"), load_tokenizer("smollm2"))
        return {"answer": "".join(answer(*decoder, one.question, text, study.n_tokens)).strip()}

    table = []
    for i, one in asked:
        row = {"question": i}
        for way in ("memory", "found", "right"):
            text = text_for(one, way)
            row[way] = kept(
                NAME,
                f"written-{way}-{_digest(one.question, text, study.n_tokens)}",
                lambda one=one, text=text: write(one, text),
            )["answer"]
            row[f"{way}: in the text"] = bool(text) and contains_answer(text, one.answers) > 0
        table.append(row)
    scores = {"written: questions": len(asked)}
    parts = {}
    for way in ("memory", "found", "right"):
        parts[way] = np.array(
            [contains_answer(row[way], one.answers) for row, (_, one) in zip(table, asked, strict=True)]
        )
        f1 = [token_f1(row[way], one.answers) for row, (_, one) in zip(table, asked, strict=True)]
        scores |= {f"written from {way}: share that holds the answer": float(parts[way].mean())}
        scores |= {f"written from {way}: F1": float(np.mean(f1))}
        if way != "memory":
            scores[f"text {way}: share that holds the answer"] = float(
                np.mean([row[f"{way}: in the text"] for row in table])
            )
    scores |= _difference("found less memory: share that holds the answer", parts["found"], parts["memory"])
    scores |= _difference("right less found: share that holds the answer", parts["right"], parts["found"])
    return scores, {"written": table}


def _digest(*parts: object) -> str:
    import hashlib

    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", choices=("retrieval", "reader", "writer"), help="a part; the record needs all three")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny setting, to see that everything runs; keeps nothing"
    )
    options = parser.parse_args()
    study = Study()
    if options.quick:
        tiny = {"steps": 2, "size": 4, "n_cloze": 40, "n_held_out": 8, "seeds": (0,), "n_written": 2, "n_tokens": 3}
        sweep.RUNS = Path(tempfile.mkdtemp())
        tiny |= {"writes": False}
        study = replace(study, sizes=(240,), titles=(False,), k1=(1.2,), b=(0.75,), constants=(60.0,), **tiny)
    parts: dict[str, Callable] = {"retrieval": retrieval, "reader": reader, "writer": writer}
    scores, tables = {}, {}
    for name, part in parts.items():
        if options.only in (None, name):
            some_scores, some_tables = part(study)
            scores |= some_scores
            tables |= some_tables
    if options.only or options.quick:
        print(json.dumps(scores, indent=1, ensure_ascii=False))
        return
    files = ("book_passages/passages.jsonl", "book_questions/questions.jsonl", "book_questions/spans.jsonl")
    data = data_used(*files, splits=READ)
    print(write_record(NAME, scores, command=COMMAND, data=data, seeds=list(study.seeds), tables=tables))


if __name__ == "__main__":
    main()
