"""A classifier from a file: the whole way on a small encoder, what is told, what is refused, and how a run goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
import transformers
from typer.testing import CliRunner

from plm_tutorial import cli, finetuning
from plm_tutorial.adaptation import class_logits
from plm_tutorial.batches import TextRows
from plm_tutorial.finetuning import FinetuningConfig, Scores, classify, finetune, predict
from plm_tutorial.models import Bert, BertConfig
from plm_tutorial.pretrained import export, load_model, load_tokenizer

WORDS = {"fruit": "apple pear plum fig".split(), "tool": "saw axe drill file".split(), "place": "sea hill lake".split()}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a small encoder with random weights, without a head."""
    known = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(word for some in WORDS.values() for word in some), "the", "a"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="[UNK]"))
    made.add_special_tokens(known[:4])
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_hidden": 32, "context_length": 24, "init_std": 0.1}
    return export(Bert(BertConfig(vocab_size=len(known), **shape)), tmp_path_factory.mktemp("model") / "base", made)


def texts_of(n: int, seed: int = 0) -> pd.DataFrame:
    """Texts of three kinds: a word or two of the kind, among words that say nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        kind = list(WORDS)[i % 3]
        some = [*rng.choice(WORDS[kind], 2), *rng.choice(["the", "a", "which", "of"], rng.integers(0, 6))]
        rows.append((" ".join(rng.permutation(some)) + f" x{i}", kind))
    return pd.DataFrame(rows, columns=["said", "kind"])


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A file with all that can go wrong in one and be used nevertheless; its rows begin with number 2."""
    frame = texts_of(300)
    frame.loc[3, "said"] = "   "
    frame.loc[4, "said"] = 'the "apple",\nthe 🍏\x00'
    frame.loc[5, "said"] = "saw " * 5000
    frame.loc[6, "kind"] = ""
    frame.loc[7, "said"] = frame.loc[10, "said"].upper()  # a copy with the same label
    frame.loc[8, "said"] = frame.loc[9, "said"]  # a copy with another label
    frame.loc[300] = ["the only one of its kind", "rare"]
    path = tmp_path_factory.mktemp("data") / "messy.csv"
    frame.to_csv(path, index=False)
    return path


def settings(encoder, data, out, **more) -> FinetuningConfig:
    given = {"data": str(data), "text": "said", "label": "kind", "out": str(out), "model": str(encoder)}
    return FinetuningConfig(**given | {"epochs": 12, "batch": 16, "lr": 5e-3} | more)


@pytest.fixture(scope="module")
def made(encoder, messy, tmp_path_factory):
    """The folder of a run, its scores, and what was said."""
    said = []
    out = tmp_path_factory.mktemp("runs") / "kinds"
    scores = finetune(settings(encoder, messy, out), said.append)
    return out, scores, said


def test_a_messy_file_becomes_a_classifier(made):
    out, scores, said = made
    assert scores.names == ["fruit", "place", "rare", "tool"]
    assert scores.numbers()["test accuracy"] > 0.9
    told = "\n".join(said)
    assert "left out: 1 row without a text (5); 1 row without a label (8)" in told
    assert "2 copies of other texts" in told and "1 copies have another label than their original; look at rows" in told
    assert "the class 'rare' (row 302) has fewer than 3 different texts" in told
    assert "1 texts are longer than 16 tokens" in told
    names = {"README.md", "config.json", "confusion.png", "log.csv", "model.safetensors", "record.json", "run.json"}
    names |= {"splits.csv", "test_predictions.csv", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in out.iterdir()} - {".lock"} == names
    splits = pd.read_csv(out / "splits.csv")
    assert splits.groupby("key")["split"].nunique().max() == 1
    assert (splits["split"] == "test").sum() == len(scores.labels)


