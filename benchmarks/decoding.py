"""Greedy decoding with SmolLM2, one sequence, float32: our model and loop against `transformers`' on the same weights.

    python benchmarks/decoding.py        a few minutes; writes artifacts/decoding/record.json

Each token needs every weight once, so the limit is the time to read the weights from memory. Compared are our model as
`load_model` returns it, the same after `layers.for_decoding`, and `LlamaForCausalLM.generate` in eval mode, without
gradients, with its cache and its fused attention. All must produce the same tokens. With one thread, and with all.
"""

import copy
import os
from argparse import ArgumentParser
from statistics import median

import torch
import transformers
from timing import bandwidth, in_turn, matmul_rate, print_table, ratio
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from plm_tutorial import assets, load_model, load_tokenizer
from plm_tutorial.generation import generate
from plm_tutorial.layers import for_decoding
from plm_tutorial.records import write_record
from plm_tutorial.runtime import file_sha256

PROMPT = "The best film of the year is"


def of_transformers() -> torch.nn.Module:
    """Return SmolLM2 as transformers' own class, read from the same file by its own reader."""
    path = assets.path("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config._attn_implementation = "sdpa"
    model = transformers.LlamaForCausalLM(config)
    found = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    model.load_state_dict(found["tensors"], strict=False, assign=True)
    model.tie_weights()
    return model.float().eval()


@torch.inference_mode()
def their_tokens(model: torch.nn.Module, ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Return the new tokens (1, N); no stop id, so that there are exactly N of them."""
    options = {"do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, **options)
    return out[:, ids.size(1) :]


def measure(n_threads: int, programs: dict, n_tokens: int, n_bytes: int, rounds: int) -> dict[str, float]:
    """Print the table for so many threads and return its numbers."""
    torch.set_num_threads(n_threads)
    limit, peak = bandwidth(), matmul_rate()
    seconds = in_turn(programs, rounds)
    theirs, *ours = programs
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    scores = {
        f"{threads}: memory read, GB/s": round(limit / 1e9, 1),
        f"{threads}: float32 matmul, GFLOP/s": round(peak / 1e9, 1),
    }
    rows = [(threads, "tokens/s", "of the bandwidth", "times as fast", "95 % interval")]
    for name in programs:
        speed = n_tokens / median(seconds[name])
        share = n_bytes * speed / limit
        scores[f"{threads}: {name}, tokens/s"] = round(speed, 2)
        scores[f"{threads}: {name}, share of the bandwidth"] = round(share, 3)
        if name in ours:
            times = ratio(seconds[theirs], seconds[name])
            for part, value in times._asdict().items():
                label = "times as fast" if part == "median" else f"times as fast, {part} end of the 95 % interval"
                scores[f"{threads}: {name}, {label}"] = round(value, 3)
            cells = (f"{times.median:.2f}", f"{times.low:.2f} – {times.high:.2f}")
        rows.append((name, f"{speed:.1f}", f"{share:.0%}", *(cells if name in ours else ("", ""))))
    print(f"\nlimits: memory read {limit / 1e9:.1f} GB/s, float32 matmul {peak / 1e9:.0f} GFLOP/s")
    print_table(rows)
    return scores


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens in each run")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each program that count")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--name", default="decoding", help="the record's name, under artifacts/")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model, reference = load_model("smollm2", device="cpu"), of_transformers()
    laid_out = for_decoding(copy.deepcopy(model))
    ids = torch.tensor([load_tokenizer("smollm2").encode(PROMPT).ids])
    programs = {
        "transformers": lambda: their_tokens(reference, ids, options.tokens),
        "ours": lambda: generate(model, ids, options.tokens),
        "ours, laid out for decoding": lambda: generate(laid_out, ids, options.tokens),
    }
    expected, *found = [program() for program in programs.values()]
    if not all(torch.equal(tokens, expected) for tokens in found):
        raise SystemExit("the programs produce different tokens: their times cannot be compared")

    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())  # the token embedding is the output layer
    scores = {
        "tokens in each run": options.tokens,
        "rounds": options.rounds,
        "weights, MB": round(n_bytes / 1e6, 1),
        "all programs produce the same tokens": 1,
    }
    for n_threads in options.threads:
        scores |= measure(n_threads, programs, options.tokens, n_bytes, options.rounds)
    file = assets.path("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    data = {f"smollm2/{file.name}": file_sha256(file)}
    print(write_record(options.name, scores, command="python benchmarks/decoding.py", data=data, seeds=[]))


if __name__ == "__main__":
    main()
