"""How much of a text should be hidden, and behind what? A small encoder from scratch, at equal steps and tokens.

    python benchmarks/mask_rate.py          an hour on one core, in parts; writes artifacts/mask_rate/

Six mask rates with BERT's 80/10/10, and at 15 % three other ways to hide a token; three seeds each. All models are
judged by the same yardsticks, on validation reviews: hidden tokens, 15 % of them and all behind the mask; tokens that
are there to be seen; tokens that were exchanged for others; and how well the mean of the states tells praise from
blame. A finished run is kept under runs/mask_rate: the same command goes on. With the record come two tables, ``runs``
(a line a run) and ``curves`` (a line an evaluation during training).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices are small: a second core helps another run more

from argparse import ArgumentParser  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from functools import cache  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sweep import kept  # noqa: E402

from plm_tutorial.batches import Batches, Masking, PackedRows  # noqa: E402
from plm_tutorial.experiments.review_tokens import END, MASK, review_tokenizer, review_tokens  # noqa: E402
from plm_tutorial.layers import record  # noqa: E402
from plm_tutorial.models.decoder import Decoder, modern_recipe  # noqa: E402
from plm_tutorial.objectives import IGNORED, predict_hidden, token_accuracy, token_loss  # noqa: E402
from plm_tutorial.records import write_record  # noqa: E402
from plm_tutorial.text import reviews, split_hashes  # noqa: E402
from plm_tutorial.training import TrainingConfig, fit  # noqa: E402

LENGTH = 64  # tokens of a row
RATES = (0.05, 0.15, 0.25, 0.4, 0.6, 0.8)
SHARES = {"80/10/10": (0.1, 0.1), "100/0/0": (0.0, 0.0), "80/20/0": (0.2, 0.0), "80/0/20": (0.0, 0.2)}
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Size:
    """What all runs of a study have in common."""

    d_model: int = 96
    n_layers: int = 3
    steps: int = 1000
    rows: int = 16  # of a batch
    lr: float = 3e-3
    muon_lr: float = 1e-2
    judged: int = 1024  # validation rows
    probed: int = 2400  # reviews to fit the probe, and as many to score it if there are so many


QUICK = Size(d_model=32, n_layers=1, steps=6, rows=4, judged=16, probed=64)


@dataclass(frozen=True)
class Hiding:
    """What is hidden: the share of the tokens, and what becomes of those (mask/random/unchanged, in percent)."""

    rate: float = 0.15
    shares: str = "80/10/10"


@cache
def vocabulary() -> tuple[int, int, list[int]]:
    """Return the number of tokens, the id of the mask, and the special ids, which are never hidden."""
    tokenizer = review_tokenizer(mask=True)
    mask_id = tokenizer.token_to_id(MASK)
    return tokenizer.get_vocab_size(), mask_id, [tokenizer.token_to_id(END), mask_id]


def masking(rate: float, random: float = 0.0, keep: float = 0.0) -> Masking:
    size, mask_id, special_ids = vocabulary()
    return Masking(mask_id, size, special_ids, rate, keep, random)


# ------------------------------------------------------------------------------------------------------------ training


def small_model(size: Size) -> Decoder:
    """Return a fresh model that looks both ways: the parts of the book's own decoder without its causal mask."""
    return Decoder(
        modern_recipe(
            vocabulary()[0],
            context_length=LENGTH,
            d_model=size.d_model,
            n_layers=size.n_layers,
            n_heads=size.d_model // 32,
            d_hidden=3 * size.d_model,
            tied=False,
            causal=False,
        )
    )


