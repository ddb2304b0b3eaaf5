"""What decoding does to SmolLM2's texts, and what fine-tuning on replies does to its conversations.

    python benchmarks/dialogue.py                 25 minutes on a core; writes artifacts/dialogue/
    python benchmarks/dialogue.py --minutes 14    begins nothing new after so many

Stopped, it goes on where it was. Two adapters (LoRA on queries and values) are trained with a loss on replies alone:
*chat* on the filtered dialogues, *reviews* on conversations in which the user shows a review and asks what its author
thought. The learning rate is chosen on validation dialogues with the first seed, and serves both; then further seeds,
if the study asks for any, are trained.
The seed decides about the adapter's first weights and the order of the rows. Before and after are scored by the same
code: held-out replies in nats, the verifiable answers, and, for what was forgotten, reviews as running text.
"""

from __future__ import annotations

import shutil
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sweep import RUNS
from sweep import kept as kept_of
from torch import nn

from plm_tutorial import load_model, load_tokenizer, runtime
from plm_tutorial.adaptation import LoraConfig, inject
from plm_tutorial.baselines import tfidf_classifier
from plm_tutorial.batches import Batches, MarkedRows
from plm_tutorial.decoding import beam_search
from plm_tutorial.dialogue import chat_ids, chat_rows, pad_left, replies
from plm_tutorial.evaluation import (
    accuracy,
    bootstrap_interval,
    corpus_bits_per_byte,
    distinct_n,
    paired_bootstrap,
    repetition,
    score_rows,
    score_texts,
)
from plm_tutorial.experiments.conversations import dialogue_table, dialogues, review_chat, said
from plm_tutorial.experiments.sentiment import labelled_reviews
from plm_tutorial.generation import generate
from plm_tutorial.objectives import predict_hidden
from plm_tutorial.pretrained import save_adapter
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.text import reviews, split_hashes
from plm_tutorial.training import TrainingConfig, fit

NAME, MODEL = "dialogue", "smollm2"
LORA = LoraConfig(rank=8, alpha=16.0, targets=("query", "value"))
RATES = (1e-3, 2e-3)  # tried

# What is compared: options of generate; "beam" is a width instead.
STRATEGIES: dict[str, dict] = {
    "greedy": {},
    "beam 4": {"beam": 4},
    "greedy, penalty 1.2": {"repetition_penalty": 1.2},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 1": {"temperature": 1.0},
    "temperature 1.3": {"temperature": 1.3},
    "top-k 10": {"temperature": 1.0, "top_k": 10},
    "top-k 40": {"temperature": 1.0, "top_k": 40},
    "top-p 0.8": {"temperature": 1.0, "top_p": 0.8},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "min-p 0.1": {"temperature": 1.0, "min_p": 0.1},
}


@dataclass(frozen=True)
class Study:
    """What all runs share."""

    seeds: tuple[int, ...] = (0,)
    size: int = 16  # rows of a batch
    epochs: int = 2  # of the dialogues
    n_train: int = 640  # snippets, seen once
    n_valid: int = 200  # snippets
    n_test: int = 400  # snippets
    n_free: int = 100  # of these, snippets on which the model also answers in its own words
    n_dialogues: int | None = None  # of each split; None: all
    n_texts: int = 32  # reviews as running text
    n_prompts: int = 16  # beginnings of reviews that are continued
    n_given: int = 40  # tokens of a beginning
    n_new: int = 80  # tokens that follow

    @property
    def key(self) -> str:
        """Name what every run depends on."""
        return "" if self == Study() else "quick-"


DEADLINE = float("inf")  # of time.monotonic(): after it nothing new is begun


def kept(key: str, run: Callable[[], dict]) -> dict:
    """Return the result of a run, from an earlier call if there was one."""

    def in_time() -> dict:
        if time.monotonic() > DEADLINE:
            raise SystemExit("the time is up; the same command goes on from here")
        return run()

    return kept_of(NAME, key, in_time)


@cache
def tokenizer():
    """Return the model's tokenizer."""
    return load_tokenizer(MODEL)


# ------------------------------------------------------------------------------------------------------------ decoding


