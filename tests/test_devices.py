"""What trains, scores, adapts and generates does the same on a GPU as on the CPU; skipped where there is none."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch

from plm_tutorial import finetuning, pretraining, runtime
from plm_tutorial.adaptation import LoraConfig, class_logits, inject
from plm_tutorial.batches import Batches, TextRows
from plm_tutorial.embedding import embed
from plm_tutorial.evaluation import score_texts
from plm_tutorial.generation import generate
from plm_tutorial.models import Bert, BertConfig
from plm_tutorial.models.decoder import Decoder, gpt2_recipe, modern_recipe
from plm_tutorial.objectives import predict_classes
from plm_tutorial.pretrained import export, load_model
from plm_tutorial.training import TrainingConfig, fit

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
each_device = pytest.mark.parametrize("device", DEVICES)
V = 40


class Cycles:
    """Batches in which each token follows from the one before it."""

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        start = torch.randint(V, (8, 1), generator=torch.Generator().manual_seed(step))
        ids = (start + 3 * torch.arange(17)) % V
        return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def decoder(recipe=modern_recipe, **more) -> Decoder:
    torch.manual_seed(0)
    return Decoder(recipe(V, context_length=32, d_model=32, n_layers=2, n_heads=2, d_hidden=64, **more))


def losses(device: str, steps: int = 12, folder=None, model=None, **config) -> list[float]:
    model = (model or decoder()).to(device)
    history = fit(model, Cycles(), TrainingConfig(steps, **{"lr": 1e-2} | config), folder=folder, progress=False)
    return history.column("loss")


@each_device
@pytest.mark.parametrize(("optimizer", "within"), [("adamw", 1e-3), ("muon", 0.05)])  # Muon multiplies in bf16 there
def test_a_training_is_the_same_on_every_device(device, optimizer, within):
    there, here = losses(device, optimizer=optimizer), losses("cpu", optimizer=optimizer)
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    np.testing.assert_allclose(there, here, rtol=within)


@each_device
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_precision_learns_on_every_device(device, precision, optimizer):
    found = losses(device, 100, precision=precision, optimizer=optimizer)
    assert found[0] == pytest.approx(np.log(V), rel=0.02) and found[-1] < 0.3


@each_device
def test_a_training_goes_on_there_and_on_the_cpu(device, tmp_path):
    def stop(model, history):
        if history.steps == 8:
            raise KeyboardInterrupt

    whole = losses(device, 16)
    with pytest.raises(KeyboardInterrupt):
        fit(
            decoder().to(device), Cycles(), TrainingConfig(16, lr=1e-2, checkpoint_every=4), folder=tmp_path / "there",
            callbacks=[stop], progress=False,
        )  # fmt: skip
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    np.testing.assert_allclose(losses(device, 16, tmp_path / "there"), whole, rtol=1e-3)
    np.testing.assert_allclose(losses("cpu", 16, tmp_path / "here"), whole, rtol=1e-3)


@each_device
def test_dropout_differs_from_step_to_step_and_repeats_with_the_seed(device):
    found = [losses(device, 4, model=decoder(dropout=0.3), seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert abs(found[0][0] - found[2][0]) > 1e-4


@each_device
@pytest.mark.parametrize("recipe", [gpt2_recipe, modern_recipe])
def test_greedy_tokens_are_the_same_with_and_without_a_cache(device, recipe):
    model = decoder(recipe).double().to(device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).to(parameter)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = generate(model, ids.to(device), 12)
    assert torch.equal(found.cpu(), generate(model.cpu(), ids, 12))
    assert torch.equal(found, generate(model.to(device), ids.to(device), 12, use_cache=False))


@each_device
def test_samples_are_drawn_there(device):
    model, ids = decoder().to(device).eval(), torch.tensor([[1, 2]], device=device)
    drawn, again = (
        generate(model, ids, 20, temperature=1.0, generator=torch.Generator(device).manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(drawn, again) and drawn.device.type == device and len(set(drawn[0].tolist())) > 3


# ---- texts


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    known = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "apple", "pear", "plum", "saw", "axe", "drill", "the", "a"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="[UNK]"))
    made.add_special_tokens(known[:4])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return made


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    words = (("apple", "pear", "plum"), ("saw", "axe", "drill"))
    return [" ".join(rng.choice([*words[i], "the", "a"], rng.integers(3, 9))) for i in labels], labels


def encoder(head: str | None = None) -> Bert:
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_hidden": 64, "context_length": 16, "init_std": 0.1}
    return Bert(BertConfig(12, **shape, **({"head": head, "n_labels": 2} if head else {})))


@each_device
def test_vectors_and_scores_of_texts_are_the_same(device, tokenizer, texts):
    here, there = encoder().eval(), encoder().to(device).eval()
    torch.testing.assert_close(embed(there, tokenizer, texts[0]).cpu(), embed(here, tokenizer, texts[0]))
    here, there = decoder().eval(), decoder().to(device).eval()
    of_texts = [score_texts(model, tokenizer, texts[0][:20], 16, bos_id=1).nats for model in (here, there)]
    np.testing.assert_allclose(*of_texts, rtol=1e-5)


@each_device
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_a_classifier_learns_there(device, tokenizer, texts, lora):
    model = encoder("sequence").to(device)
    if lora:
        inject(model, lora)
    rows = TextRows(texts[0], texts[1], tokenizer, 16)

    fit(model, Batches(rows, 32), TrainingConfig(60, lr=1e-2), objective=predict_classes, progress=False)
    logits = class_logits(model, rows)
    assert (logits.argmax(dim=1).cpu().numpy() == texts[1]).mean() > 0.95
    np.testing.assert_allclose(logits.cpu(), class_logits(model.cpu(), rows), atol=1e-3)


# ---- the commands' functions, from file to folder


@each_device
def test_a_pretraining_from_a_file_runs_there(device, tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_DEVICE", device)
    rng = np.random.default_rng(0)
    words = "a film that is good bad long short and was not the worst best".split()
    (tmp_path / "texts.txt").write_text("\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(300)))
    (tmp_path / "config.toml").write_text(
        f'[data]\nsource = "{tmp_path}/texts.txt"\n[tokenizer]\nvocab_size = 300\n[model]\nd_model = 32\nn_layers = 2\n'
        "n_heads = 2\nd_hidden = 64\n[batches]\nsize = 8\nlength = 16\n[training]\nsteps = 40\nlr = 1e-2\n"
        f'optimizer = "muon"\nprecision = "bf16"\n[run]\nfolder = "{tmp_path}/run"\n'
    )
    scores = pretraining.pretrain(tmp_path / "config.toml", lambda _: None)
    assert scores["validation loss, nats per token"] < 5.0 < np.log(300)
    assert next(load_model(tmp_path / "run").parameters()).device.type == device
    assert (
        runtime.machine().endswith(torch.cuda.get_device_name()) if device == "cuda" else "cores" in runtime.machine()
    )


@each_device
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_classifier_of_a_file_is_made_there(device, tmp_path, monkeypatch, tokenizer, texts, method):
    monkeypatch.setenv("PLM_DEVICE", device)
    base = export(encoder(), tmp_path / "base", tokenizer)
    numbered = [f"{one} {i}" for i, one in enumerate(texts[0])]
    pd.DataFrame({"said": numbered, "kind": np.array(["fruit", "tool"])[texts[1]]}).to_csv(tmp_path / "f.csv")
    config = finetuning.FinetuningConfig(
        data=str(tmp_path / "f.csv"), text="said", label="kind", out=str(tmp_path / "out"), model=str(base),
        method=method, epochs=10, batch=16, lr=1e-2,
    )  # fmt: skip
    assert finetuning.finetune(config, lambda _: None).numbers()["test accuracy"] > 0.9
