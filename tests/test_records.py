"""records: a recorded number comes with its label, from a file that a script wrote."""

import json

import pytest

from plm_tutorial import records, runtime
from plm_tutorial.records import RecordError, recorded, write_record
from plm_tutorial.text import reviews, split_hashes
from plm_tutorial.tokenizers import BPETokenizer, train_bpe, train_fast_bpe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "artifacts", lambda: tmp_path)
    monkeypatch.setattr(runtime, "_reads", {})
    return tmp_path


def write(scores=None):
    return write_record("study", scores or {"a < b": 1.5}, command="python x.py", data={"set": "0" * 64}, seeds=[0, 1])


def test_written_and_read_back_with_its_label(folder):
    write()
    record = recorded("study")
    assert record.scores == {"a < b": 1.5} and record.seeds == [0, 1]
    bundle = record._repr_mimebundle_()
    assert bundle["text/plain"].startswith("recorded 20") and "by: python x.py" in bundle["text/plain"]
    assert "<td>a &lt; b</td><td>1.5</td>" in bundle["text/html"]


def test_reading_is_noted_for_the_page_record(folder):
    path = write()
    recorded("study")
    assert runtime.page_record().reads == {"artifacts/study/record.json": runtime.file_sha256(path)}


def test_unknown_record_lists_the_known(folder):
    write()
    with pytest.raises(RecordError, match="there is no record 'studies'; known: study"):
        recorded("studies")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"scores": {}}'])
def test_damaged_record_names_the_file_and_the_cure(folder, damage):
    write().write_text(damage)
    with pytest.raises(RecordError, match=r"record\.json is no record .*git checkout"):
        recorded("study")


def test_a_failed_write_leaves_the_old_record(folder):
    path = write()
    with pytest.raises(TypeError):
        write(scores={"not a number": object()})
    assert json.loads(path.read_text())["scores"] == {"a < b": 1.5}


def test_every_record_of_the_repository_says_how_to_remake_it(root):
    paths = list((root / "artifacts").glob("*/record.json"))
    assert paths
    for path in paths:
        record = recorded(path.parent.name)
        assert any((root / word).is_file() for word in record.command.split()), record.command


def test_bpe_parity_rescored_on_part_of_its_data():
    record = recorded("bpe_parity")
    now = split_hashes("imdb/train", "rotten_tomatoes/train")
    assert record.data == now, "the splits changed; run: python benchmarks/bpe_parity.py"
    assert record.scores["merges that differ from the library's"] == 0
    texts = reviews(split="train")["text"][::20]
    assert train_bpe(texts, 2_048).merges == BPETokenizer.from_library(train_fast_bpe(texts, 2_048)).merges


def test_tables_stand_beside_the_record_and_their_reading_is_noted(folder):
    rows = [{"run": "a", "loss": 1.25}, {"run": "b", "loss": 2, "note": "x, y"}]
    write_record("study", {}, command="python x.py", data={}, seeds=[0], tables={"runs": rows})
    table = recorded("study").table("runs")
    assert list(table.columns) == ["run", "loss", "note"] and table.loss.tolist() == [1.25, 2.0]
    assert table.note[1] == "x, y" and table.note.isna()[0]
    assert "artifacts/study/runs.csv" in runtime.page_record().reads


def test_an_unknown_table_lists_what_is_there(folder):
    write()
    with pytest.raises(RecordError, match=r"no 'runs\.csv' in artifacts/study; there: record\.json"):
        recorded("study").table("runs")
