"""Text that people translated: the terms of CLDR, and the messages of two programs.

In: a language and a split. Out: pairs of an English text and its translation, each English text once. Both sets are
small; terms are names of one to six words, messages mostly a few words or one sentence. The split of a pair depends on
the letters and digits of its English side alone, so it is the same in all languages.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache

from babel import Locale
from babel.messages import pofile

from plm_tutorial import assets
from plm_tutorial.experiments.parallel_text import LANGUAGES, Pair, plain_spaces, split_of
from plm_tutorial.text import normal_form

TERM_KINDS = ("territory", "language", "currency", "script", "variant", "city", "time zone")
SPLITS = {"train": 0.75, "validation": 0.1, "test": 0.15}
ASSETS = ("django_messages", "sphinx_messages")


@cache
def terms(language: str, split: str | None = None) -> tuple[Pair, ...]:
    """Return CLDR's names of territories, languages, currencies, scripts, cities and time zones, as Babel has them.

    Raises:
        ValueError: the language or the split is unknown.
    """
    _check(language, split)
    english, other = Locale.parse("en"), Locale.parse(language)
    pairs = (
        Pair(source, other_names[key], language, kind, "")
        for kind in TERM_KINDS
        for names, other_names in [(_names(english, kind), _names(other, kind))]
        for key, source in names.items()
        if key in other_names
    )
    return tuple(_of_split(_once(pairs), split))


def _names(locale: Locale, kind: str) -> Mapping[str, str]:
    """Return the names of a kind by a key that all languages share."""
    if kind == "city":  # where the English name is that of the zone, English has no entry
        listed = {key: value["city"] for key, value in locale.time_zones.items() if "city" in value}
        if locale.language != "en":
            return listed
        known = Locale.parse("zh").time_zones  # has nearly all
        return {key: listed.get(key, key.rpartition("/")[2].replace("_", " ")) for key in known}
    if kind == "time zone":
        return {
            f"{zone}/{length}/{part}": name
            for zone, value in locale.meta_zones.items()
            for length in ("long",)
            for part, name in value.get(length, {}).items()
        }
    plural = {"territory": "territories", "currency": "currencies"}.get(kind, f"{kind}s")
    return {key: name for key, name in getattr(locale, plural).items() if not key.isdigit()}


@cache
def messages(language: str, split: str | None = None, longest: int | None = None) -> tuple[Pair, ...]:
    """Return Django's and Sphinx's messages, as people translated them; of a plural, its first and its last form.

    Args:
        longest: leave out pairs with more characters than this on either side; None: keep all.

    Raises:
        ValueError: the language or the split is unknown.
        AssetError: the catalogues are absent and cannot be fetched.
    """
    _check(language, split)
    files = [(name, file.name) for name in ASSETS for file in assets.get(name).files]
    pairs = (
        Pair(*texts, language, name.removesuffix("_messages"), file.partition(".")[0])
        for name, file in files
        if f".{language}." in file
        for texts in _catalogue(name, file)
    )
    kept = _of_split(_once(pairs), split)
    return tuple(pair for pair in kept if longest is None or max(len(pair.source), len(pair.target)) <= longest)


def _catalogue(name: str, file: str) -> Iterator[tuple[str, str]]:
    # Babel prints a warning for each plural of more forms than it counts for the language; all forms are read.
    with open(assets.path(name, file), "rb") as stream, redirect_stdout(io.StringIO()):
        catalogue = pofile.read_po(stream)
    for message in catalogue:
        if message.id and not message.fuzzy:
            sources = message.id if isinstance(message.id, tuple) else (message.id,)
            targets = message.string if isinstance(message.string, tuple) else (message.string,)
            yield plain_spaces(sources[0]), plain_spaces(targets[0] or "")
            if len(sources) > 1:
                yield plain_spaces(sources[1]), plain_spaces(targets[-1] or "")


def _once(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the pairs with both sides, each English text (whatever its case and its marks) once, the first."""
    found: dict[str, Pair] = {}
    for pair in pairs:
        key = normal_form(pair.source)
        if key and normal_form(pair.target):
            found.setdefault(key, pair)
    return list(found.values())


def _of_split(pairs: list[Pair], split: str | None) -> list[Pair]:
    return [pair for pair in pairs if split in (None, split_of(normal_form(pair.source), SPLITS))]


def _check(language: str, split: str | None) -> None:
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; there are {', '.join(LANGUAGES)}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; there are {', '.join(SPLITS)}")


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """Return the SHA-256 of pairs, as a record notes what it used."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.language}\t{pair.source}\t{pair.target}\n".encode())
    return digest.hexdigest()
