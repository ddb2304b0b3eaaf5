"""Exercises on fine-tuning well: right answers, as in the chapter and otherwise, and plausible wrong ones."""

import math

import numpy as np


def by_single_best(rows):
    found = {}
    for method in {row[0] for row in rows}:
        found[method] = max((row for row in rows if row[0] == method), key=lambda row: row[2])[3]
    return found


def means(rows, column):
    table = {}
    for row in rows:
        table.setdefault(row[0], {}).setdefault(row[1], []).append(row)
    return {m: {r: np.mean([x[column] for x in some]) for r, some in by.items()} for m, by in table.items()}


def by_test(rows):
    return {method: max(by_rate.values()) for method, by_rate in means(rows, 3).items()}


def first_of_equals(rows):
    validation, test = means(rows, 2), means(rows, 3)
    return {m: test[m][max(validation[m], key=validation[m].get)] for m in validation}


def fair(rows):
    validation, test = means(rows, 2), means(rows, 3)
    return {m: test[m][max(sorted(validation[m]), key=validation[m].get)] for m in validation}


def precision(recall, alarms, prevalence):
    called = prevalence * recall + (1 - prevalence) * alarms
    return prevalence * recall / called if called else 0.0


def precision_of_counts(recall, alarms, prevalence):
    found, false = 1000 * prevalence * recall, 1000 * (1 - prevalence) * alarms
    return 0 if found + false == 0 else found / (found + false)


def pull(p, gamma):
    p = np.asarray(p)
    return (1 - p) ** gamma * (1 - p - gamma * p * np.log(p))


def pull_in_two_terms(p, gamma):
    q = 1 - np.asarray(p)
    return q ** (gamma + 1) - gamma * q**gamma * p * np.log(p)


RIGHT = [
    ("ex-advice-choose", fair),
    ("ex-advice-prevalence", precision),
    ("ex-advice-prevalence", precision_of_counts),
    ("ex-advice-focal", pull),
    ("ex-advice-focal", pull_in_two_terms),
]

WRONG = [
    ("ex-advice-choose", by_single_best, "best single training"),
    ("ex-advice-choose", by_test, "0.001 was chosen"),
    ("ex-advice-choose", first_of_equals, "the smaller one"),
    ("ex-advice-choose", lambda rows: [0.6], "expected a dict"),
    ("ex-advice-choose", lambda rows: {"a": 0.61}, "the methods are"),
    ("ex-advice-prevalence", lambda r, a, p: r / (r + a), "both are as frequent"),
    ("ex-advice-prevalence", lambda r, a, p: (1 - p) * r / ((1 - p) * r + p * a), "share of class 1"),
    ("ex-advice-prevalence", lambda r, a, p: p * r / (p * r + (1 - p) * a), "division by zero"),
    ("ex-advice-prevalence", lambda r, a, p: r, "expected"),
    ("ex-advice-focal", lambda p, g: (1 - p) ** (g + 1), "product rule"),
    ("ex-advice-focal", lambda p, g: -((1 - p) ** g) * math.log(p), "that is the loss"),
    ("ex-advice-focal", lambda p, g: -((1 - p) ** g) * (1 - p - g * p * math.log(p)), "sign is turned"),
    ("ex-advice-focal", lambda p, g: (1 - p) ** g * (1 / p - g * math.log(p) / (1 - p)), "dp/dm"),
]
