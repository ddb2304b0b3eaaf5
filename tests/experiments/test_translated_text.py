"""Text that people translated: read right, each English text once, in one split; and what baselines make of it."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from plm_tutorial import assets
from plm_tutorial.experiments import translated_text
from plm_tutorial.experiments.parallel_text import LANGUAGES, Pair
from plm_tutorial.experiments.translated_text import messages, pairs_hash, terms
from plm_tutorial.experiments.translation_baselines import Dictionary, NearestNeighbour, copy_source
from plm_tutorial.text import normal_form

FOUND = {"terms": terms, "messages": messages}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_source_once_and_in_one_split(what, language):
    everything = FOUND[what](language)
    keys = [normal_form(pair.source) for pair in everything]
    assert len(set(keys)) == len(keys) > 900
    parts = {split: {p.source for p in FOUND[what](language, split)} for split in translated_text.SPLITS}
    assert sum(map(len, parts.values())) == len(everything)
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["validation"]
    assert 0.12 < len(parts["test"]) / len(everything) < 0.18


@pytest.mark.parametrize("what", FOUND)
def test_a_source_has_the_same_split_in_all_languages(what):
    for split in ("train", "validation"):
        inside = {pair.source for pair in FOUND[what]("fr", split)}
        assert not inside & {pair.source for pair in FOUND[what]("de", "test")}


def test_terms_that_every_release_has():
    named = {language: {p.source: p.target for p in terms(language)} for language in LANGUAGES}
    assert [named[language]["Switzerland"] for language in LANGUAGES] == ["Suisse", "Schweiz", "瑞士"]
    assert named["zh"]["Moscow"] == "莫斯科" and named["de"]["Swedish"] == "Schwedisch"
    assert {p.kind for p in terms("zh")} == set(translated_text.TERM_KINDS)


def test_messages_are_what_the_catalogues_say():
    text = assets.path("django_messages", "admin.de.po").read_text(encoding="utf-8")
    some = [
        pair for pair in messages("de") if pair.form == "admin" and "%" not in pair.source and len(pair.source) < 40
    ]
    assert len(some) > 50
    for pair in some:
        assert all(f'"{side}"' in text for side in pair[:2]), pair


def test_longer_messages_can_be_left_out():
    short, every = messages("fr", "test", 40), messages("fr", "test")
    assert set(short) == {pair for pair in every if max(len(pair.source), len(pair.target)) <= 40} != set(every)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="language is 'en'; there are fr, de, zh"):
        terms("en")
    with pytest.raises(ValueError, match="split is 'dev'; there are train, validation, test"):
        messages("fr", "dev")


def test_the_hash_sees_each_side():
    a, b = Pair("a", "b", "fr", "", ""), Pair("a", "c", "fr", "", "")
    assert pairs_hash([a]) == pairs_hash([a]) != pairs_hash([b]) and len(pairs_hash([])) == 64


# ---- baselines


def pairs(language, *texts):
    return [Pair(source, target, language, "", "") for source, target in texts]


def test_the_dictionary_finds_words_that_go_together():
    known = pairs("fr", ("red house", "maison rouge"), ("red car", "voiture rouge"), ("blue house", "maison bleue"))
    translate = Dictionary(known)
    assert translate(["blue car", "red house", "red bike"]) == ["bleue voiture", "maison rouge", "rouge bike"]
    of_two = ("Swiss Franc", "瑞士法郎"), ("French Franc", "法国法郎"), ("Swiss Time", "瑞士时间")
    chinese = Dictionary(pairs("zh", *of_two, ("French Polish", "法国上光"), ("Summer Time", "夏令时间")))
    assert chinese(["French Time", "Franc"]) == ["法国时间", "法郎"]


def test_placeholders_stay_whole():
    known = pairs("de", ("delete %(name)s", "%(name)s löschen"), ("delete {obj}", "{obj} löschen"))
    assert Dictionary(known)(["delete %(user)s"]) == ["löschen %(user)s"]


def test_the_nearest_neighbour_is_the_one_of_the_full_table():
    known = terms("fr", "train")[:300]
    texts = [pair.source for pair in terms("fr", "test")[:40]]
    search = NearestNeighbour(known)
    table = cosine_similarity(search.features.transform(texts), search.vectors)
    assert search(texts) == [known[i].target for i in table.argmax(axis=1)]
    assert search([known[7].source]) == [known[7].target]
    assert copy_source(texts) == texts


def test_baselines_need_pairs_of_one_language():
    with pytest.raises(ValueError, match="there are no training pairs to look up"):
        NearestNeighbour([])
    mixed = pairs("fr", ("a", "b")) + pairs("de", ("a", "c"))
    with pytest.raises(ValueError, match="a dictionary is of one language; these 2 pairs have 2"):
        Dictionary(mixed)


def test_the_dictionary_beats_copying_on_terms():
    from plm_tutorial.evaluation import chrf

    for language in LANGUAGES:
        test = terms(language, "test")
        sources, wanted = [p.source for p in test], [p.target for p in test]
        assert chrf(wanted, Dictionary(terms(language, "train"))(sources)) > chrf(wanted, sources) + 10
    assert np.mean([p.source == p.target for p in terms("zh")]) < 0.01
