"""Published tokenizers: every way in, and the errors of every way in."""

import os
import shutil
import subprocess
import sys
import time

import gguf
import pytest
import regex
from tokenizers import Tokenizer

import plm_tutorial
from plm_tutorial import assets, runtime, text
from plm_tutorial.pretrained import gguf_metadata, gguf_tokenizer, load_tokenizer
from plm_tutorial.tokenizers import apply_merges, pretokenize, printable, train_fast_bpe

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    assets.path("smollm2")  # fetched and hashed, which is not what the next lines measure
    start = time.process_time()
    tokenizer = load_tokenizer("smollm2")
    assert time.process_time() - start < 3
    return tokenizer


# ---- what is published


def test_minilm_neither_cuts_nor_pads():
    tokenizer = load_tokenizer("minilm")
    assert tokenizer.encode("Hello!").tokens == ["[CLS]", "hello", "!", "[SEP]"]
    assert len(tokenizer.encode("word " * 500).ids) == 502


def test_smollm2_gives_the_ids_known_for_it(smollm2):
    # From the self-check of another implementation of this tokenizer.
    known = {
        "The capital of France is": [504, 3575, 282, 4649, 314],
        "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
        "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
        "  multiple   spaces": [216, 2701, 256, 5600],
    }
    for string, ids in known.items():
        assert smollm2.encode(string).ids == ids
        assert smollm2.decode(ids) == string


def test_smollm2_equals_our_own_merging(smollm2):
    metadata = gguf_metadata(assets.path("smollm2", GGUF_FILE))
    names = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    byte_of = {printable(bytes([b])): bytes([b]) for b in range(256)}
    ranks = {tuple(b"".join(byte_of[c] for c in part) for part in pair): rank for rank, pair in enumerate(merges)}
    for review in text.reviews(split="test")["text"][:60]:
        parts = regex.split(r"(\p{N})", review)  # every digit by itself, then GPT-2's pattern
        pieces = [piece for part in parts for piece in pretokenize(part)]
        expected = [printable(token) for piece in pieces for token in apply_merges(piece.encode(), ranks)]
        encoding = smollm2.encode(review)
        assert encoding.tokens == expected
        assert [names[i] for i in encoding.ids] == expected


def test_smollm2_knows_its_special_tokens(smollm2):
    assert smollm2.get_vocab_size() == 49152
    assert smollm2.encode("<|im_start|>user\nHi<|im_end|>").ids[::4] == [1, 2]
    assert smollm2.decode([1, 2, 19556]) == "Hello"


def test_the_package_itself_offers_the_loader():
    assert plm_tutorial.load_tokenizer is load_tokenizer


# ---- folders and files


def test_folder_file_and_gguf_by_path(smollm2, tmp_path):
    train_fast_bpe(["a rose is a rose"], 270, ["<|end|>"]).save(str(tmp_path / "tokenizer.json"))
    ids = load_tokenizer(tmp_path).encode("a rose").ids
    assert load_tokenizer(str(tmp_path / "tokenizer.json")).encode("a rose").ids == ids
    assert len(ids) == 2
    by_path = load_tokenizer(assets.path("smollm2", GGUF_FILE))
    assert by_path.get_vocab() == smollm2.get_vocab()


def test_a_file_under_artifacts_is_noted_in_the_page_record(tmp_path):
    folder = tmp_path / "artifacts" / "tiny"
    folder.mkdir(parents=True)
    train_fast_bpe(["a rose"], 260).save(str(folder / "tokenizer.json"))
    load_tokenizer(folder)
    noted = runtime.page_record().reads
    assert noted["artifacts/tiny/tokenizer.json"] == runtime.file_sha256(folder / "tokenizer.json")


def test_paths_that_hold_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no tokenizer.json; it holds config.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"config.json is no tokenizer.json of the tokenizers library"):
        load_tokenizer(tmp_path / "config.json")
    for missing in (tmp_path / "no.gguf", "./missing", "a/b/c", "some.json"):
        with pytest.raises(ValueError, match="there is no file or folder .*minilm, smollm2"):
            load_tokenizer(missing)


# ---- GGUF


