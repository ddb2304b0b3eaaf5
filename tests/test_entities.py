"""Spans and tags: there and back, through tokenizers, and in batches; what cannot be said is refused."""

import random

import numpy as np
import pytest
import torch
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from plm_tutorial import load_tokenizer
from plm_tutorial.entities import (
    KINDS,
    Entity,
    Sentence,
    TaggedRows,
    bio_tags,
    character_tokenizer,
    from_bio,
    illegal_places,
    may_follow,
    to_bio,
    token_entities,
    token_tags,
    whole_words,
)
from plm_tutorial.objectives import IGNORED

TAGS = bio_tags()


def random_entities(draw: random.Random, length: int) -> list[Entity]:
    found, at = [], 0
    while (at := at + draw.randrange(3)) < length:
        end = min(length, at + draw.randrange(1, 4))
        found.append(Entity(at, end, draw.choice(KINDS)))
        at = end
    return found


def test_tags_are_numbered_with_o_first():
    assert TAGS == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]


def test_there_and_back():
    draw = random.Random(0)
    for _ in range(300):
        length = draw.randrange(12)
        entities = random_entities(draw, length)
        tags = to_bio(length, entities)
        assert from_bio(tags) == entities and illegal_places(tags) == []


def test_neighbours_of_one_kind_stay_two():
    assert to_bio(4, [Entity(0, 2, "PER"), Entity(2, 4, "PER")]) == ["B-PER", "I-PER", "B-PER", "I-PER"]


def test_any_tags_are_read_as_seqeval_reads_them():
    draw = random.Random(1)
    for _ in range(2000):
        tags = draw.choices(TAGS, k=draw.randrange(1, 10))
        assert [(kind, start, end - 1) for start, end, kind in from_bio(tags)] == get_entities(tags)


def test_legal_tags_are_read_as_strict_seqeval_reads_them():
    draw = random.Random(2)
    for _ in range(200):
        tags = to_bio(10, random_entities(draw, 10))
        strict = [(one.start, one.end, one.tag) for one in Entities([tags], IOB2).entities[0]]
        assert [tuple(one) for one in from_bio(tags)] == strict


def test_illegal_places():
    assert illegal_places(["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"]) == [0, 3, 5]
    assert may_follow("B-PER", "I-PER") and may_follow("I-PER", "I-PER") and may_follow("I-PER", "B-LOC")
    assert not may_follow("O", "I-PER") and not may_follow("B-LOC", "I-PER")


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([Entity(2, 2, "PER")], "does not lie in a text of 4 places"),
        ([Entity(3, 5, "PER")], "does not lie"),
        ([Entity(0, 2, "PER"), Entity(1, 3, "LOC")], "overlaps another entity"),
    ],
)
def test_what_tags_cannot_say(entities, message):
    with pytest.raises(ValueError, match=message):
        to_bio(4, entities)


@pytest.mark.parametrize("tag", ["PER", "B-", "O-PER", "E-PER", "B"])
def test_what_is_no_tag(tag):
    with pytest.raises(ValueError, match="tag 1 is"):
        from_bio(["O", tag])


# --- through tokenizers


def test_subwords_share_the_tag_of_their_word():
    text = "Lansbury met Bogdanovich."
    entities = [Entity(0, 8, "PER"), Entity(13, 24, "PER")]
    encoding = load_tokenizer("minilm").encode(text)
    tags = token_tags(encoding.offsets, entities)
    assert tags[0] is tags[-1] is None  # [CLS], [SEP]
    said = [tag for tag in tags if tag is not None]
    assert said[0] == "B-PER" and said.count("B-PER") == 2 and said.count("I-PER") >= 2 and said[-1] == "O"
    assert token_entities(encoding.offsets, tags) == entities


def test_there_and_back_through_random_tokens():
    draw = random.Random(3)
    for _ in range(200):
        borders = sorted(draw.sample(range(1, 20), 6))
        offsets = [(0, 0), *zip([0, *borders], [*borders, 20], strict=True), (0, 0)]
        entities = [Entity(offsets[i][0], offsets[i][1], draw.choice(KINDS)) for i in (1, 3, 4)]
        assert token_entities(offsets, token_tags(offsets, entities)) == entities


