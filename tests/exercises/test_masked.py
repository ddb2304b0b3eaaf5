"""Exercises on masked pretraining: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import torch
import torch.nn.functional as F

from plm_tutorial.objectives import token_loss

# --- right answers: as in the chapter, and other ways to be right


def hide(ids, chosen, mask_id):
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


def hide_by_index(ids, chosen, mask_id):
    inputs, labels = ids.clone(), torch.full_like(ids, -100)
    inputs[chosen] = mask_id
    labels[chosen] = ids[chosen]
    return inputs, labels


def masked_loss(logits, labels):
    hidden = labels != -100
    log_p = logits[hidden].log_softmax(-1)
    return -log_p.gather(1, labels[hidden][:, None]).mean()


def whole_words(continues, drawn):
    chosen = drawn.clone()
    for t in range(1, continues.size(1)):
        chosen[:, t] = torch.where(continues[:, t], chosen[:, t - 1], drawn[:, t])
    return chosen


def whole_words_by_gather(continues, drawn):
    begins = ~continues
    begins[:, 0] = True
    at = torch.arange(continues.size(1)).expand(continues.shape)
    return drawn.gather(1, torch.where(begins, at, 0).cummax(1).values)


def best_rate(k, keep):
    return min(1, 1 / ((1 - keep) * (2 * k + 1)))


def best_rate_by_search(k, keep):
    rates = torch.linspace(0.0005, 1, 2000, dtype=torch.float64)
    return rates[(rates * (1 - rates * (1 - keep)) ** (2 * k)).argmax()]


def pseudo_log_likelihood(log_probs, ids, mask_id):
    rows = ids.repeat(len(ids), 1)
    rows.fill_diagonal_(mask_id)
    at = torch.arange(len(ids))
    return log_probs(rows)[at, at, ids].sum()


def pll_in_a_loop(log_probs, ids, mask_id):
    total = 0.0
    for i, token in enumerate(ids.tolist()):
        row = ids.clone()
        row[i] = mask_id
        total += log_probs(row[None])[0, i, token].item()
    return total


def pseudo_total(joint):
    return (joint / joint.sum(0) * (joint / joint.sum(1, keepdim=True))).sum()


RIGHT = [
    ("ex-masked-hide", hide),
    ("ex-masked-hide", hide_by_index),
    ("ex-masked-loss", masked_loss),
    ("ex-masked-loss", lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()),
    ("ex-masked-loss", lambda logits, labels: token_loss(logits, labels).mean),
    ("ex-masked-words", whole_words),
    ("ex-masked-words", whole_words_by_gather),
    ("ex-masked-rate", best_rate),
    ("ex-masked-rate", best_rate_by_search),
    ("ex-masked-pll", pseudo_log_likelihood),
    ("ex-masked-pll", pll_in_a_loop),
    ("ex-masked-total", pseudo_total),
    ("ex-masked-total", lambda joint: pseudo_total(joint).numpy()),
]

# --- plausible mistakes


def hide_in_place(ids, chosen, mask_id):
    labels = torch.where(chosen, ids, -100)
    ids[chosen] = mask_id
    return ids, labels


def nats(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)


def mean_of_means(logits, labels):
    hidden = labels != -100
    rows = hidden.any(1)
    return (nats(logits, labels)[rows].sum(1) / hidden[rows].sum(1)).mean()


def any_token(continues, drawn):
    chosen = whole_words(continues, drawn)
    for _ in range(continues.size(1)):
        for t in range(1, continues.size(1)):
            same = continues[:, t]
            either = chosen[:, t] | chosen[:, t - 1] | drawn[:, t]
            chosen[:, t] = torch.where(same, either, chosen[:, t] | drawn[:, t])
            chosen[:, t - 1] = torch.where(same, chosen[:, t], chosen[:, t - 1] | drawn[:, t - 1])
    return chosen


def never_at_the_beginning(continues, drawn):
    """Hides nothing of a word that was cut."""
    chosen = whole_words(continues, drawn)
    cut = continues.cumprod(1).bool()
    return chosen & ~cut


def around_the_edge(continues, drawn):
    """Lets the first token look at the row's last one."""
    chosen = drawn.clone()
    for t in range(continues.size(1)):
        chosen[:, t] = torch.where(continues[:, t], chosen[:, t - 1], drawn[:, t])
    return chosen


