"""Exercises on frameworks: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import json
import math
import pickletools

import numpy as np

from plm_tutorial.exercises import frameworks

# --- right answers: as in the chapter, and other ways to be right

SHAPES = {"up": (768, 3072), "query_kernel": (768, 12, 64), "query_bias": (12, 64), "output_kernel": (12, 64, 768)}
KINDS = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}


def padding_cost(lengths, multiple):
    padded = [-(-n // multiple) * multiple for n in lengths]
    return len(set(padded)), 1 - sum(lengths) / sum(padded)


def read_tensor(data, name):
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[start + begin : start + end], KINDS[entry["dtype"]]).reshape(entry["shape"])


def read_by_library(data, name):
    from safetensors.numpy import load

    return load(data)[name]


def fetched(data):
    names, strings = [], []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            names.append(argument.replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.append(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return names


RIGHT = [
    ("ex-frameworks-shapes", SHAPES),
    ("ex-frameworks-shapes", {name: list(shape) for name, shape in SHAPES.items()}),
    ("ex-frameworks-from-keras", lambda kernel: kernel.reshape(kernel.shape[0], -1).T),
    ("ex-frameworks-from-keras", lambda kernel: kernel.transpose(1, 2, 0).reshape(-1, kernel.shape[0])),
    ("ex-frameworks-padding", padding_cost),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps * (1 - beta2**step) ** 0.5),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps * math.sqrt(-math.expm1(step * math.log(beta2)))),
    ("ex-frameworks-safetensors", read_tensor),
    ("ex-frameworks-safetensors", read_by_library),
    ("ex-frameworks-pickle", fetched),
]

# --- wrong answers that a reader may well give, and what they are told


def floored(lengths, multiple):
    padded = [(n // multiple + 1) * multiple for n in lengths]
    return len({n // multiple for n in lengths}), 1 - sum(lengths) / sum(padded)


def per_token(lengths, multiple):
    padded = [-(-n // multiple) * multiple for n in lengths]
    return len(set(padded)), sum(padded) / sum(lengths) - 1


def each_batch(lengths, multiple):
    return len(lengths), padding_cost(lengths, multiple)[1]


def from_start_of_file(data, name):
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[begin:end], KINDS[entry["dtype"]]).reshape(entry["shape"])


def always_single(data, name):
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[start + begin : start + end], "<f4")[: math.prod(entry["shape"])].reshape(entry["shape"])


def without_shape(data, name):
    return read_tensor(data, name).ravel()


def only_old(data):
    return [arg.replace(" ", ".") for opcode, arg, _ in pickletools.genops(data) if opcode.name == "GLOBAL"]


def any_words(data):
    strings = [arg.replace(" ", ".") for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)]
    return ["posix.system"] if "posix" in strings else [s for s in strings if "." in s]


WRONG = [
    ("ex-frameworks-shapes", SHAPES | {"up": (3072, 768)}, "a kernel is (in, out)"),
    ("ex-frameworks-shapes", SHAPES | {"query_kernel": (768, 768)}, "no axis of its own for the heads"),
    ("ex-frameworks-shapes", SHAPES | {"query_bias": (768,)}, "no axis of its own for the heads"),
    ("ex-frameworks-shapes", SHAPES | {"output_kernel": (768, 12, 64)}, "its axes are in another order"),
    ("ex-frameworks-shapes", SHAPES | {"query_kernel": (12, 768, 64)}, "its axes are in another order"),
    ("ex-frameworks-shapes", SHAPES | {"query_kernel": (768, 12)}, "the layer has 589,824 there"),
    ("ex-frameworks-shapes", {"up": (768, 3072)}, "'query_kernel' is missing"),
    ("ex-frameworks-shapes", [(768, 3072)], "expected a dictionary"),
    ("ex-frameworks-from-keras", lambda kernel: kernel.reshape(-1, kernel.shape[0]), "reshaping alone moves nothing"),
    ("ex-frameworks-from-keras", lambda kernel: kernel.reshape(kernel.shape[0], -1), "gave the shape (2, 12)"),
    ("ex-frameworks-from-keras", lambda kernel: kernel.T.reshape(-1, kernel.shape[0]), "different heads are mixed"),
    ("ex-frameworks-from-keras", lambda kernel: kernel.transpose(1, 2, 0), "gave the shape (3, 4, 2)"),
    ("ex-frameworks-padding", floored, "needs no further padding"),
    ("ex-frameworks-padding", per_token, "divide by all positions"),
    ("ex-frameworks-padding", each_batch, "number of graphs, gave 3, expected 2"),
    ("ex-frameworks-padding", lambda lengths, multiple: len(set(lengths)), "expected (graphs, share)"),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps, "expected 3.162e-10"),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps / (1 - beta2**step) ** 0.5, "differ even more"),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps * (1 - beta2**step), "the factor has a root too"),
    ("ex-frameworks-adam", lambda eps, beta2, step: eps * (1 - beta2) ** 0.5, "100) gave"),
    ("ex-frameworks-safetensors", from_start_of_file, "where do the offsets count from?"),
    ("ex-frameworks-safetensors", always_single, "raised ValueError"),
    ("ex-frameworks-safetensors", without_shape, "has the shape (12,)"),
    ("ex-frameworks-safetensors", lambda data, name: read_tensor(data, name).astype(float), "has the type float64"),
    ("ex-frameworks-pickle", only_old, "expected ['posix.system']"),
    ("ex-frameworks-pickle", any_words, "no instruction fetches anything"),
    ("ex-frameworks-pickle", lambda data: "os.system", "expected a list of names"),
    ("ex-frameworks-pickle", lambda data: ["os system"], "expected ['os.system']"),
]


def test_the_pickles_are_what_they_are_said_to_be():
    for data, names in frameworks._PICKLES:
        opcodes = [opcode.name for opcode, _, _ in pickletools.genops(data)]
        assert opcodes[-1] == "STOP" and sum("GLOBAL" in name for name in opcodes) == len(names)
