"""Exercises on transfer and fine-tuning: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import torch

# --- right answers: as in the chapter, and other ways to be right


def lora_parameters(d_model, d_hidden, n_layers, rank, targets):
    sides = {"up": d_model + d_hidden, "down": d_model + d_hidden}
    return n_layers * rank * sum(sides.get(target, 2 * d_model) for target in targets)


def lora_parameters_by_matrices(d_model, d_hidden, n_layers, rank, targets):
    total = 0
    for target in targets:
        n_out = d_hidden if target == "up" else d_model
        n_in = d_hidden if target == "down" else d_model
        total += rank * n_in + n_out * rank
    return n_layers * total


def training_flops(widths, trained):
    total, below = 0, False
    for n_in, n_out, own in zip(widths, widths[1:], trained, strict=False):
        total += 2 * n_in * n_out * (1 + own + below)
        below = below or own
    return total


def training_flops_by_any(widths, trained):
    products = [2 * widths[i] * widths[i + 1] for i in range(len(trained))]
    return sum(p * (1 + trained[i] + any(trained[:i])) for i, p in enumerate(products))


def trained_depths(step, every, n_blocks):
    top = n_blocks + 1
    return range(max(0, top - step // every), top + 1)


def merged(weight, a, b, alpha):
    return weight + alpha / a.size(0) * b @ a


def as_lora(update, rank):
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank]


def as_lora_evenly(update, rank):
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * v[:rank], u[:, :rank] * root


def between(before, after, share):
    return {name: before[name] + share * (after[name] - before[name]) for name in before}


RIGHT = [
    ("ex-transfer-count", lora_parameters),
    ("ex-transfer-count", lora_parameters_by_matrices),
    ("ex-transfer-flops", training_flops),
    ("ex-transfer-flops", training_flops_by_any),
    ("ex-transfer-stages", trained_depths),
    ("ex-transfer-stages", lambda step, every, L: [d for d in range(L + 2) if L + 1 - d <= step // every]),
    ("ex-transfer-merge", merged),
    ("ex-transfer-merge", lambda weight, a, b, alpha: torch.addmm(weight, b, a, alpha=alpha / len(a))),
    ("ex-transfer-low-rank", as_lora),
    ("ex-transfer-low-rank", as_lora_evenly),
    ("ex-transfer-between", between),
    ("ex-transfer-between", lambda before, after, share: {n: before[n].lerp(after[n], share) for n in before}),
]

# --- plausible mistakes


def flops_of_trained_alone(widths, trained):
    """As if a frozen layer passed nothing down."""
    total, below = 0, False
    for n_in, n_out, own in zip(widths, widths[1:], trained, strict=False):
        total += 2 * n_in * n_out * (1 + own + (own and below))
        below = below or own
    return total


def flops_to_the_bottom(widths, trained):
    """As if gradients ran down to the first layer, whatever is trained."""
    products = [2 * a * b for a, b in zip(widths, widths[1:], strict=False)]
    return sum(p * (1 + own) for p, own in zip(products, trained, strict=True)) + sum(products[1:])


def flops_of_lowest_too(widths, trained):
    products = [2 * a * b for a, b in zip(widths, widths[1:], strict=False)]
    return sum(p * (1 + trained[i] + any(trained[: i + 1])) for i, p in enumerate(products))


def merged_in_place(weight, a, b, alpha):
    weight += alpha / a.size(0) * b @ a
    return weight


def as_lora_weakest(update, rank):
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    return v[-rank:], u[:, -rank:] * s[-rank:]


def as_lora_without_values(update, rank):
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    return v[:rank], u[:, :rank]


def as_lora_twice(update, rank):
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    return s[:rank, None] * v[:rank], u[:, :rank] * s[:rank]


def as_lora_first_rows(update, rank):
    return update[:rank], torch.eye(update.size(0), rank).to(update)


def between_in_place(before, after, share):
    for name in before:
        before[name] += share * (after[name] - before[name])
    return before


WRONG = [
    ("ex-transfer-count", lambda D, F, L, r, targets: 2 * D * r * len(targets), "that is one layer's"),
    ("ex-transfer-count", lambda D, F, L, r, targets: L * r * D * D * len(targets), "add their sizes"),
    ("ex-transfer-count", lambda D, F, L, r, targets: L * r * D * len(targets), "that is A alone, or B alone"),
    ("ex-transfer-count", lambda D, F, L, r, targets: 2 * L * r * D * len(targets), "up and down are not square"),
    ("ex-transfer-flops", flops_of_trained_alone, "a frozen layer above a trained one still passes"),
    ("ex-transfer-flops", flops_to_the_bottom, "below the lowest trained layer nothing needs a gradient"),
    ("ex-transfer-flops", flops_of_lowest_too, "nothing below asks the lowest trained layer"),
    ("ex-transfer-flops", lambda w, t: 3 * sum(2 * a * b for a, b in zip(w, w[1:], strict=False)), ""),
    (
        "ex-transfer-flops",
        lambda w, t: sum(2 * a * b for a, b in zip(w, w[1:], strict=False)),
        "the forward pass alone",
    ),
    ("ex-transfer-flops", lambda w, t: training_flops(w, t) // 2, "a product and a sum are two operations"),
    ("ex-transfer-stages", lambda step, every, L: trained_depths(step + 1, every, L), "a stage lasts 10 steps"),
    (
        "ex-transfer-stages",
        lambda step, every, L: range(min(L + 2, step // every + 1)),
        "the head, depth 7, is trained",
    ),
    ("ex-transfer-stages", lambda step, every, L: range(L + 1 - step // every, L + 2), "no depth below 0"),
    ("ex-transfer-stages", lambda step, every, L: [L + 1], "what has been unfrozen stays so"),
    ("ex-transfer-stages", lambda step, every, L: L + 1 - step // every, "expected a list or a set of depths"),
    ("ex-transfer-merge", lambda weight, a, b, alpha: weight + b @ a, "multiplied by alpha / rank"),
    ("ex-transfer-merge", lambda weight, a, b, alpha: weight + alpha * b @ a, "alpha is divided by the rank"),
    ("ex-transfer-merge", lambda weight, a, b, alpha: alpha / len(a) * b @ a, "is added to the weight"),
    ("ex-transfer-merge", lambda weight, a, b, alpha: weight + len(a) / alpha * b @ a, "not rank / alpha"),
    ("ex-transfer-merge", merged_in_place, "changed the weight it was given"),
    ("ex-transfer-merge", lambda weight, a, b, alpha: a.T @ b.T, "gave shape (4, 6), expected (6, 4)"),
    ("ex-transfer-low-rank", as_lora_weakest, "the weakest directions"),
    ("ex-transfer-low-rank", as_lora_without_values, "the singular values are missing"),
    ("ex-transfer-low-rank", as_lora_twice, "in it twice"),
    ("ex-transfer-low-rank", as_lora_first_rows, "away from the update"),
    ("ex-transfer-low-rank", lambda update, rank: as_lora(update, rank)[::-1], "gave b and a"),
    ("ex-transfer-between", between_in_place, "changed the weights it was given"),
    ("ex-transfer-between", lambda before, after, share: between(after, before, share), "at 0 it should be before"),
    (
        "ex-transfer-between",
        lambda before, after, share: {name: before[name] + share * after[name] for name in before},
        "a share of the *change*",
    ),
    ("ex-transfer-between", lambda before, after, share: list(before.values()), "expected a dict"),
]
