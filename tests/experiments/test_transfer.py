"""The ways of adapting MiniLM: what each trains, costs and keeps, and the measures of what a representation holds."""

import numpy as np
import pytest
import torch

from plm_tutorial import load_tokenizer
from plm_tutorial.adaptation import LoraConfig, count_parameters, freeze, inject, lora_layers
from plm_tutorial.batches import TextRows
from plm_tutorial.embedding import embed
from plm_tutorial.experiments import transfer
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.experiments.transfer import (
    BY_GRADIENT,
    Halves,
    begin_alike,
    classifier,
    first_words,
    forward_flops,
    found_halves,
    headless,
    in_snippet_style,
    layer_features,
    layer_probes,
    linear_probe,
    mean_step_flops,
    split_in_halves,
    step_flops,
    train,
    training_memory,
    unfreezing_interval,
)
from plm_tutorial.models import Bert, BertConfig

D, F, L, V = 16, 32, 2, 30522
TEXTS = ["a dull , lifeless film", "bright and funny", "it works", "not a moment too soon , and not a laugh in it"]
LABELS = [0, 1, 1, 0]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("minilm")


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    shape = {"vocab_size": V, "d_model": D, "n_layers": L, "n_heads": 2, "d_hidden": F, "context_length": 64}
    return Bert(BertConfig(**shape, head="sequence", n_labels=2, pooling="mean")).eval()


@pytest.fixture(scope="module")
def rows(tokenizer):
    return TextRows(TEXTS * 4, LABELS * 4, tokenizer, 32)


# ---- training


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_each_way_begins_with_the_same_head_and_its_own_body(method):
    model, published = classifier(method, 3), classifier("full fine-tuning", 3)
    trained, total = count_parameters(model)
    same = torch.equal(model.embeddings.tokens.weight, published.embeddings.tokens.weight)
    assert same == (method != "from scratch")
    assert bool(lora_layers(model)) == (method == "LoRA")
    assert trained < 0.02 * total if method == "LoRA" else trained == total
    if method != "from scratch":
        assert torch.equal(model.head.output.weight, published.head.output.weight)
        other = classifier(method, 4)
        assert not torch.equal(model.head.output.weight, other.head.output.weight)


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="method is 'linear probe'; expected one of 'gradual unfreezing', 'LoRA'"):
        classifier("linear probe")


def test_training_learns_and_follows_from_the_seed(tiny, rows):
    begun = {name: value.clone() for name, value in tiny.state_dict().items()}
    history = train("full fine-tuning", tiny, rows, steps=60, lr=1e-2, size=8)
    losses = history.column("loss")
    assert losses[0] > 0.6 and np.mean(losses[-5:]) < 0.3
    moved = {name: value.clone() for name, value in tiny.state_dict().items()}
    tiny.load_state_dict(begun)
    train("full fine-tuning", tiny, rows, steps=60, lr=1e-2, size=8)
    assert all(torch.equal(value, moved[name]) for name, value in tiny.state_dict().items())


def test_gradual_unfreezing_moves_the_embeddings_last(tiny, rows):
    begun = tiny.embeddings.tokens.weight.clone()
    every = unfreezing_interval(40)
    train("gradual unfreezing", tiny, rows, steps=40, lr=1e-2, size=8)
    assert every == 4 and not torch.equal(tiny.embeddings.tokens.weight, begun)
    assert unfreezing_interval(5) == 1
    assert count_parameters(tiny).trained == count_parameters(tiny).total


# ---- cost


def forward_by_hand(batch):
    B, T = batch["input_ids"].shape
    blocks = L * (2 * B * T * (4 * D**2 + 2 * D * F) + 4 * B * T**2 * D)
    return blocks, 2 * B * (D**2 + 2 * D)


def test_arithmetic_is_that_of_the_formulas(tiny, rows):
    batch = rows.batch(np.arange(4))
    blocks, head = forward_by_hand(batch)
    assert forward_flops(tiny, batch) == blocks + head
    assert step_flops(tiny, batch) == 3 * (blocks + head)  # backward: of the inputs and of the weights
    assert all(p.grad is None for p in tiny.parameters())
    freeze(tiny, until="head")
    # Both matrices of the head get a gradient, and the input of the second one, which is what the first returns.
    assert step_flops(tiny, batch) == blocks + 2 * head + 2 * 4 * 2 * D


def test_lora_saves_less_than_a_third_of_the_arithmetic(tiny, rows):
    batch = rows.batch(np.arange(4))
    full = step_flops(tiny, batch)
    share = step_flops(inject(tiny, LoraConfig(rank=1)), batch) / full
    assert 0.6 < share < 0.75


def test_gradual_unfreezing_costs_what_its_stages_cost(tiny, rows):
    batch, stages = rows.batch(np.arange(4)), []
    for until in ("head", 1, 0, None):
        tiny.requires_grad_(True)
        if until is not None:
            freeze(tiny, until=until)
        stages.append(step_flops(tiny, batch))
    assert stages == sorted(stages)
    tiny.requires_grad_(True)
    mean = mean_step_flops("gradual unfreezing", tiny, batch, 40)  # a stage lasts 4 steps, the last one 28
    assert mean == pytest.approx((4 * sum(stages[:3]) + 28 * stages[3]) / 40)
    assert count_parameters(tiny).trained == count_parameters(tiny).total
    assert mean_step_flops("full fine-tuning", tiny, batch, 40) == stages[-1]


