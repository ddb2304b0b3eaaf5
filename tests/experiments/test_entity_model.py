"""The tagger: its head, its choice of tags, its way to disk and back, and that it learns."""

import numpy as np
import pytest
import torch

from plm_tutorial.batches import Batches
from plm_tutorial.entities import Entity, Sentence, TaggedRows, bio_tags, character_tokenizer, illegal_places
from plm_tutorial.evaluation import entity_counts, entity_f1
from plm_tutorial.experiments import entity_model
from plm_tutorial.experiments.entity_model import (
    choose_tags,
    encoder_config,
    find_entities,
    keep_tagger,
    load_tagger,
    masked_accuracy,
    masked_batches,
    new_tagger,
    recipe,
    tag_scores,
)
from plm_tutorial.models.decoder import Decoder
from plm_tutorial.objectives import IGNORED, predict_hidden
from plm_tutorial.training import fit

SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_hidden": 64}
TAGS = bio_tags()


@pytest.fixture(scope="module")
def sentences():
    draw = np.random.default_rng(0)
    some, found = [chr(0x4E00 + i) for i in range(12)], []
    for _ in range(200):
        before = "".join(draw.choice(some, int(draw.integers(0, 4))))
        name = "".join(draw.choice(some, int(draw.integers(1, 4))))
        found.append(Sentence(f"{before}叫{name}。", (Entity(len(before) + 1, len(before) + 1 + len(name), "PER"),)))
    return found


@pytest.fixture(scope="module")
def tokenizer(sentences):
    return character_tokenizer([one.text for one in sentences])


def small_body(tokenizer):
    torch.manual_seed(0)
    return Decoder(encoder_config(tokenizer.get_vocab_size(), **SMALL))


def test_the_head_is_one_linear_layer_on_the_bodys_vectors(sentences, tokenizer):
    body = small_body(tokenizer)
    model = new_tagger(body, len(TAGS)).eval()
    batch = TaggedRows(sentences, tokenizer, 16).batch(np.array([0, 1]))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    by_hand = body.hidden(ids, mask) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(ids, mask), by_hand)
    torch.testing.assert_close(body.hidden(ids, mask) @ body.tokens.weight.T, body(ids, mask))
    model.body.tokens.weight.data.zero_()
    assert body.tokens.weight.abs().sum() > 0  # the tagger has a copy


def test_scores_do_not_depend_on_padding(sentences, tokenizer):
    model = new_tagger(small_body(tokenizer), len(TAGS)).eval()
    rows = TaggedRows(sentences[:9], tokenizer, 16)
    together, alone = tag_scores(model, rows), tag_scores(model, rows, size=1)
    for a, b, n in zip(together, alone, rows.lengths, strict=True):
        assert a.shape == (n, len(TAGS))
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(np.exp(a).sum(1), 1, atol=1e-5)


def test_legal_tags_are_chosen_where_the_likeliest_are_not():
    scores = np.log(np.array([[0.3, 0.3, 0.4, 0, 0, 0, 0], [0.1, 0, 0.9, 0, 0, 0, 0]]) + 1e-9)
    [likeliest], [legal] = choose_tags([scores], TAGS, legal=False), choose_tags([scores], TAGS)
    assert likeliest == ["I-PER", "I-PER"] and illegal_places(likeliest) == [0]
    assert legal == ["B-PER", "I-PER"]


def test_it_learns_and_survives_storing(sentences, tokenizer, tmp_path):
    train, test = sentences[:150], sentences[150:]
    torch.manual_seed(0)
    model = new_tagger(encoder_config(tokenizer.get_vocab_size(), **SMALL), len(TAGS))
    fit(model, Batches(TaggedRows(train, tokenizer, 16), 32), recipe(80), progress=False)
    rows, truth = TaggedRows(test, tokenizer, 16), [one.entities for one in test]
    found = find_entities(model, rows)
    assert entity_f1(entity_counts(truth, found)) > 0.9
    folder = keep_tagger(model, tmp_path / "tagger", tokenizer)
    again = load_tagger(folder, len(TAGS))
    assert find_entities(again, rows) == found
    with pytest.raises(ValueError, match="it holds no tagger"):
        load_tagger(tmp_path, len(TAGS))


def test_masked_batches_hide_characters_and_training_finds_them(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(entity_model, "LENGTH", 16)
    texts = ["".join(chr(0x4E00 + (i + j) % 12) for j in range(40)) for i in range(30)]
    batches = masked_batches(texts, tokenizer, tmp_path / "tokens", 8)
    batch = batches[0]
    hidden = batch["labels"] != IGNORED
    assert batch["input_ids"].shape == (8, 16) and 0.15 < hidden.float().mean() < 0.45
    again = masked_batches(texts, tokenizer, tmp_path / "tokens", 8)[0]  # from what is on disk
    assert torch.equal(again["input_ids"], batch["input_ids"])
    model = small_body(tokenizer)
    before = masked_accuracy(model, tokenizer, texts)
    fit(model, batches, recipe(60), objective=predict_hidden, progress=False)
    assert masked_accuracy(model.eval(), tokenizer, texts) > max(0.5, before + 0.2)
