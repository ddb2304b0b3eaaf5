# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Efficient inference: what a token costs, and what makes it cheaper
#
# Training happens once. Writing happens with every answer, one token after another, and there the bill is paid. This chapter asks: *what limits the speed at which a model writes on your machine, and which of the known remedies move that limit?* The machine's own two limits are measured first; then every remedy is put into the same picture: a cache, fewer key-value heads, batches, weights in 8 and 4 bits, a distilled student, and a second model that guesses ahead.
#
# After this chapter you will be able to
#
# - count the FLOPs and the bytes of a token, and check both against the machine;
# - draw the roofline of your own machine and place a computation on it;
# - say how much memory a cache takes, and what grouped heads save;
# - quantize a weight by hand, in 8 and in 4 bits, and measure what is lost in bits per byte;
# - distil a small model from a large one, and let it guess for the large one.
#
# **Prerequisites.** Attention and its cache from [chapter 3](03_attention.ipynb), bits per byte from [chapter 1](01_language_models.ipynb), speculative decoding from [chapter 9](09_generation_and_dialogue.ipynb).

# %% tags=["remove-cell"]
import sys

if "google.colab" in sys.modules:
    # %pip install -q "plm-tutorial @ git+https://github.com/plm-tutorial/plm-tutorial"

# %%
import copy
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from plm_tutorial import figures, load_model, load_tokenizer
from plm_tutorial.claims import claim
from plm_tutorial.evaluation import bits_per_byte, score_texts
from plm_tutorial.exercises.efficiency import check
from plm_tutorial.experiments.efficiency import cache_bytes, decode_flops, held_bytes
from plm_tutorial.experiments.efficiency import in_turn, matrix_parameters
from plm_tutorial.experiments.efficiency import measure_machine, soft_loss
from plm_tutorial.generation import generate
from plm_tutorial.quantization import QuantizedLinear, quantize, quantize_model
from plm_tutorial.quantization import storage_bytes
from plm_tutorial.records import artifacts, recorded
from plm_tutorial.runtime import by_scale, seed, set_seed
from plm_tutorial.show import show_source
from plm_tutorial.text import reviews

# %%
N_NEW = by_scale(smoke=2, cpu=12, gpu=64)  # tokens of a timed run
ROUNDS = by_scale(smoke=1, cpu=3, gpu=9)
BATCHES = by_scale(smoke=(1, 2), cpu=(1, 4, 16), gpu=(1, 4, 16, 64))
N_TEXTS = by_scale(smoke=1, cpu=12, gpu=200)  # reviews for bits per byte
set_seed()
figures.use_style()
study = recorded("efficient_inference")
s = study.scores
print(f"recorded {study.date}, {study.machine}, by: {study.command}")

# %% [markdown]
# ## 1. Reading is not writing
#
# To *read* a prompt ({term}`prefill`), all its tokens go through the model together. To *write* ({term}`decode`), one token goes through at a time, and each waits for the one before. The arithmetic of a token is the same. Is the time?

# %%
model, tokenizer = load_model("smollm2", device="cpu"), load_tokenizer("smollm2")
text = "The film begins in a small town on the coast, where nothing has happened for years. "
ids = torch.tensor([tokenizer.encode(4 * text).ids])
n = ids.size(1)
with torch.no_grad():
    seconds = in_turn({"read": lambda: model(ids, last_only=True),
                       "write": lambda: generate(model, ids[:, :8], N_NEW)}, ROUNDS)
speed = {"read": n / median(seconds["read"]), "write": N_NEW / median(seconds["write"])}
print({name: f"{value:.0f} tokens/s" for name, value in speed.items()})

# %%
claim("tokens read in a second over tokens written in a second",
      speed["read"] / speed["write"], ">", 1.5)

# %% [markdown]
# The same weights, the same products for each token, and reading is several times as fast. So it is not the arithmetic that limits writing. What else is there?
#
# ## 2. Two limits: a roofline
#
# Each number of a weight matrix has to be fetched from memory before it can be multiplied. When a prompt is read, a number that was fetched serves all tokens of the prompt. When a token is written, it serves that one token: one multiplication and one addition for four bytes. Call the FLOPs for each byte fetched the *intensity* $I$. A machine that can do $P$ FLOPs and read $B$ bytes in a second reaches at most
#
# $$\min(P,\; I \cdot B)$$ (eq-efficiency-roofline)
#
# FLOPs in a second, the {term}`roofline` {cite:p}`williams2009roofline`. Both limits of this machine, measured:

# %%
machine = measure_machine()
print(f"peak {machine.peak / 1e9:.0f} GFLOP/s, memory {machine.bandwidth / 1e9:.1f} GB/s, "
      f"ridge at {machine.ridge:.1f} FLOPs a byte")

# %% [markdown]
# And what a token costs, by formula: two FLOPs for each number of a matrix, and for each position that is looked at $4 L H K$ more:

