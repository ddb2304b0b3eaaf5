"""T5, of the first release and 1.1, against transformers, with random weights; causality, the cache, refusals."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from plm_tutorial import export, load_model, weights
from plm_tutorial.gguf_files import WeightsError
from plm_tutorial.layers import GatedFeedForward, RelativeBias, record
from plm_tutorial.models import t5
from plm_tutorial.models.t5 import T5, T5Config, shift_right

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SMALL = T5Config(
    vocab_size=50,
    d_model=32,
    n_layers=2,
    n_decoder_layers=3,
    n_heads=4,
    d_head=6,  # 4 · 6 is not 32
    d_hidden=48,
    n_buckets=8,
    max_distance=12,
)
RELEASES = {"1.0": {}, "1.1": {"activation": "gelu_new", "gated": True, "tied": False}}  # what they differ in
MASKS = {
    "none": None,
    "right": torch.tensor([[1] * 9, [1] * 5 + [0] * 4]),
    "left": torch.tensor([[1] * 9, [0] * 3 + [1] * 6]),
}
cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))


def _small(release="1.0", **options):
    return T5Config(**vars(SMALL) | RELEASES[release] | options)


def _shake(model):
    for parameter in model.parameters():  # norms too: at 1 they would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def _reference(folder, tied=True, **options):
    """A random T5ForConditionalGeneration of transformers, saved to a folder."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4} | options
    config = transformers.T5Config(tie_word_embeddings=tied, **options)
    model = transformers.T5ForConditionalGeneration(config)
    if not tied:  # Transformers 5 keeps the scale apart, and gives a new model no output layer of its own
        model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 32) / 4)
    _shake(model).save_pretrained(folder)
    return model


def _load(folder, dtype=torch.float32):
    return load_model(folder, device="cpu", dtype=dtype)


def _published(model, values):
    """Our tensors, or their gradients, under their published names."""
    table = weights.expand(t5.hub_weights(model.config), model.config)
    return {name: values[place] for name, place in table.items() if isinstance(place, str)}


def _inputs():
    return torch.randint(50, (2, 9)), torch.randint(50, (2, 7))  # of the encoder, of the decoder


def _theirs(reference, ids, mask, decoder_ids, **options):
    with torch.no_grad():
        return reference(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False, **options)


def _norm(self, x):
    """T5LayerNorm without its detour over float32, which leaves 7 digits of float64's 16."""
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


