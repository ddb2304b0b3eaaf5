"""Checks of the exercises on frameworks.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
None needs TensorFlow.
"""

from __future__ import annotations

import math

import numpy as np
from safetensors.numpy import save

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal

exercises = Exercises()
check = exercises.check


@exercises.add("ex-frameworks-shapes")
def _shapes(answer):
    wanted = {
        "up": (768, 3072),
        "query_kernel": (768, 12, 64),
        "query_bias": (12, 64),
        "output_kernel": (12, 64, 768),
    }
    expect(isinstance(answer, dict), f"expected a dictionary with {', '.join(wanted)}")
    for name, shape in wanted.items():
        expect(name in answer, f"{name!r} is missing; expected {', '.join(wanted)}")
        got = tuple(answer[name])
        expect(
            math.prod(got) == math.prod(shape),
            f"{name}: {got} holds {math.prod(got):,} numbers; the layer has {math.prod(shape):,} there",
        )
        expect(name != "up" or got != (3072, 768), "up: (3072, 768) is PyTorch's (out, in); a kernel is (in, out)")
        expect(len(got) == len(shape), f"{name}: {got} has no axis of its own for the heads")
        expect(got == shape, f"{name}: {got} holds the right number of numbers, but its axes are in another order")


@exercises.add("ex-frameworks-from-keras")
def _from_keras(answer):
    for d, h, k in ((2, 3, 4), (6, 2, 3), (4, 2, 2)):
        kernel = np.arange(d * h * k, dtype=np.float32).reshape(d, h, k)  # (D, H, K)
        got = np.asarray(answer(kernel.copy()))
        call = f"from_keras of a kernel of shape {kernel.shape}"
        expect(got.shape == (h * k, d), f"{call} gave the shape {got.shape}, expected {(h * k, d)}")
        wanted = kernel.reshape(d, h * k).T
        if np.array_equal(got, kernel.reshape(h * k, d)):
            raise Wrong(f"{call}: the shape is right and the numbers are not; reshaping alone moves nothing")
        if np.array_equal(got, kernel.transpose(2, 1, 0).reshape(h * k, d)):
            raise Wrong(f"{call}: the features of different heads are mixed; a head's {k} features stay together")
        expect(np.array_equal(got, wanted), f"{call}: entry (h K + k, d) of the weight must be kernel[d, h, k]")


@exercises.add("ex-frameworks-padding")
def _padding(answer):
    cases = [([5, 8, 9], 1), ([5, 8, 9], 8), ([16, 16, 32], 16), ([1, 2, 3, 4], 4), ([10, 20, 30, 40], 512)]
    for lengths, multiple in cases:
        padded = [math.ceil(n / multiple) * multiple for n in lengths]
        call, got = f"padding_cost({lengths}, {multiple})", answer(list(lengths), multiple)
        expect(isinstance(got, tuple | list) and len(got) == 2, f"{call} gave {got!r}; expected (graphs, share)")
        graphs, share = got
        wanted = 1 - sum(lengths) / sum(padded)
        beyond = 1 - sum(lengths) / sum((n // multiple + 1) * multiple for n in lengths)
        if math.isclose(share, beyond, abs_tol=1e-9) and beyond != wanted:
            raise Wrong(f"{call} gave {got}: a length that is a multiple already needs no further padding")
        expect_equal(graphs, len(set(padded)), f"{call}, number of graphs,")
        if math.isclose(share, sum(padded) / sum(lengths) - 1, abs_tol=1e-9) and wanted:
            raise Wrong(
                f"{call} gave a share of {share:.3f}: that is padding for each real token; divide by all positions"
            )
        expect(math.isclose(share, wanted, abs_tol=1e-9), f"{call} gave a share of {share:.3f}, expected {wanted:.3f}")


@exercises.add("ex-frameworks-adam")
def _adam(answer):
    for eps, beta2, step in ((1e-8, 0.999, 1), (1e-8, 0.999, 100), (1e-6, 0.95, 3), (1e-8, 0.999, 100_000)):
        call, got = f"keras_epsilon({eps}, {beta2}, {step})", answer(eps, beta2, step)
        factor = math.sqrt(1 - beta2**step)
        if step == 1 and math.isclose(got, eps / factor, rel_tol=1e-6):
            raise Wrong(f"{call} gave {got:.3g}: this way round the two differ even more than with equal epsilons")
        if step == 1 and math.isclose(got, eps * factor**2, rel_tol=1e-6):
            raise Wrong(
                f"{call} gave {got:.3g}: the denominator holds the square root of v, so the factor has a root too"
            )
        expect(math.isclose(got, eps * factor, rel_tol=1e-6), f"{call} gave {got:.4g}, expected {eps * factor:.4g}")


@exercises.add("ex-frameworks-safetensors")
def _safetensors(answer):
    tensors = {
        "embedding.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 3,
        "half": np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3),
        "steps": np.array([7, 2**40], dtype=np.int64),
        "one": np.array([[[2.5]]], dtype=np.float32),
    }
    data = save(tensors, {"format": "np"})
    for name, tensor in tensors.items():
        call, got = f"read_tensor(data, {name!r})", np.asarray(answer(data, name))
        expect(got.shape == tensor.shape, f"{call} has the shape {got.shape}, expected {tensor.shape}")
        expect(got.dtype == tensor.dtype, f"{call} has the type {got.dtype}, expected {tensor.dtype}")
        expect(
            np.array_equal(got, tensor),
            f"{call} begins with {got.ravel()[0]}, expected {tensor.ravel()[0]}; where do the offsets count from?",
        )


# Pickles, written out so that nothing has to be pickled here: protocols 0 and 4, none, and two functions.
_PICKLES = [
    (b"cos\nsystem\n(Vls\ntR.", ["os.system"]),
    (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02ls\x94\x85\x94R\x94.", ["posix.system"]),
    (b"\x80\x04}\x94\x8c\x05posix\x94\x8c\x06system\x94s.", []),
    (b"(cmath\nsqrt\n(I4\ntRcbuiltins\nprint\n(Vhello\ntRl.", ["math.sqrt", "builtins.print"]),
]


@exercises.add("ex-frameworks-pickle")
def _pickle(answer):
    for data, names in _PICKLES:
        call, got = f"fetched({data!r})", answer(data)
        expect(isinstance(got, list | tuple), f"{call} gave {got!r}; expected a list of names")
        if not names:
            expect(not got, f"{call} gave {list(got)}: it holds these words, but no instruction fetches anything")
        expect_equal(list(got), names, call)