# %%
flops = decode_flops(model, length=16)
weights = 4 * matrix_parameters(model)
print(f"{flops / 1e6:.0f} MFLOP and {weights / 1e6:.0f} MB for a token: {flops / weights:.2f} "
      "FLOPs a byte")
limit = machine.limit(flops / weights).item() / flops
print(f"the roofline allows {limit:.0f} tokens/s, {speed['write']:.0f} were written")

# %% [markdown]
# Half a FLOP a byte, far to the left of the ridge: writing is limited by *memory*, and the arithmetic units mostly wait. So there are two ways to write faster: fetch fewer bytes, or use each byte more than once. All that follows is one of the two.
#
# ## 3. What a cache saves, and what it takes
#
# Without a cache each new token would read everything before it again. With one, the keys and values of all positions are kept: $2 \cdot L \cdot G \cdot K$ numbers for each position, where $G$ is the number of key-value heads. With {term}`grouped-query attention` {cite:p}`ainslie2023gqa,shazeer2019fast` several query heads share one of these.

# %%
cache = model.new_cache()
with torch.no_grad():
    model(ids, cache=cache, last_only=True)
config = model.config
claim("bytes of the cache over the formula", held_bytes(cache) / cache_bytes(config, n),
      "==", 1)
each = cache_bytes(config, 1)
print(f"{each / 1e3:.1f} kB a position with {config.n_kv_heads} key-value heads; "
      f"{each * config.n_heads / config.n_kv_heads / 1e3:.1f} kB if each of the "
      f"{config.n_heads} query heads had its own")
print(f"as large as the weights at {weights // each:,} positions")

# %% [markdown]
# ## 4. Using each byte more than once: batches
#
# If several people ask at the same time, a weight that was fetched can serve all of them. The intensity grows with the batch, until the ridge is reached:

# %%
batch_speed, start = {}, ids[:, :8]
for size in BATCHES:
    rows = start.expand(size, -1)
    runs = in_turn({"batch": lambda rows=rows: generate(model, rows, N_NEW)}, ROUNDS)["batch"]
    batch_speed[size] = size * N_NEW / median(runs)
pd.Series(batch_speed, name="tokens/s, all together").round(0).rename_axis("batch")

# %%
claim("tokens in a second in the largest batch over those of a single sequence",
      batch_speed[BATCHES[-1]] / batch_speed[1], ">", 2)

# %% [markdown]
# A service that waits a moment to gather a batch sells the same machine several times over. For one reader alone, on a laptop, there is no batch. There only the other way is left.
#
# ## 5. Fewer bytes: 8 and 4 bits
#
# A weight in 32 bits is more exact than it needs to be. Put a grid over each row of a matrix: the largest magnitude becomes 127, and every number the nearest whole number of steps. The *scale* is kept beside, one for each row. By hand, then by the package:

# %%
row = torch.tensor([[0.31, -0.02, 0.127, -0.254]])
scale = row.abs().max() / 127
codes = (row / scale).round()
print(codes.tolist(), "steps of", round(scale.item(), 5))
grid = quantize(row)
assert grid.codes.tolist() == codes.int().tolist()
print("error:", (grid.dequantize() - row).abs().max().item(), "at most half a step:",
      scale.item() / 2)

# %% tags=["remove-input", "hide-output"]
show_source(quantize)

# %% [markdown]
# With 4 bits there are only sixteen values, so each group of 32 numbers has a scale and a middle of its own. What does this do to a model? The honest place to measure it is a model that was *trained* in 32 bits. (SmolLM2's file has 4 bits already; there little is left to lose.) The book's causal model, live on a few reviews, then recorded on many:

# %%
own = load_model(artifacts() / "reviews_causal", device="cpu")
own_tokenizer = load_tokenizer(artifacts() / "reviews_causal")
texts = reviews("imdb", "test")["text"][:N_TEXTS]
bos = own_tokenizer.token_to_id("<|endoftext|>")
live = {}
for name, how in {"32 bits": None, "8 bits": (8, 32), "4 bits, groups of 32": (4, 32)}.items():
    one = copy.deepcopy(own) if how is None else quantize_model(copy.deepcopy(own), *how)
    scores = score_texts(one, own_tokenizer, texts, 256, bos_id=bos)
    bits = bits_per_byte(scores.nats.sum(), int(scores.n_bytes.sum()))
    live[name] = {"MB": storage_bytes(one) / 1e6, "bits per byte": bits}
pd.DataFrame(live).T.round(4)

# %%
claim("live: bits per byte in 8 bits over those in 32",
      live["8 bits"]["bits per byte"] / live["32 bits"]["bits per byte"], "<", 1.01)
quality = study.table("quality")
quality.set_index(["model", "format"])[["bytes", "bits_per_byte", "worse", "low", "high"]].round(4)

# %% [markdown]
# READ-QUALITY (8 bits lose nothing that could be measured; 4 bits one to two parts in a hundred, less with smaller groups; torchao gives the same)
#
# And MiniLM, whose vectors are used: how far do they turn?

