"""Sentence vectors of reviews with MiniLM: `embedding.embed` against plain loops with `transformers`.

    python benchmarks/encoding.py        a few minutes; writes artifacts/encoding/record.json

Texts in, vectors of length 1 out, tokenizing included. Their loop is `BertModel` without its pooler, in eval mode,
without gradients, with fused attention, in batches of 32: once as the texts come, once sorted by length first. The
vectors must agree.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # for both; the model takes nearly all the time

from argparse import ArgumentParser  # noqa: E402
from statistics import median  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from timing import bandwidth, in_turn, matmul_rate, print_table, ratio  # noqa: E402

from plm_tutorial import assets, load_model, load_tokenizer  # noqa: E402
from plm_tutorial.embedding import embed  # noqa: E402
from plm_tutorial.records import write_record  # noqa: E402
from plm_tutorial.text import reviews, split_hashes  # noqa: E402


@torch.inference_mode()
def their_vectors(model, tokenizer, texts: list[str], sort: bool, batch_size: int = 32) -> torch.Tensor:
    """Return a vector for each text (N, D), the mean of its tokens' hidden states, of length 1."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i])) if sort else range(len(texts))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(texts), batch_size):
        rows = list(order[start : start + batch_size])
        batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state  # (B, T, D)
        mask = batch["attention_mask"][..., None]  # (B, T, 1)
        vectors[rows] = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(vectors, dim=-1)


def measure(n_threads: int, programs: dict, n_texts: int, flops: float, rounds: int) -> dict[str, float]:
    """Print the table for so many threads and return its numbers."""
    torch.set_num_threads(n_threads)
    limit, peak = bandwidth(), matmul_rate()
    seconds = in_turn(programs, rounds)
    *baselines, ours = programs
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    scores = {
        f"{threads}: memory read, GB/s": round(limit / 1e9, 1),
        f"{threads}: float32 matmul, GFLOP/s": round(peak / 1e9, 1),
    }
    rows = [(threads, "sentences/s", "of the matmul rate", "ours: times as fast", "95 % interval")]
    for name in programs:
        speed = n_texts / median(seconds[name])
        share = flops * speed / n_texts / peak
        scores[f"{threads}: {name}, sentences/s"] = round(speed, 1)
        scores[f"{threads}: {name}, share of the matmul rate"] = round(share, 3)
        cells = ("", "")
        if name in baselines:
            times = ratio(seconds[name], seconds[ours])
            for part, value in times._asdict().items():
                label = "times as fast" if part == "median" else f"times as fast, {part} end of the 95 % interval"
                scores[f"{threads}: ours against {name}, {label}"] = round(value, 3)
            cells = (f"{times.median:.2f}", f"{times.low:.2f} – {times.high:.2f}")
        rows.append((name, f"{speed:.1f}", f"{share:.0%}", *cells))
    print(f"\nlimits: memory read {limit / 1e9:.1f} GB/s, float32 matmul {peak / 1e9:.0f} GFLOP/s")
    print_table(rows)
    return scores


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--texts", type=int, default=512, help="sentences in each run")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each program that count")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--name", default="encoding", help="the record's name, under artifacts/")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model, tokenizer = load_model("minilm", device="cpu"), load_tokenizer("minilm")
    folder = assets.path("minilm")
    reference = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa")
    reference.eval()
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]", model_max_length=512
    )
    texts = reviews("rotten_tomatoes", "test").shuffle(seed=0)["text"][: options.texts]
    programs = {
        "transformers, as the texts come": lambda: their_vectors(reference, theirs, texts, sort=False),
        "transformers, sorted by length": lambda: their_vectors(reference, theirs, texts, sort=True),
        "ours": lambda: embed(model, tokenizer, texts),
    }
    *expected, found = [program() for program in programs.values()]
    for vectors in expected:
        torch.testing.assert_close(found, vectors, atol=1e-5, rtol=0)

    n_tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    weights = sum(p.numel() for p in model.layers.parameters())
    scores = {
        "sentences": len(texts),
        "tokens, without padding": n_tokens,
        "rounds": options.rounds,
        "all programs produce the same vectors": 1,
    }
    for n_threads in options.threads:
        scores |= measure(n_threads, programs, len(texts), 2 * weights * n_tokens, options.rounds)
    data = split_hashes("rotten_tomatoes/test")
    print(write_record(options.name, scores, command="python benchmarks/encoding.py", data=data, seeds=[]))


if __name__ == "__main__":
    main()