def _write_gguf(path, model="gpt2", pre="smollm", tokens=("<s>", "a", "b", "Ġ", "ab", "<user>"), **extra):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("test.float", 0.5)
    writer.add_array("test.numbers", [1, 2, 3])
    writer.add_uint64("test.big", 2**40)
    if model:
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(list(tokens))
        writer.add_token_types([3, 1, 1, 1, 1, 4])
        writer.add_token_merges(["a b"])
    for key, value in extra.items():
        writer.add_bool(key.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_metadata_equals_the_gguf_library(tmp_path):
    for path in (_write_gguf(tmp_path / "small.gguf"), assets.path("smollm2", GGUF_FILE)):
        fields = gguf.GGUFReader(path).fields
        assert gguf_metadata(path) == {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.")}


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_small_gguf_tokenizer(tmp_path, pre):
    tokenizer = load_tokenizer(_write_gguf(tmp_path / "small.gguf", pre=pre))
    assert tokenizer.encode("ab a<user>b<s>").ids == [4, 3, 1, 5, 2, 0]
    assert tokenizer.decode([0, 4, 5]) == "ab<user>"  # <s> is a control token, <user> is not


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "has no tokenizer"),
        ({"model": "llama"}, "model 'llama' with pre-tokenizer 'smollm'; implemented is"),
        ({"pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe'; implemented is model 'gpt2' with one of gpt-2, smollm"),
        ({"tokenizer__ggml__add_bos_token": True}, "wants a begin or end token"),
    ],
)
def test_gguf_tokenizers_that_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer(_write_gguf(tmp_path / "other.gguf", **options))


def test_damaged_gguf_files(tmp_path):
    whole = _write_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "damaged.gguf"
    for size in (0, 10, 24, 60, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged.gguf cannot be read as a GGUF file"):
            load_tokenizer(path)
    path.write_bytes(b"PK" + whole[2:])
    with pytest.raises(ValueError, match="does not begin like GGUF"):
        load_tokenizer(path)
    path.write_bytes(whole[:24] + b"\xff" * 8 + whole[32:])  # the first key claims to be 2**64 - 1 bytes long
    with pytest.raises(ValueError, match="in the middle of a value"):
        load_tokenizer(path)


def test_the_tensors_are_not_read(tmp_path):
    """A file cut off after its metadata will do."""
    source = assets.path("smollm2", GGUF_FILE)
    head = tmp_path / "head.gguf"
    with open(source, "rb") as stream:
        head.write_bytes(stream.read(4_000_000))
    assert source.stat().st_size > 20 * head.stat().st_size
    assert load_tokenizer(head).get_vocab_size() == 49152


# ---- the hub


def _load_in_new_process(name: str, hf_home, offline: str = "1") -> subprocess.CompletedProcess:
    code = f"from plm_tutorial import load_tokenizer\nprint(load_tokenizer({name!r}).encode('a rose').ids)"
    environment = os.environ | {"HF_HOME": str(hf_home), "HF_HUB_OFFLINE": offline}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_hub_id_from_the_hubs_cache(tmp_path):
    repository = tmp_path / "hub" / "models--someone--roses"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    tokenizer = train_fast_bpe(["a rose is a rose"], 270, ["<|end|>"])
    tokenizer.save(str(repository / "snapshots" / revision / "tokenizer.json"))
    done = _load_in_new_process("someone/roses", tmp_path)
    assert done.stdout.strip() == str(tokenizer.encode("a rose").ids), done.stderr
    shutil.rmtree(repository)
    assert _load_in_new_process("someone/roses", tmp_path).returncode == 1


def test_hub_id_that_cannot_be_had(tmp_path):
    error = _load_in_new_process("someone/smollm2", tmp_path).stderr.strip().splitlines()[-1]
    assert error.startswith("ValueError: 'someone/smollm2' is no registry name (minilm, smollm2)")
    assert "connect to the network" in error
    assert "LocalEntryNotFoundError" in error or "OfflineModeIsEnabled" in error


def test_a_misspelled_name_is_answered_at_once():
    with pytest.raises(ValueError, match="'minlm' is no registry name .*Did you mean 'minilm'?"):
        load_tokenizer("minlm")
