"""Exact parallel text without people: dates, times, units and numbers, written in two languages from one value.

In: a language, a split, a number and a seed. Out: pairs of an English text and its translation. The forms are those of
CLDR, the Unicode consortium's Common Locale Data Repository, through Babel; spelled numbers are written by num2words.
A *form* says how a value is written ("March 5, 2024"), its *parts* say which combination it is (this form, March, 5).
Combinations, not pairs, are split: what is tested was never trained on, in any year, while each part was.
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from babel import dates, numbers, units
from num2words import num2words

from plm_tutorial.text import split_by_hash

LANGUAGES = {"fr": "French", "de": "German", "zh": "Chinese"}
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
KINDS = ("date", "time", "number", "unit", "spelled")

# Part of every hash that decides on a split. Changing it makes new splits, and so makes every recorded score invalid.
_SPLIT_KEY = "plm_tutorial/parallel/1"


class Pair(NamedTuple):
    """A text and its translation."""

    source: str  # English
    target: str
    language: str  # of the target: a key of LANGUAGES
    kind: str  # what it is about, such as "date"; for scores by kind
    form: str  # which form, of made pairs


@dataclass(frozen=True)
class Form:
    """One way to write values of a kind, in any language."""

    name: str
    kind: str
    draw: Callable[[random.Random], Any]  # a value
    write: Callable[[Any, str], str]  # value, language -> text
    parts: Callable[[Any], Hashable]  # which combination a value is, besides the form
    languages: tuple[str, ...] = tuple(LANGUAGES)

    def pair(self, value: Any, language: str) -> Pair:
        """Return a value in English and in another language."""
        texts = (plain_spaces(self.write(value, one)) for one in ("en", language))
        return Pair(*texts, language, self.kind, self.name)

    def split_of(self, value: Any) -> str:
        """Return the split of the combination that a value is."""
        return split_of(f"{self.name}/{self.parts(value)}")


def plain_spaces(text: str) -> str:
    """Return the text with ordinary spaces: CLDR has three more kinds, which differ by release and cannot be seen."""
    return re.sub(r"\s+", " ", text).strip()


def split_of(key: str, shares: Mapping[str, float] = SPLITS) -> str:
    """Return the split that a key falls into, by its hash: neither order nor seed counts."""
    return split_by_hash(f"{_SPLIT_KEY}\n{key}", shares)


# --------------------------------------------------------------------------------------------------- dates and times

YEARS = (1950, 2049)  # so that a year of two digits means one year
MONTHS = tuple(range(1, 13))
NOT_MAY = tuple(month for month in MONTHS if month != 5)  # "May 5" is short and long, but not so in German


def _date(years: tuple[int, int] = YEARS, months: Sequence[int] = MONTHS) -> Callable:
    def draw(rng: random.Random) -> datetime.datetime:
        while True:
            parts = rng.randint(*years), rng.choice(months), rng.randint(1, 31)
            try:
                return datetime.datetime(*parts, rng.randrange(24), rng.randrange(60), rng.randrange(60))
            except ValueError:  # 31 April
                continue

    return draw


def _day(value: datetime.datetime) -> Hashable:
    return value.month, value.day


def _month(value: datetime.datetime) -> Hashable:
    return value.year, value.month


def _minute(value: datetime.datetime) -> Hashable:
    return value.hour, value.minute


def _skeleton(name: str) -> Callable:
    return lambda value, language: dates.format_skeleton(name, value, locale=language)


def _date_form(name: str, write: Callable, parts: Callable = _day, months: Sequence[int] = MONTHS) -> Form:
    return Form(name, "date", _date(months=months), write, parts)


DATE_FORMS = (
    _date_form("full date", lambda value, language: dates.format_date(value, "full", locale=language)),
    _date_form("long date", lambda value, language: dates.format_date(value, "long", locale=language)),
    _date_form("short date", lambda value, language: dates.format_date(value, "short", locale=language)),
    _date_form("numeric date", _skeleton("yMd")),
    _date_form("abbreviated date", _skeleton("yMMMd"), months=NOT_MAY),
    _date_form("weekday and abbreviated date", _skeleton("yMMMEd"), months=NOT_MAY),
    _date_form("weekday and day", _skeleton("MMMEd"), months=NOT_MAY),
    _date_form("weekday and numeric day", _skeleton("MEd")),
    _date_form("day", _skeleton("MMMMd")),
    _date_form("month and year", _skeleton("yMMMM"), _month),
    _date_form("abbreviated month and year", _skeleton("yMMM"), _month, NOT_MAY),
)
TIME_FORMS = (
    Form("time", "time", _date(), lambda v, language: dates.format_time(v, "short", locale=language), _minute),
    Form(
        "time, seconds", "time", _date(), lambda v, language: dates.format_time(v, "medium", locale=language), _minute
    ),
    Form(
        "date and time", "time", _date(), lambda v, language: dates.format_datetime(v, "short", locale=language), _day
    ),
)

# --------------------------------------------------------------------------------------------------- numbers and units

CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CNY", "CHF", "INR")
UNITS = (
    *("length-meter", "length-kilometer", "length-centimeter", "length-mile", "area-square-meter"),
    *("mass-kilogram", "mass-gram", "volume-liter", "temperature-celsius", "speed-kilometer-per-hour"),
    *("duration-second", "duration-minute", "duration-hour", "duration-day", "duration-week", "duration-month"),
    *("duration-year", "digital-megabyte", "digital-gigabyte", "energy-kilowatt-hour", "power-watt", "frequency-hertz"),
)
# Counts that are written in this unit, and not in the next larger one.
AGO = {"second": 50, "minute": 50, "hour": 20, "day": 5, "week": 3, "month": 10, "year": 99}
SECONDS = dict(dates.TIMEDELTA_UNITS)


def _decimal(digits: Sequence[int], places: Sequence[int] = (0, 0, 1, 2)) -> Callable:
    """Draw numbers with so many digits before the point, each length equally often, and so many behind it."""

    def draw(rng: random.Random) -> Decimal:
        n = rng.choice(digits)
        whole = rng.randint(10 ** (n - 1) if n > 1 else 0, 10**n - 1)
        behind = rng.choice(places)
        text = f"{whole}.{rng.randrange(10**behind):0{behind}}" if behind else str(whole)
        return Decimal(text.rstrip("0").rstrip(".") if behind else text)  # 45.0 is 45: one value, one combination

    return draw


def _measure(rng: random.Random) -> tuple[str, str, Decimal]:
    unit, length = rng.choice(UNITS), rng.choice(("long", "short"))
    length = "long" if unit == "duration-day" else length  # English writes both alike, "2 days", others do not
    return unit, length, _decimal((1, 2, 2, 3, 3, 4), (0, 0, 1))(rng)


def _write_measure(value: tuple[str, str, Decimal], language: str) -> str:
    unit, length, number = value
    text = units.format_unit(number, unit, length, locale=language)
    # Where a language has no form of its own for a length, Babel shows the unit's identifier.
    return text if unit not in text else units.format_unit(number, unit, "short", locale=language)


def _ago(rng: random.Random) -> tuple[str, int]:
    unit = rng.choice(list(AGO))
    return unit, rng.choice((-1, 1)) * rng.randint(1, AGO[unit])


def _write_ago(value: tuple[str, int], language: str) -> str:
    seconds = SECONDS[value[0]] * value[1]
    return dates.format_timedelta(seconds, value[0], threshold=1, add_direction=True, locale=language)


def _rounded(rng: random.Random) -> Decimal:
    """Draw a number as newspapers write it: up to three digits, times a thousand, a million or a thousand millions."""
    places = rng.choice((0, 1))
    number = Decimal(rng.randint(10 if places else 1, 999)).scaleb(-places)
    return number.normalize() * 10 ** rng.choice((3, 6, 9))


def _write_rounded(value: Decimal, language: str) -> str:
    style = "short" if language == "zh" else "long"  # Chinese has one style, which counts in 万 (10⁴) and 亿 (10⁸)
    return numbers.format_compact_decimal(value, format_type=style, locale=language, fraction_digits=8)


def _amount(rng: random.Random) -> tuple[str, Decimal]:
    currency = rng.choice(CURRENCIES)
    return currency, _decimal((1, 2, 3, 4, 5), (0,) if currency == "JPY" else (2,))(rng)


def _spelled(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.choice((2, 3, 3, 4, 5, 6)))


NUMBER_FORMS = (
    Form(
        "decimal", "number", _decimal(range(1, 8)), lambda v, language: numbers.format_decimal(v, locale=language), int
    ),
    Form(
        "percent",
        "number",
        lambda rng: _decimal((1, 2, 2, 3), (0, 1))(rng) / 100,
        lambda v, language: numbers.format_percent(v, locale=language, decimal_quantization=False),
        str,
    ),
    Form("amount", "number", _amount, lambda v, language: numbers.format_currency(v[1], v[0], locale=language), str),
    Form("rounded number", "number", _rounded, _write_rounded, str),
)
UNIT_FORMS = (
    Form("measure", "unit", _measure, _write_measure, str),
    Form("time from now", "unit", _ago, _write_ago, str),
)
SPELLED_FORMS = (
    Form("spelled number", "spelled", _spelled, lambda v, language: num2words(v, lang=language), str, ("fr", "de")),
)
FORMS = (*DATE_FORMS, *TIME_FORMS, *NUMBER_FORMS, *UNIT_FORMS, *SPELLED_FORMS)


def _write_range(value: datetime.datetime, language: str) -> str:
    return dates.format_interval(value, value + datetime.timedelta(days=9), "yMMMd", locale=language)


# Never trained on, the nearest first: what was seen in other places, longer than seen, and a form that is new.
UNSEEN_FORMS = (
    Form("weekday and numeric date", "date", _date(), _skeleton("yMEd"), _day),
    Form("other centuries", "date", _date((1600, 1899)), DATE_FORMS[1].write, _day),
    Form("longer numbers", "number", _decimal((8, 9, 10)), NUMBER_FORMS[0].write, int),
    Form("range of dates", "date", _date(months=NOT_MAY), _write_range, _day),
)

# --------------------------------------------------------------------------------------------------------------- pairs


@cache
def forms_of(kinds: tuple[str, ...], language: str) -> tuple[Form, ...]:
    """Return the forms of some kinds that a language has.

    Raises:
        ValueError: a kind or the language is unknown, or the language has no such form.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; there are {', '.join(LANGUAGES)}")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"kind {unknown[0]!r} is unknown; there are {', '.join(KINDS)}")
    found = tuple(form for form in FORMS if form.kind in kinds and language in form.languages)
    if not found:
        raise ValueError(f"there is nothing of {', '.join(kinds)} in {LANGUAGES[language]}: num2words has no Chinese")
    return found


