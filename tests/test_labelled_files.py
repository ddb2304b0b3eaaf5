"""Files of labelled texts: what is read, what is left out, what is refused with its row, and how texts are split."""

import json

import datasets
import numpy as np
import pytest

from plm_tutorial.labelled_files import LabelledFile, describe_skipped, read_labelled, split, text_key


@pytest.fixture
def write(tmp_path):
    def make(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def test_a_csv_is_read_as_it_is_written(write):
    path = write("a.csv", '\ufefflabel,id,text\n01,7,"She said ""wow"",\ntwice 😀"\nNA,8,null\n 01 ,9,hi\x00there\n')
    file = read_labelled(path, "text", "label")
    assert file.texts == ['She said "wow",\ntwice 😀', "null", "hi\x00there"]
    assert file.labels == ["01", "NA", "01"] and file.names == ["01", "NA"]
    assert file.rows.tolist() == [2, 3, 4] and file.skipped == {}


def test_rows_without_text_or_label_are_listed_by_number(write):
    path = write("a.csv", 'text,label\none,a\n,b\n   ,b\n\ntwo,\n"three",c\nfour\n')
    file = read_labelled(path, "text", "label")
    assert file.texts == ["one", "three"] and file.rows.tolist() == [2, 7]
    assert file.skipped == {"without a text": [3, 4, 5], "without a label": [6, 8]}
    assert describe_skipped(file.skipped) == "3 rows without a text (3, 4, 5); 2 rows without a label (6, 8)"
    assert describe_skipped({"without a text": list(range(2, 10))}).endswith("(2, 3, 4, 5, 6, …)")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_seen_in_the_first_line(write, mark):
    file = read_labelled(write("a.csv", f"text{mark}label\none, two{mark}a\nthree{mark}b\n"), "text", "label")
    assert file.texts == ["one, two", "three"] and file.labels == ["a", "b"]


def test_json_lines_and_parquet(write, tmp_path):
    rows = [{"text": "one", "label": 10}, {"text": "two", "label": 9}, {"text": None, "label": 9}, {"text": "x"}]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    file = read_labelled(path, "text", "label")
    assert file.texts == ["one", "two"] and file.names == ["9", "10"]  # by size, whole although one is missing
    assert file.rows.tolist() == [1, 2] and file.skipped == {"without a text": [3], "without a label": [4]}
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    table.to_parquet(tmp_path / "a.parquet")
    assert read_labelled(tmp_path / "a.parquet", "text", "label").labels == ["yes", "no"]
    assert read_labelled(tmp_path / "a.parquet", "text").labels is None
    ratings = write("r.jsonl", '{"text": "a", "label": 0.5}\n{"text": "b", "label": 1.0}\n')
    assert read_labelled(ratings, "text", "label").labels == ["0.5", "1.0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,label\n", "names of columns and no rows"),
        ("a.csv", "text,label\n,a\n", r"no row that can be used: 1 row without a text \(2\)"),
        ("a.csv", "review,label\none,a\n", "no column 'text'; It has: 'review', 'label'"),
        ("a.csv", "texts,label\none,a\n", "no column 'text'; did you mean 'texts'?"),
        ("a.csv", "text,label\none,a\ntwo,b,c\n", "row 3 has 3 cells, the first one 2"),
        ("a.csv", 'text,label\none,a\n\n"two,b\nthree,c\n', "a quotation mark is opened in row 4 and never closed"),
        ("a.csv", "text,label\none,a\ncafé,b\n".encode("latin-1"), r"line 3 holds a byte .* 0xe9 after 'caf'"),
        ("a.jsonl", '{"text": "café"}'.encode("latin-1"), "line 1 holds a byte"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b",\n', "line 2 is not JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1, 2]\n', "line 2 is .1, 2.; expected an object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 1}\n', "line 2 holds half of a surrogate"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": 3, "label": 1}\n', "row 2: 'text' is 3; expected a text"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', r"row 1: 'label' is \[1\]; expected one class"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.txt", "text", "ends in '.txt'; expected one of .csv"),
    ],
)
def test_files_that_are_refused(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_labelled(write(name, content), "text", "label")


def test_what_is_no_file_or_no_class(tmp_path, write):
    with pytest.raises(ValueError, match="there is no file"):
        read_labelled(tmp_path / "none.csv", "text")
    rows = "".join(f"text {i},id {i}\n" for i in range(300))
    with pytest.raises(ValueError, match="'label' has 300 different values in 300 rows, such as 'id 0'"):
        read_labelled(write("a.csv", "text,label\n" + rows), "text", "label")


def test_reading_leaves_the_library_as_it_was(write):
    datasets.enable_progress_bars()
    level = datasets.logging.get_verbosity()
    with pytest.raises(ValueError):
        read_labelled(write("a.jsonl", "{"), "text")
    assert datasets.is_progress_bar_enabled() and datasets.logging.get_verbosity() == level


def labelled(texts: list[str], labels: list[str]) -> LabelledFile:
    return LabelledFile("a.csv", texts, labels, np.arange(len(texts)) + 2, {})


def test_splits_share_no_text_and_have_all_classes():
    texts = [f"text {i}" for i in range(200)] + [f"TEXT,  {i}!" for i in range(40)]
    labels = ["a" if i % 200 < 150 else "b" for i in range(240)]
    found = split(labelled(texts, labels))
    keys = {name: {text_key(texts[i]) for i in rows} for name, rows in found.indices.items()}
    assert sum(map(len, keys.values())) == 200 == len(set.union(*keys.values()))
    assert sorted(np.concatenate(list(found.indices.values())).tolist()) == list(range(240))
    assert found.copies == 40 and found.contradictions == [] and found.rare == {}
    for name, share in {"validation": 0.1, "test": 0.1}.items():
        of_class = {label: {text_key(texts[i]) for i in found.indices[name] if labels[i] == label} for label in "ab"}
        assert {label: len(n) for label, n in of_class.items()} == {"a": share * 150, "b": share * 50}
    other = split(labelled(texts, labels), seed=1)
    assert set(other.indices["test"]) != set(found.indices["test"])
    turned = split(labelled(texts[::-1], labels[::-1]))  # the order of the rows does not count
    assert {239 - i for i in turned.indices["test"]} == set(found.indices["test"])


def test_contradictions_and_rare_classes_are_named():
    texts = ["same", "Same!", "😀", "😡", "only"] + [f"{c} {i}" for c in "xy" for i in range(5)]
    labels = ["x", "y", "x", "y", "z"] + ["x"] * 5 + ["y"] * 5
    found = split(labelled(texts, labels))
    assert found.contradictions == [(2, 3)] and found.copies == 1  # the two emoji are different texts
    assert found.rare == {"z": 6}
    assert 4 in found.indices["train"]
    found.check(["x", "y", "z"])
    with pytest.raises(ValueError, match="of these 2 classes 1 have them"):
        split(labelled(["a", "b", "c", "d"], ["x", "x", "x", "y"])).check(["x", "y"])