def test_memory_is_counted_tensor_by_tensor(tiny, rows):
    tiny.train()
    small, large = (training_memory(tiny, rows.batch(np.arange(n) % 4 * 0)) for n in (4, 8))  # equally long rows
    n = count_parameters(tiny).total
    assert small[:3] == large[:3] == (4 * n, 4 * n, 8 * n)
    assert 1.9 < large.activations / small.activations < 2.1
    with_lora = training_memory(inject(tiny, LoraConfig(rank=1)), rows.batch(np.zeros(4, int)))
    assert with_lora.gradients < 0.1 * small.gradients
    assert 0.3 * small.activations < with_lora.activations < 0.95 * small.activations


# ---- representations


def test_features_are_the_means_of_hidden_states_in_the_order_of_the_rows(tiny, rows, tokenizer):
    found = layer_features(tiny, rows, size=3)
    assert found.shape == (L + 1, len(rows), D)
    np.testing.assert_allclose(found[:, 0], found[:, 4], atol=1e-6)  # the same text
    with headless(tiny) as encoder:
        last = embed(encoder, tokenizer, TEXTS, normalize=False)
    np.testing.assert_allclose(found[-1, :4], last.numpy(), atol=1e-5)
    assert (
        tiny.head is not None
        and tiny(**{k: v for k, v in rows.batch(np.arange(2)).items() if k != "labels"}).dim() == 2
    )


def test_a_head_comes_back_after_an_error(tiny):
    with pytest.raises(RuntimeError), headless(tiny):
        raise RuntimeError
    assert tiny.head is not None


def test_the_strength_of_a_probe_is_chosen_on_validation():
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(60, 5)), rng.normal(size=(60, 40))
    labels = (features[:, 0] > 0).astype(int)
    wide = np.hstack([features, noise])
    probe = linear_probe(wide[:40], labels[:40], wide[40:], labels[40:], strengths=(1e-4, 1e-2, 1e2))
    scores = [
        (linear_probe(wide[:40], labels[:40], wide[40:], labels[40:], strengths=(c,)).predict(wide[40:]) == labels[40:])
        for c in (1e-4, 1e-2, 1e2)
    ]
    best = max(np.mean(one) for one in scores)
    assert (probe.predict(wide[40:]) == labels[40:]).mean() == best
    first = [c for c, one in zip((1e-4, 1e-2, 1e2), scores, strict=True) if one.mean() == best][0]
    assert probe[-1].C == first


def test_probes_of_layers_ask_three_questions(tiny, tokenizer):
    found = layer_probes(tiny, tokenizer, 24, 16)
    assert [(row["question"], row["layer"]) for row in found] == [
        (question, layer) for question in ("sentiment", "length", "source") for layer in range(L + 1)
    ]
    assert all(0 <= row["accuracy"] <= 1 for row in found)


def test_source_and_length_are_told_apart_by_nothing_else(monkeypatch, tokenizer, tiny):
    """Both sources have equally many words, so that length does not betray the source."""
    given = []
    real = transfer.TextRows
    monkeypatch.setattr(transfer, "TextRows", lambda texts, *rest: given.append(texts) or real(texts, *rest))
    layer_probes(tiny, tokenizer, 20, 10)
    for texts in given:
        half = len(texts) // 2
        assert [len(text.split()) for text in texts[:half]] == [len(text.split()) for text in texts[half:]]


# ---- texts


def test_reviews_are_written_as_snippets_are():
    text = "I don't think it's great. (They're \"fine\", aren't they?)  Well... over--at last!"
    assert in_snippet_style(text) == (
        "i don't think it's great . ( they're \" fine \" , aren't they ? ) well ... over -- at last !"
    )
    assert first_words("It's over, friends.", 3) == "it's over ,"
    assert begin_alike(["It's over, friends."], ["two words"]) == ["it's over"]


@pytest.mark.slow
def test_snippets_have_that_style_already():
    texts = [text for text in labelled_reviews("rotten_tomatoes", "validation").texts if "/" not in text]
    assert np.mean([in_snippet_style(text) == text for text in texts]) > 0.9


def test_texts_are_cut_in_halves():
    texts = ["1 2 3 4 5 6 7", "1 2 3", "a b c d"]
    assert split_in_halves(texts, words=2) == Halves(["1 2", "a b"], ["3 4", "c d"])
    with pytest.raises(ValueError, match="1 of 3 texts have 6 words; at least two are needed"):
        split_in_halves(texts, words=3)


def test_a_half_that_is_the_same_text_is_found(tiny, tokenizer):
    assert found_halves(tiny, tokenizer, Halves(TEXTS, TEXTS), near=1).all()
    assert not found_halves(tiny, tokenizer, Halves(TEXTS, TEXTS[::-1]), near=1).any()
    assert found_halves(tiny, tokenizer, Halves(TEXTS, TEXTS[::-1]), near=4).all()
