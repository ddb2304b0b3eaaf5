"""The book's own decoder: equal to GPT-2, Llama, Qwen3 with their options, each switch alone, documents kept apart."""

import math
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_tutorial.generation import generate
from plm_tutorial.layers import RMSNorm, record, relu_squared
from plm_tutorial.models import GPT2, Bert, BertConfig, GPT2Config, Llama, LlamaConfig
from plm_tutorial.models.common import count_positions
from plm_tutorial.models.decoder import Decoder, DecoderConfig, gpt2_recipe, hub_weights, modern_recipe
from plm_tutorial.objectives import predict_labels
from plm_tutorial.weights import expand

V = 50
SHAPE = {"context_length": 32, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_hidden": 48}
LLAMA = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "tied": False}
RECIPES = {
    "gpt2": gpt2_recipe(V, **SHAPE),
    "modern": modern_recipe(V, **SHAPE),
    "llama": DecoderConfig(V, **SHAPE, **LLAMA),
}
SWITCHES = [
    {"positions": "rotary"},
    {"norm": "rms"},
    {"qk_norm": True},
    {"activation": "relu2"},
    {"activation": "swiglu"},
    {"zero_init": True},
    {"bias": False},
    {"tied": False},
]
ALONE = {"-".join(map(str, *switch.items())): replace(RECIPES["gpt2"], **switch) for switch in SWITCHES}
CONFIGS = RECIPES | ALONE
IDS = torch.randint(V, (2, 12), generator=torch.Generator().manual_seed(0))


def _shake(model, seed=0):
    torch.manual_seed(seed)
    for parameter in model.parameters():  # norms, biases and zeros too: at 1 and 0 they would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


# Our names for those of a Llama or Qwen3 in transformers.
OURS = {
    "model.embed_tokens": "tokens",
    "model.layers": "layers",
    "model.norm": "norm",
    "lm_head": "head",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}


def _renamed(theirs):
    """The weights of a model of transformers under our names."""
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in OURS.items():
            name = name.replace(old, new)
        state[name] = value
    return state


# ---- the same as the models whose options it takes


@pytest.mark.parametrize("mask", [None, torch.tensor([[1] * 12, [0] * 3 + [1] * 9])], ids=["whole", "padded left"])
def test_with_the_options_of_gpt2_it_is_gpt2(mask):
    theirs = _shake(GPT2(GPT2Config(vocab_size=V, **SHAPE)))
    ours = Decoder(RECIPES["gpt2"]).eval()
    ours.load_state_dict(theirs.state_dict())  # the names are the same too
    assert torch.equal(ours(IDS, mask), theirs(IDS, mask))


def test_gpt2s_recipe_starts_with_the_weights_of_gpt2():
    models = []
    for kind, config in ((GPT2, GPT2Config(vocab_size=V, **SHAPE)), (Decoder, RECIPES["gpt2"])):
        torch.manual_seed(0)
        models.append(kind(config).state_dict())
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_with_the_options_of_llama_it_is_a_llama():
    config = LlamaConfig(vocab_size=V, **SHAPE, n_kv_heads=4, d_head=8, rope_base=10000.0, tied=False)
    theirs, ours = _shake(Llama(config)), Decoder(RECIPES["llama"]).eval()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(IDS), theirs(IDS))


def test_with_qk_norm_too_it_is_a_qwen3():
    options = {"num_key_value_heads": 4, "head_dim": 8, "rope_theta": 10000.0, "rms_norm_eps": 1e-3}
    options |= {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    reference = transformers.Qwen3Config(vocab_size=V, tie_word_embeddings=False, **options)
    theirs = _shake(transformers.Qwen3ForCausalLM(reference))
    ours = Decoder(replace(RECIPES["llama"], qk_norm=True, norm_eps=1e-3)).eval()
    ours.load_state_dict(_renamed(theirs))
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)


# ---- the switches


def test_relu_squared_equals_transformers():
    x = torch.linspace(-3, 3, 50)
    assert torch.equal(relu_squared(x), transformers.activations.ACT2FN["relu2"](x))


