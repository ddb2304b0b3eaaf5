"""BERT and RoBERTa against transformers: random weights over a grid of shapes and heads, and MiniLM on real reviews."""

import itertools
from dataclasses import replace

import pytest
import torch
import transformers

from plm_tutorial import assets, load_model, load_tokenizer, text
from plm_tutorial.layers import record
from plm_tutorial.models import Bert, BertConfig
from plm_tutorial.models.bert import hub_weights
from plm_tutorial.pretrained import export
from plm_tutorial.weights import expand

PADDINGS = {
    "none": None,
    "right": torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0]]),
    "left": torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]]),
}
CLASSES = {None: "Model", "mlm": "ForMaskedLM", "sequence": "ForSequenceClassification"}
CLASSES |= {"token": "ForTokenClassification", "span": "ForQuestionAnswering"}
PAD = {"Bert": 0, "Roberta": 1}


def _reference(folder, family="Bert", head=None, **options):
    """A random model of transformers, saved to a folder that load_model can open."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 16} | options
    options = {"num_attention_heads": 4, "num_hidden_layers": 2} | options
    options |= {"num_labels": 2 if head == "span" else 3}
    config = getattr(transformers, f"{family}Config")(**options)
    model = getattr(transformers, f"{family}{CLASSES[head]}")(config).eval()
    for parameter in model.parameters():  # norms and biases too: at 1 and 0 they would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def _output(reference, ids, mask=None, types=None):
    """What we return of a model of transformers."""
    out = reference(ids, attention_mask=mask, token_type_ids=types)
    if "start_logits" in out:
        return torch.stack((out.start_logits, out.end_logits), dim=-1)
    return out.logits if "logits" in out else out.last_hidden_state


def _ids(family, mask=None):
    """Random ids, padding where the mask says so."""
    ids = torch.randint(2, 50, (2, 7))
    return ids if mask is None else ids.masked_fill(mask == 0, PAD[family])


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
            expected, out = _output(reference, ids, mask, token_types), ours(ids, mask, token_types)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def _gradients_equal(reference, ours, loss):
    """Run backward and compare the gradients of all of our parameters."""
    ours.zero_grad()
    reference.zero_grad()
    for model in (reference, ours):
        loss(model).backward()
    theirs, compared = dict(reference.named_parameters(remove_duplicate=False)), set()
    for name, place in expand(hub_weights(ours.config), ours.config).items():
        if isinstance(place, str):
            torch.testing.assert_close(ours.get_parameter(place).grad, theirs[name].grad, atol=1e-4, rtol=0)
            compared.add(place)
    assert compared == {name for name, _ in ours.named_parameters()}


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
@pytest.mark.parametrize(
    ("head", "options"),
    [
        (None, {}),
        ("mlm", {}),
        ("mlm", {"tie_word_embeddings": False}),
        ("mlm", {"hidden_act": "relu"}),  # RoBERTa's head keeps GELU
        ("sequence", {}),
        ("token", {"type_vocab_size": 1}),
        ("span", {}),
    ],
)
def test_heads_equal_transformers(tmp_path, family, head, options):
    reference = _reference(tmp_path, family, head, **options)
    ours = load_model(tmp_path, device="cpu")
    assert ours.config.head == head and ours.config.n_labels == (3 if head in ("sequence", "token") else None)
    assert ours.config.context_length == (14 if family == "Roberta" else 16)
    for mask in PADDINGS.values():
        ids = _ids(family, mask)
        with torch.no_grad():
            torch.testing.assert_close(ours(ids, mask), _output(reference, ids, mask), atol=1e-5, rtol=0)
        kept = torch.ones(2, 7) if mask is None else mask

        def loss(model, ids=ids, mask=mask, kept=kept):
            out = _output(model, ids, mask) if model is reference else model(ids, mask)
            return out.cos().sum() if head == "sequence" else (out.cos() * kept[..., None]).sum()

        reads_padding = head == "sequence" and mask is PADDINGS["left"]  # whose embedding transformers never trains
        if head is not None and not reads_padding:  # the body alone: the next test
            _gradients_equal(reference, ours, loss)


def test_gradients_of_the_body_equal_transformers(tmp_path):
    reference = _reference(tmp_path)
    ours, ids, mask = load_model(tmp_path, device="cpu"), _ids("Bert"), PADDINGS["right"]

    def loss(model):
        out = _output(model, ids, mask) if model is reference else model(ids, mask)
        return (out.cos() * mask[..., None]).sum()

    _gradients_equal(reference, ours, loss)


@pytest.mark.parametrize("pad_id", [0, 1, 5])
def test_positions_of_roberta_begin_behind_the_padding(tmp_path, pad_id):
    """Counted over tokens that are no padding, also when padding stands in the middle; up to the last position."""
    reference = _reference(tmp_path, "Roberta", "mlm", pad_token_id=pad_id)
    ours = load_model(tmp_path, device="cpu")
    assert ours.config.pad_id == pad_id and ours.config.context_length == 15 - pad_id
    ids = torch.randint(6, 50, (2, 15 - pad_id))
    ids[1, [0, 3, 4]] = pad_id
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), _output(reference, ids), atol=1e-5, rtol=0)
        mask = (ids != pad_id).long()
        alone = ours(ids[1:, mask[1] == 1])  # so padding anywhere changes nothing
        torch.testing.assert_close(ours(ids, mask)[1:, mask[1] == 1], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=f"this model's context is {15 - pad_id}"):
        ours(torch.full((1, 16 - pad_id), 7))


def test_padding_on_the_left_shifts_the_positions_of_a_bert():
    torch.manual_seed(0)
    model = Bert(BertConfig(vocab_size=50, d_model=24, n_layers=1, n_heads=2, d_hidden=8)).eval()
    ids = torch.randint(50, (1, 5))
    zeros, ones = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        alone = model(ids)
        right = model(torch.cat((ids, zeros), 1), torch.cat((ones, zeros), 1))[:, :5]
        left = model(torch.cat((zeros, ids), 1), torch.cat((zeros, ones), 1))[:, 2:]
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=0)
    assert (left - alone).abs().max() > 0.1


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_dropout_of_heads_is_where_transformers_has_it(tmp_path, family, head):
    """With the same state of the generator, and no other dropout, the same numbers fall out."""
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.5}
    reference = _reference(tmp_path, family, head, **options).train()
    ours = load_model(tmp_path, device="cpu").train()
    ids = _ids(family)
    torch.manual_seed(1)
    expected = _output(reference, ids)
    torch.manual_seed(1)
    torch.testing.assert_close(ours(ids), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(ours.eval()(ids), expected, atol=1e-3)


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
    two = torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\); expected \(1, 2\)"):
        model(two, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"token_type_ids has shape \(2,\); expected \(1, 2\), as input_ids"):
        model(two, token_type_ids=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="token_type_ids holds ids from 1 to 2; the model knows 0 to 1"):
        model(two, token_type_ids=two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 5}, "d_model = 768 cannot be split evenly into n_heads = 5"),
        ({"n_layers": 0}, "n_layers is 0; expected a whole number from 1"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; expected a whole number"),
        ({"norm_eps": float("nan")}, "norm_eps is nan; expected a number"),
        ({"activation": "swish"}, "activation is 'swish'; implemented here: relu, gelu"),
        ({"pad_id": 30522}, "pad_id is 30522; expected the id of a token, 0 to 30521"),
        ({"head": "nsp"}, "head is 'nsp'; implemented here: mlm, sequence, token, span"),
        ({"head": "token"}, "a 'token' head needs n_labels"),
        ({"head": "token", "n_labels": 0}, "n_labels is 0; expected a whole number from 1"),
        ({"head": "span", "n_labels": 2}, "n_labels is 2, head is 'span'; only sequence and token have labels"),
        ({"head_dropout": "much"}, "head_dropout is 'much'; expected a number"),
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


def test_logits_of_some_positions_alone():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, context_length=9, d_model=16, n_layers=2, n_heads=2, d_hidden=32, head="mlm")
    model = Bert(config).eval()
    ids, keep = torch.randint(50, (2, 9)), torch.rand(2, 9) < 0.4
    torch.testing.assert_close(model(ids, keep=keep), model(ids)[keep])
    with pytest.raises(ValueError, match=r"keep has shape \(2, 8\).*\(2, 9\)"):
        model(ids, keep=keep[:, :8])
    with pytest.raises(ValueError, match=r"keep .* type torch.int64"):
        model(ids, keep=keep.long())
    without = Bert(BertConfig(vocab_size=50, context_length=9, d_model=16, n_layers=1, n_heads=2, d_hidden=32))
    with pytest.raises(ValueError, match="head is None"):
        without(ids, keep=keep)


# ---- pooling


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_a_text_is_pooled_over_what_is_no_padding(pooling):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, d_hidden=32, head="sequence", n_labels=3)
    model = Bert(replace(config, pooling=pooling)).eval()
    ids, mask = torch.randint(50, (2, 7)), PADDINGS["right"]
    with torch.no_grad():
        out = model(ids, mask)
        for i in range(2):
            text = ids[i : i + 1, : int(mask[i].sum())]
            torch.testing.assert_close(out[i : i + 1], model(text), atol=1e-5, rtol=0)
        body = Bert(replace(config, head=None, n_labels=None)).eval()
        body.load_state_dict(model.state_dict(), strict=False)
        hidden = body(ids[1:], mask[1:])[0, :4]  # (T, D)
        vector = {"first": hidden[0], "mean": hidden.mean(0), "max": hidden.max(0).values}[pooling]
        expected = model.head.output(torch.tanh(model.head.dense(vector)))
        torch.testing.assert_close(out[1], expected, atol=1e-5, rtol=0)


def test_pooling_that_is_refused():
    shape = {"vocab_size": 50, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 32}
    with pytest.raises(ValueError, match="pooling is 'last'; implemented here: first, mean, max"):
        BertConfig(**shape, head="sequence", n_labels=2, pooling="last")
    with pytest.raises(ValueError, match="pooling is 'mean', head is 'token'; only 'sequence' pools a text"):
        BertConfig(**shape, head="token", n_labels=2, pooling="mean")
    model = Bert(BertConfig(**shape, head="sequence", n_labels=2, pooling="mean"))
    with pytest.raises(ValueError, match="rows of several documents have no mean; pass one text a row"):
        model(torch.randint(50, (2, 3)), torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match="pools by 'mean'; the published form knows the first position alone"):
        model.config.to_hub()


def test_a_published_model_gets_a_head_that_pools(tmp_path):
    _reference(tmp_path, "Bert", None)
    model = load_model(tmp_path, head="sequence", n_labels=2, pooling="max", device="cpu")
    assert model.head.pooling == model.config.pooling == "max" and model(torch.randint(50, (2, 7))).shape == (2, 2)
    with pytest.raises(ValueError, match="pooling is 'max', head is None"):
        load_model(tmp_path, pooling="max", device="cpu")
    with pytest.raises(ValueError, match="pools by 'max'; the published form knows the first"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
