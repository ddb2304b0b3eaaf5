"""No test review in anything that was trained: the splits, what training reads, and what is kept under artifacts/.

`test_text.py` looks for near duplicates between the splits. Here every reader of the reviews is followed to the texts
that it really gets, short reviews are looked for inside long ones, also of the other source, and artifacts are held
against the hashes in their records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from plm_tutorial import assets, pretraining, text
from plm_tutorial.batches import TokenFile, write_tokens
from plm_tutorial.experiments.review_tokens import END, review_tokenizer, review_tokens
from plm_tutorial.newspaper import newspaper, newspaper_hashes
from plm_tutorial.pretrained import load_tokenizer
from plm_tutorial.records import artifacts
from plm_tutorial.tokenizers import train_fast_bpe

# A text of fewer words than this may be a figure of speech that others use as well.
SAYING = 7
# Those of the test set that occur, word for word, in longer reviews that may be trained on. None is a quotation.
SAYINGS = {
    "been there done that",
    "extremely bad",
    "intelligent and moving",
    "it is definitely worth seeing",
    "it s all about the image",
    "must be seen to be believed",
    "oddly compelling",
    "one lousy movie",
    "overly melodramatic",
    "poignant and funny",
    "stay away far away",
    "a fun ride",
    "a pretentious mess",
    "thoroughly awful",
}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [row | {"words": words(row["text"])} for row in text.reviews().to_list()]


def words(some_text: str) -> list[str]:
    return re.sub(r"[\W_]+", " ", some_text.lower()).split()


def contained(needles: Sequence[list[str]], stacks: Sequence[list[str]], least: int = SAYING) -> list[tuple[int, int]]:
    """Return pairs (needle, stack) where all words of the needle, ``least`` or more, stand in the other in a row."""
    first: dict[tuple[str, ...], list[int]] = {}
    for i, needle in enumerate(needles):
        if len(needle) >= least:
            first.setdefault(tuple(needle[:least]), []).append(i)
    pairs = []
    for j, stack in enumerate(stacks):
        for k, run in enumerate(zip(*(stack[m:] for m in range(least)), strict=False)):
            for i in first.get(run, ()):
                if stack[k : k + len(needles[i])] == needles[i]:
                    pairs.append((i, j))
    return pairs


def words_of(rows: list[dict], *splits: str) -> list[list[str]]:
    return [row["words"] for row in rows if row["split"] in splits]


def texts_of(rows: list[dict], split: str, source: str | None = None) -> list[str]:
    return [row["text"] for row in rows if row["split"] == split and source in (None, row["source"])]


# ---- Between the splits ----------------------------------------------------------------------------------------------


def test_no_test_review_is_in_another_split_of_either_source(rows):
    forms = {
        "exact": lambda row: row["text"],
        "normalised by the package": lambda row: text.normal_form(row["text"]),
        "normalised here": lambda row: " ".join(row["words"]),
    }
    for name, form in forms.items():
        seen = {split: {form(row) for row in rows if row["split"] == split} for split in text.SPLIT_NAMES}
        assert len(seen["test"]) == 2512 + 1745, name
        assert seen["test"].isdisjoint(seen["train"] | seen["validation"]), name


def test_no_group_of_near_duplicates_crosses_into_the_test_set(rows):
    groups = {split: {row["group"] for row in rows if row["split"] == split} for split in text.SPLIT_NAMES}
    assert groups["test"].isdisjoint(groups["train"] | groups["validation"])


@pytest.mark.slow
def test_near_duplicates_found_anew_are_in_one_split(rows):
    """Whatever the groups say: over both sources together, no pair has its ends in two splits."""
    pairs = text.near_duplicates([row["text"] for row in rows])
    assert len(pairs) > 50  # within splits there are some
    assert [(i, j) for i, j, _ in pairs if rows[i]["split"] != rows[j]["split"]] == []


def test_no_test_review_stands_inside_another_one(rows):
    """A Rotten Tomatoes snippet quoted in an IMDb review would be no near duplicate of it, but a leak."""
    test, others = words_of(rows, "test"), words_of(rows, "train", "validation")
    assert contained(test, others) == []
    assert contained(others, test) == []  # nor is a text that was trained on part of a test review


def test_only_sayings_of_a_few_words_stand_in_other_reviews(rows):
    everything = "\n".join(f" {' '.join(one)} " for one in words_of(rows, "train", "validation"))
    short = {" ".join(one) for one in words_of(rows, "test") if len(one) < SAYING}
    assert {one for one in short if f" {one} " in everything} == SAYINGS
    assert len(SAYINGS) < 0.01 * len(texts_of(rows, "test", "rotten_tomatoes"))


def test_planted_leaks_are_found(rows):
    victim = next(one for one in words_of(rows, "test") if 10 <= len(one) <= 15)
    host = words_of(rows, "train")[0]
    quoted = words(f"As they say, {' -  '.join(victim).upper()}. How true!")
    assert contained([victim], [host, host[:30] + quoted + host[30:]]) == [(0, 1)]
    assert contained([victim], [victim]) == [(0, 0)]
    assert contained([victim], [quoted[:8] + quoted[9:]]) == []  # a word is missing
    assert contained([victim[:6]], [quoted]) == []  # may be a saying


# ---- What training reads ---------------------------------------------------------------------------------------------


def decoded(file: TokenFile) -> list[str]:
    """The documents of a file of tokens, read back from the ids that a model is trained on."""
    tokenizer, documents = review_tokenizer(), []
    for i in range(0, len(file.starts) - 1, 1000):
        borders = file.starts[i : i + 1001]
        ids = [file.tokens[a:b].tolist() for a, b in zip(borders, borders[1:], strict=False)]
        assert all(one[-1] == file.end_id for one in ids)
        documents += tokenizer.decode_batch([one[:-1] for one in ids], skip_special_tokens=False)
    return documents


def test_what_is_read_by_source_and_split_is_that_split(rows):
    for source in text.SPLITS:
        for split in text.SPLIT_NAMES:
            assert text.reviews(source, split)["text"][:] == texts_of(rows, split, source)


def test_pretraining_reads_its_own_split_and_no_other(rows):
    data = pretraining.DataConfig("imdb")
    for split in ("train", "validation"):
        assert list(pretraining.texts(data, split)) == texts_of(rows, split, "imdb")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_ids_that_models_are_trained_on_are_the_texts_of_their_split(rows, split):
    assert decoded(review_tokens(split)) == texts_of(rows, split, "imdb")


# ---- Artifacts -------------------------------------------------------------------------------------------------------

RECORDS = sorted(artifacts().glob("*/record.json"))
TOKENIZERS = sorted(artifacts().glob("*/tokenizer.json"))
WEIGHTS = sorted({path.parent for path in artifacts().glob("*/*.safetensors") if path.stem != "vectors"})
# Trained on what is not kept but made, by the package: their own tests make it again (test_translation_study.py).
MADE = ("translation", "translation_terms")


def data_of(folder: Path) -> dict[str, str]:
    record = folder / "record.json"
    assert record.is_file(), f"{folder.name} holds weights, and no record.json says what they were trained on"
    return json.loads(record.read_text(encoding="utf-8"))["data"]


def training_texts(data: dict[str, str]) -> list[str]:
    """The training split that a record names: of the newspaper, or of the reviews."""
    if "peoples_daily/train" in data:
        return [one.text for one in newspaper("train")]
    return text.reviews("imdb", "train")["text"][:]


def merges_of(path: Path) -> list[tuple[str, str]]:
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    return [tuple(merge) for merge in model.get("merges", ())]


@pytest.fixture(scope="module")
def published() -> dict[str, str]:
    """What a record may name, with the hash that it has now."""
    return (
        text.split_hashes()
        | newspaper_hashes()
        | {f"movie_reviews/{file.name}": file.sha256 for file in assets.get("movie_reviews").files}
    )


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_records_name_the_splits_as_they_are_now(path, published):
    """A study of other splits would compare what cannot be compared; its hash would not fit."""
    for name, sha256 in data_of(path.parent).items():
        source = name.partition("/")[0]
        if source in text.SPLITS or source in ("movie_reviews", "peoples_daily"):
            assert published.get(name) == sha256, f"{path.parent.name}: {name} has changed since; record it again"


@pytest.mark.parametrize("folder", WEIGHTS, ids=lambda folder: folder.name)
def test_weights_say_what_they_were_trained_on(folder):
    data = data_of(folder)
    trained = [name for name in data if name.endswith(("/train", ": train")) or name == "tokens of train"]
    assert trained, f"{folder.name}/record.json: none of {sorted(data)} is a training split"


PRETRAINED = [f for f in WEIGHTS if (f / "tokenizer.json").is_file() and f.name not in MADE]


@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda f: f.name)
def test_pretrained_weights_saw_the_ids_of_the_training_split_alone(folder, tmp_path):
    """The run noted the hash of all the ids that it drew its batches from. The training split gives the same."""
    data = data_of(folder)
    assert "tokens of train" in data, f"{folder.name}/record.json lacks the run's 'tokens of train': take it over"
    if data["tokens of train"] == review_tokens("train").sha256:  # its content is tested above
        return
    tokenizer = load_tokenizer(folder)
    tokenizer.encode_special_tokens = True
    end_tokens = (*pretraining.END_TOKENS, "[END]")
    end_id = next(i for name in end_tokens if (i := tokenizer.token_to_id(name)) is not None)
    file = write_tokens(training_texts(data), tokenizer, tmp_path / "tokens", end_id=end_id)
    assert data["tokens of train"] == file.sha256


def test_there_is_a_tokenizer_to_look_at():
    assert artifacts() / "reviews_causal" / "tokenizer.json" in TOKENIZERS


def test_tokenizers_were_trained_on_the_training_split_alone(rows):
    """Learned again from the training split, the merges are the same. The first n do not depend on how many follow."""
    kept = {path.parent.name: merges_of(path) for path in TOKENIZERS if path.parent.name not in MADE}
    longest = max(map(len, kept.values()))
    again = train_fast_bpe(texts_of(rows, "train", "imdb"), 1 + 256 + longest, [END])
    expected = [tuple(merge) for merge in json.loads(again.to_str())["model"]["merges"]]
    for name, merges in kept.items():  # of characters alone there are none
        assert merges == expected[: len(merges)], f"{name}/tokenizer.json is not what the training split gives"


@pytest.mark.slow
def test_a_tokenizer_that_had_seen_the_test_reviews_would_be_noticed(rows):
    """Even a single tenth more of text moves some merges."""
    merges = merges_of(artifacts() / "reviews_causal" / "tokenizer.json")
    seen = texts_of(rows, "train", "imdb") + texts_of(rows, "test", "imdb")
    other = json.loads(train_fast_bpe(seen, 1 + 256 + len(merges), [END]).to_str())["model"]["merges"]
    assert [tuple(merge) for merge in other] != merges


def test_other_ids_have_another_hash(rows, tmp_path):
    """The hash notices one more review: what was recorded is no accident."""
    tokenizer = review_tokenizer()
    few = texts_of(rows, "train", "imdb")[:50]
    end_id = tokenizer.token_to_id(END)
    one = write_tokens(few, tokenizer, tmp_path / "one", end_id=end_id)
    two = write_tokens([*few, texts_of(rows, "test", "imdb")[0]], tokenizer, tmp_path / "two", end_id=end_id)
    np.testing.assert_array_equal(two.tokens[: len(one.tokens)], one.tokens)
    assert one.sha256 != two.sha256