def beginnings(study: Study) -> tuple[list[list[int]], list[list[int]]]:
    """Return the first tokens of long reviews, and how people went on."""
    n, given, found = study.n_given + study.n_new, [], []
    for text in reviews("imdb", "test")["text"]:
        ids = tokenizer().encode(text).ids
        if len(ids) >= n:
            given.append(ids[: study.n_given])
            found.append(ids[study.n_given : n])
        if len(given) == study.n_prompts:
            return given, found
    raise ValueError("there are not so many long reviews")


def continuation_rows(given: list[list[int]], new: list[list[int]]) -> MarkedRows:
    """Return beginnings with what follows, which alone counts."""
    marked = [[False] * len(a) + [True] * len(b) for a, b in zip(given, new, strict=True)]
    return MarkedRows([a + b for a, b in zip(given, new, strict=True)], marked, 1_000)


def continued(study: Study, name: str) -> dict:
    """Return the continuations by one strategy, or by people, and what each costs the model, in nats."""
    given, new = beginnings(study)
    model = load_model(MODEL)
    if name != "human":
        options = dict(STRATEGIES[name])
        ids = torch.tensor(given)  # (B, T)
        if beams := options.pop("beam", None):
            found = [beam_search(model, ids[i : i + 8], study.n_new, beams) for i in range(0, len(ids), 8)]
            new = [best[0].tokens.tolist() for part in found for best in part]
        else:
            generator = torch.Generator().manual_seed(study.seeds[0])
            new = generate(model, ids, study.n_new, generator=generator, **options).tolist()
    scores = score_rows(model, continuation_rows(given, new), 8)
    return {"given": given, "new": new, "nats": scores.nats.tolist(), "machine": runtime.machine()}


def decoding(study: Study) -> dict[str, dict]:
    """Return the continuations of all strategies, and of people."""
    names = ["human", *STRATEGIES]
    return {name: kept(f"{study.key}decoding-{name}", lambda name=name: continued(study, name)) for name in names}


def decoding_table(found: dict[str, dict]) -> list[dict]:
    """Return a row for each strategy: perplexity, variety, repetition, each with an interval over the beginnings."""
    rows = []
    for name, result in found.items():
        new, nats = result["new"], np.array(result["nats"])
        lengths = np.array([len(one) for one in new])
        per_token, again = nats / lengths, np.array([repetition([one]) for one in new])
        low, high = np.exp(bootstrap_interval(per_token))
        row = {"strategy": name, "perplexity": float(np.exp(nats.sum() / lengths.sum()))}
        row |= {"perplexity, low": float(low), "perplexity, high": float(high), "distinct-2": distinct_n(new, 2)}
        row |= {"repetition-4": float(again.mean())}
        row |= dict(zip(("repetition-4, low", "repetition-4, high"), bootstrap_interval(again), strict=True))
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------------------- adapters


def training_rows(study: Study, task: str) -> tuple[MarkedRows, int]:
    """Return the rows to learn from, and how many steps are taken."""
    if task == "chat":
        some = [one.messages for one in dialogues("train")][: study.n_dialogues]
        steps = study.epochs * len(some) // study.size
    else:
        train = labelled_reviews("rotten_tomatoes", "train", study.n_train)
        some = [review_chat(text, int(label)) for text, label in zip(train.texts, train.labels, strict=True)]
        steps = len(some) // study.size
    return chat_rows(some, tokenizer(), 160), max(1, steps)


def dialogue_rows(study: Study, split: str) -> MarkedRows:
    """Return held-out dialogues; their replies count."""
    return chat_rows([one.messages for one in dialogues(split)][: study.n_dialogues], tokenizer(), 160)


@torch.inference_mode()
def margins(model: nn.Module, texts: list[str], size: int = 20) -> np.ndarray:
    """Return by how much the model's reply to the question about each review rather begins with Yes than with No."""
    yes, no = (tokenizer().encode(word).ids[0] for word in ("Yes", "No"))
    found = []
    for start in range(0, len(texts), size):
        some = [review_chat(text) for text in texts[start : start + size]]
        ids, mask = pad_left([chat_ids(one, tokenizer(), add_generation_prompt=True) for one in some], 0)
        logits = model(ids, mask, last_only=True)[:, -1]  # (B, V)
        found += (logits[:, yes] - logits[:, no]).tolist()
    return np.array(found)


def running_text(study: Study) -> list[str]:
    """Return beginnings of long held-out reviews, of whole words."""
    return [text[:1_200].rsplit(" ", 1)[0] for text in reviews("imdb", "test")["text"][: study.n_texts]]


