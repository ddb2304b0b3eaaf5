"""Checks of the exercises on pretrained models.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import copy

import torch
from safetensors.torch import save

from plm_tutorial import models
from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal
from plm_tutorial.models.llama import half_split

exercises = Exercises()
check = exercises.check


@exercises.add("ex-read-header")
def _read_header(answer):
    files = {
        "a file of two tensors": ({"a": torch.zeros(2, 3), "b.bias": torch.ones(5)}, None),
        "a file with metadata": ({"x": torch.zeros(4)}, {"format": "pt"}),
        "a file with a long header": ({f"layer.{i}.weight": torch.zeros(i + 1, 2) for i in range(40)}, None),
        "a file whose tensor has no dimension": ({"scale": torch.tensor(2.0)}, None),
    }
    for what, (tensors, metadata) in files.items():
        got = answer(save(tensors, metadata))
        expect(isinstance(got, dict), f"{what} gave a {type(got).__name__}; expected a dict from names to shapes")
        expect(
            "__metadata__" not in got,
            f"{what} gave a tensor '__metadata__': that entry of the header is free text, leave it out",
        )
        wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expect_equal({name: tuple(shape) for name, shape in got.items()}, wanted, f"{what}")


@exercises.add("ex-cache-bytes")
def _cache_bytes(answer):
    small = models.LlamaConfig(n_layers=4, n_heads=6, n_kv_heads=2, d_head=10, d_model=48, context_length=100)
    cases = [
        (models.LlamaConfig(), 1, 2, "SmolLM2, 1 token, 2 bytes a number"),
        (models.LlamaConfig(), 1000, 4, "SmolLM2, 1,000 tokens, 4 bytes a number"),
        (small, 7, 2, "a small one (4 layers, 6 heads, 2 kv heads of width 10), 7 tokens, 2 bytes a number"),
    ]
    for config, n_tokens, n_bytes, what in cases:
        got = answer(config, n_tokens, n_bytes)
        wanted = 2 * config.n_layers * config.n_kv_heads * config.d_head * n_tokens * n_bytes
        expect(got != wanted / 2, f"{what}: {got:,.0f} is half of it; a key and a value are kept")
        queries = wanted * config.n_heads // config.n_kv_heads
        expect(got != queries, f"{what}: {got:,.0f} counts all query heads; only key-value heads are kept")
        width = 2 * config.n_layers * config.d_model * n_tokens * n_bytes
        expect(got != width, f"{what}: {got:,.0f} counts the width of the model; count key-value heads times d_head")
        expect(got != wanted / config.n_layers, f"{what}: {got:,.0f} is one layer's; each layer keeps its own")
        expect(got == wanted, f"{what}: got {got:,}, expected {wanted:,}")


@exercises.add("ex-split-joined")
def _split_joined(answer):
    generator = torch.Generator().manual_seed(0)
    for width in (6, 4):
        joined = torch.randn(width, 3 * width, generator=generator)  # (D, 3 D)
        x = torch.randn(5, width, generator=generator)  # (T, D)
        parts = list(answer(joined))
        expect(len(parts) == 3, f"got {len(parts)} tensors; expected three: for queries, keys, values")
        for part in parts:
            shape = tuple(part.shape)
            expect(shape == (width, width), f"D = {width}: a part has shape {shape}, expected {(width, width)}")
        wanted = (x @ joined).chunk(3, dim=-1)  # (T, D) each
        found = [torch.nn.functional.linear(x, part) for part in parts]
        if all(torch.allclose(x @ part, want, atol=1e-5) for part, want in zip(parts, wanted, strict=True)):
            raise Wrong("cut rightly, but not transposed: a linear layer of PyTorch keeps its weight as (out, in)")
        for name, got, want in zip(("queries", "keys", "values"), found, wanted, strict=True):
            expect(
                torch.allclose(got, want, atol=1e-5),
                f"D = {width}: torch.nn.functional.linear(x, part) does not give the {name} of x @ joined",
            )


@exercises.add("ex-sort-rows")
def _sort_rows(answer):
    for heads, d_head, width in ((1, 4, 1), (1, 8, 3), (3, 8, 2)):
        weight = torch.arange(heads * d_head * width).float().view(-1, width)  # (heads K, D)
        got, wanted = answer(weight.clone(), d_head), half_split(weight, d_head)
        call = f"sort_rows(weight, {d_head}) of {heads} head(s)"
        expect(isinstance(got, torch.Tensor), f"{call} gave a {type(got).__name__}; expected a tensor")
        expect(got.shape == weight.shape, f"{call} gave shape {tuple(got.shape)}, expected {tuple(weight.shape)}")
        order = [int(row) // width for row in got[:, 0]]
        expect(sorted(order) == list(range(heads * d_head)), f"{call} lost rows: their old numbers are {order}")
        if heads > 1 and any(row // d_head != i // d_head for i, row in enumerate(order)):
            raise Wrong(f"{call} gave rows {order}: rows went from one head to another; sort within each head")
        right = [int(row) // width for row in wanted[:, 0]]
        expect(order == right, f"{call} gave rows {order}, expected {right}")


NAMES = {  # a few of the tensors of published files, outside the layers and in one of them
    "bert": (
        {"embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias", "pooler.dense.weight"},
        {"attention.self.query.weight", "attention.output.dense.bias", "intermediate.dense.weight"},
    ),
    "gpt2": (
        {"wte.weight", "wpe.weight", "ln_f.weight"},
        {"ln_1.weight", "attn.c_attn.weight", "attn.c_proj.bias", "mlp.c_fc.weight"},
    ),
    "t5": (
        {"shared.weight", "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"},
        {"0.SelfAttention.q.weight", "0.layer_norm.weight", "1.DenseReluDense.wo.weight"},
    ),
    "llama": (
        {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"},
        {"input_layernorm.weight", "self_attn.q_proj.weight", "mlp.gate_proj.weight", "mlp.down_proj.weight"},
    ),
}
LAYERS = {"bert": "encoder.layer.", "gpt2": "h.", "t5": "encoder.block.", "llama": "model.layers."}


@exercises.add("ex-which-family")
def _which_family(answer):
    for family, (outside, inside) in NAMES.items():
        between = ".layer." if family == "t5" else "."
        layers = {f"{LAYERS[family]}{i}{between}{name}" for i in range(3) for name in inside}
        expect_equal(answer(outside | layers), family, f"which_family(all names of a {family})")
        expect_equal(answer(set(layers)), family, f"which_family(the names of a {family}'s layers alone)")
    roberta = {f"roberta.encoder.layer.{i}.{name}" for i in range(3) for name in NAMES["bert"][1]}
    expect_equal(answer(roberta), "bert", "which_family(the names of a roberta's layers alone)")
    image = {"layers.0.conv.weight", "layers.1.encoder.block.0.weight", "classifier.bias"}
    expect_equal(answer(image), None, "which_family(the names of an image model)")


@exercises.add("ex-only-rearranged")
def _only_rearranged(answer):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = models.Bert(models.BertConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, d_hidden=32)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    torch.random.set_rng_state(torch_state)
    wrong = copy.deepcopy(model)
    answer(wrong)
    before, after = model.state_dict(), wrong.state_dict()
    expect(before.keys() == after.keys(), "the model has other parameters than before")
    for name, value in before.items():
        expect(
            value.shape == after[name].shape,
            f"{name} had shape {tuple(value.shape)} and has {tuple(after[name].shape)}: a loader would notice",
        )
    old = torch.cat([value.flatten() for value in before.values()]).sort().values
    new = torch.cat([value.flatten() for value in after.values()]).sort().values
    expect(torch.equal(old, new), "the numbers themselves have changed; only put them into other places")
    ids = torch.arange(2, 14)[None]  # (1, T)
    with torch.no_grad():
        try:
            moved = (wrong.eval()(ids) - model(ids)).abs().max().item()
        except Exception as error:
            raise Wrong(f"the model no longer runs: {type(error).__name__}: {error}") from error
    expect(
        any(not torch.equal(value, after[name]) for name, value in before.items()),
        "nothing has changed: change the model that is passed in, in place",
    )
    expect(
        moved > 1e-3,
        f"the numbers have moved, yet the output differs by {moved:.0e} only: you found a symmetry of the model, "
        "which is worth knowing, but no mistake",
    )