def test_scores_of_normalised_queries_and_keys_do_not_grow_with_the_weights():
    for config, grows in ((RECIPES["gpt2"], True), (ALONE["qk_norm-True"], False)):
        model = _shake(Decoder(config))
        maps = []
        for _ in range(2):
            with torch.no_grad(), record(model) as recording:
                model(IDS)
            maps.append(recording.attention[0])
            for part in (model.layers[0].attention.query, model.layers[0].attention.key):
                part.weight.data *= 10
                part.bias.data *= 10
        assert ((maps[0] - maps[1]).abs().max() > 0.1) == grows
    attention = model.layers[0].attention
    assert isinstance(attention.query_norm, RMSNorm) and attention.key_norm.weight.shape == (8,)


def test_with_zero_init_blocks_add_nothing_at_first_and_learn_all_the_same():
    model = Decoder(RECIPES["modern"]).eval()
    with torch.no_grad(), record(model) as recording:
        model(IDS)
    assert torch.equal(recording.hidden[0], recording.hidden[-1])
    predict_labels(model, {"input_ids": IDS, "labels": IDS.roll(-1, 1)}).mean.backward()
    for block in model.layers:
        assert block.attention.output.weight.grad.abs().max() > 0
        assert block.feed_forward.down.weight.grad.abs().max() > 0


def test_switches_change_what_they_say_and_no_more():
    def shapes(config):
        return {name: tuple(p.shape) for name, p in Decoder(config).named_parameters()}

    base = shapes(RECIPES["gpt2"])
    for name, config in ALONE.items():
        own = shapes(config)
        less, more = sorted(base.keys() - own.keys()), sorted(own.keys() - base.keys())
        if name == "positions-rotary":
            assert less == ["positions.weight"] and not more
        elif name == "norm-rms":
            assert all(n.endswith("norm.bias") for n in less) and len(less) == 5 and not more
        elif name == "qk_norm-True":
            assert not less and len(more) == 4 and all(own[n] == (8,) for n in more)
        elif name == "activation-swiglu":
            assert not less and all("gate" in n for n in more) and len(more) == 4
        elif name == "bias-False":
            assert all(n.endswith("bias") and "norm" not in n for n in less) and len(less) == 12 and not more
        elif name == "tied-False":
            assert more == ["head.weight"] and not less
        else:
            assert own == base


@pytest.mark.parametrize("name", RECIPES)
def test_the_table_of_names_has_every_parameter(name):
    model = Decoder(CONFIGS[name])
    assert dict(model.named_parameters()).keys() <= expand(hub_weights(model.config), model.config).keys()
    assert DecoderConfig.from_hub(model.config.to_hub() | {"dtype": "float32"}) == model.config


def test_recipes_have_the_same_shape():
    old, new = (recipe(V, **SHAPE) for recipe in (gpt2_recipe, modern_recipe))
    same = [*SHAPE, "vocab_size", "tied", "init_std"]
    assert all(getattr(old, name) == getattr(new, name) for name in same)
    assert modern_recipe(V, activation="swiglu").activation == "swiglu"  # a single part can be taken back
    sizes = [sum(p.numel() for p in Decoder(config).parameters()) for config in (old, new)]
    assert abs(sizes[0] - sizes[1]) / sizes[0] < 0.1


# ---- learning


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_begins_at_that_of_a_uniform_guess(name):
    torch.manual_seed(0)
    model, ids = Decoder(replace(CONFIGS[name], vocab_size=500)), torch.randint(500, (4, 33))
    with torch.no_grad():
        loss = predict_labels(model, {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}).mean
    assert float(loss) == pytest.approx(math.log(500), rel=0.02)


@pytest.mark.parametrize("name", RECIPES)
def test_it_overfits_one_batch(name):
    torch.manual_seed(0)
    model = Decoder(CONFIGS[name])
    batch = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        loss = predict_labels(model, batch).mean
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.05


# ---- causality, cache, padding