# %%
study.table("vectors").set_index("format")[["bytes", "cosine", "low", "high"]].round(5)

# %% [markdown]
# **Is it faster?** Only if the codes are turned into numbers *inside* the processor. If a whole matrix is made anew in memory first, more bytes are moved than before. PyTorch has routines that do it right, and `QuantizedLinear` uses them:

# %%
layer = torch.nn.Linear(576, 1536, bias=False)
eight = QuantizedLinear(layer)
x = torch.randn(1, 576)


def readable():
    return x @ eight.weight.T  # made anew in memory


with torch.no_grad():
    runs = in_turn({"32 bits": lambda: layer(x), "8 bits": lambda: eight(x),
                    "8 bits, made anew": readable}, 5 * ROUNDS)
{name: f"{1e6 * median(some):.0f} µs" for name, some in runs.items()}

# %%
speeds = {k: v for k, v in s.items() if k.startswith("1 thread: ")}
shown = {k.removeprefix("1 thread: "): round(v, 2) for k, v in speeds.items()}
pd.Series(shown, name="recorded, one thread").to_frame()

# %%
claim("recorded: tokens/s of SmolLM2 in 8 bits over transformers' generate in 32, low end of "
      "the interval", s["1 thread: 8 bits: the same, low end of the 95 % interval"], ">", 3)

# %% [markdown]
# READ-SPEED

# %% [markdown]
# ## 6. A smaller model that learns from a larger one
#
# A student can be trained on the same text as everybody. Or on the *teacher's probabilities* for each next token: where the text says "good", the teacher also says how likely "great" would have been. This is {term}`distillation` {cite:p}`hinton2015distilling`. With teacher $p$ and student $q$ the loss mixes both,
#
# $$\mathcal L = (1 - w)\,\big(-\log q(x)\big) + w \sum_v p(v)\,\big(-\log q(v)\big) .$$ (eq-efficiency-distil)

# %%
teacher_logits, logits = torch.randn(1, 3, 5), torch.randn(1, 3, 5)
labels = torch.tensor([[1, 4, 0]])
by_hand = -(teacher_logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
torch.testing.assert_close(soft_loss(logits, teacher_logits, labels).mean, by_hand)

# %%
students = study.table("students")
table = students.pivot_table(index="teacher", values="nats", aggfunc=["mean", "min", "max"])
table.round(3)

# %%
claim("recorded: what the teacher is worth to the student, least of three seeds, nats a token",
      s["student: the same, least of the seeds"], ">", 0.1)

# %% [markdown]
# READ-DISTIL
#
# ## 7. Guess, then check
#
# [Chapter 9](09_generation_and_dialogue.ipynb) proved that a draft may guess several tokens ahead without changing what is written {cite:p}`leviathan2023speculative,chen2023speculative`. It uses each byte of the target more than once: all guesses are checked in one call. What is a good draft?

# %%
guesses = study.table("speculation")
guesses.pivot_table(index="draft", columns="n_draft", values="calls").round(2)

# %% [markdown]
# READ-SPECULATION

# %% [markdown]
# ## 8. One picture

# %% mystnb={"figure": {"caption": "The roofline of the machine that made this page (line), and what was measured on it: SmolLM2 writing one sequence and several, and reading a prompt. Crosses: the intensity that a format allows, on the roof.", "name": "fig-efficiency-roofline"}, "image": {"alt": "ALT-ROOFLINE"}} tags=["hide-input"]
fig, ax = plt.subplots()
x = np.logspace(-1, 3, 200)
ax.plot(x, machine.limit(torch.tensor(x)).numpy() / 1e9, color="black", lw=1.5)
points = {f"write, batch {size}": (size * flops / weights, rate * flops / 1e9)
          for size, rate in batch_speed.items()}
points["read a prompt"] = (n * flops / weights, speed["read"] * flops / 1e9)
for (name, (intensity, reached)), marker in zip(points.items(), figures.MARKERS):
    ax.plot(intensity, reached, marker, ms=8, label=name)
for name, share in {"8 bits": 4, "4 bits": 6.4}.items():
    intensity = share * flops / weights
    ax.plot(intensity, machine.limit(intensity).item() / 1e9, "x", color="0.4")
    ax.annotate(name, (intensity, machine.limit(intensity).item() / 1e9),
                textcoords="offset points", xytext=(6, -10), fontsize=9)
ax.set(xscale="log", yscale="log", xlabel="FLOPs for each byte of weights",
       ylabel="GFLOP in a second")
ax.legend(fontsize=9)
plt.show()

# %% [markdown]
# READ-ROOFLINE

# %% [markdown]
# ## Summary
#
# SUMMARY
#
# (To come: exercises with checks — bytes of a cache, a 4-bit grid by hand, intensity and roofline; quizzes; box; further reading.)
