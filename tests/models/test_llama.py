"""Llama-type models against transformers: random weights, the window of Mistral, SmolLM2; causality and the cache."""

import itertools
from dataclasses import replace

import gguf
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from plm_tutorial import assets, load_model, load_tokenizer, text
from plm_tutorial.generation import generate
from plm_tutorial.layers import record
from plm_tutorial.models import Llama, LlamaConfig
from plm_tutorial.models.llama import hub_weights
from plm_tutorial.weights import expand

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = LlamaConfig(
    vocab_size=50, context_length=64, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_head=8, d_hidden=48
)


def _reference(folder=None, **options):
    """A random LlamaForCausalLM of transformers, saved to a folder that load_model can open."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64} | options
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    if folder:
        model.save_pretrained(folder)
    return model


# ---- random weights


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, None), (4, 2, None), (4, 1, 16), (1, 1, None)])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_random_weights_equal_transformers(tmp_path, heads, kv_heads, head_dim, layers, tied):
    ids = torch.randint(50, (2, 9))
    for base, left in itertools.product((10000.0, 500.0), (0, 3)):
        options = {
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "num_hidden_layers": layers,
            "tie_word_embeddings": tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": base},
        }
        reference = _reference(tmp_path, **options)
        ours = load_model(tmp_path, device="cpu")
        assert ours.config.rope_base == base and (ours.head is None) == tied
        mask = torch.ones(2, 9, dtype=torch.int64)
        mask[1, :left] = 0
        with torch.no_grad():
            out, expected = ours(ids, attention_mask=mask), reference(ids, attention_mask=mask).logits
        kept = mask.bool()  # what stands in a padding position is read by nobody
        torch.testing.assert_close(out[kept], expected[kept], atol=1e-5, rtol=0)
        assert out.isfinite().all()


def _mistral(folder, **options):
    """A random MistralForCausalLM of transformers with narrow layers, saved to a folder."""
    torch.manual_seed(0)
    options = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64} | options
    options = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3} | options
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**options)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("window", [2, 4, 20, None])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_window_equals_mistral(tmp_path, window, implementation, kv_heads):
    """Whole texts, padded ones, and with a cache that grows beyond the window; the reference's cache too."""
    reference = _mistral(tmp_path, sliding_window=window, num_key_value_heads=kv_heads)
    reference.set_attn_implementation(implementation)
    ours, ids = load_model(tmp_path, device="cpu"), torch.randint(50, (2, 14))
    assert ours.config.window == window
    mask = torch.ones(2, 14, dtype=torch.int64)
    mask[1, :3] = 0
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-5, rtol=0)
        expected, kept = reference(ids, attention_mask=mask).logits, mask.bool()
        torch.testing.assert_close(ours(ids, attention_mask=mask)[kept], expected[kept], atol=1e-5, rtol=0)
        for pieces in ([14], [1] * 14, [6, 1, 1, 4, 2]):
            pieced = _in_pieces(ours, ids, pieces, mask)
            torch.testing.assert_close(pieced[kept], expected[kept], atol=1e-5, rtol=0)
        start = reference(ids[:, :6], use_cache=True)
        step = reference(ids[:, 6:7], cache=start.cache).logits
        torch.testing.assert_close(_in_pieces(ours, ids, [6, 1])[:, 6:], step, atol=1e-5, rtol=0)
        generated = reference.generate(ids[:1], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(ours, ids[:1], 12), generated[:, 14:])