def all_at_once(log_probs, ids, mask_id):
    log_p = log_probs(torch.full_like(ids, mask_id)[None])[0]
    return log_p.gather(1, ids[:, None]).sum()


def none_hidden(log_probs, ids, mask_id):
    return log_probs(ids[None])[0].gather(1, ids[:, None]).sum()


def all_of_each_row(log_probs, ids, mask_id):
    rows = ids.repeat(len(ids), 1)
    rows.fill_diagonal_(mask_id)
    return log_probs(rows).gather(2, ids.repeat(len(ids), 1)[..., None]).sum()


def sum_of_conditionals(joint):
    return (joint / joint.sum(0) + joint / joint.sum(1, keepdim=True)).sum()


def by_logarithms(joint):
    first, second = (joint / joint.sum(0)).log(), (joint / joint.sum(1, keepdim=True)).log()
    return (first + second).mul(joint.bool()).exp().sum()


WRONG = [
    ("ex-masked-hide", hide_in_place, "changed the ids themselves"),
    ("ex-masked-hide", lambda ids, chosen, m: torch.where(chosen, m, ids), "must give two things"),
    ("ex-masked-hide", lambda ids, chosen, m: (torch.where(chosen, m, ids), ids), "the labels hold all tokens"),
    ("ex-masked-hide", lambda i, c, m: (torch.where(c, m, i), torch.where(c, -100, i)), "the wrong way round"),
    ("ex-masked-hide", lambda i, c, m: (i, torch.where(c, i, -100)), "[0] gave"),
    ("ex-masked-hide", lambda i, c, m: (torch.where(c, float(m), i.float()), torch.where(c, i, -100)), "whole numbers"),
    ("ex-masked-hide", lambda i, c, m: (torch.where(c, m, i), torch.where(c, i, 0)), "[1] gave"),
    ("ex-masked-loss", lambda logits, labels: nats(logits, labels).sum(), "divide by their number"),
    ("ex-masked-loss", lambda logits, labels: nats(logits, labels).mean(), "divided by all positions"),
    ("ex-masked-loss", mean_of_means, "a mean of the rows' means"),
    ("ex-masked-loss", lambda logits, labels: -masked_loss(logits, labels), "the sign"),
    ("ex-masked-loss", nats, "expected one number"),
    ("ex-masked-words", lambda continues, drawn: drawn, "the draws themselves"),
    ("ex-masked-words", around_the_edge, "cut in the middle of a word"),
    ("ex-masked-words", any_token, "if any of its tokens was drawn"),
    ("ex-masked-words", never_at_the_beginning, "cut in the middle of a word"),
    ("ex-masked-words", lambda continues, drawn: drawn & ~continues, "single tokens, not whole words"),
    ("ex-masked-rate", lambda k, keep: 1 / (2 * k + 1), "does not spoil its neighbours' view"),
    ("ex-masked-rate", lambda k, keep: min(1, 1 / ((1 - keep) * (k + 1))), "k neighbours on each side"),
    ("ex-masked-rate", lambda k, keep: min(1, 1 / ((1 - keep) * 2 * k)), "the hidden token itself"),
    ("ex-masked-rate", lambda k, keep: 1 / ((1 - keep) * (2 * k + 1)), "at most 1"),
    ("ex-masked-rate", lambda k, keep: 0.15, "expected"),
    ("ex-masked-pll", all_at_once, "all tokens were hidden at once"),
    ("ex-masked-pll", none_hidden, "nothing was hidden"),
    ("ex-masked-pll", all_of_each_row, "only the hidden one counts"),
    ("ex-masked-pll", lambda f, ids, m: pseudo_log_likelihood(f, ids, m) / len(ids), "the sum is asked for"),
    ("ex-masked-pll", lambda f, ids, m: -pseudo_log_likelihood(f, ids, m), "the sign"),
    ("ex-masked-pll", lambda f, ids, m: f(ids), "it wants rows"),
    ("ex-masked-total", lambda joint: joint.sum(), "as the chain rule does"),
    ("ex-masked-total", sum_of_conditionals, "multiplied, not added"),
    ("ex-masked-total", by_logarithms, "nan"),
    ("ex-masked-total", lambda joint: joint.pow(2).sum(), "expected"),
]
