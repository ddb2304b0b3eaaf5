"""Sentence vectors: against transformers, in any order and any batch, with bad input."""

import pytest
import torch
import transformers

from plm_tutorial import assets, load_model, load_tokenizer, text
from plm_tutorial.embedding import embed
from plm_tutorial.models import Bert, BertConfig


@pytest.fixture(scope="module")
def minilm():
    return load_model("minilm", device="cpu"), load_tokenizer("minilm")


def test_the_vectors_equal_those_of_transformers(minilm):
    texts = text.reviews("rotten_tomatoes", "test")["text"][:12]
    model = transformers.BertModel.from_pretrained(assets.path("minilm")).eval()
    expected = []
    for one in texts:  # alone, so that there is no padding that could matter
        ids = torch.tensor([minilm[1].encode(one).ids])
        with torch.no_grad():
            expected.append(model(ids).last_hidden_state[0].mean(0))
    expected = torch.stack(expected)  # (N, D)
    torch.testing.assert_close(embed(*minilm, texts, normalize=False), expected, atol=1e-5, rtol=0)
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(embed(*minilm, texts), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batches_change_nothing(minilm, batch_tokens):
    texts = ["a film", "a long film about cops who chase robbers through the city", "dull", "a film", "not dull at all"]
    alone = torch.cat([embed(*minilm, [one]) for one in texts])
    torch.testing.assert_close(embed(*minilm, texts, batch_tokens=batch_tokens), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("direction", ["left", "right"])
def test_the_padding_of_the_tokenizer_does_not_matter(minilm, direction):
    model, tokenizer = minilm[0], load_tokenizer("minilm")
    texts = ["dull", "a film about cops who chase robbers"]
    tokenizer.enable_padding(direction=direction)
    torch.testing.assert_close(embed(model, tokenizer, texts), embed(*minilm, texts))


def test_a_long_text_is_cut_to_the_context_and_ends_as_the_model_expects(minilm):
    model, tokenizer = minilm
    words = ["film"] * (model.config.context_length - 2)
    torch.testing.assert_close(
        embed(model, tokenizer, [" ".join(words + ["dull"] * 50)]), embed(model, tokenizer, [" ".join(words)])
    )


def test_half_precision_gives_float32(minilm):
    model = load_model("minilm", device="cpu", dtype=torch.bfloat16)
    vectors = embed(model, minilm[1], ["a film", "a film about cops"])
    assert vectors.dtype == torch.float32
    assert (vectors * embed(*minilm, ["a film", "a film about cops"])).sum(-1).min() > 0.99


def test_bad_calls_say_what_to_do(minilm):
    model, tokenizer = minilm
    for texts, message in (
        ([], "there is no text to embed"),
        ("a film", r"a single str; expected a list of texts"),
        (["a film", " \n"], "text 1 is empty"),
        ([""], "text 0 is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(model, tokenizer, texts)
    with pytest.raises(ValueError, match="batch_tokens is 0; expected at least 1"):
        embed(model, tokenizer, ["a film"], batch_tokens=0)
    with pytest.raises(ValueError, match="a Linear is no encoder of this package"):
        embed(torch.nn.Linear(2, 2), tokenizer, ["a film"])
    with pytest.raises(ValueError, match="ids from .* this model knows 0 to 9"):  # the tokenizer of another model
        small = BertConfig(vocab_size=10, context_length=8, d_model=4, n_layers=1, n_heads=1, d_hidden=4)
        embed(Bert(small).eval(), tokenizer, ["a film"])
