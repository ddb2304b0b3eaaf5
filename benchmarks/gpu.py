"""GPT-2's smallest shape on one GPU: training and greedy decoding, our model against `transformers`' on equal weights.

    python benchmarks/gpu.py        two minutes on one GPU; writes artifacts/gpu/record.json

Both are trained by the same step (`training.train_step`, AdamW, clipping) on the same random tokens, with products in
bf16; so what is compared is the model's code, as it stands and after `torch.compile`. First it is checked that both
give the same loss. The limit is what a large bf16 product reaches. Decoding is in bf16 too, one sequence, with a cache.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import transformers
from timing import in_turn, print_table, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plm_tutorial import load_model, runtime
from plm_tutorial.generation import generate
from plm_tutorial.objectives import predict_labels
from plm_tutorial.records import write_record
from plm_tutorial.training import make_optimizers, train_step


class Reference(nn.Module):
    """The model of `transformers`, called as ours are: ids in, logits out."""

    def __init__(self, model: transformers.GPT2LMHeadModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, use_cache=False).logits


def random_weights(layers: int) -> transformers.GPT2LMHeadModel:
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_layer=layers, attn_implementation="sdpa", **no_dropout)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


def synchronized(program: Callable[[], object]) -> Callable[[], None]:
    """Return a program that ends when the GPU has done all its work."""

    def run() -> None:
        program()
        torch.cuda.synchronize()

    return run


def matmul_rate(size: int = 8192) -> float:
    """Return the floating-point operations in a second of a large bf16 product on the GPU."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            a @ b

    return 10 * 2 * size**3 / median(in_turn({"multiply": synchronized(multiply)}, 9)["multiply"])


def trainer(model: nn.Module, batches: list[dict[str, Tensor]], compiled: bool = False) -> Callable[[], None]:
    optimizers = make_optimizers(model, "adamw", lr=1e-6, weight_decay=0.1)
    running = torch.compile(model) if compiled else model

    def program() -> None:
        for batch in batches:
            train_step(running, optimizers, batch, clip=1.0, dtype=torch.bfloat16)

    return synchronized(program)


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=16, help="rows of 1,024 tokens in a batch")
    parser.add_argument("--steps", type=int, default=5, help="steps of each program in a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100, help="new tokens in each run of decoding")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU with CUDA, and a build of torch for it (see the README)")
    torch.set_float32_matmul_precision("highest")
    transformers.utils.logging.set_verbosity_error()

    theirs = random_weights(options.layers)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "gpt2")
        ours, again = (load_model(Path(folder) / "gpt2", device="cuda") for _ in range(2))
    theirs = theirs.cuda()
    reference = Reference(theirs)
    draw = torch.Generator("cuda").manual_seed(0)
    shape = (options.rows, 1025)
    drawn = [
        torch.randint(theirs.config.vocab_size, shape, device="cuda", generator=draw) for _ in range(options.steps)
    ]
    batches = [{"input_ids": ids[:, :-1], "labels": ids[:, 1:]} for ids in drawn]
    with torch.no_grad():
        losses = [float(predict_labels(model.eval(), batches[0]).mean) for model in (reference, ours)]
    if abs(losses[0] - losses[1]) > 1e-4:
        raise SystemExit(f"the models differ: their losses are {losses}; their times cannot be compared")
    with FlopCounterMode(display=False) as counter:
        predict_labels(ours, batches[0]).mean.backward()
    ours.zero_grad()
    work = counter.get_total_flops() * options.steps

    programs = {
        "transformers": trainer(reference.train(), batches),
        "ours": trainer(ours.train(), batches),
        "ours, compiled": trainer(again.train(), batches, compiled=True),
    }
    peak, seconds = matmul_rate(), in_turn(programs, options.rounds)
    tokens = options.steps * options.rows * 1024
    scores: dict[str, float] = {
        "parameters": sum(p.numel() for p in ours.parameters()),
        "bf16 matmul, TFLOP/s": round(peak / 1e12, 1),
        "tokens of a batch": options.rows * 1024,
        "largest difference of the loss, nats": abs(losses[0] - losses[1]),
    }
    rows = [("training, bf16", "tokens/s", "of the matmul rate", "times as fast")]
    for name in programs:
        times = ratio(seconds["transformers"], seconds[name])
        speed, share = tokens / median(seconds[name]), work / median(seconds[name]) / peak
        scores[f"training, {name}: tokens/s"] = round(speed)
        scores[f"training, {name}: share of the matmul rate"] = round(share, 3)
        if name != "transformers":
            scores[f"training, {name}: times as fast as transformers"] = round(times.median, 3)
            scores[f"training, {name}: the same, low end of the 95 % interval"] = round(times.low, 3)
            scores[f"training, {name}: the same, high end of the 95 % interval"] = round(times.high, 3)
        rows.append((name, f"{speed:,.0f}", f"{share:.0%}", f"{times.median:.2f}"))
    print_table(rows)

    theirs.eval().bfloat16()
    ours.eval().bfloat16()
    ids = batches[0]["input_ids"][:1, :16]
    stopless = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": options.tokens}
    decoders = {
        "transformers": lambda: theirs.generate(ids, attention_mask=torch.ones_like(ids), **stopless),
        "ours": lambda: generate(ours, ids, options.tokens),
    }
    seconds = in_turn({name: synchronized(program) for name, program in decoders.items()}, options.rounds)
    times = ratio(seconds["transformers"], seconds["ours"])
    for name in decoders:
        scores[f"decoding, {name}: tokens/s"] = round(options.tokens / median(seconds[name]), 1)
    scores["decoding, ours: times as fast as transformers"] = round(times.median, 3)
    scores["decoding, ours: the same, low end of the 95 % interval"] = round(times.low, 3)
    scores["decoding, ours: the same, high end of the 95 % interval"] = round(times.high, 3)
    print(write_record("gpu", scores, command="python benchmarks/gpu.py", data={}, seeds=[0]))
    print(runtime.machine(), *(f"{name:60} {value:.4g}" for name, value in scores.items()), sep="\n")


if __name__ == "__main__":
    main()