def test_gradients_of_a_window_equal_mistral(tmp_path):
    reference = _mistral(tmp_path, sliding_window=3)
    ours, ids = load_model(tmp_path, device="cpu"), torch.randint(50, (2, 9))
    for logits in (reference(ids).logits, ours(ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    theirs = dict(reference.named_parameters())
    for name, place in expand(hub_weights(ours.config), ours.config).items():
        if isinstance(place, str):
            torch.testing.assert_close(ours.get_parameter(place).grad, theirs[name].grad, atol=1e-4, rtol=0)


def test_a_window_limits_what_a_position_sees():
    """Through n layers a position is reached from n · (window - 1) before it, and from no farther."""
    torch.manual_seed(0)
    model = Llama(replace(SMALL, window=3)).eval()  # 3 layers: 6 positions back
    ids = torch.randint(50, (1, 12))
    changed = ids.clone()
    changed[0, 2] = (changed[0, 2] + 1) % 50
    with torch.no_grad(), record(model) as recording:
        differs = (model(ids) != model(changed)).any(-1)[0]
    assert differs.tolist() == [False] * 2 + [True] * 7 + [False] * 3
    for weights in recording.attention:
        assert (weights > 0).sum(-1)[0, 0].tolist() == [1, 2, *[3] * 10]


def test_gradients_equal_transformers(tmp_path):
    reference = _reference(tmp_path, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
    ours, ids = load_model(tmp_path, device="cpu"), torch.randint(50, (2, 9))
    for logits in (reference(ids).logits, ours(ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in {
        "model.embed_tokens.weight": ours.tokens.weight,
        "model.layers.0.self_attn.k_proj.weight": ours.layers[0].attention.key.weight,
        "model.layers.1.mlp.gate_proj.weight": ours.layers[1].feed_forward.gate.weight,
        "model.norm.weight": ours.norm.weight,
    }.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-4, rtol=0)


def test_record_equals_the_outputs_of_transformers(tmp_path):
    reference = _reference(tmp_path, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    reference.set_attn_implementation("eager")
    ours, ids = load_model(tmp_path, device="cpu"), torch.randint(50, (2, 9))
    with torch.no_grad(), record(ours) as recording:
        ours(ids)
        expected = reference(ids, output_attentions=True, output_hidden_states=True)
    for out, theirs in zip(recording.attention, expected.attentions, strict=True):
        torch.testing.assert_close(out, theirs, atol=1e-5, rtol=0)
    # transformers puts the final norm into its last hidden state
    for out, theirs in zip(
        [*recording.hidden[:-1], ours.norm(recording.hidden[-1])], expected.hidden_states, strict=True
    ):
        torch.testing.assert_close(out, theirs, atol=1e-5, rtol=0)


def test_a_gguf_file_of_a_reference_model_gives_its_logits(tmp_path):
    """Written as llama.cpp's converter does, which turns the query and key rows from half-split to interleaved."""
    options = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
    reference = _reference(hidden_size=64, intermediate_size=96, **options)
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(50)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in reference.state_dict().items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:  # as in llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute
            tensor = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = torch.randint(50, (2, 12))
    with torch.no_grad():
        out, expected = load_model(tmp_path / "tiny.gguf", device="cpu")(ids), reference(ids).logits
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


# ---- causality and the cache


def _in_pieces(model, ids, pieces, mask=None):
    """The logits of ids when they are given piece by piece, with a cache."""
    cache, start, logits = model.new_cache(), 0, []
    for size in pieces:
        seen = None if mask is None else mask[:, : start + size]
        logits.append(model(ids[:, start : start + size], attention_mask=seen, cache=cache))
        start += size
        assert cache.length == start
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("pieces", [None, [12], [1] * 12, [5, 1, 4, 2]])
@pytest.mark.parametrize("seed", range(3))
def test_a_later_token_never_changes_an_earlier_output(pieces, seed):
    torch.manual_seed(seed)
    model = Llama(SMALL).eval()
    ids = torch.randint(50, (2, 12))
    run = model if pieces is None else lambda ids: _in_pieces(model, ids, pieces)
    with torch.no_grad():
        before = run(ids)
        for t in range(12):
            changed = ids.clone()
            changed[:, t] = (changed[:, t] + 1 + torch.randint(49, (2,))) % 50
            after = run(changed)
            torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-6, rtol=0)
            assert (after[:, t:] != before[:, t:]).any(-1).all(), "each output sees its own token and those before"


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 4, 2], [1, 11]])
@pytest.mark.parametrize("padded", [False, True])
def test_cached_and_uncached_logits_are_equal(pieces, padded):
    torch.manual_seed(0)
    model = Llama(SMALL).eval()
    ids, mask = torch.randint(50, (2, 12)), None
    if padded:
        mask = torch.ones(2, 12, dtype=torch.int64)
        mask[1, :4] = 0
    with torch.no_grad():
        whole, pieced = model(ids, attention_mask=mask), _in_pieces(model, ids, pieces, mask)
        torch.testing.assert_close(pieced, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(model(ids, attention_mask=mask, last_only=True), whole[:, -1:], atol=1e-5, rtol=0)
        if padded:
            torch.testing.assert_close(whole[1:, 4:], model(ids[1:, 4:]), atol=1e-5, rtol=0)


def test_calls_that_llama_refuses():
    model = Llama(SMALL).eval()
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.ones(1, 60, dtype=torch.int64), cache=cache)
    five = torch.ones(1, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="the text is 65 tokens long, this model's context is 64"):
        model(five, cache=cache)
    with pytest.raises(ValueError, match=r"expected \(1, 62\): 1 or 0 for each of the 62 positions \(60 in the cache"):
        model(five[:, :2], attention_mask=five[:, :2], cache=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_kv_heads": 2}, "n_heads = 9 cannot share n_kv_heads = 2 evenly"),
        ({"d_head": 63}, "d_head is 63; rotary positions turn pairs"),
        ({"rope_base": 0.5}, "rope_base is 0.5; expected at least 1"),
        ({"tied": "yes"}, "tied is 'yes'; expected true or false"),
        ({"window": 0}, "window is 0; expected a whole number from 1"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776; expected a whole number from 1 to"),
    ],
)
def test_configurations_that_llama_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig(**options)


# ---- SmolLM2


def _smollm2_of_transformers():
    # As AutoModelForCausalLM.from_pretrained(folder, gguf_file=...) does, which asks for one more package.
    folder = assets.path("smollm2")
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(folder, gguf_file=GGUF_FILE))
    found = load_gguf_checkpoint(str(folder / GGUF_FILE), return_tensors=True, model_to_load=model)
    model.load_state_dict(found["tensors"], strict=False, assign=True)
    model.tie_weights()
    assert not [name for name, p in model.named_parameters() if p.is_meta]
    return model.eval()