def test_the_model_card_says_what_was_measured(made):
    out, scores, _ = made
    card = (out / "README.md").read_text()
    record = json.loads((out / "record.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert f"| accuracy | {record['scores']['test accuracy']:.3f} (" in card
    assert "left out: 1 row without a text (5)" in card and "| rare | – | – | – | 0 |" in card
    assert "accuracy of TF-IDF and logistic regression" in card
    assert (out / "confusion.png").read_bytes()[1:4] == b"PNG"
    assert record["scores"]["test accuracy"] == pytest.approx((scores.labels == scores.predictions).mean())


@pytest.mark.filterwarnings("ignore")
def test_the_result_opens_with_load_model_and_in_transformers(made):
    out, scores, _ = made
    model = load_model(out, device="cpu")
    assert model.config.label_names == ("fruit", "place", "rare", "tool")
    test = pd.read_csv(out / "test_predictions.csv")
    ours = class_logits(model, TextRows(test["text"].tolist(), None, load_tokenizer(out), 16))
    np.testing.assert_allclose(ours.softmax(-1).numpy(), scores.probabilities, atol=2e-6)
    pipe = transformers.pipeline("text-classification", str(out), top_k=None)
    for text, row in zip(test["text"][:5], ours.softmax(-1), strict=False):
        theirs = {one["label"]: one["score"] for one in pipe([text])[0]}
        assert list(map(theirs.get, scores.names)) == pytest.approx(row.tolist(), abs=1e-5)


def test_the_same_command_again_shows_the_result_and_another_one_is_refused(made, encoder, messy):
    out, scores, _ = made
    begun = time.perf_counter()
    again = finetune(settings(encoder, messy, out), lambda line: None)
    assert time.perf_counter() - begun < 20 and (again.predictions == scores.predictions).all()
    with pytest.raises(ValueError, match=r"holds a run with --lr = 0.005, now it is 0.001; restore that, or choose"):
        finetune(settings(encoder, messy, out, lr=1e-3))


def test_predictions_for_another_file(made, tmp_path):
    out, _, _ = made
    frame = texts_of(30, seed=9)
    frame.loc[2, "said"] = ""
    frame.to_json(tmp_path / "new.jsonl", orient="records", lines=True)
    said = []
    found = pd.read_csv(predict(out, tmp_path / "new.jsonl", tmp_path / "to" / "found.csv", say=said.append))
    assert said == ["left out: 1 row without a text (3)"]
    assert found["row"].tolist() == [1, 2, *range(4, 31)]
    assert (found["predicted"] == frame["kind"].drop(2).tolist()).mean() > 0.9
    columns = found[[f"p({name})" for name in ("fruit", "place", "rare", "tool")]]
    assert columns.to_numpy().sum(axis=1) == pytest.approx(np.ones(29), abs=1e-5)


def test_scores_on_another_file_and_a_warning_if_it_was_trained_on(made, messy, tmp_path):
    out, _, _ = made
    texts_of(60, seed=9).to_csv(tmp_path / "new.csv", index=False)
    said = []
    scores = finetuning.evaluate(out, tmp_path / "new.csv", say=said.append)
    assert scores.numbers()["test accuracy"] > 0.9 and said == []
    finetuning.evaluate(out, messy, say=said.append)
    assert any("texts were trained on or chosen by" in line for line in said)
    pd.DataFrame({"said": ["a", "b"], "kind": ["fruit", "metal"]}).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(ValueError, match="row 3: the label 'metal' is none of the classifier's, 'fruit', 'place'"):
        finetuning.evaluate(out, tmp_path / "odd.csv")


@pytest.mark.parametrize("method", ["lora", "head"])
def test_other_methods_train_few_parameters(encoder, tmp_path, method):
    texts_of(120).to_csv(tmp_path / "a.csv", index=False)
    out = tmp_path / "out"
    finetune(settings(encoder, tmp_path / "a.csv", out, method=method, epochs=2, balanced=True), lambda line: None)
    model, base = load_model(out, device="cpu"), load_model(encoder, device="cpu")
    before, after = base.state_dict(), model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("query" in name or "value" in name for name in moved) and bool(moved) == (method == "lora")
    assert (out / "adapter" / "adapter_config.json").is_file() == (method == "lora")
    if method == "lora":
        adapted = load_model(encoder, adapter=out / "adapter", device="cpu")
        rows = TextRows(["the apple", "a saw"], None, load_tokenizer(out), 16)
        torch.testing.assert_close(class_logits(adapted, rows), class_logits(model, rows), atol=1e-5, rtol=0)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(made, encoder, messy, tmp_path):
    out = tmp_path / "out"
    code = "from plm_tutorial.finetuning import *\n"
    code += f"finetune(FinetuningConfig(**{settings(encoder, messy, out).__dict__!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((out / "checkpoints").glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "record.json").exists()
    finetune(settings(encoder, messy, out), lambda line: None)
    assert (out / "model.safetensors").read_bytes() == (made[0] / "model.safetensors").read_bytes()
    assert (out / "test_predictions.csv").read_text() == (made[0] / "test_predictions.csv").read_text()
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "some"}, "method is 'some'; implemented here: full, lora, head"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"label": "said"}, "text and label are both 'said'"),
        ({"length": 100}, "--length is 100; expected 3 to 24"),
        ({"model": "nowhere/../at/all"}, "nowhere"),
        ({"text": "sad"}, "no column 'sad'; did you mean 'said'"),
    ],
)
def test_settings_that_are_refused(encoder, messy, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(settings(encoder, messy, tmp_path / "out", **options), lambda line: None)


def test_files_that_cannot_be_learned_from(encoder, tmp_path):
    frame = texts_of(9)
    frame.assign(kind="fruit").to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(ValueError, match="all rows have the label 'fruit'; there is nothing to tell apart"):
        finetune(settings(encoder, tmp_path / "one.csv", tmp_path / "out"))
    frame[:6].to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(ValueError, match="of these 3 classes 0 have them"):
        finetune(settings(encoder, tmp_path / "few.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear …")
    texts_of(60).to_csv(tmp_path / "good.csv", index=False)
    with pytest.raises(ValueError, match="holds files and no run"):
        finetune(settings(encoder, tmp_path / "good.csv", tmp_path / "mine"))
    with pytest.raises(ValueError, match="is no classifier of texts"):
        classify(encoder, ["a"])


def test_the_commands(made, tmp_path):
    out, scores, _ = made
    frame = texts_of(60, seed=9)
    frame.to_csv(tmp_path / "new.csv", index=False)
    run = CliRunner().invoke
    arguments = ["--model", str(out), "--data", str(tmp_path / "new.csv")]
    shown = run(cli.app, ["eval", *arguments, "--plot", str(tmp_path / "plot.png")])
    assert shown.exit_code == 0, shown.stderr
    assert "fruit" in shown.stdout and "accuracy" in shown.stdout and "95 % interval" in shown.stdout
    assert (tmp_path / "plot.png").is_file()
    assert run(cli.app, ["predict", *arguments, "--out", str(tmp_path / "p.csv")]).exit_code == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 60
    wrong = run(cli.app, ["predict", *arguments, "--text", "words"])
    assert wrong.exit_code == 1 and "has no column 'words'" in wrong.stderr and "Traceback" not in wrong.stderr
    refused = run(
        cli.app, ["finetune", "--data", "none.csv", "--text", "a", "--label", "b", "--out", str(tmp_path / "o")]
    )
    assert refused.exit_code == 1 and "there is no file none.csv" in refused.stderr


def test_labels_that_look_like_numbers_or_nothing_stay_as_they_are(tmp_path):
    labels, logits = np.array([0, 1, 2, 2]), torch.eye(3)[[0, 1, 2, 2]]
    names = ["01", "1", "NA"]
    finetuning._write_predictions(tmp_path / "p.csv", np.arange(4), ["a", "b", "", "d"], logits, names, labels)
    scores = Scores.read(tmp_path / "p.csv", names)
    assert scores.labels.tolist() == [0, 1, 2, 2] == scores.predictions.tolist()
