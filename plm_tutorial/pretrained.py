"""The one door to published tokenizers: by registry name, from a folder or file, or from the hub.

In: a name or a path. Out: a tokenizer of the ``tokenizers`` library.
"""

from __future__ import annotations

import difflib
import struct
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import tokenizers
from huggingface_hub import hf_hub_download
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from plm_tutorial import assets, runtime

_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

# `tokenizer.ggml.pre` names the rule that cuts text into pieces; the file does not contain the rule. SmolLM2 makes
# each digit a piece, then follows GPT-2. Source: llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM.
PRE_TOKENIZERS = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL]),
}


def load_tokenizer(name_or_path: str | Path) -> tokenizers.Tokenizer:
    """Return a published tokenizer, with truncation and padding switched off.

    It adds the special tokens that its model expects, such as ``[CLS]`` and ``[SEP]``, unless it is called with
    ``add_special_tokens=False``, and it finds special tokens that are spelled out in a text.

    Args:
        name_or_path: a name of the registry (``minilm``, ``smollm2``), a folder with ``tokenizer.json``, such a file, a
            ``.gguf`` file, or, with a network, the id of a hub repository that has a ``tokenizer.json``.

    Raises:
        ValueError: there is no such tokenizer, or the file cannot be used; the message says what was tried.
    """
    path = _find(name_or_path)
    _record(path)
    if path.suffix == ".gguf":
        return gguf_tokenizer(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{path} is no tokenizer.json of the tokenizers library: {error}") from error
    tokenizer.no_truncation()  # both belong to one use of the tokenizer; MiniLM's file cuts and fills to 128 tokens
    tokenizer.no_padding()
    return tokenizer


def gguf_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
    """Return the tokenizer described in the metadata of a GGUF file.

    Raises:
        ValueError: the file is no GGUF, has no tokenizer, or has one of a kind that is not implemented here.
    """
    get = {key.removeprefix("tokenizer.ggml."): value for key, value in gguf_metadata(path).items()}.get
    if get("model") is None or get("tokens") is None:
        raise ValueError(f"{path} has no tokenizer: no tokenizer.ggml.model with tokens; pass a tokenizer.json instead")
    if get("model") != "gpt2" or get("pre") not in PRE_TOKENIZERS:
        raise ValueError(
            f"{path} has a tokenizer of model {get('model')!r} with pre-tokenizer {get('pre')!r}; implemented is model "
            f"'gpt2' with one of {', '.join(PRE_TOKENIZERS)}. Pass the model's tokenizer.json instead"
        )
    if get("add_bos_token") or get("add_eos_token"):
        raise ValueError(
            f"{path} wants a begin or end token around each text, which GGUF support here lacks; pass a tokenizer.json"
        )

    tokens, merges = get("tokens"), [tuple(merge.split(" ")) for merge in get("merges", [])]
    kinds = get("token_type") or [gguf.TokenType.NORMAL] * len(tokens)
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[get("pre")]
    tokenizer.decoder = decoders.ByteLevel()
    for kind, add in (
        (gguf.TokenType.CONTROL, tokenizer.add_special_tokens),
        (gguf.TokenType.USER_DEFINED, tokenizer.add_tokens),
    ):
        add([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == kind])
    return tokenizer


_FORMATS = {  # of the numbers in a GGUF file, for `struct`; everything is little-endian
    gguf.GGUFValueType[name]: code
    for name, code in {
        "UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "UINT32": "I", "INT32": "i",
        "UINT64": "Q", "INT64": "q", "FLOAT32": "f", "FLOAT64": "d", "BOOL": "?",
    }.items()
}  # fmt: skip


def gguf_metadata(path: str | Path) -> dict[str, Any]:
    """Return the key-value pairs at the head of a GGUF file; the tensors that follow are not read.

    Equal to what the gguf library reads. That makes arrays of each string, which takes seconds for a vocabulary.
    Layout: magic, version, number of tensors, number of pairs, then key, type and value of each pair; a string is its
    length and its bytes, an array is its type, its length and its items. Source: docs/gguf.md of ggml.

    Raises:
        ValueError: the file is no GGUF file of version 2 or 3, or is damaged.
    """
    with open(path, "rb") as stream:
        try:
            magic, version, _, count = struct.unpack("<IIQQ", _take(stream, 24))
            if magic != gguf.GGUF_MAGIC or version not in (2, 3):
                raise ValueError("it does not begin like GGUF version 2 or 3, little-endian")
            return {_text(stream): _value(stream, *struct.unpack("<I", _take(stream, 4))) for _ in range(count)}
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as a GGUF file: {error}; fetch it again") from error


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == gguf.GGUFValueType.STRING:
        return _text(stream)
    count = 1
    if is_array := kind == gguf.GGUFValueType.ARRAY:
        kind, count = struct.unpack("<IQ", _take(stream, 12))
    if kind not in _FORMATS:
        return [_value(stream, kind) for _ in range(count)]
    numbers = struct.unpack(layout := f"<{count}{_FORMATS[kind]}", _take(stream, struct.calcsize(layout)))
    return list(numbers) if is_array else numbers[0]


def _text(stream: BinaryIO) -> str:
    return _take(stream, *struct.unpack("<Q", _take(stream, 8))).decode()


def _take(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(min(size, 2**30))  # a damaged length must not fill the memory
    if len(data) < size:
        raise EOFError(f"its metadata ends after {stream.tell()} bytes, in the middle of a value")
    return data


def _find(name_or_path: str | Path) -> Path:
    """Return the file that holds the tokenizer, fetched if it is a published one."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name in _registered():
        return assets.path(name, _registered()[name])
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            found = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
            raise ValueError(f"the folder {path} has no tokenizer.json; it holds {found}")
        return path / "tokenizer.json"
    if path.is_file():
        return path
    names = ", ".join(_registered())
    if path.suffix in (".json", ".gguf") or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no file or folder {path}; pass one that exists, or a registry name: {names}")
    nearest = difflib.get_close_matches(name, _registered(), n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    if nearest and "/" not in name:  # a slip of the keyboard: do not make the reader wait for the hub
        raise ValueError(f"{name!r} is no registry name ({names}), and no file or folder here. {hint}")
    try:
        return Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # of a dozen classes from several libraries; the message keeps the reason
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"{name!r} is no registry name ({names}) and no file or folder here, and the hub gave no tokenizer.json "
            f"({reason}). {hint}Pass a registry name or a folder with tokenizer.json, or, for a hub id such as "
            "'openai-community/gpt2', connect to the network or put the file into the hub's cache"
        ) from error


def _registered() -> dict[str, str]:
    """Return the registry names that have a tokenizer, and the file it is in."""
    found = {}
    for name, asset in assets.REGISTRY.items():
        files = [file.name for file in asset.files]
        candidates = [f for f in files if f.endswith("tokenizer.json")] + [f for f in files if f.endswith(".gguf")]
        if candidates:
            found[name] = candidates[0]
    return found


def _record(path: Path) -> None:
    parts = path.absolute().parts
    if "artifacts" in parts:  # assets.path records the published files itself
        key = "/".join(parts[parts.index("artifacts") :])
        runtime.record_read(key, runtime.file_sha256(path))