# ---- random weights


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("layers", [(1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu", "gated-silu", "gelu_new"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_weights_equal_transformers(tmp_path, monkeypatch, heads, layers, feed_forward, tied, dtype):
    if dtype == torch.float64:
        monkeypatch.setattr(T5LayerNorm, "forward", _norm)
    reference = _reference(
        tmp_path,
        tied,
        num_heads=heads,
        num_layers=layers[0],
        num_decoder_layers=layers[1],
        feed_forward_proj=feed_forward,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,  # so small that some distances are beyond it
        layer_norm_epsilon=1e-2,
    ).to(dtype)
    ours, (ids, decoder_ids) = _load(tmp_path, dtype), _inputs()
    assert (ours.head is None) == tied and ours.config.gated == feed_forward.startswith("gated")
    assert isinstance(ours.decoder.layers[0].feed_forward, GatedFeedForward) == ours.config.gated
    for mask in MASKS.values():
        with torch.no_grad():
            out = ours(ids, attention_mask=mask, decoder_input_ids=decoder_ids)
        assert out.dtype == dtype and out.shape == (2, 7, 50)
        torch.testing.assert_close(
            out, _theirs(reference, ids, mask, decoder_ids).logits, atol=TOLERANCE[dtype], rtol=0
        )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (4, 3), (10, 6), (7, 9), (64, 1000)])
def test_buckets_are_those_of_transformers(bidirectional, buckets, distance):
    offset = torch.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(offset, bidirectional, buckets, distance)
    assert torch.equal(RelativeBias(1, buckets, distance, bidirectional).bucket(offset), expected)


def test_texts_longer_than_those_in_training_are_taken(tmp_path):
    """More than 512 tokens in encoder and decoder; with the distances of the published sizes."""
    reference, ours = _reference(tmp_path), _load(tmp_path)
    ids, decoder_ids = torch.randint(50, (1, 700)), torch.randint(50, (1, 600))
    assert ours.config.context_length == 512
    with torch.no_grad():
        out = ours(ids, decoder_input_ids=decoder_ids)
    torch.testing.assert_close(out, _theirs(reference, ids, None, decoder_ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("padding", MASKS)
def test_gradients_equal_transformers(tmp_path, release, padding):
    """Of each parameter."""
    gated = release == "1.1"
    reference = _reference(tmp_path, not gated, feed_forward_proj="gated-gelu" if gated else "relu")
    ours, (ids, labels), mask = _load(tmp_path), _inputs(), MASKS[padding]
    labels[1, 4:] = -100
    decoder_ids = shift_right(labels, 0, 0)
    theirs = reference(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids).logits
    for logits in (theirs, ours(ids, attention_mask=mask, decoder_input_ids=decoder_ids)):
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}
    found = _published(ours, {name: p.grad for name, p in ours.named_parameters()})
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().max() > 1e-4, "so that equal is not two zeros"


@pytest.mark.parametrize("padding", MASKS)
def test_record_equals_the_outputs_of_transformers(tmp_path, padding):
    reference = _reference(tmp_path, num_decoder_layers=3)
    reference.set_attn_implementation("eager")
    ours, (ids, decoder_ids), mask = _load(tmp_path), _inputs(), MASKS[padding]
    kept = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask.bool()
    expected = _theirs(reference, ids, mask, decoder_ids, output_attentions=True, output_hidden_states=True)
    with torch.no_grad(), record(ours.encoder) as encoder:
        memory = ours.encode(ids, mask)
    with torch.no_grad(), record(ours.decoder) as decoder:
        ours.decode(decoder_ids, memory, mask)
    with torch.no_grad(), record(ours) as both:
        ours(ids, mask, decoder_ids)
    assert not encoder.cross and len(both.attention) == 5 and len(both.cross) == 3
    for recording, theirs in ((encoder, expected.encoder_attentions), (both, expected.encoder_attentions)):
        for out, their in zip(recording.attention[:2], theirs, strict=True):
            rows, their = out.transpose(1, 2)[kept], their.transpose(1, 2)[kept]  # of queries that are no padding
            torch.testing.assert_close(rows, their, atol=1e-5, rtol=0)
    for recorded, theirs in (
        (decoder.attention, expected.decoder_attentions),
        (both.attention[2:], expected.decoder_attentions),
        (decoder.cross, expected.cross_attentions),
        (both.cross, expected.cross_attentions),
        # theirs has the final norm in the last
        ([*decoder.hidden[:-1], ours.decoder.norm(decoder.hidden[-1])], expected.decoder_hidden_states),
    ):
        for out, their in zip(recorded, theirs, strict=True):
            torch.testing.assert_close(out, their, atol=1e-5, rtol=0)
    hidden = [*encoder.hidden[:-1], ours.encoder.norm(encoder.hidden[-1])]
    for out, their in zip(hidden, expected.encoder_hidden_states, strict=True):
        torch.testing.assert_close(out[kept], their[kept], atol=1e-5, rtol=0)
    torch.testing.assert_close(memory[kept], expected.encoder_last_hidden_state[kept], atol=1e-5, rtol=0)


@pytest.mark.parametrize("release", RELEASES)
def test_greedy_answers_equal_transformers(tmp_path, release):
    gated = release == "1.1"
    reference = _reference(tmp_path, not gated, feed_forward_proj="gated-gelu" if gated else "relu")
    ours, (ids, _), mask = _load(tmp_path), _inputs(), MASKS["left"]
    expected = reference.generate(
        ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None, decoder_start_token_id=0
    )
    token = torch.full((2, 1), ours.config.decoder_start_id)
    with torch.no_grad():
        memory, cache, answer = ours.encode(ids, mask), ours.new_cache(), [token]
        for _ in range(12):
            token = ours.decode(token, memory, mask, cache=cache, last_only=True).argmax(-1)
            answer.append(token)
    assert torch.equal(torch.cat(answer, dim=1), expected)


# ---- files


def _rewrite(folder, change=None, **options):
    """Change the configuration and the tensors of a saved model."""
    values = weights.read_json(folder / "config.json") | options
    (folder / "config.json").write_text(json.dumps(values))
    if change is not None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")


def test_files_of_older_releases(tmp_path):
    """Each copy of the embedding, and a bias of cross-attention that nobody uses."""
    reference, (ids, decoder_ids) = _reference(tmp_path), _inputs()

    def add(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"].clone()
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.randn(32, 4)

    _rewrite(tmp_path, add)
    with torch.no_grad():
        out = _load(tmp_path)(ids, decoder_input_ids=decoder_ids)
    torch.testing.assert_close(out, _theirs(reference, ids, None, decoder_ids).logits, atol=1e-5, rtol=0)
    _rewrite(tmp_path, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(WeightsError, match="'lm_head.weight' should repeat tokens.weight and differs from it"):
        _load(tmp_path)


def test_configurations_say_in_two_ways_that_the_output_layer_is_its_own(tmp_path):
    reference, (ids, decoder_ids) = _reference(tmp_path, False, feed_forward_proj="gated-gelu"), _inputs()
    written = weights.read_json(tmp_path / "config.json")
    assert written["tie_word_embeddings"] is True and written["scale_decoder_outputs"] is False  # Transformers 5
    expected = _theirs(reference, ids, None, decoder_ids).logits
    for options in ({}, {"tie_word_embeddings": False}):  # Transformers 4 had only the latter
        _rewrite(tmp_path, **options)
        with torch.no_grad():
            torch.testing.assert_close(_load(tmp_path)(ids, decoder_input_ids=decoder_ids), expected, atol=1e-5, rtol=0)
    _rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(WeightsError, match="lacks the tensor 'lm_head.weight'"):
        _load(tmp_path)


def test_an_encoder_alone_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its is_encoder_decoder is False; implemented here: True"):
        _load(tmp_path)
    _rewrite(tmp_path, is_encoder_decoder=True)  # as older releases wrote it
    with pytest.raises(WeightsError, match=r"holds no tensors of layers \(decoder.block.0 …\): it is another model"):
        _load(tmp_path)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
def test_what_export_writes_is_opened_by_transformers_and_by_us(tmp_path, release, activation):
    torch.manual_seed(0)
    config = _small(release, activation=activation, dropout=0.2, norm_eps=1e-2, pad_id=3, decoder_start_id=4)
    assert T5Config.from_hub(json.loads(json.dumps(config.to_hub()))) == config
    ours, (ids, decoder_ids) = _shake(T5(config)), _inputs()
    folder = export(ours, tmp_path / "model")
    again = _load(folder)
    assert again.config == config and again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in ours.state_dict().items())
    theirs, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(theirs, transformers.T5ForConditionalGeneration)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    with torch.no_grad():
        out = ours(ids, MASKS["right"], decoder_ids)
    expected = _theirs(theirs.eval(), ids, MASKS["right"], decoder_ids).logits
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert torch.equal(theirs.prepare_decoder_input_ids_from_labels(ids), shift_right(ids, 4, 3))
    theirs.save_pretrained(tmp_path / "again")
    again = T5Config.from_hub(weights.read_json(tmp_path / "again" / "config.json"))
    assert again == T5Config(**vars(config) | {"decoder_start_id": again.decoder_start_id})


def test_the_published_configuration_is_the_default():
    assert T5Config.from_hub(transformers.T5Config().to_dict()) == T5Config()
    with torch.device("meta"):
        assert sum(p.numel() for p in T5(T5Config()).parameters()) == 60_506_624  # T5-small's


# ---- causality and the cache


def _in_pieces(model, decoder_ids, pieces, memory, mask=None):
    """The logits of the decoder when it is given its input piece by piece, with a cache."""
    cache, start, logits = model.new_cache(), 0, []
    for size in pieces:
        logits.append(model.decode(decoder_ids[:, start : start + size], memory, mask, cache=cache))
        start += size
        assert cache.length == start
    return torch.cat(logits, dim=1)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    release=st.sampled_from(list(RELEASES)),
    cached=st.booleans(),
    data=st.data(),
)
def test_a_later_token_never_changes_an_earlier_output(seed, pieces, release, cached, data):
    torch.manual_seed(seed)
    model, T = _shake(T5(_small(release))), sum(pieces)
    ids, t = torch.randint(50, (2, T)), data.draw(st.integers(0, T - 1))
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + torch.randint(1, 50, (2, T - t))) % 50
    with torch.no_grad():
        memory = model.encode(torch.randint(50, (2, 6)))
        before, after = (
            (_in_pieces(model, x, pieces, memory) if cached else model.decode(x, memory)) for x in (ids, changed)
        )
    torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-5, rtol=0)
    assert (after[:, t] != before[:, t]).any(-1).all(), "each output sees its own token"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), left=st.integers(0, 4), right=st.integers(0, 4))
