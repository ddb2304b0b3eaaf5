"""The newspaper: how its lines are read and cut, and that no sentence stands in two splits."""

import pytest

from plm_tutorial.entities import KINDS, Entity
from plm_tutorial.newspaper import NEWSPAPER_SPLITS, cut_sentences, newspaper, newspaper_hashes, read_line


def names(line: str) -> list[tuple[str, str]]:
    text, entities = read_line(line)
    return [(text[start:end], kind) for start, end, kind in entities]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("主席/n  江/nr  泽民/nr  访问/v  美国/ns  。/w", [("江泽民", "PER"), ("美国", "LOC")]),
        ("乔/nr  石/nr  李/nr  鹏/nr", [("乔石", "PER"), ("李鹏", "PER")]),
        ("欧阳/nr  海/nr  、/w  老闫/nr", [("欧阳海", "PER"), ("老闫", "PER")]),
        ("马克思/nr  恩格斯/nr", [("马克思", "PER"), ("恩格斯", "PER")]),
        ("克林顿/nr  李/nr  鹏/nr", [("克林顿", "PER"), ("李鹏", "PER")]),
        ("李/nr  、/w  鹏/nr", [("李", "PER"), ("鹏", "PER")]),
        ("新华社/nt  北京/ns", [("新华社", "ORG"), ("北京", "LOC")]),
        ("１/m  //w  ２/m", []),
    ],
)
def test_lines(line, found):
    assert names(line) == found


def test_a_line_that_is_none():
    with pytest.raises(ValueError, match="'江泽民' is not of the form word/tag"):
        read_line("主席/n 江泽民")


def test_sentences_are_cut_behind_full_stops_and_long_ones_behind_a_comma():
    line = read_line("江/nr  泽民/nr  说/v  ：/w  “/w  好/a  。/w  ”/w  美国/ns  、/w  中国/ns  也/d  好/a  ！/w  好/a")
    cut = list(cut_sentences(line, longest=7))
    assert [one.text for one in cut] == ["江泽民说：", "“好。”", "美国、", "中国也好！", "好"]
    assert [one.entities for one in cut] == [
        (Entity(0, 3, "PER"),),
        (),
        (Entity(0, 2, "LOC"),),
        (Entity(0, 2, "LOC"),),
        (),
    ]
    assert "".join(one.text for one in cut) == line.text


def test_no_comma_to_cut_behind():
    line = read_line("好/a  好/a  好/a  好/a  好/a")
    assert [one.text for one in cut_sentences(line, longest=2)] == ["好好", "好好", "好"]


def test_splits_share_no_sentence_and_follow_each_other():
    texts = {split: [one.text for one in newspaper(split)] for split in NEWSPAPER_SPLITS}
    every = [text for some in texts.values() for text in some]
    assert len(every) == len(set(every))
    assert {split: round(len(some) / len(every), 1) for split, some in texts.items()} == NEWSPAPER_SPLITS
    assert max(map(len, every)) <= 120 and all(every)
    assert "１月１日" in "".join(texts["train"][:400]) and "１月２９日" in "".join(texts["test"])


def test_entities_are_those_of_the_file():
    counts = {kind: 0 for kind in KINDS}
    for split in NEWSPAPER_SPLITS:
        for text, entities in newspaper(split):
            for start, end, kind in entities:
                assert 0 <= start < end <= len(text)
                counts[kind] += 1
    assert 19_500 < counts["PER"] < 20_122 and 27_500 < counts["LOC"] < 27_891 and 3_300 < counts["ORG"] <= 3_573


def test_the_splits_are_the_recorded_ones():
    assert {name: digest[:12] for name, digest in newspaper_hashes().items()} == {
        "peoples_daily/train": "aa9d3db43380",
        "peoples_daily/validation": "80907b1d9662",
        "peoples_daily/test": "d30f927ac5da",
    }


def test_unknown_split():
    with pytest.raises(ValueError, match="unknown split 'dev'; known are train, validation, test"):
        newspaper("dev")


def test_no_test_sentence_stands_inside_one_that_is_trained_on():
    """Of the longer ones: a cut at another comma would hide a copy from the comparison of whole sentences."""
    train = "\n".join(one.text for split in ("train", "validation") for one in newspaper(split))
    inside = [one.text for one in newspaper("test") if len(one.text) >= 30 and one.text in train]
    assert len(inside) <= 3, inside
