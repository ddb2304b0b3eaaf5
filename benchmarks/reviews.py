"""The book's own models of movie reviews: trained, scored on all held-out reviews, and kept under artifacts/.

    python benchmarks/reviews.py causal      minutes on a GPU; writes artifacts/reviews_causal
    python benchmarks/reviews.py masked      minutes on a GPU; writes artifacts/reviews_masked

The training is that of configs/gpu_causal.toml and configs/gpu_masked.toml; stopped, the same command goes on. Without
a GPU it takes many hours: configs/cpu_causal.toml and configs/cpu_masked.toml stop sooner. The weights are kept in 16
bits, and it is these weights that are scored. Beside the causal model stand n-gram models that counted the same
training text, with the same tokens.
"""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sweep import kept

from plm_tutorial import load_model, pretrained, pretraining
from plm_tutorial.batches import Batches, Masking, PackedRows
from plm_tutorial.evaluation import bits_per_byte, bootstrap_interval, score_texts
from plm_tutorial.experiments.review_tokens import END, MASK, review_tokenizer, review_tokens
from plm_tutorial.ngram import NGram
from plm_tutorial.objectives import IGNORED, token_accuracy, token_loss
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.text import reviews, split_hashes

HELD_OUT = ("validation", "test")
ORDERS = (1, 2, 3, 5)  # of the n-grams


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=("causal", "masked"))
    kind = parser.parse_args().kind
    config_path = Path("configs") / f"gpu_{kind}.toml"
    config, name = pretraining.read_config(config_path), f"reviews_{kind}"
    run = Path(config.run.folder)
    if not (run / "record.json").is_file():  # else it is trained, here or on another machine
        pretraining.pretrain(config_path)
    trained = json.loads((run / "record.json").read_text(encoding="utf-8"))
    keep(run, name)
    model = load_model(artifacts() / name).eval()
    scores = score_causal(model, config) if kind == "causal" else score_masked(model, config)
    scores |= {
        key: trained["scores"][key] for key in ("parameters", "training steps", "training tokens", "training seconds")
    }
    data = split_hashes("imdb/train", "imdb/validation", "imdb/test")
    data |= {key: value for key, value in trained["data"].items() if key.startswith("tokens of")}
    command, seeds = f"python benchmarks/reviews.py {kind}", [config.run.seed]
    print(write_record(name, scores, command=command, data=data, seeds=seeds, machine=trained["machine"]))
    for key, value in scores.items():
        print(f"{key:60} {value:>12,.4g}")


def keep(run: Path, name: str) -> None:
    """Put the trained model, in 16 bits, its tokenizer and its log into the artifact's folder."""
    folder, tokenizer = artifacts() / name, pretrained.load_tokenizer(run)
    if not (folder / "config.json").is_file():  # no model yet, at most its tokenizer
        shutil.rmtree(folder, ignore_errors=True)
    pretrained.export(load_model(run, dtype=torch.float16), folder, tokenizer, overwrite=True)
    shutil.copyfile(run / "log.csv", folder / "log.csv")


# ------------------------------------------------------------------------------------------------------------- causal


def score_causal(model: torch.nn.Module, config: pretraining.PretrainingConfig) -> dict[str, float]:
    """Return bits per byte of the model and of n-grams on all held-out reviews, and the n-grams' loss on its rows."""
    tokenizer, length = review_tokenizer(), config.batches.length
    end_id = tokenizer.token_to_id(END)
    counted = {
        order: kept("reviews", ngram_key(order, config), lambda n=order: score_ngram(n, config)) for order in ORDERS
    }
    scores = {}
    for split in HELD_OUT:
        texts = reviews("imdb", split)["text"][:]
        ours = score_texts(model, tokenizer, texts, length, bos_id=end_id)
        scores[f"{split} reviews"] = len(texts)
        scores[f"{split} bits per byte"] = bits_per_byte(ours.nats.sum(), ours.n_bytes.sum())
        nats = {order: np.array(result[split]) for order, result in counted.items()}
        for order, of_texts in nats.items():
            scores[f"{split} bits per byte, {ngram_name(order)}"] = bits_per_byte(of_texts.sum(), ours.n_bytes.sum())
        rows = np.stack([ours.nats, nats[5]], axis=1)  # (texts, 2)
        low, high = bootstrap_interval(rows, lambda x: 1 - x[..., 0].sum() / x[..., 1].sum())
        scores[f"{split}: share of bits saved against {ngram_name(5)}"] = 1 - ours.nats.sum() / nats[5].sum()
        scores[f"{split}: the same, low end of the 95 % interval"] = low
        scores[f"{split}: the same, high end of the 95 % interval"] = high
    for order, result in counted.items():
        scores[f"nats per token on the rows of the log, {ngram_name(order)}"] = result["rows"]
    return scores