def train(hiding: Hiding, seed: int, size: Size) -> tuple[Decoder, list[dict[str, float]]]:
    """Return a trained model, and what it was worth along the way."""
    torch.manual_seed(seed)
    model = small_model(size)
    rows = PackedRows(review_tokens("train"), LENGTH)
    batches = Batches(rows, size.rows, seed=seed, change=masking(hiding.rate, *SHARES[hiding.shares]))
    config = TrainingConfig(
        steps=size.steps,
        lr=size.lr,
        muon_lr=size.muon_lr,
        optimizer="muon",
        warmup=size.steps // 20,
        shape="wsd",
        decay=0.3,
        evaluate_every=max(1, size.steps // 10),
    )

    def evaluate(model: Decoder) -> dict[str, float]:
        return hidden_tokens(model, size.judged // 4)

    history = fit(model, batches, config, objective=predict_hidden, evaluate=evaluate, progress=False)
    return model, [row for row in history.rows if "nats per hidden token" in row]


# ---------------------------------------------------------------------------------------------------------- yardsticks


def judged(change: Masking, n_rows: int) -> list[dict[str, torch.Tensor]]:
    """Return validation rows in batches, always the same, with the same tokens hidden."""
    size = min(64, n_rows)
    rows = PackedRows(review_tokens("validation"), LENGTH)
    return [Batches(rows, size, seed=1234, change=change)[i] for i in range(n_rows // size)]


@torch.no_grad()
def score(model: Decoder, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """Return nats per label, and the share of labels that are the model's first choice."""
    nats, right, n = 0.0, 0, 0
    for batch in batches:
        kept_here = batch["labels"] != IGNORED
        logits, labels = model(batch["input_ids"], keep=kept_here), batch["labels"][kept_here]
        nats += token_loss(logits, labels).total.item()
        right += token_accuracy(logits, labels)[0]
        n += len(labels)
    return nats / n, right / n


def hidden_tokens(model: Decoder, n_rows: int) -> dict[str, float]:
    nats, right = score(model, judged(masking(0.15), n_rows))
    return {"nats per hidden token": nats, "top-1 at hidden tokens": right}


def seen_tokens(model: Decoder, n_rows: int) -> dict[str, float]:
    """Return what a model says of tokens that it sees: the true ones, and some exchanged for random others."""
    hidden = judged(masking(0.15), n_rows)
    clean = judged(masking(0.15, keep=1.0), n_rows)  # the same rows with nothing hidden; labels where the mask was
    there = [
        {"input_ids": a["input_ids"], "labels": b["input_ids"].masked_fill(a["labels"] != IGNORED, IGNORED)}
        for a, b in zip(hidden, clean, strict=True)
    ]
    seen, exchanged = score(model, there), score(model, judged(masking(0.15, random=1.0), n_rows))
    return {
        "nats per seen token": seen[0],
        "top-1 at seen tokens": seen[1],
        "nats per exchanged token": exchanged[0],
        "top-1 at exchanged tokens": exchanged[1],
    }


@cache
def last_tokens(split: str, n: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the last LENGTH tokens of up to n reviews (N, T), half of them of each label, and the labels (N,)."""
    file, labels = review_tokens(split), np.array(reviews("imdb", split)["label"])
    ends = file.starts[1:] - 1  # where END stands
    long_enough = np.diff(file.starts) > LENGTH
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.concatenate([[i for i in order if long_enough[i] and labels[i] == y][: n // 2] for y in (0, 1)])
    ids = np.stack([file.tokens[end - LENGTH : end] for end in ends[chosen]]).astype(np.int64)
    return torch.from_numpy(ids), labels[chosen]


@torch.no_grad()
def means(model: Decoder, ids: torch.Tensor) -> list[np.ndarray]:
    """Return the mean of each text's states below, between and above the blocks: L + 1 arrays (N, D)."""
    parts = []
    for some in ids.split(64):
        with record(model) as recording:
            model(some, keep=torch.zeros_like(some, dtype=torch.bool))
        parts.append([hidden.mean(1).numpy() for hidden in recording.hidden])
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def probe(model: Decoder, n: int) -> dict[str, float]:
    """Return how often a linear classifier on each layer's mean state is right about the sentiment."""
    (ids, labels), (other_ids, other_labels) = last_tokens("train", n), last_tokens("validation", n)
    found = {}
    for i, (x, y) in enumerate(zip(means(model, ids), means(model, other_ids), strict=True)):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(x, labels)
        found[f"probe, layer {i}"] = float(classifier.score(y, other_labels))
    return found


# --------------------------------------------------------------------------------------------------------------- study


def one_run(hiding: Hiding, seed: int, size: Size) -> dict:
    model, curve = train(hiding, seed, size)
    scores = hidden_tokens(model, size.judged) | seen_tokens(model, size.judged // 4) | probe(model, size.probed)
    return {"scores": scores, "curve": [{k: row[k] for k in ("step", *hidden_columns())} for row in curve]}


def hidden_columns() -> tuple[str, str]:
    return "nats per hidden token", "top-1 at hidden tokens"


def untrained(size: Size) -> dict:
    torch.manual_seed(0)
    return {"scores": probe(small_model(size).eval(), size.probed)}


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that all of it runs")
    parser.add_argument("--name", default="mask_rate", help="the record's name, under artifacts/")
    options = parser.parse_args()
    size = QUICK if options.quick else Size()
    study = f"mask_rate{'_quick' if options.quick else ''}"
    what = "-".join(f"{value:g}" for value in asdict(size).values())

    hidings = [Hiding(rate) for rate in RATES] + [Hiding(shares=shares) for shares in list(SHARES)[1:]]
    runs, curves = [], []
    for seed in SEEDS:  # all settings with one seed first: a study that is stopped is still one
        for hiding in hidings:
            key = f"{hiding.rate:g}-{hiding.shares.replace('/', '-')}-seed{seed}-{what}"
            result = kept(study, key, lambda hiding=hiding, seed=seed: one_run(hiding, seed, size))
            about = {"rate": hiding.rate, "mask/random/unchanged": hiding.shares, "seed": seed}
            runs.append(about | result["scores"])
            curves += [about | row for row in result["curve"]]
    at_start = kept(study, f"untrained-{what}", lambda: untrained(size))["scores"]

    model = small_model(size)
    scores = {"parameters": sum(p.numel() for p in model.parameters()), "steps": size.steps}
    scores |= {"tokens of a run": size.steps * size.rows * LENGTH, "runs": len(runs)}
    scores |= {f"untrained model, {name}": value for name, value in at_start.items()}
    data = split_hashes("imdb/train", "imdb/validation")
    command = "python benchmarks/mask_rate.py" + (" --quick" if options.quick else "")
    tables = {"runs": runs, "curves": curves}
    print(write_record(options.name, scores, command=command, data=data, seeds=list(SEEDS), tables=tables))


if __name__ == "__main__":
    main()