def scores_of(study: Study, model: nn.Module, task: str | None, first: bool) -> dict:
    """Return what a model is worth.

    Args:
        task: for which it was trained; None: for none.
        first: of its kind, and so scored on the other task too, and asked for replies.
    """
    found: dict = {}
    if task != "reviews" or first:
        found["dialogues"] = score_rows(model, dialogue_rows(study, "test")).nats.tolist()
    if task != "chat" or first:
        test = labelled_reviews("rotten_tomatoes", "test", study.n_test)
        found["margins"] = margins(model, test.texts).round(4).tolist()
    running = score_texts(model, tokenizer(), running_text(study), 1_024)
    found |= {"running nats": running.nats.tolist(), "running bytes": running.n_bytes.tolist()}
    if task != "reviews" and first:
        found["replies"] = replies(model, tokenizer(), [[{"role": "user", "content": p}] for p in prompts(study)], 40)
    if task != "chat" and first:
        asked = [review_chat(text) for text in test.texts[: study.n_free]]
        found["free"] = [tokenizer().decode(one) for one in replies(model, tokenizer(), asked, 20)]
    return found


def prompts(study: Study) -> list[str]:
    """Return the different first turns of the test dialogues."""
    return list(dict.fromkeys(one.turns[0] for one in dialogues("test")))[: study.n_dialogues]


