"""export: a folder that transformers opens with equal outputs, and that is there whole or not at all."""

import json
import os
import stat
import subprocess
import sys

import pytest
import safetensors
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from plm_tutorial import assets, load_model, load_tokenizer, pretrained, weights
from plm_tutorial.models import Bert, BertConfig, Llama, LlamaConfig, Transformer, TransformerConfig, TransformerEncoder
from plm_tutorial.pretrained import export

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 24}
SMALL |= {"num_attention_heads": 4, "num_hidden_layers": 2}
GPT2 = {"vocab_size": 50, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
# The class of transformers, and its configuration.
MODELS = {
    "bert": ("Bert", "Model", {}),
    "bert for words": ("Bert", "ForMaskedLM", {}),
    "bert for words, untied": ("Bert", "ForMaskedLM", {"tie_word_embeddings": False}),
    "bert after pretraining": ("Bert", "ForPreTraining", {}),
    "bert for one text": ("Bert", "ForSequenceClassification", {"num_labels": 4}),
    "bert for one text, a number": ("Bert", "ForSequenceClassification", {"num_labels": 1}),
    "bert for tokens": ("Bert", "ForTokenClassification", {"num_labels": 4}),
    "bert for spans": ("Bert", "ForQuestionAnswering", {"num_labels": 2}),
    "roberta": ("Roberta", "Model", {"type_vocab_size": 1}),
    "roberta for words": ("Roberta", "ForMaskedLM", {"type_vocab_size": 1}),
    "roberta for words, untied": ("Roberta", "ForMaskedLM", {"tie_word_embeddings": False}),
    "roberta for one text": ("Roberta", "ForSequenceClassification", {"num_labels": 4}),
    "roberta for tokens": ("Roberta", "ForTokenClassification", {"num_labels": 4, "classifier_dropout": 0.3}),
    "roberta for spans": ("Roberta", "ForQuestionAnswering", {"num_labels": 2}),
    "llama": ("Llama", "ForCausalLM", {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "llama, tied": ("Llama", "ForCausalLM", {"tie_word_embeddings": True, "head_dim": 16}),
    "mistral": ("Mistral", "ForCausalLM", {"num_key_value_heads": 2, "sliding_window": 3}),
    "mistral without a window": ("Mistral", "ForCausalLM", {"num_key_value_heads": 2, "sliding_window": None}),
    "gpt2": ("GPT2", "LMHeadModel", GPT2),
    "gpt2, untied": ("GPT2", "LMHeadModel", GPT2 | {"tie_word_embeddings": False, "n_inner": 40}),
    "t5": ("T5", "ForConditionalGeneration", T5),
    "t5 1.1": (
        "T5",
        "ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}
IDS = torch.randint(3, 50, (2, 9))


def _reference(name):
    """A random model of transformers."""
    family, kind, options = MODELS[name]
    options = options if family in ("GPT2", "T5") else SMALL | options
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{kind}")(getattr(transformers, f"{family}Config")(**options)).eval()
    if name == "t5 1.1":  # Transformers 5 gives a new model no output layer of its own
        model.lm_head.weight = nn.Parameter(torch.randn(50, 32) / 4)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def _run(reference, ids=IDS):
    more = {"decoder_input_ids": ids} if reference.config.is_encoder_decoder else {}
    with torch.no_grad():
        out = reference(ids, **more)
    if "start_logits" in out:
        return torch.stack((out.start_logits, out.end_logits), dim=-1)
    names = ("logits", "prediction_logits", "last_hidden_state")
    return next(out[name] for name in names if name in out)


def _run_ours(model, ids=IDS):
    with torch.no_grad():
        return model(ids, decoder_input_ids=ids) if hasattr(model, "decode") else model(ids)


def _tensors(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_from_transformers_and_back(tmp_path, name, dtype):
    """save_pretrained, load_model, export, from_pretrained: the same names, the same bits, the same outputs."""
    _reference(name).to(dtype).save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu", dtype=dtype)
    folder = export(ours, tmp_path / "ours")
    before, after = _tensors(tmp_path / "theirs"), _tensors(folder)
    if name.startswith("gpt2"):  # our names are those of OpenAI's files
        before = {n.removeprefix("transformer."): value for n, value in before.items()}
    dropped = () if "one text" in name else ("pooler.", "bert.pooler.", "cls.seq_relationship.")
    if "words, untied" in name:
        dropped += ("cls.predictions.bias", "lm_head.bias")
    assert {n for n in before if not n.startswith(dropped)} == after.keys()
    for n, value in after.items():
        assert value.dtype == dtype and torch.equal(value, before[n]), n

    kind = getattr(transformers, "".join(MODELS[name][:2]))
    reference = kind.from_pretrained(tmp_path / "theirs").eval()
    again = type(reference).from_pretrained(folder).eval()
    assert again.dtype == dtype and torch.equal(_run(again), _run(reference))
    if dtype == torch.float32:
        torch.testing.assert_close(_run_ours(load_model(folder, device="cpu")), _run(again), atol=1e-5, rtol=0)
    theirs, written = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "theirs", folder))
    differ = {"bos_token_id", "eos_token_id", "torch_dtype", "rope_theta"}  # from the tokenizer; for older releases
    differ |= {"architectures"} if name == "bert after pretraining" else set()
    if name == "mistral without a window":
        differ |= {"architectures", "model_type"}
    if name == "t5 1.1":
        differ |= {"tie_word_embeddings"}
    for key in written.keys() - differ:
        assert theirs.get(key) in (written[key], None), key


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("bert", "AutoModel"),
        ("bert for words", "AutoModelForMaskedLM"),
        ("roberta for one text", "AutoModelForSequenceClassification"),
        ("bert for tokens", "AutoModelForTokenClassification"),
        ("roberta for spans", "AutoModelForQuestionAnswering"),
        ("llama", "AutoModelForCausalLM"),
        ("mistral", "AutoModelForCausalLM"),
        ("gpt2", "AutoModelForCausalLM"),
        ("t5", "AutoModelForSeq2SeqLM"),
    ],
)
def test_the_automatic_classes_open_it_from_shards(tmp_path, name, auto):
    reference = _reference(name)
    reference.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs", device="cpu")
    folder = export(ours, tmp_path / "ours", max_shard_bytes=10_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2 and [f.name for f in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in _tensors(folder).values())
    for file in files:
        assert sum(v.nbytes for v in load_file(file).values()) <= 10_000 or len(load_file(file)) == 1
        with safetensors.safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    opened = getattr(transformers, auto).from_pretrained(folder).eval()
    assert type(opened) is type(reference) and torch.equal(_run(opened), _run(reference))


def test_a_half_written_shard_is_named(tmp_path):
    folder = export(_llama(), tmp_path / "model", max_shard_bytes=4000)
    shard = sorted(folder.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(weights.WeightsError, match=f"{shard} cannot be read as a safetensors file.*fetch it again"):
        load_model(folder, device="cpu")


# ---- the registry's models, with their tokenizers

TEXT = "A film that's worth its 123 minutes… “naïve”, [SEP] said <|im_end|> nobody."


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_published_models_with_their_tokenizers(tmp_path, name):
    """SmolLM2 comes from a GGUF file and leaves as a folder of the hub's kind."""
    ours, tokenizer = load_model(name, device="cpu"), load_tokenizer(name)
    folder = export(ours, tmp_path / name, tokenizer)
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(p.name for p in folder.iterdir()) == files
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    batch = theirs(TEXT, return_tensors="pt")
    assert batch.input_ids[0].tolist() == tokenizer.encode(TEXT).ids == load_tokenizer(folder).encode(TEXT).ids
    assert theirs.decode(batch.input_ids[0]) == tokenizer.decode(batch.input_ids[0].tolist(), skip_special_tokens=False)
    assert theirs.model_max_length == ours.config.context_length
    if name == "minilm":
        reference = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        assert theirs("a", "b").token_type_ids == [0, 0, 0, 1, 1]
        assert theirs.pad_token_id == 0 and theirs.mask_token == "[MASK]"
        assert theirs(["a", "a b"], padding=True).attention_mask == [[1, 1, 1, 0], [1, 1, 1, 1]]
    else:
        reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        assert theirs.eos_token == "<|im_end|>" and reference.config.eos_token_id == 2
        assert type(reference) is transformers.LlamaForCausalLM and "token_type_ids" not in batch
    with torch.no_grad():
        out = reference(**batch)
        expected = out.last_hidden_state if name == "minilm" else out.logits
        torch.testing.assert_close(ours(batch.input_ids), expected, atol=1e-4, rtol=0)
    again = load_model(folder, device="cpu")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


# ---- whole or not at all


def _llama(**options):
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "context_length": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1}
    return Llama(LlamaConfig(**shape | {"d_head": 8, "d_hidden": 24} | options)).eval()


def _beside(folder):
    """The names in the folder's folder."""
    return sorted(p.name for p in folder.parent.iterdir())


def test_where_it_writes(tmp_path, monkeypatch):
    """Folders on the way are made, an empty one is filled, a path may be relative; the user says who may read."""
    model = _llama()
    assert export(model, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "empty").mkdir()
    export(model, str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        folder = export(model, "relative")
    finally:
        os.umask(before)
    assert folder == tmp_path / "relative" and _beside(folder) == ["a", "empty", "relative"]
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640} and stat.S_IMODE(folder.stat().st_mode) == 0o750
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert export(model, tmp_path / "link") == tmp_path / "elsewhere" and (tmp_path / "link").is_symlink()


def test_what_is_there_is_not_overwritten(tmp_path):
    model, other = _llama(), _llama(n_layers=1)
    folder = export(model, tmp_path / "model", max_shard_bytes=1000)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match=r"the folder .*/model is not empty; pass another one, or overwrite=True"):
        export(other, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    export(other, folder, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]  # no shard is left over
    assert load_model(folder, device="cpu").config == other.config and _beside(folder) == ["model"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no config.json, so it is no model's and is not replaced"):
        export(model, tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match="thesis.txt is a file; pass the name of a folder"):
        export(model, tmp_path / "notes" / "thesis.txt", overwrite=True)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("fails", ["save_file", "_write_json", "replace"])
def test_an_error_leaves_what_was_there(tmp_path, monkeypatch, fails, there):
    folder = tmp_path / "model"
    if there:
        export(_llama(), folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()} if there else None
    done, real_replace = [], os.replace

    def fail(*arguments):
        done.append(arguments)
        if fails == "replace" and arguments[0].name != "new":
            return real_replace(*arguments)
        raise OSError(28, "No space left on device")

    place = {"save_file": weights, "_write_json": pretrained, "replace": pretrained.os}[fails]
    monkeypatch.setattr(place, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        export(_llama(n_layers=1), folder, overwrite=True)
    monkeypatch.undo()
    assert done and _beside(folder) == (["model"] if there else [])
    assert not there or {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_killed_at_any_moment_the_folder_is_whole(tmp_path):
    """A process ends at once, without clean-up, before each of the calls that touch the disk in turn."""
    code = (
        "import os, sys\nfrom plm_tutorial import load_model, pretrained, weights\n"
        "left, model = 0, load_model(sys.argv[1], device='cpu')\n"
        "def counted(real):\n"
        "    def call(*arguments):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "        return real(*arguments)\n"
        "    return call\n"
        "weights.save_file = counted(weights.save_file)\n"
        "pretrained._write_json = counted(pretrained._write_json)\n"
        "pretrained.os.replace = counted(os.replace)\n"
        "for n in range(7):\n"
        "    if not os.fork():\n"
        "        left = n\n"
        "        pretrained.export(model, f'{sys.argv[2]}/{n}', max_shard_bytes=10000)\n"
        "        os._exit(0)\n"
        "    print(n, os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    source = export(_llama(), tmp_path / "source")
    done = subprocess.run([sys.executable, "-c", code, source, tmp_path], capture_output=True, text=True)
    codes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert codes == [9] * 4 + [0] * 3, done.stderr  # two shards, config.json, the rename: killed before each of them
    assert [(tmp_path / str(n)).exists() for n in range(7)] == [False] * 4 + [True] * 3
    assert load_model(tmp_path / "4", device="cpu").config == _llama().config


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_transformer_of_2017_opens_again(tmp_path, norm):
    small = {"vocab_size": 40, "d_model": 8, "n_layers": 2, "n_heads": 2, "d_hidden": 16, "norm": norm}
    model = Transformer(TransformerConfig(**small)).eval()
    again = load_model(export(model, tmp_path / "model"), device="cpu")
    assert again.config == model.config and type(again) is Transformer
    source, target = torch.randint(40, (2, 5)), torch.randint(40, (2, 4))
    assert torch.equal(again(source, decoder_input_ids=target), model(source, decoder_input_ids=target))


# ---- what cannot be exported


class _Adapted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.extra = inner, nn.Parameter(torch.ones(3))


def test_models_without_a_published_form(tmp_path):
    adapted, diverged = _llama(), _llama()
    adapted.layers[0].attention.query = _Adapted(adapted.layers[0].attention.query)
    diverged.layers[1].feed_forward.up.weight.data[0, 0] = torch.nan
    for model, message in (
        (nn.Linear(2, 2), "a Linear has no published form; export takes Bert, Decoder, GPT2, Llama, T5, Transformer"),
        (TransformerEncoder(8, 2, 16), "a TransformerEncoder has no published form; export takes Bert"),
        (adapted, r"'layers.0.attention.query.extra' \(and 1 more\) of this Llama has no published name"),
        (diverged, "the parameter layers.1.feed_forward.up.weight holds numbers that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / "model")
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the tokenizer has 49152 tokens, the model knows 40: pass the tokenizer that"):
        export(_llama(), tmp_path / "model", load_tokenizer("smollm2"))
    assert not list(tmp_path.iterdir())


def test_a_head_of_ones_own_travels(tmp_path):
    """A model fine-tuned here: the body of MiniLM, a new head; from our folder it has its labels and its pooler."""
    model = load_model("minilm", "sequence", 3, device="cpu")
    folder = export(model, tmp_path / "mine")
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert reference.config.num_labels == 3 and reference.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    ids = torch.tensor([load_tokenizer("minilm").encode(TEXT).ids])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(ids).logits, atol=1e-5, rtol=0)
    assert assets.path("minilm") and torch.equal(load_model(folder, device="cpu")(ids), model(ids))


def test_mixed_precision_is_kept_tensor_by_tensor(tmp_path):
    model = Bert(BertConfig(vocab_size=40, d_model=8, n_layers=1, n_heads=1, d_hidden=8)).bfloat16()
    model.layers[0].feed_forward_norm.float()
    written = load_file(export(model, tmp_path / "model") / "model.safetensors")
    assert written.pop("encoder.layer.0.output.LayerNorm.weight").dtype == torch.float32
    assert written["embeddings.word_embeddings.weight"].dtype == torch.bfloat16
