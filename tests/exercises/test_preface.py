"""Exercises of the preface: right answers pass, plausible wrong ones are told why, empty ones leave no trace."""

import re

import numpy as np

# --- right answers: as in the chapter, and other ways to be right


def nearest(query, vectors):
    return int(np.argmax(vectors @ query / np.linalg.norm(vectors, axis=1)))


def nearest_by_loop(query, vectors):
    def cosine(row):
        return sum(row * query) / (sum(row**2) * sum(query**2)) ** 0.5

    return max(range(len(vectors)), key=lambda i: cosine(vectors[i]))


def layout(turns):
    return "".join(f"<|im_start|>{who}\n{text}<|im_end|>\n" for who, text in turns) + "<|im_start|>assistant\n"


def is_right(reply, accepted):
    return any(re.search(rf"\b{re.escape(answer)}\b", reply, re.IGNORECASE) for answer in accepted)


def is_right_by_words(reply, accepted):
    def spaced(text):
        return " " + " ".join(re.findall(r"\w+|\.\d", text.lower())) + " "

    return any(spaced(answer) in spaced(reply) for answer in accepted)


RIGHT = [
    ("ex-nearest", nearest),
    ("ex-nearest", nearest_by_loop),
    ("ex-chat", layout),
    ("ex-right", is_right),
    ("ex-right", is_right_by_words),
]


# --- wrong answers that a reader may well give, and what they are told


def closed(turns):
    return layout(turns) + "<|im_end|>\n"


def without_breaks(turns):
    return layout(turns).replace("<|im_end|>\n", "<|im_end|>")


WRONG = [
    ("ex-nearest", lambda q, v: np.argmax(v @ q), "that row is only the longest"),
    ("ex-nearest", lambda q, v: np.argmax(np.abs(v @ q) / np.linalg.norm(v, axis=1)), "points the opposite way"),
    ("ex-nearest", lambda q, v: np.argmin(v @ q), "points the opposite way"),
    ("ex-nearest", lambda q, v: np.argmin(np.linalg.norm(v - q, axis=1)), "although it is far away"),
    ("ex-nearest", lambda q, v: v @ q, "expected one number"),
    ("ex-nearest", lambda q, v: np.argmax(v @ q / np.linalg.norm(v, axis=0)), "raised ValueError"),
    ("ex-chat", lambda turns: layout(turns).removesuffix("<|im_start|>assistant\n"), "next turn is not begun"),
    ("ex-chat", closed, "the last turn is closed"),
    ("ex-chat", without_breaks, "right but for the line breaks"),
    ("ex-chat", lambda turns: layout(turns[-1:]), "expected"),  # forgets what was said before
    ("ex-chat", lambda turns: layout(turns).replace("system", "user"), "expected"),
    ("ex-chat", lambda turns: layout(turns).split("\n"), "gave a list, expected a str"),
    ("ex-right", lambda reply, accepted: any(a in reply for a in accepted), "Romeo"),
    ("ex-right", lambda reply, accepted: any(a in reply.split() for a in accepted), "The capital is Rome."),
    ("ex-right", lambda reply, accepted: any(re.search(rf"\b{a}\b", reply) for a in accepted), "it is ROME"),
    ("ex-right", lambda reply, accepted: any(re.search(rf"\b{a}\b", reply, re.I) for a in accepted), "3x5"),
    ("ex-right", lambda reply, accepted: is_right(reply, accepted[:1]), "Kiev"),
    ("ex-right", lambda reply, accepted: is_right(reply, " ".join(accepted).split()), "New South Wales"),
    ("ex-right", lambda reply, accepted: is_right(reply, accepted) or None, "return True or False"),
]