@pytest.mark.parametrize("name", CONFIGS)
def test_a_later_token_never_changes_an_earlier_output(name):
    model = _shake(Decoder(CONFIGS[name]))
    with torch.no_grad():
        before = model(IDS)
        for t in range(12):
            changed = IDS.clone()
            changed[:, t] = (changed[:, t] + 1) % V
            after = model(changed)
            torch.testing.assert_close(after[:, :t], before[:, :t], atol=1e-6, rtol=0)
            assert (after[:, t:] != before[:, t:]).any(-1).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_and_uncached_logits_are_equal(name):
    model = _shake(Decoder(CONFIGS[name]))
    mask = torch.tensor([[1] * 12, [0] * 3 + [1] * 9])
    with torch.no_grad():
        for keep in (None, mask):
            whole = model(IDS, keep)
            cache, logits, start = model.new_cache(), [], 0
            for size in (5, 1, 4, 1, 1):
                seen = None if keep is None else keep[:, : start + size]
                logits.append(model(IDS[:, start : start + size], seen, cache))
                start += size
            kept = torch.ones(2, 12, dtype=torch.bool) if keep is None else keep.bool()
            torch.testing.assert_close(torch.cat(logits, 1)[kept], whole[kept], atol=1e-5, rtol=0)
            last = model(IDS, keep, last_only=True)
            torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=0)
        alone = model(IDS[1:, 3:])
        torch.testing.assert_close(model(IDS, mask)[1:, 3:], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(generate(model, IDS, 5), generate(model, IDS, 5, use_cache=False), atol=0, rtol=0)


# ---- documents that share a row

APART = {
    "decoder, gpt2": lambda: Decoder(RECIPES["gpt2"]),
    "decoder, modern": lambda: Decoder(RECIPES["modern"]),
    "gpt2": lambda: GPT2(GPT2Config(vocab_size=V, **SHAPE)),
    "llama": lambda: Llama(LlamaConfig(vocab_size=V, **SHAPE, n_kv_heads=2, d_head=8)),
    "mistral": lambda: Llama(LlamaConfig(vocab_size=V, **SHAPE, n_kv_heads=2, d_head=8, window=4)),
    "bert": lambda: Bert(BertConfig(vocab_size=V, **SHAPE, head="mlm")),
    "roberta": lambda: Bert(BertConfig(vocab_size=V, **SHAPE, head="mlm", pad_id=1, n_token_types=1)),
}


def _rows(lengths):
    """The number of the document at each position (T,), and who may look at whom (1, T, T)."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return document, (document[:, None] == document[None, :]).long()[None]


@pytest.mark.parametrize("name", APART)
@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 8), min_size=2, max_size=4), seed=st.integers(0, 2**31))
def test_nothing_crosses_from_one_document_into_another(name, lengths, seed):
    model = _shake(APART[name](), seed % 5)
    generator = torch.Generator().manual_seed(seed)
    document, mask = _rows(lengths)
    ids = torch.randint(2, V, (1, len(document)), generator=generator)
    place = int(torch.randint(len(document), (), generator=generator))
    changed = ids.clone()
    changed[0, place] = 2 + (ids[0, place] - 1) % (V - 2)
    with torch.no_grad():
        before, after = model(ids, mask), model(changed, mask)
        others = document != document[place]
        torch.testing.assert_close(after[0, others], before[0, others], atol=1e-6, rtol=0)
        assert (after[0, place] != before[0, place]).any()
        for number in range(len(lengths)):  # and each is what it is alone, positions included
            own = document == number
            torch.testing.assert_close(before[:, own], model(ids[:, own]), atol=2e-5, rtol=0)


def test_positions_count_what_comes_before_and_may_be_looked_at():
    _, mask = _rows([3, 1, 2])
    assert count_positions(mask).tolist() == [[0, 1, 2, 0, 0, 1]]
    assert count_positions(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 2, 2],
    ]


def test_masks_of_documents_are_refused_where_they_do_not_fit():
    model, (_, mask) = Decoder(RECIPES["modern"]).eval(), _rows([5, 7])
    with pytest.raises(
        ValueError, match=r"has shape \(1, 12, 12\); expected \(2, 12\): .* row .* other: \(2, 12, 12\)"
    ):
        model(IDS, mask)
    cache = model.new_cache()
    with torch.no_grad():
        model(IDS[:, :6], cache=cache)
    with pytest.raises(ValueError, match=r"has shape \(2, 12, 12\); expected \(2, 12\): .*6 in the cache and 6 new"):
        model(IDS[:, 6:], mask.expand(2, -1, -1), cache)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "alibi"}, "positions is 'alibi'; implemented here: learned, rotary"),
        ({"norm": "batch"}, "norm is 'batch'; implemented here: layer, rms"),
        ({"activation": "gelu"}, "activation is 'gelu'; implemented here: gelu_new, relu2, swiglu"),
        ({"n_heads": 5}, "d_model = 32 cannot be split evenly into n_heads = 5"),
        ({"n_heads": 32, "positions": "rotary"}, "d_model / n_heads is 1; rotary positions turn pairs"),
        ({"qk_norm": 1}, "qk_norm is 1; expected true or false"),
        ({"dropout": -1.0}, "dropout is -1.0; expected a number that is not negative"),
        ({"rope_base": 0.5}, "rope_base is 0.5; expected at least 1"),
        ({"vocab_size": 0}, "vocab_size is 0; expected a whole number from 1 to"),
    ],
)
def test_configurations_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**{"vocab_size": V} | SHAPE | options)


def test_a_stored_configuration_must_be_whole():
    values = RECIPES["modern"].to_hub()
    for name in values.keys() - {"architectures", "model_type"}:
        with pytest.raises(ValueError, match=f"it has no {name}, without which the model cannot be built"):
            DecoderConfig.from_hub({k: v for k, v in values.items() if k != name})


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = Decoder(replace(RECIPES["modern"], dropout=0.5, zero_init=False))
    outputs = [model(IDS) for _ in range(2)]
    assert not torch.equal(*outputs)
    model.eval()
    assert torch.equal(*(model(IDS) for _ in range(2)))


# ---- looking both ways


@pytest.mark.parametrize("name", CONFIGS)
def test_without_causal_every_position_sees_all_others(name):
    model = _shake(Decoder(replace(CONFIGS[name], causal=False)))
    x = torch.randn(1, 6, 32, requires_grad=True)
    model.tokens.register_forward_hook(lambda *_: x)
    for t in (0, 5):
        (grad,) = torch.autograd.grad(model(IDS[:1, :6])[0, t].square().sum(), x)
        assert (grad.abs().sum(-1) > 0).all()


def test_without_causal_it_is_a_llama_whose_mask_hides_nothing():
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    reference = transformers.LlamaConfig(vocab_size=V, tie_word_embeddings=False, rms_norm_eps=1e-5, **options)
    theirs = _shake(transformers.LlamaForCausalLM(reference))
    ours = Decoder(replace(RECIPES["llama"], causal=False)).eval()
    ours.load_state_dict(_renamed(theirs))
    expected = theirs(IDS, attention_mask=torch.zeros(2, 1, 12, 12)).logits
    torch.testing.assert_close(ours(IDS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_logits_of_some_positions_alone(causal):
    model = _shake(Decoder(replace(RECIPES["modern"], causal=causal)))
    keep = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.3
    torch.testing.assert_close(model(IDS, keep=keep), model(IDS)[keep])
    with pytest.raises(ValueError, match=r"keep has shape \(2, 11\)"):
        model(IDS, keep=keep[:, 1:])


def test_what_looks_both_ways_has_no_cache():
    model = Decoder(replace(RECIPES["modern"], causal=False))
    with pytest.raises(ValueError, match="looks both ways"):
        model.new_cache()
    with pytest.raises(ValueError, match="looks both ways"):
        model(IDS, cache=Decoder(RECIPES["modern"]).new_cache())
