"""Exercises on autoregressive pretraining: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import torch

from plm_tutorial.training import lr_at, orthogonalize

# --- right answers: as in the chapter, and other ways to be right


def rows_of(tokens, length):
    n = (len(tokens) - 1) // length
    inputs = tokens[: n * length].view(n, length)
    labels = tokens[1 : n * length + 1].view(n, length)
    return inputs, labels


def rows_by_unfold(tokens, length):
    windows = tokens.unfold(0, length + 1, length)
    return windows[:, :-1], windows[:, 1:]


def initial_loss(vocab_size, d_model, std):
    return math.log(vocab_size) + d_model * std**2 / 2


def separate(row, end_id):
    document = (row == end_id).cumsum(0).roll(1)
    document[0] = 0
    same = document[:-1, None] == document[None, :-1]
    mask = same & torch.ones_like(same).tril()
    return mask, row[1:].masked_fill(document[1:] != document[:-1], -100)


def separate_by_loops(row, end_id):
    T, number, document = len(row) - 1, 0, []
    for token in row.tolist():
        document.append(number)
        number += token == end_id
    mask = torch.tensor([[int(s <= t and document[s] == document[t]) for s in range(T)] for t in range(T)])
    labels = row[1:].clone()
    labels[row[:-1] == end_id] = -100
    return mask, labels


def wsd(step, steps, warmup, decay):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    falling = max(1, round(decay * steps))
    return min(1.0, (steps - step) / falling)


def orthogonal(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def orthogonal_by_roots(matrix):
    """(G Gᵀ)^(-1/2) G, or G (Gᵀ G)^(-1/2)."""
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    found = vectors @ (values.rsqrt()[:, None] * vectors.T) @ wide
    return found if matrix.size(0) <= matrix.size(1) else found.T


RIGHT = [
    ("ex-autoregressive-count", (1024, 1021, 6835)),
    ("ex-autoregressive-count", [8 * 128, 8 * 128 - 3, 54687 // 8]),
    ("ex-autoregressive-labels", rows_of),
    ("ex-autoregressive-labels", rows_by_unfold),
    ("ex-autoregressive-init", initial_loss),
    ("ex-autoregressive-init", lambda V, D, std: torch.tensor(V).double().log() + D * std**2 / 2),
    ("ex-autoregressive-separate", separate),
    ("ex-autoregressive-separate", separate_by_loops),
    ("ex-autoregressive-wsd", wsd),
    (
        "ex-autoregressive-wsd",
        lambda step, steps, warmup, decay: lr_at(step, steps, warmup=warmup, shape="wsd", decay=decay),
    ),
    ("ex-autoregressive-svd", orthogonal),
    ("ex-autoregressive-svd", orthogonal_by_roots),
]

# --- plausible mistakes


def rows_rolled(tokens, length):
    n = (len(tokens) - 1) // length
    inputs = tokens[: n * length].view(n, length)
    return inputs, inputs.roll(-1, dims=1)


def rows_too_many(tokens, length):
    n = len(tokens) // length
    inputs = tokens[: n * length].view(n, length)
    return inputs, tokens.roll(-1)[: n * length].view(n, length)


def rows_unshifted(tokens, length):
    return rows_of(tokens, length)[0], rows_of(tokens, length)[0]


def rows_shorter(tokens, length):
    inputs, labels = rows_of(tokens, length)
    return inputs[:, :-1], labels[:, :-1]


def separate_too_early(row, end_id):
    """As if the end of a document belonged to the next."""
    document = (row == end_id).cumsum(0)
    same = document[:-1, None] == document[None, :-1]
    return same & torch.ones_like(same).tril(), separate(row, end_id)[1]


def separate_with_future(row, end_id):
    document = (row == end_id).cumsum(0).roll(1)
    document[0] = 0
    return document[:-1, None] == document[None, :-1], separate(row, end_id)[1]


def separate_all_labels(row, end_id):
    return separate(row, end_id)[0], row[1:]


def separate_ends_ignored(row, end_id):
    """The end itself must be predicted; what follows it must not."""
    return separate(row, end_id)[0], row[1:].masked_fill(row[1:] == end_id, -100)


def wsd_from_zero(step, steps, warmup, decay):
    return step / warmup if step < warmup else wsd(step, steps, warmup, decay)


def wsd_to_zero(step, steps, warmup, decay):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, (steps - 1 - step) / max(1, round(decay * steps)))


def wsd_of_the_rest(step, steps, warmup, decay):
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, (steps - step) / max(1, round(decay * (steps - warmup))))


def transposed_twice(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right.T


def other_directions(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left.flip(1) @ right


WRONG = [
    ("ex-autoregressive-count", (8 * 127, 8 * 127, 6835), "the last token of a row has a label too"),
    ("ex-autoregressive-count", (1024, 1018, 6835), "one label is left out, not two"),
    ("ex-autoregressive-count", (1024, 1024, 6835), "expected 1021"),
    ("ex-autoregressive-count", (1024, 1021, 6836), "from the next pass"),
    ("ex-autoregressive-count", (1024, 1021, 7_000_000 // 1024 + 5), "expected 6835"),
    ("ex-autoregressive-count", 1024, "three numbers"),
    ("ex-autoregressive-labels", rows_rolled, "own first token"),
    ("ex-autoregressive-labels", rows_too_many, "does not exist"),
    ("ex-autoregressive-labels", rows_unshifted, "has just read"),
    ("ex-autoregressive-labels", rows_shorter, "expected (3, 4)"),
    ("ex-autoregressive-labels", lambda tokens, length: tokens[:-1], "inputs and labels"),
    ("ex-autoregressive-init", lambda V, D, std: math.log(V), "log V alone"),
    ("ex-autoregressive-init", lambda V, D, std: math.log2(V) + D * std**2 / 2, "the natural one"),
    ("ex-autoregressive-init", lambda V, D, std: math.log(V) + D * std**2, "by half"),
    ("ex-autoregressive-init", lambda V, D, std: math.log(V) + std**2 / 2, "D · std²"),
    ("ex-autoregressive-init", lambda V, D, std: math.log(V) + D**0.5 * std / 2, "its spread"),
    ("ex-autoregressive-init", lambda V, D, std: math.log(V) - D * std**2 / 2, "raises the loss"),
    ("ex-autoregressive-init", lambda V, D, std: 1 / V, "expected 8.3"),
    ("ex-autoregressive-separate", separate_too_early, "belongs to it"),
    ("ex-autoregressive-separate", separate_with_future, "a later one"),
    ("ex-autoregressive-separate", separate_all_labels, "as labels gave"),
    ("ex-autoregressive-separate", separate_ends_ignored, "as labels gave"),
    ("ex-autoregressive-separate", lambda row, end_id: separate(row, end_id)[0], "a mask and labels"),
    ("ex-autoregressive-wsd", wsd_from_zero, "would do nothing"),
    ("ex-autoregressive-wsd", wsd_to_zero, "expected"),
    ("ex-autoregressive-wsd", wsd_of_the_rest, "expected"),
    ("ex-autoregressive-wsd", lambda step, steps, warmup, decay: lr_at(step, steps, warmup=warmup), "expected"),
    ("ex-autoregressive-svd", lambda matrix: matrix / matrix.norm(), "only scales"),
    ("ex-autoregressive-svd", transposed_twice, "do not transpose it again"),
    ("ex-autoregressive-svd", other_directions, "turns other directions"),
    ("ex-autoregressive-svd", lambda matrix: orthogonalize(matrix), "singular values from"),
    ("ex-autoregressive-svd", lambda matrix: 2 * orthogonal(matrix), "they should be 1"),
    ("ex-autoregressive-svd", lambda matrix: orthogonal(matrix) @ orthogonal(matrix).T, "turns other directions"),
]