def made_pairs(
    language: str,
    split: str,
    n: int,
    *,
    kinds: Iterable[str] = KINDS,
    forms: Sequence[Form] | None = None,
    seed: int = 0,
) -> list[Pair]:
    """Return n pairs of a split, all different, drawn by the seed: kinds equally often, and the forms of a kind.

    Args:
        language: of the targets, a key of ``LANGUAGES``.
        split: "train", "validation" or "test": they share no combination of parts.
        kinds: of ``KINDS``; kinds that the language does not have are left out.
        forms: instead of kinds, such as ``UNSEEN_FORMS``.

    Raises:
        ValueError: a name is unknown, or there are not n different pairs.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; there are {', '.join(SPLITS)}")
    if n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    if forms is None:
        groups = [some for kind in kinds if (some := [f for f in forms_of((*KINDS,), language) if f.kind == kind])]
        if not groups:
            forms_of(tuple(kinds), language)  # says why
    else:
        groups = [[form] for form in forms]
    rng = random.Random(f"{language}/{split}/{seed}")
    found: dict[str, Pair] = {}
    tries = 0
    while len(found) < n:
        form = rng.choice(rng.choice(groups))
        value = form.draw(rng)
        if form.split_of(value) == split:
            pair = form.pair(value, language)
            found.setdefault(pair.source, pair)
        if (tries := tries + 1) > 1000 + 100 * n:
            raise ValueError(
                f"found only {len(found):,} different pairs of {n:,} in {split}; ask for fewer, or more kinds"
            )
    return list(found.values())