def test_padding_of_the_encoder_changes_nothing_and_each_token_sees_all_others(seed, left, right):
    torch.manual_seed(seed)
    model, ids, decoder_ids = _shake(T5(SMALL)), torch.randint(50, (1, 6)), torch.randint(50, (1, 4))
    filled = torch.cat([torch.randint(50, (1, left)), ids, torch.randint(50, (1, right))], dim=1)
    mask = F.pad(torch.ones(1, 6, dtype=torch.int64), (left, right))
    changed = ids.clone()
    t = torch.randint(6, ()).item()
    changed[:, t] = (changed[:, t] + 1) % 50
    with torch.no_grad():
        plain, padded = model.encode(ids), model.encode(filled, mask)[:, left : left + 6]
        torch.testing.assert_close(padded, plain, atol=1e-5, rtol=0)
        assert (model.encode(changed) != plain).any(-1).all()
        torch.testing.assert_close(
            model(filled, mask, decoder_ids), model(ids, decoder_input_ids=decoder_ids), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 3], [1, 6]])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("release", RELEASES)
def test_cached_and_uncached_logits_are_equal(pieces, padding, release):
    torch.manual_seed(0)
    model, (ids, decoder_ids), mask = _shake(T5(_small(release))).double(), _inputs(), MASKS[padding]
    with torch.no_grad():
        memory = model.encode(ids, mask)
        whole = model(ids, mask, decoder_ids)
        pieced = _in_pieces(model, decoder_ids, pieces, memory, mask)
        last = model.decode(decoder_ids, memory, mask, last_only=True)
    torch.testing.assert_close(pieced, whole, atol=1e-10, rtol=0)
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-10, rtol=0)


