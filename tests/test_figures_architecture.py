"""The structure read off models, and its drawing."""

from dataclasses import replace

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

matplotlib.use("Agg")

from plm_tutorial import models
from plm_tutorial.figures.architecture import Stack, describe, draw_architectures

SMALL = {"vocab_size": 30, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_hidden": 24}


@pytest.fixture(scope="module")
def families():
    t5 = SMALL | {"n_decoder_layers": 3, "d_head": 4}
    return {
        "BERT": models.Bert(models.BertConfig(**SMALL)),
        "GPT-2": models.GPT2(models.GPT2Config(**SMALL)),
        "Llama": models.Llama(models.LlamaConfig(**SMALL, n_kv_heads=2, d_head=4)),
        "T5": models.T5(models.T5Config(**t5)),
        "T5 1.1": models.T5(models.T5Config(**t5, activation="gelu_new", gated=True, tied=False)),
    }


@pytest.fixture()
def ax():
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_bert(families):
    found = describe(families["BERT"])
    assert (found.positions, found.embedding_norm) == ("learned", True)
    assert found.stacks == (Stack(2, False, 4, 4, False, False, "LayerNorm", False, "gelu", False, True),)


def test_gpt2(families):
    found = describe(families["GPT-2"])
    assert (found.positions, found.embedding_norm) == ("learned", False)
    assert found.stacks == (Stack(2, True, 4, 4, False, True, "LayerNorm", True, "gelu_new", False, True),)


def test_llama(families):
    found = describe(families["Llama"])
    assert (found.positions, found.embedding_norm) == ("rotary", False)
    assert found.stacks == (Stack(2, True, 4, 2, False, True, "RMSNorm", True, "silu", True, False),)


@pytest.mark.parametrize("name, activation, gated", [("T5", "relu", False), ("T5 1.1", "gelu_new", True)])
def test_t5(families, name, activation, gated):
    found = describe(families[name])
    encoder = Stack(2, False, 4, 4, False, True, "RMSNorm", True, activation, gated, False)
    assert found.positions == "relative"
    assert found.stacks == (encoder, replace(encoder, n_layers=3, causal=True, cross=True))


def test_the_meta_device_will_do(families):
    with torch.device("meta"):
        assert describe(models.Llama(models.LlamaConfig())).stacks[0].n_layers == 30


def test_what_has_no_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no blocks"):
        describe(nn.Linear(2, 2))


def test_each_structure_is_drawn_once(ax, families):
    bert, gpt2 = describe(families["BERT"]), describe(families["GPT-2"])
    assert draw_architectures(ax, {"one": bert, "two": gpt2, "three": bert}) is ax
    assert {"one, three", "two"} <= set(words(ax))
    assert words(ax).count("tokens") == 2


def test_what_is_drawn_is_what_was_described(ax, families):
    draw_architectures(ax, {"Llama": describe(families["Llama"])})
    assert words(ax).count("RMSNorm") == 3, "two of a block, one at the end"
    assert "attention\n4 heads\n2 kv heads\nrotary" in words(ax)
    assert "feed-forward\ngated SiLU" in words(ax)
    assert "positions" not in words(ax)


def test_norms_of_bert_are_on_the_stream(ax, families):
    draw_architectures(ax, {"BERT": describe(families["BERT"])})
    norms = [text for text in ax.texts if text.get_text() == "LayerNorm"]
    tokens = next(text for text in ax.texts if text.get_text() == "tokens")
    assert len(norms) == 3, "of the embeddings, and two of a block"
    assert {text.get_position()[0] for text in norms} == {tokens.get_position()[0]}


def test_encoder_and_decoder_are_two_columns(ax, families):
    draw_architectures(ax, {"T5": describe(families["T5"])})
    assert {"T5 encoder", "T5 decoder", "× 2", "× 3"} <= set(words(ax))
    assert words(ax).count("attention\n4 heads\nrelative") == 2
    assert words(ax).count("attention\n4 heads") == 1, "the cross-attention has no positions"


def test_nothing_is_outside_the_axes(ax, families):
    draw_architectures(ax, {name: describe(one) for name, one in families.items()})
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for text in ax.texts:
        x, y = text.get_position()
        assert left <= x <= right and bottom <= y <= top, text.get_text()
    for patch in ax.patches:
        box = patch.get_path().get_extents(patch.get_patch_transform())
        assert left <= box.x0 and box.x1 <= right and bottom <= box.y0 and box.y1 <= top
