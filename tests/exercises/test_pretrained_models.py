"""Answers to the exercises on pretrained models: RIGHT ones, and WRONG ones with part of what the reader is told."""

import json
import re

import torch

from plm_tutorial.models.llama import half_split, interleaved


def read_header(data):
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: about["shape"] for name, about in header.items() if name != "__metadata__"}


def header_with_metadata(data):
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: about.get("shape", ()) for name, about in header.items()}


def header_of_one_byte(data):  # believes that the length is a single byte
    length = data[0]
    return read_header(length.to_bytes(8, "little") + data[8:])


def big_endian(data):
    return read_header(data[:8][::-1] + data[8:])


def cache_bytes(config, n_tokens, n_bytes):
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * n_tokens * n_bytes


def sort_rows(weight, d_head):
    heads = weight.reshape(-1, d_head, weight.size(1))
    return torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).reshape(weight.shape)


def which_family(names):
    text = "\n".join(names)
    marks = {"self.query": "bert", "c_attn": "gpt2", "SelfAttention": "t5", "gate_proj": "llama"}
    return next((family for mark, family in marks.items() if mark in text), None)


def by_embedding(names):
    marks = {"word_embeddings": "bert", "wte": "gpt2", "shared": "t5", "embed_tokens": "llama"}
    return next((family for mark, family in marks.items() if any(mark in name for name in names)), None)


def by_layer_number(names):
    marks = {r"encoder\.layer\.\d": "bert", r"h\.\d": "gpt2", r"block\.\d": "t5", r"layers\.\d": "llama"}
    return next((family for mark, family in marks.items() if any(re.search(mark, name) for name in names)), "bert")


def exchange_values(model):
    for block in model.layers:
        block.attention.key, block.attention.value = block.attention.value, block.attention.key


def exchange_norms(model):
    block = model.layers[0]
    block.attention_norm, block.feed_forward_norm = block.feed_forward_norm, block.attention_norm


def sort_hidden(model):  # a symmetry
    part = model.layers[0].feed_forward
    order = torch.arange(part.up.weight.size(0)).flip(0)
    part.up.weight.data, part.up.bias.data = part.up.weight.data[order], part.up.bias.data[order]
    part.down.weight.data = part.down.weight.data[:, order]


def exchange_heads(model):  # a symmetry
    part = model.layers[1].attention
    order = torch.cat((torch.arange(8, 16), torch.arange(8)))
    for linear in (part.query, part.key, part.value):
        linear.weight.data, linear.bias.data = linear.weight.data[order], linear.bias.data[order]
    part.output.weight.data = part.output.weight.data[:, order]


def transpose_up(model):
    part = model.layers[0].feed_forward
    part.up.weight.data = part.up.weight.data.T


def add_noise(model):
    model.embeddings.tokens.weight.data += 0.01


def set_order(model):  # two layers where the model wants a list of them
    model.layers = model.layers[::-1][:1]


RIGHT = [
    ("ex-read-header", read_header),
    ("ex-cache-bytes", cache_bytes),
    ("ex-split-joined", lambda weight: [part.T for part in weight.chunk(3, dim=1)]),
    ("ex-split-joined", lambda weight: weight.T.chunk(3)),
    ("ex-sort-rows", sort_rows),
    ("ex-sort-rows", half_split),
    ("ex-which-family", which_family),
    ("ex-only-rearranged", exchange_values),
    ("ex-only-rearranged", exchange_norms),
]

WRONG = [
    ("ex-read-header", header_with_metadata, "leave it out"),
    ("ex-read-header", header_of_one_byte, "JSONDecodeError"),
    ("ex-read-header", big_endian, "your answer raised"),
    ("ex-read-header", lambda data: list(read_header(data)), "expected a dict"),
    ("ex-read-header", lambda data: {name: tuple(s)[::-1] for name, s in read_header(data).items()}, "expected"),
    ("ex-cache-bytes", lambda c, t, b: cache_bytes(c, t, b) // 2, "a key and a value are kept"),
    ("ex-cache-bytes", lambda c, t, b: 2 * c.n_layers * c.n_heads * c.d_head * t * b, "counts all query heads"),
    ("ex-cache-bytes", lambda c, t, b: 2 * c.n_layers * c.d_model * t * b, "key-value heads"),
    ("ex-cache-bytes", lambda c, t, b: 2 * c.n_kv_heads * c.d_head * t * b, "each layer keeps its own"),
    ("ex-cache-bytes", lambda c, t, b: cache_bytes(c, 1, b), "1,000 tokens"),
    ("ex-split-joined", lambda weight: weight.chunk(3, dim=1), "not transposed"),
    ("ex-split-joined", lambda weight: weight.chunk(3, dim=0), "a part has shape"),
    ("ex-split-joined", lambda weight: weight.T.chunk(3)[::-1], "does not give the queries"),
    ("ex-split-joined", lambda weight: weight.T, "expected three"),
    ("ex-split-joined", lambda weight: [weight[:, i::3].T for i in range(3)], "does not give the queries"),
    ("ex-sort-rows", lambda weight, d_head: weight, "expected [0, 2, 1, 3]"),
    ("ex-sort-rows", interleaved, "expected [0, 2, 4, 6, 1, 3, 5, 7]"),
    ("ex-sort-rows", lambda weight, d_head: torch.cat((weight[0::2], weight[1::2])), "from one head to another"),
    ("ex-sort-rows", lambda weight, d_head: sort_rows(weight, d_head).reshape(-1), "gave shape"),
    ("ex-sort-rows", lambda weight, d_head: torch.cat((weight[0::2], weight[0::2])), "lost rows"),
    ("ex-which-family", by_embedding, "layers alone"),
    ("ex-which-family", by_layer_number, "an image model"),
    ("ex-which-family", lambda names: "roberta" if which_family(names) == "bert" else which_family(names), "'bert'"),
    ("ex-only-rearranged", lambda model: model, "nothing has changed"),
    ("ex-only-rearranged", sort_hidden, "a symmetry of the model"),
    ("ex-only-rearranged", exchange_heads, "a symmetry of the model"),
    ("ex-only-rearranged", transpose_up, "a loader would notice"),
    ("ex-only-rearranged", add_noise, "numbers themselves have changed"),
    ("ex-only-rearranged", set_order, "other parameters"),
]