def train(study: Study, task: str, rate: float, seed: int) -> dict:
    """Train an adapter, keep it, and return its loss and how it does on validation conversations."""
    torch.manual_seed(seed)
    model = inject(load_model(MODEL), LORA)
    rows, steps = training_rows(study, task)
    config = TrainingConfig(steps, lr=rate, warmup=steps // 10, weight_decay=0.0, precision="bf16", seed=seed)
    begun = time.perf_counter()
    batches = Batches(rows, study.size, seed=seed, bucket=8)
    history = fit(model, batches, config, objective=predict_hidden, progress=False)
    found = {"seconds": time.perf_counter() - begun, "steps": steps, "machine": runtime.machine()}
    found["tokens"] = int(sum(batches[step]["attention_mask"].sum() for step in range(steps)))
    found["loss"] = [float(np.mean(part)) for part in np.array_split(history.column("loss"), min(10, steps))]
    if task == "chat":
        found["validation"] = -score_rows(model, dialogue_rows(study, "validation")).mean_nats
    else:
        valid = labelled_reviews("rotten_tomatoes", "validation", study.n_valid)
        found["validation"] = accuracy(valid.labels, (margins(model, valid.texts) > 0).astype(int))
    save_adapter(model, adapter_folder(study, task, rate, seed), base=MODEL, overwrite=True, dtype=torch.float16)
    return found


def adapter_folder(study: Study, task: str, rate: float, seed: int):
    """Return where an adapter is kept."""
    return RUNS / NAME / f"{study.key}{task}-{rate:g}-seed{seed}"


def tuned(
    study: Study, task: str, seeds: tuple[int, ...], rates: tuple[float, ...]
) -> tuple[float, list[dict], dict[int, dict]]:
    """Return the learning rate that is best on validation conversations, all trainings, and the scores by seed."""
    first, runs = study.seeds[0], []

    def training(rate: float, seed: int) -> dict:
        key = f"{study.key}{task}-{rate:g}-seed{seed}"
        found = kept(key, lambda: train(study, task, rate, seed))
        runs.append({"task": task, "lr": rate, "seed": seed, **{k: v for k, v in found.items() if k != "loss"}})
        runs[-1] |= {f"loss {i}": loss for i, loss in enumerate(found["loss"])}
        return found

    rate = max(rates, key=lambda rate: training(rate, first)["validation"])
    scored = {}
    for seed in seeds:
        if seed != first:
            training(rate, seed)
        folder = adapter_folder(study, task, rate, seed)
        scored[seed] = kept(
            f"{folder.name}-scores",
            lambda folder=folder, seed=seed: scores_of(study, load_model(MODEL, adapter=folder), task, seed == first),
        )
    return rate, runs, scored


def counted_words(study: Study) -> np.ndarray:
    """Return the margins of counted words, learned from the same snippets, on the test snippets."""
    splits = (("train", study.n_train), ("validation", study.n_valid), ("test", study.n_test))
    train, valid, test = (labelled_reviews("rotten_tomatoes", split, n) for split, n in splits)
    return tfidf_classifier(train, valid).decision_function(test.texts)


# --------------------------------------------------------------------------------------------------------------- scores


def with_interval(name: str, difference) -> dict[str, float]:
    """Return a difference with its 95 % interval."""
    return {name: difference.estimate, f"{name}, low": difference.low, f"{name}, high": difference.high}


def of_dialogues(study: Study, before: dict, after: dict[int, dict], task: str) -> dict[str, float]:
    """Return perplexities of held-out replies, and by how much they fall, with the interval over conversations."""
    tokens = np.array([marks[1:].sum().item() for _, marks in dialogue_rows(study, "test").rows])
    old = np.array(before["dialogues"])
    new = np.mean([one["dialogues"] for one in after.values() if "dialogues" in one], axis=0)

    def fall(part: np.ndarray) -> float:
        return float(1 - np.exp((part[:, 1].sum() - part[:, 0].sum()) / part[:, 2].sum()))

    columns = np.stack([old, new, tokens], axis=1)
    low, high = bootstrap_interval(columns, fall)
    found = {f"{task}: reply perplexity": float(np.exp(new.sum() / tokens.sum()))}
    return found | {f"{task}: fall of it": fall(columns), f"{task}: fall, low": low, f"{task}: fall, high": high}


def of_running(before: dict, after: dict[int, dict], task: str) -> dict[str, float]:
    """Return by which share the bits per byte of running text rise, with the interval over texts."""
    n_bytes = np.array(before["running bytes"])
    old = np.array(before["running nats"])
    new = np.mean([one["running nats"] for one in after.values()], axis=0)

    def rise(part: np.ndarray) -> float:
        return float(part[:, 1].sum() / part[:, 0].sum() - 1)

    columns = np.stack([old, new], axis=1)
    low, high = bootstrap_interval(columns, rise)
    found = {f"{task}: bits per byte of reviews": float(corpus_bits_per_byte(np.stack([new, n_bytes], axis=1)))}
    return found | {f"{task}: rise of it": rise(columns), f"{task}: rise, low": low, f"{task}: rise, high": high}


def reply_shape(some: list[list[int]], name: str) -> dict[str, float]:
    """Return how long replies are and how varied, in tokens."""
    found = {f"{name}: tokens of a reply, mean": float(np.mean([len(one) for one in some]))}
    return found | {f"{name}: distinct-{n} of the first 500 tokens": first_distinct(some, n) for n in (1, 2)}


def first_distinct(some: list[list[int]], n: int, most: int = 500) -> float:
    """Return distinct-n of replies up to a number of tokens in all, so that amounts are equal."""
    taken, left = [], most
    for one in some:
        taken.append(one[:left])
        left -= len(taken[-1])
    return distinct_n(taken, n)


def collected(study: Study) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """Return all scores and tables; what was not done yet is done now."""
    before, texts = untrained(study), decoding(study)
    for seeds in (study.seeds[:1], study.seeds):  # the first seed of both tasks, then the others
        found = {"chat": tuned(study, "chat", seeds, RATES)}
        found["reviews"] = tuned(study, "reviews", seeds, (found["chat"][0],))
    first = study.seeds[0]
    labels = labelled_reviews("rotten_tomatoes", "test", study.n_test).labels
    right = {"before": (np.array(before["margins"]) > 0) == labels}
    words = (counted_words(study) > 0) == labels
    scores = of_dialogues(study, before, {0: before}, "before") | of_running(before, {0: before}, "before")
    scores = {name: value for name, value in scores.items() if "fall" not in name and "rise" not in name}
    for task, (rate, _, after) in found.items():
        scores |= {f"{task}: learning rate": rate, f"{task}: rows": len(training_rows(study, task)[0])}
        scores |= of_dialogues(study, before, after, task) | of_running(before, after, task)
        share = [(np.array(one["margins"]) > 0) == labels for one in after.values() if "margins" in one]
        right[task] = np.mean(share, axis=0)
    for name, some in (right | {"counted words": words}).items():
        scores[f"{name}: accuracy, yes against no"] = float(some.mean())
    scores |= with_interval("reviews less before", paired_bootstrap(right["reviews"], right["before"].astype(float)))
    scores |= with_interval("reviews less counted words", paired_bootstrap(right["reviews"], words.astype(float)))
    for name, one in (("before", before), ("reviews", found["reviews"][2][first])):
        told = [said(reply) for reply in one["free"]]
        scores[f"{name}: replies that say yes or no"] = float(np.mean([answer is not None for answer in told]))
        scores[f"{name}: accuracy of replies"] = float(np.mean([a == b for a, b in zip(told, labels, strict=False)]))
    chat, asked = found["chat"][2][first], prompts(study)
    human = {one.turns[0]: one.turns[1] for one in dialogues("test")}
    of_people = [tokenizer().encode(human[prompt]).ids for prompt in asked]
    replied = {"before": before["replies"], "chat": chat["replies"], "human": of_people}
    for name, some in replied.items():
        scores |= reply_shape(some, name)
    scores |= {"test dialogues": len(before["dialogues"]), "test snippets": len(labels), "test prompts": len(asked)}

    free = {"before": before["free"], "reviews": found["reviews"][2][first]["free"]}
    tables = {
        "decoding": decoding_table(texts),
        "continuations": [
            {"strategy": name, "number": i, "nats": round(one["nats"][i], 4)}
            | {part: " ".join(map(str, one[part][i])) for part in ("given", "new")}
            for name, one in texts.items()
            for i in range(len(one["new"]))
        ],
        "replies": [
            {"prompt": prompt} | {name: tokenizer().decode(some[i]) for name, some in replied.items()}
            for i, prompt in enumerate(asked)
        ],
        "answers": [{name: some[i] for name, some in free.items()} for i in range(len(free["before"]))],
        "dialogues": [
            {"number": i, "before": nats}
            | {f"chat {seed}": one["dialogues"][i] for seed, one in found["chat"][2].items()}
            for i, nats in enumerate(before["dialogues"])
        ],
        "snippets": [
            {"number": i, "label": int(label), "before": before["margins"][i], "counted words right": int(words[i])}
            | {f"reviews {seed}": one["margins"][i] for seed, one in found["reviews"][2].items()}
            for i, label in enumerate(labels)
        ],
        "running": [
            {"number": i, "bytes": before["running bytes"][i], "before": before["running nats"][i]}
            | {f"{task} {seed}": one["running nats"][i] for task in found for seed, one in found[task][2].items()}
            for i in range(len(before["running nats"]))
        ],
        "runs": [run for _, runs, _ in found.values() for run in runs],
    }
    return scores, tables


def untrained(study: Study) -> dict:
    """Return what the model is worth before any training."""
    return kept(f"{study.key}before", lambda: scores_of(study, load_model(MODEL), None, True))


QUICK = Study(
    (0, 1), 2, 1, n_train=4, n_valid=4, n_test=8, n_free=4, n_dialogues=6, n_texts=2, n_prompts=2, n_given=5, n_new=8
)


def main() -> None:
    global DEADLINE
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that everything runs; no record")
    options = parser.parse_args()
    DEADLINE = time.monotonic() + 60 * options.minutes
    study = QUICK if options.quick else Study()
    scores, tables = collected(study)
    if options.quick:
        print(scores)
        return
    data = split_hashes("imdb/test", *(f"rotten_tomatoes/{split}" for split in ("train", "validation", "test")))
    data |= {f"dialogues/{row['split']}": row["sha256"] for row in dialogue_table()}
    how = {"command": "python benchmarks/dialogue.py", "seeds": list(study.seeds)}
    print(write_record(NAME, scores, data=data, tables=tables, **how))
    for task, source in (("chat", "dialogues"), ("reviews", "rotten_tomatoes")):
        rate, seed = scores[f"{task}: learning rate"], study.seeds[0]
        shutil.copytree(adapter_folder(study, task, rate, seed), artifacts() / f"{NAME}_{task}", dirs_exist_ok=True)
        run = next(run for run in tables["runs"] if (run["task"], run["lr"], run["seed"]) == (task, rate, seed))
        part = {name: run[name] for name in ("lr", "steps", "tokens", "seconds", "validation")}
        used = {name: sha256 for name, sha256 in data.items() if name.startswith(source) and "test" not in name}
        print(write_record(f"{NAME}_{task}", part, data=used, command=how["command"], seeds=[seed]))


if __name__ == "__main__":
    main()