def test_smollm2_equals_transformers():
    """Logits, perplexity and greedy text of our loader and model against theirs, from the same file, in fp32."""
    ours, reference, tokenizer = (
        load_model("smollm2", device="cpu"),
        _smollm2_of_transformers(),
        load_tokenizer("smollm2"),
    )
    reviews = text.reviews(split="test")["text"]
    nats = {"ours": [], "theirs": []}
    with torch.no_grad():
        for review in (reviews[0], reviews[1000], reviews[-1]):
            ids = torch.tensor([tokenizer.encode(review).ids[:160]])
            out, expected = ours(ids), reference(ids).logits
            torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)
            pieced = _in_pieces(ours, ids, [ids.size(1) - 12, *[1] * 12])
            torch.testing.assert_close(pieced, out, atol=1e-4, rtol=0)
            for key, logits in (("ours", out), ("theirs", expected)):
                nats[key].append(F.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="none"))
    perplexity = {key: torch.cat(values).mean().exp().item() for key, values in nats.items()}
    assert f"{perplexity['ours']:.4g}" == f"{perplexity['theirs']:.4g}"

    ids = torch.tensor([tokenizer.encode("The best film of the year is").ids])
    expected = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=2
    )
    out = generate(ours, ids, 64)
    assert out.shape == (1, 64) and torch.equal(out, expected[:, ids.size(1) :])
    assert torch.equal(out[:, :24], generate(ours, ids, 24, use_cache=False))