def ngram_name(order: int) -> str:
    return f"modified Kneser–Ney of order {order}" if order > 1 else "unigrams"


def ngram_key(order: int, config: pretraining.PretrainingConfig) -> str:
    """Name what the scores of n-grams depend on."""
    tokens = "-".join(review_tokens(split).sha256[:8] for split in ("train", *HELD_OUT))
    shape = config.batches
    return f"order{order}-{tokens}-{shape.size}x{shape.length}-{shape.validation}-seed{config.run.seed}"


def score_ngram(order: int, config: pretraining.PretrainingConfig) -> dict:
    """Return an n-gram model's nats for each held-out review, and nats per token on the rows of the log."""
    ngram = NGram(order, review_tokens("train").vocab_size).fit(split_documents("train"))
    logs = {split: ngram.log_probs(split_documents(split)) for split in HELD_OUT}
    found = {split: [-float(one[:-1].sum()) for one in of_texts] for split, of_texts in logs.items()}  # but the ends
    return found | {"rows": on_rows(-np.concatenate(logs["validation"]), config)}


def split_documents(split: str) -> list[np.ndarray]:
    """Return the token ids of each review of a split, with the token that ends it."""
    file = review_tokens(split)
    return np.split(np.asarray(file.tokens, np.int64), file.starts[1:-1])


def on_rows(nats: np.ndarray, config: pretraining.PretrainingConfig) -> float:
    """Return nats per token, given for all of validation, on the tokens on which a model is evaluated in training."""
    file = review_tokens("validation")
    places = replace(file, tokens=np.arange(len(file.tokens), dtype=np.uint32))
    batches = Batches(PackedRows(places, config.batches.length), config.batches.size, seed=config.run.seed)
    steps = config.batches.validation // config.batches.size
    return float(np.mean([nats[batches[step]["labels"].numpy()].mean() for step in range(steps)]))


# ------------------------------------------------------------------------------------------------------------- masked


@torch.no_grad()
def score_masked(model: torch.nn.Module, config: pretraining.PretrainingConfig) -> dict[str, float]:
    """Return accuracy and loss at hidden tokens of all held-out reviews: the same 15 % each time, all masked."""
    tokenizer, scores, device = review_tokenizer(mask=True), {}, next(model.parameters()).device
    special = [tokenizer.token_to_id(END), tokenizer.token_to_id(MASK)]
    masking = Masking(tokenizer.token_to_id(MASK), tokenizer.get_vocab_size(), special, keep=0.0, random=0.0)
    for split in HELD_OUT:
        rows = PackedRows(review_tokens(split), config.batches.length)
        batches = Batches(rows, 32, change=masking)
        found = []  # of each batch: right, hidden, nats
        for step in range(len(rows) // 32):
            batch = {name: value.to(device) for name, value in batches[step].items()}
            hidden = batch["labels"] != IGNORED
            logits, labels = model(batch["input_ids"], keep=hidden), batch["labels"][hidden]
            found.append((*token_accuracy(logits, labels), float(token_loss(logits, labels).total)))
        right, hidden, nats = np.array(found).T
        low, high = bootstrap_interval(np.stack([right, hidden], axis=1), lambda x: x[..., 0].sum() / x[..., 1].sum())
        scores[f"{split}: hidden tokens"] = int(hidden.sum())
        scores[f"{split} top-1 accuracy at hidden tokens, 15 % hidden"] = right.sum() / hidden.sum()
        scores[f"{split}: the same, low end of the 95 % interval"] = low
        scores[f"{split}: the same, high end of the 95 % interval"] = high
        scores[f"{split} nats per hidden token"] = nats.sum() / hidden.sum()
    return scores


if __name__ == "__main__":
    main()