# ---- precision, device, training


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5), (torch.float16, 0.1)])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("release", RELEASES)
def test_each_precision_on_each_device(device, dtype, tolerance, padding, release):
    torch.manual_seed(0)
    model, (ids, decoder_ids), mask = _shake(T5(_small(release))), _inputs(), MASKS[padding]
    expected = model.double()(ids, mask, decoder_ids)
    model, ids, decoder_ids = model.to(device, dtype), ids.to(device), decoder_ids.to(device)
    mask = None if mask is None else mask.to(device)
    out = model(ids, mask, decoder_ids)
    pieced = _in_pieces(model, decoder_ids, [4, 1, 2], model.encode(ids, mask), mask)
    for logits in (out, pieced):
        assert logits.dtype == dtype and logits.device.type == device
        torch.testing.assert_close(logits.cpu().double(), expected, atol=tolerance, rtol=0)
    F.cross_entropy(out.flatten(0, 1).float(), decoder_ids.flatten()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_text_of_padding_alone_leaves_all_numbers_finite(dtype):
    torch.manual_seed(0)
    model, (ids, decoder_ids) = _shake(T5(SMALL)).to(dtype), _inputs()
    mask = torch.tensor([[1] * 9, [0] * 9])
    out = model(ids, mask, decoder_ids)
    assert out.isfinite().all()
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("release", RELEASES)
def test_initial_weights_are_those_of_the_published_code(release):
    torch.manual_seed(0)
    config = _small(release, vocab_size=500, d_model=128, d_head=16, d_hidden=512, n_buckets=64, max_distance=500)
    spread = {
        "tokens.weight": 1.0,
        "head.weight": 128**-0.5,
        "bias.weight": 128**-0.5,
        "query.weight": (128 * 16) ** -0.5,
        "key.weight": 128**-0.5,
        "value.weight": 128**-0.5,
        "output.weight": (4 * 16) ** -0.5,
        "gate.weight": 128**-0.5,
        "up.weight": 128**-0.5,
        "down.weight": 512**-0.5,
    }
    for name, parameter in T5(config).named_parameters():
        if "norm" in name:
            assert (parameter == 1).all()
        else:
            std = next(std for end, std in spread.items() if name.endswith(end))
            assert parameter.std().item() == pytest.approx(std, rel=0.1 if "bias" in name else 0.03), name
    half = dict(T5(_small(release, init_factor=0.5)).named_parameters())
    assert half["tokens.weight"].std().item() == pytest.approx(0.5, rel=0.1)
    assert (half["encoder.norm.weight"] == 0.5).all()
    # The same spreads as transformers', but for an output layer of its own: it draws that with a spread of 1.
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config.to_hub()))
    for name, parameter in _published(T5(config), dict(T5(config).named_parameters())).items():
        if name != "lm_head.weight":
            expected = theirs.get_parameter(name).std().item()
            assert parameter.std().item() == pytest.approx(expected, rel=0.25 if "bias" in name else 0.06), name


def test_dropout_stands_at_the_published_places():
    """The same random numbers in ours and theirs, drawn in the same order, give the same logits in training."""
    torch.manual_seed(0)
    config = _small("1.1", tied=True, dropout=0.3)
    ours, (ids, decoder_ids) = _shake(T5(config)), _inputs()
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config.to_hub()))
    theirs.set_attn_implementation("eager")
    theirs.load_state_dict(_published(ours, ours.state_dict()), strict=False)
    theirs.tie_weights()
    logits = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        with record(ours):  # takes the explicit path of attention, as eager does
            out = model(input_ids=ids, decoder_input_ids=decoder_ids)
        logits.append(getattr(out, "logits", out))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    assert not torch.allclose(logits[0], ours.eval()(ids, decoder_input_ids=decoder_ids), atol=0.1)


