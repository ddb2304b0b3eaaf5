"""BERT against transformers: random weights over a grid of shapes, and MiniLM on real reviews."""

import itertools

import pytest
import torch
import transformers

from plm_tutorial import assets, load_model, load_tokenizer, text
from plm_tutorial.layers import record
from plm_tutorial.models import Bert, BertConfig

PADDINGS = {
    "none": None,
    "right": torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0]]),
    "left": torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]]),
}


def _reference(folder, **options):
    """A random BertModel of transformers, saved to a folder that load_model can open."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 16} | options
    model = transformers.BertModel(transformers.BertConfig(**options)).eval()
    for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_random_weights_equal_transformers(tmp_path, heads, layers, activation):
    reference = _reference(
        tmp_path, num_attention_heads=heads, num_hidden_layers=layers, hidden_act=activation, layer_norm_eps=1e-5
    )
    ours = load_model(tmp_path, device="cpu")
    ids, types = torch.randint(50, (2, 7)), torch.randint(2, (2, 7))
    for mask, token_types in itertools.product(PADDINGS.values(), (None, types)):
        with torch.no_grad():
            expected = reference(ids, attention_mask=mask, token_type_ids=token_types).last_hidden_state
            out = ours(ids, attention_mask=mask, token_type_ids=token_types)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_gradients_equal_transformers(tmp_path):
    reference = _reference(tmp_path, num_attention_heads=4, num_hidden_layers=2)
    ours = load_model(tmp_path, device="cpu")
    ids, mask = torch.randint(50, (2, 7)), PADDINGS["right"]
    (reference(ids, attention_mask=mask).last_hidden_state.cos() * mask[..., None]).sum().backward()
    (ours(ids, attention_mask=mask).cos() * mask[..., None]).sum().backward()
    pairs = {
        "embeddings.word_embeddings.weight": ours.embeddings.tokens.weight,
        "encoder.layer.0.attention.self.key.weight": ours.layers[0].attention.key.weight,
        "encoder.layer.1.output.LayerNorm.bias": ours.layers[1].feed_forward_norm.bias,
    }
    theirs = dict(reference.named_parameters())
    for name, parameter in pairs.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-4, rtol=0)


def test_record_equals_the_outputs_of_transformers(tmp_path):
    reference = _reference(tmp_path, num_attention_heads=4, num_hidden_layers=3)
    reference.set_attn_implementation("eager")
    ours, ids = load_model(tmp_path, device="cpu"), torch.randint(50, (2, 7))
    with torch.no_grad(), record(ours) as recording:
        ours(ids, attention_mask=PADDINGS["right"])
        expected = reference(ids, attention_mask=PADDINGS["right"], output_attentions=True, output_hidden_states=True)
    for out, theirs in zip(recording.attention, expected.attentions, strict=True):
        torch.testing.assert_close(out, theirs, atol=1e-5, rtol=0)
    for out, theirs in zip(recording.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(out, theirs, atol=1e-5, rtol=0)


def test_minilm_equals_transformers_on_padded_reviews():
    ours = load_model("minilm", device="cpu")
    reference = transformers.BertModel.from_pretrained(assets.path("minilm")).eval()
    tokenizer = load_tokenizer("minilm")
    reviews = text.reviews(split="test")["text"]
    for start, length in ((0, 128), (1000, 256)):
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding()
        batch = tokenizer.encode_batch(list(reviews[start : start + 6]))
        ids, mask = (torch.tensor([getattr(e, key) for e in batch]) for key in ("ids", "attention_mask"))
        assert mask.sum(1).unique().numel() > 1, "the reviews should differ in length"
        kept = mask.bool()  # what stands in a padding position is read by nobody, and is ill-conditioned in fp32
        with torch.no_grad():
            out, expected = ours(ids, attention_mask=mask), reference(ids, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(out[kept], expected[kept], atol=1e-5, rtol=0)
            alone = ours(ids[-1:, : mask[-1].sum()])  # what is padded does not change what is not
            torch.testing.assert_close(out[-1:, : mask[-1].sum()], alone, atol=1e-5, rtol=0)
    # In float64 there is no rounding to hide behind: every number of the last batch, padding included.
    ours, reference = load_model("minilm", device="cpu", dtype=torch.float64), reference.double()
    with torch.no_grad():
        out, expected = ours(ids, attention_mask=mask), reference(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


def test_calls_that_bert_refuses():
    model = Bert(BertConfig(vocab_size=10, context_length=4, d_model=8, n_layers=1, n_heads=2, d_hidden=8)).eval()
    for ids, message in (
        (torch.tensor([1, 2]), r"shape \(2,\) and type torch.int64; expected whole numbers of shape \(B, T\)"),
        (torch.ones(1, 2), "type torch.float32; expected whole numbers"),
        (torch.ones(1, 0, dtype=torch.int64), "input_ids is empty"),
        (
            torch.ones(1, 5, dtype=torch.int64),
            "the text is 5 tokens long, this model's context is 4: cut the text to 4",
        ),
        (torch.tensor([[1, 10]]), "holds ids from 1 to 10; this model knows 0 to 9. Does the tokenizer belong"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids)
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\); expected \(1, 2\)"):
        model(torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 5}, "d_model = 768 cannot be split evenly into n_heads = 5"),
        ({"n_layers": 0}, "n_layers is 0; expected a whole number from 1"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; expected a whole number"),
        ({"norm_eps": float("nan")}, "norm_eps is nan; expected a number"),
        ({"activation": "swish"}, "activation is 'swish'; implemented here: relu, gelu"),
    ],
)
def test_configurations_that_bert_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        BertConfig(**options)


def test_dropout_acts_in_training_only():
    model = Bert(BertConfig(vocab_size=10, d_model=8, n_layers=1, n_heads=2, d_hidden=8))
    ids = torch.randint(10, (2, 6))
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))
