"""Exercises on cost: right answers, as in the chapter and otherwise, and plausible wrong ones."""

# --- right answers


def grams_of_co2(seconds, watts, grid):
    return seconds / 3600 * watts / 1000 * grid


def answers_to_equal(parameters, tokens, answer_tokens):
    return 6 * parameters * tokens / (2 * parameters * answer_tokens)


def cheapest(ways, wanted, per_label, per_second):
    bills = [
        (labels * per_label + seconds * per_second, name, labels)
        for name, runs in ways.items()
        for labels, seconds, accuracy in runs
        if accuracy >= wanted
    ]
    return min(bills)[1:] if bills else None


def cheapest_by_loop(ways, wanted, per_label, per_second):
    best = None
    for name in ways:
        for labels, seconds, accuracy in ways[name]:
            bill = labels * per_label + seconds * per_second
            if accuracy >= wanted and (best is None or bill < best[0]):
                best = (bill, [name, labels])
    return best and best[1]


# --- plausible mistakes


def least_seconds(ways, wanted, per_label, per_second):
    return cheapest(ways, wanted, 0.0, 1.0)


def most_accurate(ways, wanted, per_label, per_second):
    runs = [(run[2], name, run[0]) for name, some in ways.items() for run in some if run[2] >= wanted]
    return max(runs)[1:] if runs else None


def above(ways, wanted, per_label, per_second):
    return cheapest(ways, wanted + 1e-6, per_label, per_second)


RIGHT = [
    ("ex-cost-carbon", grams_of_co2),
    ("ex-cost-served", answers_to_equal),
    ("ex-cost-served", lambda parameters, tokens, answer_tokens: 3 * tokens / answer_tokens),
    ("ex-cost-cheapest", cheapest),
    ("ex-cost-cheapest", cheapest_by_loop),
]

WRONG = [
    ("ex-cost-carbon", lambda s, w, g: s * w * g, "joules"),
    ("ex-cost-carbon", lambda s, w, g: float("nan"), "gave nan"),
    ("ex-cost-carbon", lambda s, w, g: s / 3600 * w * g, "watt-hours"),
    ("ex-cost-carbon", lambda s, w, g: s * w / 3.6e9 * g, "kilograms"),
    ("ex-cost-carbon", lambda s, w, g: s * w / 3.6e6, "emits"),
    ("ex-cost-served", lambda n, d, a: d / a, "forward and backward"),
    ("ex-cost-served", lambda n, d, a: 3 * d, "an answer has several"),
    ("ex-cost-served", lambda n, d, a: 6 * d / a, "2N, not N"),
    ("ex-cost-served", lambda n, d, a: 3 * n * d / a, "cancels"),
    ("ex-cost-cheapest", least_seconds, "ten cents"),
    ("ex-cost-cheapest", most_accurate, "labels are free"),
    ("ex-cost-cheapest", above, "expected"),
    ("ex-cost-cheapest", lambda ways, wanted, a, b: cheapest(ways, wanted, a, b) or ("tune", 6000), "expected None"),
    ("ex-cost-cheapest", lambda ways, wanted, a, b: "count", "a name and a number"),
]
