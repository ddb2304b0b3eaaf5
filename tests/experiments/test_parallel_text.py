"""Made parallel text: right in every language, one target for a source, no combination in two splits."""

import datetime
from decimal import Decimal

import pytest
from babel.dates import format_date

from plm_tutorial.experiments.parallel_text import (
    DATE_FORMS,
    FORMS,
    KINDS,
    LANGUAGES,
    NUMBER_FORMS,
    UNSEEN_FORMS,
    made_pairs,
    plain_spaces,
    split_of,
)

FORM = {form.name: form for form in (*FORMS, *UNSEEN_FORMS)}
DAY = datetime.datetime(2024, 3, 5, 15, 7, 9)
KILOMETERS = ("length-kilometer", "long", Decimal("3.5"))


# What any release of CLDR writes; finer points, such as how months are abbreviated, differ.
@pytest.mark.parametrize(
    ("name", "value", "texts"),
    [
        ("long date", DAY, ("March 5, 2024", "5 mars 2024", "5. März 2024", "2024年3月5日")),
        ("time", DAY, ("3:07 PM", "15:07", "15:07", "15:07")),
        ("decimal", Decimal("1234567.8"), ("1,234,567.8", "1 234 567,8", "1.234.567,8", "1,234,567.8")),
        ("measure", KILOMETERS, ("3.5 kilometers", "3,5 kilomètres", "3,5 Kilometer", "3.5公里")),
        ("time from now", ("day", -3), ("3 days ago", "il y a 3 jours", "vor 3 Tagen", "3天前")),
        ("rounded number", Decimal("1200000"), ("1.2 million", "1,2 million", "1,2 Millionen", "120万")),
    ],
)
def test_a_value_is_written_in_all_languages(name, value, texts):
    for language, text in zip(LANGUAGES, texts[1:], strict=True):
        pair = FORM[name].pair(value, language)
        assert (pair.source, pair.target) == (texts[0], text)
        assert (pair.language, pair.kind, pair.form) == (language, FORM[name].kind, name)


def test_spelled_numbers_are_read_back_by_another_table():
    ones = {"one": 1, "two": 2, "three": 3, "twenty": 20, "thirty": 30, "forty": 40, "hundred": 100, "thousand": 1000}
    pair = FORM["spelled number"].pair(3_143, "de")
    words = pair.source.replace(",", "").replace("-", " ").replace(" and", "").split()
    total, part = 0, 0
    for word in words:
        part = part * ones[word] if word == "hundred" else part + ones[word] if word != "thousand" else part
        if word == "thousand":
            total, part = total + 1000 * part, 0
    assert total + part == 3_143
    assert pair.target == "dreitausendeinhundertdreiundvierzig"


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_source_has_one_target_and_stands_in_one_split(language):
    seen: dict[str, tuple[str, str]] = {}
    for split in ("train", "validation", "test"):
        pairs = made_pairs(language, split, 6_000)
        assert len({pair.source for pair in pairs}) == 6_000
        for pair in pairs:
            assert seen.setdefault(pair.source, (pair.target, split)) == (pair.target, split), pair


def test_what_is_tested_was_seen_in_its_parts_but_never_together():
    def days(split):
        return {(p.form, p.source.split(",")[0]) for p in made_pairs("fr", split, n[split], forms=DATE_FORMS[1:2])}

    n = {"train": 20_000, "test": 1_000}
    train, test = days("train"), days("test")
    assert len(test) > 25 and not train & test  # "March 5" of a long date, whatever the year
    for part in (0, 1):  # the month, the day
        assert {day.split()[part] for _, day in test} <= {day.split()[part] for _, day in train}


def test_splits_have_their_shares_and_do_not_depend_on_order():
    names = [split_of(f"key {i}") for i in range(5_000)]
    assert names.count("test") / 5_000 == pytest.approx(0.1, abs=0.02)
    assert [split_of(f"key {i}") for i in range(99, -1, -1)] == names[99::-1]


def test_pairs_follow_from_the_seed():
    a, b, other = (made_pairs("de", "train", 50, seed=seed) for seed in (1, 1, 2))
    assert a == b != other


def test_kinds_are_equally_frequent_and_chinese_has_no_spelled_numbers():
    for language in LANGUAGES:
        pairs = made_pairs(language, "train", 2_000)
        kinds = [kind for kind in KINDS if (kind, language) != ("spelled", "zh")]
        for kind in kinds:
            assert sum(pair.kind == kind for pair in pairs) / 2_000 == pytest.approx(1 / len(kinds), abs=0.06)


def test_unseen_forms_are_unseen():
    known = {pair.source for pair in made_pairs("fr", "train", 5_000)}
    for form in UNSEEN_FORMS:
        assert form.name not in {one.name for one in FORMS}
        assert not known & {pair.source for pair in made_pairs("fr", "test", 100, forms=[form])}
    assert "–" in made_pairs("fr", "test", 1, forms=[FORM["range of dates"]])[0].source


def test_only_ordinary_spaces():
    assert plain_spaces("3:07\u202fPM\u2009–\xa04") == "3:07 PM – 4"
    for pair in made_pairs("fr", "train", 500):
        assert not set("\u202f\xa0\u2009") & set(pair.source + pair.target)


def test_the_other_way_of_writing_the_same():
    assert FORM["full date"].write(DAY, "de") == format_date(DAY.date(), "EEEE, d. MMMM y", locale="de")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made_pairs("it", "train", 5), "language is 'it'; there are fr, de, zh"),
        (lambda: made_pairs("fr", "dev", 5), "split is 'dev'; there are train, validation, test"),
        (lambda: made_pairs("fr", "test", 0), "n is 0; expected at least 1"),
        (lambda: made_pairs("fr", "test", 5, kinds=["dates"]), "kind 'dates' is unknown; there are date, time"),
        (lambda: made_pairs("zh", "test", 5, kinds=["spelled"]), "there is nothing of spelled in Chinese: num2words"),
        (lambda: made_pairs("fr", "test", 2_000, forms=NUMBER_FORMS[1:2]), "different pairs of 2,000 in test"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
