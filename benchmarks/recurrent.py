"""An LSTM against a Transformer with as many parameters: reading, remembering, time by length, and the gradient's way.

    python benchmarks/recurrent.py --prepare         tokenizes the reviews once, into runs/recurrent_tokens
    python benchmarks/recurrent.py                   the setting "cpu", some fifty minutes on one core
    python benchmarks/recurrent.py --setting gpu --jobs 6                    some minutes on a GPU

Both write artifacts/recurrent/. Four parts: ``time`` (a training step by the length of its rows, at equal tokens;
before all else, and alone), ``recall`` (an item is kept over a distance; then several items), ``read`` (language models
of the reviews at equal parameters and tokens, over learning rates and seeds; then on rows four times as long), and
``start`` (the gradient by distance before any training). A finished run is kept under runs/recurrent_<setting>: the
same command goes on.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json  # noqa: E402
import math  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from argparse import ArgumentParser  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from functools import cache  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sweep import kept  # noqa: E402

from plm_tutorial.batches import Batches, PackedRows, TokenFile  # noqa: E402
from plm_tutorial.experiments.recurrent import (  # noqa: E402
    Recall,
    equal_model,
    gradient_by_distance,
    nats_by_position,
    recall_accuracy,
)
from plm_tutorial.objectives import predict_hidden, predict_labels  # noqa: E402
from plm_tutorial.records import write_record  # noqa: E402
from plm_tutorial.runtime import device  # noqa: E402
from plm_tutorial.training import TrainingConfig, fit, make_optimizers, train_step  # noqa: E402

SEEDS = (0, 1, 2)
TOKENS = Path("runs") / "recurrent_tokens"


@dataclass(frozen=True)
class Setting:
    """How large everything is."""

    name: str
    d_model: int  # of the language models
    length: int  # tokens of a row
    rows: int  # of a batch
    steps: int
    rates: tuple[float, ...]
    judged: int  # rows
    distances: tuple[int, ...]
    items: tuple[int, ...]
    recall_steps: int
    timed: tuple[int, ...]  # lengths
    timed_tokens: int  # of a batch


SETTINGS = {
    "quick": Setting("quick", 32, 16, 4, 3, (3e-3, 1e-2), 4, (4, 8), (2,), 3, (16, 32), 64),
    "cpu": Setting(
        "cpu", 128, 128, 8, 300, (1e-3, 3e-3, 1e-2), 256, (8, 32, 128), (2, 4, 8), 400, (32, 128, 512, 2048), 2048
    ),
    "gpu": Setting(
        "gpu",
        256,
        256,
        32,
        400,
        (1e-3, 3e-3, 1e-2, 3e-2),
        256,
        (8, 16, 32, 64, 128, 256),
        (2, 4, 8, 16, 32),
        400,
        (64, 128, 256, 512, 1024, 2048, 4096),
        8192,
    ),
}
RECALL = {  # two blocks of a Transformer have as many weights as three layers of an LSTM of the same width
    "Transformer": {},
    "LSTM, forget bias 1": {"forget_bias": 1.0},
    "LSTM, forget bias 3": {"forget_bias": 3.0},
    "LSTM, forget bias 5": {"forget_bias": 5.0},
    "tanh": {"cell": "tanh"},
}
READ = ("Transformer", "LSTM", "plain LSTM")


def build(kind: str, vocab_size: int, d_model: int, blocks: int, context: int, **how: object) -> torch.nn.Module:
    kind = "LSTM" if kind == "tanh" else kind  # in whose layers it is another cell
    return equal_model(kind, vocab_size, d_model, blocks, context, **how).to(device())


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


# ---------------------------------------------------------------------------------------------------------------- data


def prepare() -> None:
    """Copy the tokens of the reviews, with what a study needs to know of them, into a folder that can be carried."""
    from plm_tutorial.experiments.review_tokens import review_tokenizer, review_tokens
    from plm_tutorial.text import split_hashes

    TOKENS.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        shutil.copytree(review_tokens(split).path, TOKENS / split, dirs_exist_ok=True)
    tokenizer = review_tokenizer()
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    names = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    # A byte-level token is written with one character for each of its bytes; the end of a review has none.
    n_bytes = [0 if name in special else len(name) for name in names]
    data = split_hashes("imdb/train", "imdb/validation", "imdb/test")
    (TOKENS / "about.json").write_text(json.dumps({"bytes": n_bytes, "data": data}), encoding="utf-8")


@cache
def about() -> dict:
    if not (TOKENS / "about.json").is_file():
        prepare()
    return json.loads((TOKENS / "about.json").read_text(encoding="utf-8"))


@cache
def tokens(split: str) -> TokenFile:
    about()
    return TokenFile.open(TOKENS / split)


def fixed_rows(split: str, length: int, n: int) -> dict[str, torch.Tensor]:
    """Return rows that lie evenly over a split, the same for all models."""
    rows = PackedRows(tokens(split), length)
    batch = rows.batch(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))
    return {name: value.to(device()) for name, value in batch.items()}


# --------------------------------------------------------------------------------------------------------------- parts


def recall_run(kind: str, distance: int, n_items: int, seed: int, setting: Setting) -> dict:
    """Train to recall items over a distance; return the share recalled, of new rows."""
    task = Recall(distance, n_items, seed=seed)
    torch.manual_seed(seed)
    d_model = 32 if setting.name == "quick" else 64
    model = build(kind.split(",")[0], task.vocab_size, d_model, 2, task.length, **RECALL[kind])
    config = TrainingConfig(
        setting.recall_steps, lr=3e-3, warmup=setting.recall_steps // 15, weight_decay=0.0, seed=seed
    )
    history = fit(model, task, config, objective=predict_hidden, progress=False)
    loss = history.column("loss")
    solved = next((i + 1 for i in range(len(loss)) if max(loss[i : i + 10]) < 0.1), 0)  # the first of ten in a row
    about_run = {"parameters": parameters(model), "solved at step": solved}
    return about_run | {"recalled": recall_accuracy(model, task, 8), "seconds": sum(history.column("seconds"))}


def read_run(kind: str, rate: float, seed: int, setting: Setting) -> dict:
    """Train on the reviews; return what the model is worth, on rows as long as in training and on longer ones."""
    length = setting.length
    torch.manual_seed(seed)
    model = build(kind, 4096, setting.d_model, 4, 4 * length)
    batches = Batches(PackedRows(tokens("train"), length), setting.rows, seed=seed)
    config = TrainingConfig(setting.steps, lr=rate, warmup=setting.steps // 10, seed=seed)
    history = fit(model, batches, config, objective=predict_labels, progress=False)
    judged = {split: fixed_rows(split, length, setting.judged) for split in ("validation", "test")}
    nats = {split: nats_by_position(model, *batch.values()).numpy() for split, batch in judged.items()}
    n_bytes = np.array(about()["bytes"])[judged["test"]["labels"].cpu().numpy()].sum()
    far = fixed_rows("test", 4 * length, setting.judged // 4)
    at_end = gradient_by_distance(model, judged["test"]["input_ids"][:64], judged["test"]["labels"][:64, -1])
    grad_norms = np.array(history.column("grad_norm"))
    return {
        "parameters": parameters(model),
        "seconds": sum(history.column("seconds")),
        "validation nats": float(nats["validation"].mean()),
        "test nats": float(nats["test"].mean()),
        "test bits per byte": float(
            nats["test"].mean() * len(judged["test"]["labels"]) * length / math.log(2) / n_bytes
        ),
        "clipped": float((grad_norms > config.clip).mean()),
        "largest gradient": float(grad_norms.max()),
        "by position": nats_by_position(model, *far.values(), rows=4).tolist(),
        "gradient": at_end.tolist(),
    }


def start_run(kind: str, seed: int, setting: Setting, **how: object) -> dict:
    """Return the gradient by distance of a fresh language model."""
    torch.manual_seed(seed)
    model = build(kind, 4096, setting.d_model, 4, setting.length, **how)
    batch = fixed_rows("test", setting.length, 64)
    return {"gradient": gradient_by_distance(model, batch["input_ids"], batch["labels"][:, -1]).tolist()}


def time_run(kind: str, length: int, setting: Setting) -> dict:
    """Return the seconds of a training step, the median of several, and the most memory that it took on a GPU."""
    model = build(kind, 4096, setting.d_model, 4, length)
    optimizers = make_optimizers(model, "adamw", lr=1e-4)
    ids = torch.randint(4096, (setting.timed_tokens // length, length), device=device())
    batch, seconds = {"input_ids": ids, "labels": ids}, []
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(9 if on_gpu else 4):
        begun = time.perf_counter()
        train_step(model, optimizers, batch)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    return {"seconds": float(np.median(seconds[1:])), "bytes": memory}


# --------------------------------------------------------------------------------------------------------------- study

Job = tuple[dict, Callable[[], dict]]  # what describes a run, and the run


def jobs(setting: Setting) -> dict[str, list[Job]]:
    """Return the runs of each part; the dearest first, so that processes end together."""
    lengths = [
        ({"model": kind, "length": T}, lambda kind=kind, T=T: time_run(kind, T, setting))
        for kind in READ[:2]
        for T in setting.timed
    ]
    tasks = [(d, 1) for d in reversed(setting.distances)] + [(16, n) for n in setting.items]
    recall = [
        ({"model": kind, "distance": d, "items": n, "seed": s}, lambda a=(kind, d, n, s): recall_run(*a, setting))
        for d, n in tasks
        for s in SEEDS
        for kind in (RECALL if n == 1 else ("Transformer", "LSTM, forget bias 3"))
    ]
    read = [
        ({"model": kind, "rate": r, "seed": s}, lambda a=(kind, r, s): read_run(*a, setting))
        for s in SEEDS
        for kind in READ
        for r in (setting.rates if kind != "plain LSTM" else [r for r in setting.rates if 3e-3 <= r <= 1e-2])
    ]
    variants = {"Transformer": {}, "LSTM": {}, "LSTM, forget bias 3": {"forget_bias": 3.0}, "tanh": {"cell": "tanh"}}
    variants |= {"plain LSTM": {}, "plain LSTM, forget bias 0": {"forget_bias": 0.0}, "plain tanh": {"cell": "tanh"}}
    start = [
        (
            {"model": name, "seed": s},
            lambda a=(name, s): start_run(
                "plain LSTM" if "plain" in a[0] else a[0].split(",")[0], a[1], setting, **variants[a[0]]
            ),
        )
        for name in variants
        for s in SEEDS
    ]
    return {"time": lengths, "read": read, "recall": recall, "start": start}


def do(part: str, job: Job, setting: Setting) -> dict:
    what, run = job
    key = "-".join(
        f"{value:g}" if isinstance(value, float) else f"{value}".replace(", ", "_") for value in what.values()
    )
    return kept(f"recurrent_{setting.name}", f"{part}-{key}".replace(" ", "_"), run)


def summary(tables: dict[str, list[dict]]) -> dict[str, float]:
    """Return the best rate of each kind, chosen on validation rows, and its test scores over the seeds."""
    scores, chosen = {}, {}
    for kind in READ:
        runs = [row for row in tables["read"] if row["model"] == kind]
        rates = sorted({row["rate"] for row in runs})
        best = min(rates, key=lambda r: np.mean([row["validation nats"] for row in runs if row["rate"] == r]))
        chosen[kind] = [row for row in runs if row["rate"] == best]
        bits = [row["test bits per byte"] for row in chosen[kind]]
        scores |= {f"{kind}, parameters": runs[0]["parameters"], f"{kind}, learning rate": best}
        scores |= {f"{kind}, test bits per byte": float(np.mean(bits)), f"{kind}, lowest of the seeds": min(bits)}
        scores |= {f"{kind}, highest of the seeds": max(bits)}
    return scores


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prepare", action="store_true", help="write the tokens that a machine without data needs")
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--share", metavar="I/N", help="only every N-th run, from the I-th; no record (used by --jobs)")
    parser.add_argument("--name", default="recurrent", help="the record's name, under artifacts/")
    options = parser.parse_args()
    if options.prepare:
        return prepare()
    setting = SETTINGS[options.setting]
    parts = jobs(setting)
    if options.share:
        i, n = map(int, options.share.split("/"))
        mine = [(part, job) for part in ("read", "recall", "start") for job in parts[part]][i::n]
        for one in mine:
            do(*one, setting)
        return None
    about()
    for job in parts["time"]:
        do("time", job, setting)
    if options.jobs > 1:
        command = [sys.executable, __file__, "--setting", setting.name, "--share"]
        workers = [subprocess.Popen([*command, f"{i}/{options.jobs}"]) for i in range(options.jobs)]
        if any([worker.wait() for worker in workers]):
            sys.exit("a process failed; what it says stands above, and what is finished is kept")

    tables: dict[str, list[dict]] = {part: [] for part in (*parts, "positions", "gradients")}
    for part, some in parts.items():
        for job in some:
            result = do(part, job, setting)
            for column, table, place in (
                ("by position", "positions", "position"),
                ("gradient", "gradients", "distance"),
            ):
                if column in result:
                    values = thinned(result[column], place)
                    tables[table] += [job[0] | {"trained": part == "read", place: k} | v for k, v in values.items()]
            tables[part].append(job[0] | {k: v for k, v in result.items() if not isinstance(v, list)})
    del tables["start"]
    scores = {"width": setting.d_model, "tokens of a row": setting.length, "steps": setting.steps}
    scores |= {
        "tokens of a run": setting.steps * setting.rows * setting.length,
        "tokens of a timed step": setting.timed_tokens,
    }
    scores |= {"steps of recall": setting.recall_steps} | summary(tables)
    command = f"python benchmarks/recurrent.py --setting {setting.name}"
    print(write_record(options.name, scores, command=command, data=about()["data"], seeds=list(SEEDS), tables=tables))
    return None


def thinned(values: list[float], place: str) -> dict[int, dict[str, float]]:
    """Return a curve at fewer points: means over sixteenths of the way, or powers of two back."""
    if place == "position":
        parts = np.array_split(np.array(values), 16)
        ends = np.cumsum([len(part) for part in parts])
        return {int(end): {"nats": float(part.mean())} for end, part in zip(ends, parts, strict=True)}
    far = [0, *(2**k for k in range(20) if 2**k < len(values)), len(values) - 1]
    return {k: {"gradient": values[k]} for k in dict.fromkeys(far)}


if __name__ == "__main__":
    main()