# ---- labels


def test_shift_right():
    labels = torch.tensor([[5, 6, 7, 1], [8, 1, -100, -100]])
    assert shift_right(labels, 2, 3).tolist() == [[2, 5, 6, 7], [2, 8, 1, 3]]
    assert labels[1, 2] == -100, "the labels themselves stay"
    assert shift_right(torch.tensor([[-100]]), 2, 3).tolist() == [[2]]
    assert shift_right(torch.tensor([[4, -100]]), 2, 3).tolist() == [[2, 4]]


# ---- refusals


def test_calls_that_t5_refuses():
    model, (ids, decoder_ids) = T5(SMALL).eval(), _inputs()
    memory = model.encode(ids)
    for call, message in (
        (lambda: model(ids), r"decoder_input_ids is missing: .* pass shift_right\(labels, config.decoder_start_id"),
        (lambda: model(ids, decoder_input_ids=decoder_ids - 100), "decoder: input_ids holds ids from -"),
        (lambda: model(ids[0], decoder_input_ids=decoder_ids), r"^input_ids has shape \(9,\)"),
        (lambda: model(ids, decoder_input_ids=decoder_ids[0]), r"decoder: input_ids has shape \(7,\)"),
        (lambda: model(ids, decoder_input_ids=decoder_ids[:, :0]), "decoder: input_ids is empty"),
        (lambda: model(ids, ids[:, 1:], decoder_ids), r"attention_mask has shape \(2, 8\); expected \(2, 9\)"),
        (
            lambda: model.decode(decoder_ids, memory[:1]),
            r"memory has shape \(1, 9, 32\) and decoder_input_ids \(2, 7\)",
        ),
        (lambda: model.decode(decoder_ids, memory[0]), r"memory has shape \(9, 32\)"),
        (
            lambda: model.decode(decoder_ids, memory, decoder_ids),
            r"attention_mask has shape \(2, 7\); expected \(2, 9\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "activation is 'tanh'; implemented here: relu, gelu"),
        ({"activation": "gelu", "gated": True}, "a gated feed-forward with activation 'gelu' is published with"),
        ({"gated": 1}, "gated is 1; expected true or false"),
        ({"n_buckets": 3}, "n_buckets is 3, max_distance 128; expected at least 4 buckets"),
        ({"max_distance": 16}, "n_buckets is 32, max_distance 16; expected .* more than half their number"),
        ({"pad_id": -1}, "pad_id is -1; expected the id of a token, 0 to 32127"),
        ({"decoder_start_id": 32128}, "decoder_start_id is 32128; expected the id of a token"),
        ({"n_decoder_layers": 0}, "n_decoder_layers is 0; expected a whole number from 1"),
    ],
)
def test_configurations_that_t5_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        T5Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_encoder_decoder": False}, "its is_encoder_decoder is False; implemented here: True"),
        ({"is_decoder": True}, "its is_decoder is True; implemented here: False"),
        ({"feed_forward_proj": "gated-tanh"}, "activation is 'tanh'; implemented here: relu, gelu"),
        ({"feed_forward_proj": "glu-relu"}, "its feed_forward_proj is 'glu-relu'; expected an activation, or 'gated-'"),
        ({"feed_forward_proj": None}, "activation is 'None'; implemented here"),
        ({"is_gated_act": True}, "its is_gated_act is True; implemented here: False"),
        ({"dense_act_fn": "silu"}, "its dense_act_fn is 'silu'; implemented here: 'relu'"),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, "its scale_decoder_outputs is True"),
        ({"tie_word_embeddings": None}, "tied is None; expected true or false"),
        ({"pad_token_id": None}, "pad_id is None; expected the id of a token"),
        ({"num_layers": "6"}, "n_layers is '6'; expected a whole number"),
    ],
)
def test_published_options_that_t5_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        T5Config.from_hub(T5Config().to_hub() | options)


def test_published_options_that_t5_needs():
    values = T5Config().to_hub()
    sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_kv", "d_ff")
    for key in (*sizes, "relative_attention_num_buckets", "layer_norm_epsilon"):
        with pytest.raises(ValueError, match=f"it has no {key}, without which the model cannot be built"):
            T5Config.from_hub({k: v for k, v in values.items() if k != key})
    assert T5Config.from_hub({k: v for k, v in values.items() if k != "num_decoder_layers"}) == T5Config()
