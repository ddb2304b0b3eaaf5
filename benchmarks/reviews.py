"""The book's own models of movie reviews: trained, scored on all held-out reviews, and kept under artifacts/.

    python benchmarks/reviews.py causal      up to two hours on two cores; writes artifacts/reviews_causal
    python benchmarks/reviews.py masked      about an hour; writes artifacts/reviews_masked

The training is that of configs/cpu_causal.toml and configs/cpu_masked.toml; stopped, the same command goes on. The
weights are kept in 16 bits, and it is these weights that are scored. Beside the causal model stand n-gram models that
counted the same training text, with the same tokens.
"""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from plm_tutorial import load_model, pretrained, pretraining
from plm_tutorial.batches import Batches, Masking, PackedRows
from plm_tutorial.evaluation import bits_per_byte, bootstrap_interval, score_texts
from plm_tutorial.experiments.review_tokens import END, MASK, review_tokenizer, review_tokens
from plm_tutorial.ngram import NGram
from plm_tutorial.objectives import IGNORED, token_accuracy, token_loss
from plm_tutorial.records import artifacts, write_record
from plm_tutorial.text import reviews, split_hashes

HELD_OUT = ("validation", "test")


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("kind", choices=("causal", "masked"))
    kind = parser.parse_args().kind
    config_path = Path("configs") / f"cpu_{kind}.toml"
    config, name = pretraining.read_config(config_path), f"reviews_{kind}"
    trained = pretraining.pretrain(config_path)
    run = Path(config.run.folder)
    keep(run, name)
    model = load_model(artifacts() / name).eval()
    scores = score_causal(model, config) if kind == "causal" else score_masked(model, config)
    scores |= {key: trained[key] for key in ("parameters", "training steps", "training tokens", "training seconds")}
    data = split_hashes("imdb/train", "imdb/validation", "imdb/test")
    read = json.loads((run / "record.json").read_text(encoding="utf-8"))["data"]
    data |= {key: value for key, value in read.items() if key.startswith("tokens of")}
    print(
        write_record(name, scores, command=f"python benchmarks/reviews.py {kind}", data=data, seeds=[config.run.seed])
    )
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
    counted = {order: count_train(order) for order in (1, 2, 3, 5)}
    scores = {}
    for split in HELD_OUT:
        texts = reviews("imdb", split)["text"][:]
        ours = score_texts(model, tokenizer, texts, length, bos_id=end_id)
        scores[f"{split} reviews"] = len(texts)
        scores[f"{split} bits per byte"] = bits_per_byte(ours.nats.sum(), ours.n_bytes.sum())
        documents = split_documents(split)
        for order, ngram in counted.items():
            nats = np.array([-one[:-1].sum() for one in ngram.log_probs(documents)])  # the ends are not scored
            scores[f"{split} bits per byte, {ngram_name(order)}"] = bits_per_byte(nats.sum(), ours.n_bytes.sum())
        rows = np.stack([ours.nats, nats], axis=1)  # (texts, 2), the last order being 5
        low, high = bootstrap_interval(rows, lambda x: 1 - x[..., 0].sum() / x[..., 1].sum())
        scores[f"{split}: share of bits saved against {ngram_name(5)}"] = 1 - ours.nats.sum() / nats.sum()
        scores[f"{split}: the same, low end of the 95 % interval"] = low
        scores[f"{split}: the same, high end of the 95 % interval"] = high
    for order, ngram in counted.items():
        scores[f"nats per token on the rows of the log, {ngram_name(order)}"] = on_rows(ngram, config)
    return scores


def ngram_name(order: int) -> str:
    return f"modified Kneser–Ney of order {order}" if order > 1 else "unigrams"


def split_documents(split: str) -> list[np.ndarray]:
    """Return the token ids of each review of a split, with the token that ends it."""
    file = review_tokens(split)
    return np.split(np.asarray(file.tokens, np.int64), file.starts[1:-1])


def count_train(order: int) -> NGram:
    return NGram(order, review_tokens("train").vocab_size).fit(split_documents("train"))


def on_rows(ngram: NGram, config: pretraining.PretrainingConfig) -> float:
    """Return the n-grams' nats per token on the very tokens on which the model was evaluated as it was trained."""
    file = review_tokens("validation")
    nats = -np.concatenate(ngram.log_probs(split_documents("validation")))
    places = replace(file, tokens=np.arange(len(file.tokens), dtype=np.uint32))
    batches = Batches(PackedRows(places, config.batches.length), config.batches.size, seed=config.run.seed)
    steps = config.batches.validation // config.batches.size
    return float(np.mean([nats[batches[step]["labels"].numpy()].mean() for step in range(steps)]))


# ------------------------------------------------------------------------------------------------------------- masked


@torch.no_grad()
def score_masked(model: torch.nn.Module, config: pretraining.PretrainingConfig) -> dict[str, float]:
    """Return accuracy and loss at hidden tokens of all held-out reviews: the same 15 % each time, all masked."""
    tokenizer, scores = review_tokenizer(mask=True), {}
    special = [tokenizer.token_to_id(END), tokenizer.token_to_id(MASK)]
    masking = Masking(tokenizer.token_to_id(MASK), tokenizer.get_vocab_size(), special, keep=0.0, random=0.0)
    for split in HELD_OUT:
        rows = PackedRows(review_tokens(split), config.batches.length)
        batches = Batches(rows, 32, change=masking)
        found = []  # of each batch: right, hidden, nats
        for step in range(len(rows) // 32):
            batch = batches[step]
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