def test_an_entity_that_ends_inside_a_token_grows():
    assert token_entities([(0, 4), (4, 6)], token_tags([(0, 4), (4, 6)], [Entity(0, 5, "PER")])) == [
        Entity(0, 6, "PER")
    ]


def test_two_entities_in_one_token_are_refused():
    with pytest.raises(ValueError, match="shares the token of characters 0 to 4"):
        token_tags([(0, 4)], [Entity(0, 2, "PER"), Entity(2, 4, "LOC")])


def test_as_many_tags_as_tokens():
    with pytest.raises(ValueError, match="1 tags for 2 tokens"):
        token_entities([(0, 1), (1, 2)], ["O"])


def test_half_words_become_whole():
    text = "Nora met Ismael, Taj-Mahal and O'Brien"
    found = [Entity(0, 4, "PER"), Entity(11, 15, "PER"), Entity(19, 20, "PER"), Entity(33, 38, "PER")]
    assert [text[a:b] for a, b, _ in whole_words(text, found)] == ["Nora", "Ismael", "Taj", "Brien"]
    assert whole_words("Ismael", [Entity(0, 2, "PER"), Entity(2, 6, "LOC")]) == [Entity(0, 6, "PER")]


# --- rows

SENTENCES = [
    Sentence("江泽民访问美国", (Entity(0, 3, "PER"), Entity(5, 7, "LOC"))),
    Sentence("好", ()),
    Sentence("新华社电", (Entity(0, 3, "ORG"),)),
]


def test_a_character_a_token():
    tokenizer = character_tokenizer(["新华社新", "新\n电[MASK]社"], least=2)
    assert tokenizer.get_vocab_size() == 6  # four that stand for something else, 新 and 社
    encoding = tokenizer.encode("新\n電社[MASK]")
    assert encoding.tokens[:4] == ["新", "[UNK]", "[UNK]", "社"] and len(encoding.ids) == 10
    assert encoding.offsets[3] == (3, 4)
    assert [tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[MASK]", "[END]")] == [0, 1, 2, 3]


def test_batches_have_a_label_for_each_token_and_none_for_padding():
    tokenizer = character_tokenizer([one.text for one in SENTENCES], least=1)
    rows = TaggedRows(SENTENCES, tokenizer, 8)
    batch = rows.batch(np.array([2, 0]))
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 7)
    assert batch["attention_mask"].sum(1).tolist() == [4, 7]
    assert [TAGS[k] for k in batch["labels"][1]] == to_bio(7, SENTENCES[0].entities)
    assert batch["labels"][0].tolist() == [5, 6, 6, 0, *[IGNORED] * 3]
    assert tokenizer.decode(batch["input_ids"][0, :4].tolist()) == "新华社电"
    order = [numbers.tolist() for numbers, _ in rows.by_length(2)]
    assert order == [[0, 2], [1]]
    assert torch.equal(next(rows.by_length(1))[1]["labels"][0], batch["labels"][1])


def test_subword_rows_leave_the_template_out():
    tokenizer = load_tokenizer("minilm")
    rows = TaggedRows([Sentence("Lansbury sings", (Entity(0, 8, "PER"),))], tokenizer, 16, kinds=("PER",), special=True)
    labels = rows.batch(np.array([0]))["labels"][0].tolist()
    assert labels[0] == labels[-1] == IGNORED and labels[1] == 1 and labels[-2] == 0


@pytest.mark.parametrize(
    ("sentences", "length", "message"),
    [
        ([], 8, "there are no sentences"),
        (SENTENCES, 6, "sentence 0 has 7 tokens; expected 1 to 6"),
        ([Sentence("", ())], 8, "sentence 0 has 0 tokens"),
        ([Sentence("好", (Entity(0, 1, "DATE"),))], 8, "entities of kind 'DATE'; known are PER, LOC, ORG"),
    ],
)
def test_rows_that_make_no_sense(sentences, length, message):
    tokenizer = character_tokenizer([one.text for one in SENTENCES], least=1)
    with pytest.raises(ValueError, match=message):
        TaggedRows(sentences, tokenizer, length)
