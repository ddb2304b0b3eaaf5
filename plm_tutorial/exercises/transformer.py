"""Checks of the exercises on the Transformer.

In: the reader's answers. Out: "right", or the property that fails and the input on which it fails.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plm_tutorial.exercises import Exercises, Wrong, expect, expect_equal, expect_tensor
from plm_tutorial.layers import sinusoidal_positions
from plm_tutorial.models.transformer import TransformerEncoder

exercises = Exercises()
check = exercises.check


def _tensor(got: object, shape: tuple[int, ...], call: str) -> Tensor:
    """Return ``got`` as float64, or raise :class:`Wrong` if it is no tensor of this shape."""
    return expect_tensor(got, shape, call).double()


def _gap(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@exercises.add("ex-transformer-layernorm")
def _layernorm(answer):
    draw = torch.Generator().manual_seed(0)
    for shape, size in (((2, 3, 8), 1.0), ((1, 1, 5), 1e-3), ((4, 6), 1e3)):
        x = size * torch.randn(shape, generator=draw, dtype=torch.float64) + size
        weight, bias = torch.randn(2, shape[-1], generator=draw, dtype=torch.float64)
        eps = 1e-5
        call = f"layer_norm(x, weight, bias, {eps}) of a random x {shape}"
        got = _tensor(answer(x.clone(), weight, bias, eps), shape, call)
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        wanted = (x - mean) / (variance + eps).sqrt() * weight + bias
        wrong = {
            "the variance divides by D - 1; here it divides by D (unbiased=False)": (x - mean)
            / (x.var(-1, keepdim=True) + eps).sqrt()
            * weight
            + bias,
            "eps is added to the spread; it belongs under the root, to the variance": (x - mean)
            / (variance.sqrt() + eps)
            * weight
            + bias,
            "eps is left out": (x - mean) / variance.sqrt() * weight + bias,
            "the scale and shift of each feature are missing": (x - mean) / (variance + eps).sqrt(),
            "the mean is not subtracted; that is RMSNorm": x
            / (x.square().mean(-1, keepdim=True) + eps).sqrt()
            * weight,
            "it divides by the variance, not by its root": (x - mean) / (variance + eps) * weight + bias,
        }
        if _gap(got, wanted) > 1e-6:
            for reason, other in wrong.items():
                expect(_gap(got, other) > 1e-6, f"{call}: {reason}")
            raise Wrong(
                f"{call} is off by {_gap(got, wanted):.3g}; mean and variance are over the last dimension alone"
            )


@exercises.add("ex-transformer-pre-norm")
def _pre_norm(answer):
    torch.manual_seed(0)
    attention, feed_forward = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))
    norms = [nn.LayerNorm(6), nn.LayerNorm(6)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = 3 * torch.randn(2, 4, 6)
    call = "pre_norm_block(x, attention, feed_forward, norm1, norm2)"
    with torch.no_grad():
        got = _tensor(answer(x.clone(), attention, feed_forward, *norms), (2, 4, 6), call)
        z = x + attention(norms[0](x))
        post = norms[0](x + attention(x))
        wrong = {
            "this is post-norm: the sum itself is normalised": norms[1](post + feed_forward(post)),
            "the feed-forward is missing": z,
            "the feed-forward reads and adds to what came out of attention, not to x": x
            + attention(norms[0](x))
            + feed_forward(norms[1](x)),
            "the feed-forward reads z unnormalised": z + feed_forward(z),
            "the second residual connection is missing": feed_forward(norms[1](z)),
            "what is added back is the normalised x; add x itself": _prenorm_of_norm(x, attention, feed_forward, norms),
            "the norms have changed places, or one of them is used twice": _swapped(x, attention, feed_forward, norms),
        }
        wanted = z + feed_forward(norms[1](z))
    if _gap(got, wanted) > 1e-5:
        for reason, other in wrong.items():
            expect(_gap(got, other) > 1e-5, f"{call}: {reason}")
        raise Wrong(f"{call} is off by {_gap(got, wanted):.3g} from the two lines of the equation")


def _prenorm_of_norm(x, attention, feed_forward, norms):
    y = norms[0](x)
    z = norms[1](y + attention(y))
    return z + feed_forward(z)


def _swapped(x, attention, feed_forward, norms):
    z = x + attention(norms[1](x))
    return z + feed_forward(norms[0](z))


@exercises.add("ex-transformer-rotation")
def _rotation(answer):
    for d_model, k in ((2, 1), (8, 0), (8, 5), (8, -3), (16, 40)):
        call = f"rotation({k}, {d_model})"
        got = _tensor(answer(k, d_model), (d_model, d_model), call)
        before = sinusoidal_positions(120, d_model).double()[50:60]  # (10, D)
        after = sinusoidal_positions(120, d_model).double()[50 + k : 60 + k]
        if _gap(before @ got.T, after) > 1e-4:
            back = sinusoidal_positions(120, d_model).double()[50 - k : 60 - k]
            expect(
                _gap(before @ got.T, back) > 1e-4,
                f"{call} leads from position t to t - ({k}): the signs of the sines are the wrong way round",
            )
            halves = [*range(0, d_model, 2), *range(1, d_model, 2)]  # sines first, then cosines
            expect(
                _gap(before[:, halves] @ got.T, after[:, halves]) > 1e-4,
                f"{call} expects all sines first and then all cosines; here they alternate: sin, cos, sin, cos, …",
            )
            t = 50
            raise Wrong(f"{call} @ PE({t}) is {_gap(before[:1] @ got.T, after[:1]):.3g} away from PE({t + k})")


@exercises.add("ex-transformer-shift")
def _shift(answer):
    cases = [
        ([[5, 6, 7]], 1, 0, [[1, 5, 6]]),
        ([[5, 6, 2], [7, 2, -100]], 1, 0, [[1, 5, 6], [1, 7, 2]]),
        ([[5, 2, -100, -100], [3, 4, 5, 2]], 9, 8, [[9, 5, 2, 8], [9, 3, 4, 5]]),
        ([[4]], 3, 0, [[3]]),
    ]
    for labels, begin, pad, wanted in cases:
        call = f"decoder_inputs({labels}, begin={begin}, pad={pad})"
        given = torch.tensor(labels)
        got = answer(given, begin, pad)
        expect(isinstance(got, Tensor), f"{call} gave a {type(got).__name__}; expected a tensor")
        expect(given.tolist() == labels, f"{call} changed the labels themselves; work on a copy")
        got = got.tolist()
        expect(got != labels, f"{call} gave the labels: each position would be given its own answer")
        expect(
            not any(-100 in row for row in got if isinstance(row, list)),
            f"{call} gave {got}: -100 is no token id, no embedding has such a row; put {pad} there",
        )
        expect_equal(got, wanted, call)


@exercises.add("ex-transformer-gpt2")
def _gpt2(answer):
    for vocab_size, context_length, d_model, n_layers in ((100, 16, 8, 1), (1000, 64, 32, 3), (50257, 1024, 768, 12)):
        call = f"gpt2_parameters({vocab_size}, {context_length}, {d_model}, {n_layers})"
        tables = (vocab_size + context_length) * d_model
        attention, feed_forward = 4 * (d_model**2 + d_model), 8 * d_model**2 + 5 * d_model
        norms, biases = (2 * n_layers + 1) * 2 * d_model, 9 * n_layers * d_model
        wanted = tables + n_layers * (attention + feed_forward) + norms
        got = answer(vocab_size, context_length, d_model, n_layers)
        missing = {
            "the output layer is the token table and counts once": -vocab_size * d_model,
            "the table of positions is missing": context_length * d_model,
            "the token table is missing": vocab_size * d_model,
            "the final norm is missing": 2 * d_model,
            "the norms are missing: each has a scale and a shift for each feature": norms,
            "a norm has a scale and a shift, two numbers for each feature": norms // 2,
            "the biases are missing": biases,
            "norms and biases are missing": norms + biases,
            "there is no cross-attention here": -n_layers * attention,
            "there is no cross-attention, and no norm of one, here": -n_layers * (attention + 2 * d_model),
        }
        for reason, difference in missing.items():
            expect(got != wanted - difference, f"{call} gave {got:,}: {reason}")
        expect(got == wanted, f"{call} gave {got:,}, expected {wanted:,}")


@exercises.add("ex-transformer-layout")
def _layout(answer):
    torch.manual_seed(0)
    layer = TransformerEncoder(8, 2, 16).eval()
    with torch.no_grad():
        for B, T in ((3, 5), (4, 4), (1, 6)):
            x = torch.randn(B, T, 8)
            call = f"batch_first(layer, x) for an x of shape {(B, T, 8)}"
            got = answer(layer, x.clone())
            expect(isinstance(got, Tensor), f"{call} gave a {type(got).__name__}; expected a tensor")
            alone = torch.stack([layer(one[:, None])[:, 0] for one in x])  # each sequence by itself
            if B != T and got.shape == (T, B, 8) and _gap(got.transpose(0, 1), alone) < 1e-5:
                raise Wrong(f"{call} is right, but still sequence first")
            expect(got.shape == x.shape, f"{call} gave shape {tuple(got.shape)}, expected {tuple(x.shape)}")
            expect(
                _gap(got, layer(x)) > 1e-5 or _gap(got, alone) < 1e-5,
                f"{call} mixes the sequences of the batch: the layer took the first dimension for positions",
            )
            expect(
                _gap(got, alone) < 1e-5,
                f"{call} is not what the layer gives for each sequence by itself: reshape does not swap dimensions",
            )
