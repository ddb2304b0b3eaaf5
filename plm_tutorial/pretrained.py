"""The one door to published tokenizers and models: by registry name, from a folder or file, or from the hub.

In: a name or a path. Out: a tokenizer of the ``tokenizers`` library, or a model of :mod:`plm_tutorial.models`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import tokenizers
from huggingface_hub import hf_hub_download, snapshot_download
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers.models import BPE

from plm_tutorial import assets, runtime
from plm_tutorial.gguf_files import WeightsError, gguf_metadata

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["WeightsError", "gguf_metadata", "gguf_tokenizer", "load_model", "load_tokenizer"]

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
    tokenizer = tokenizers.Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[get("pre")]
    tokenizer.decoder = decoders.ByteLevel()
    for kind, add in (
        (gguf.TokenType.CONTROL, tokenizer.add_special_tokens),
        (gguf.TokenType.USER_DEFINED, tokenizer.add_tokens),
    ):
        add([AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == kind])
    return tokenizer


def load_model(
    name_or_path: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Return a published model with its weights, in eval mode.

    It is called as ``model(input_ids, attention_mask=None, ...)`` and returns one tensor: logits (B, T, V) if the
    checkpoint has an output layer, else hidden states (B, T, D). Its shape stands in ``model.config``.

    Args:
        name_or_path: a name of the registry (``minilm``, ``smollm2``), a folder with ``config.json`` and
            ``model.safetensors`` (or shards and their index), a ``.gguf`` file, or, with a network, a hub id.
        device: where to put it; None: ``runtime.device()``.
        dtype: the precision of its weights; None: float32, whatever the file has.

    Raises:
        ValueError: there is no such model; the message says what was tried.
        WeightsError: its files are damaged, incomplete, or of a kind that is not implemented here.
    """
    import torch  # here, because who only wants a tokenizer should not wait for it

    from plm_tutorial import models, weights

    path = _find_model(name_or_path)
    if path.is_file():
        _record(path)
        metadata, tensors = weights.read_gguf(path)
        family = _family(models.GGUF, metadata, "general.architecture", path)
        described = (metadata, tensors.keys())
    else:
        values = weights.read_json(path / "config.json")
        family = _family(models.HUB, values, "model_type", path / "config.json")
        tensors = weights.read_folder(path)
        described = (values,)
        for file in {path / "config.json", *(tensor.file for tensor in tensors.values())}:
            _record(file)
    try:
        config = family.config(*described)
    except ValueError as error:
        raise WeightsError(f"{path} does not describe a model that can be built: {error}") from error
    return weights.build(family, config, tensors, path, runtime.device(device), dtype or torch.float32)


def _family(families: dict, values: dict, key: str, path: Path):
    """Return the family of models that a file says it is."""
    if not isinstance(name := values.get(key), str) or name not in families:
        raise WeightsError(f"{path} has {key} = {name!r}; implemented here: {', '.join(families)}")
    return families[name]


# --------------------------------------------------------------------------------------- finding what a name stands for


def _find(name_or_path: str | Path) -> Path:
    """Return the file that holds the tokenizer, fetched if it is a published one."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    known = _registered("tokenizer.json", ".gguf")
    if name in known:
        return assets.path(name, known[name])
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            found = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
            raise ValueError(f"the folder {path} has no tokenizer.json; it holds {found}")
        return path / "tokenizer.json"
    if path.is_file():
        return path
    return _from_hub(name, path, known, "tokenizer.json", partial(hf_hub_download, name, "tokenizer.json"))


def _find_model(name_or_path: str | Path) -> Path:
    """Return the folder or the GGUF file that holds a model, fetched if it is a published one."""
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    known = _registered("model.safetensors", ".gguf")
    if name in known:
        file = assets.path(name, known[name])
        return file if file.suffix == ".gguf" else assets.path(name)
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(f"{path} is no .gguf file; for safetensors pass the folder, which also holds config.json")
    if path.exists():
        return path
    wanted = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    get = partial(snapshot_download, name, allow_patterns=wanted, ignore_patterns="*/*")
    return _from_hub(name, path, known, "config.json and model.safetensors", get)


def _from_hub(name: str, path: Path, known: dict[str, str], what: str, get: Callable[[], str]) -> Path:
    """Return what ``get`` fetches for a hub id, or say why a name that stands for nothing here is none."""
    names = ", ".join(known)
    if path.suffix in (".json", ".gguf") or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no file or folder {path}; pass one that exists, or a registry name: {names}")
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    if nearest and "/" not in name:  # a slip of the keyboard: do not make the reader wait for the hub
        raise ValueError(f"{name!r} is no registry name ({names}), and no file or folder here. {hint}")
    try:
        return Path(get())
    except Exception as error:  # of a dozen classes from several libraries; the message keeps the reason
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"{name!r} is no registry name ({names}) and no file or folder here, and the hub gave no {what} "
            f"({reason}). {hint}Pass a registry name or a folder with {what}, or, for a hub id such as "
            "'openai-community/gpt2', connect to the network or put the file into the hub's cache"
        ) from error


def _registered(*endings: str) -> dict[str, str]:
    """Return the registry names that have a file with one of these endings, and the file; the first ending wins."""
    found = {}
    for name, asset in assets.REGISTRY.items():
        files = [file.name for ending in endings for file in asset.files if file.name.endswith(ending)]
        if files:
            found[name] = files[0]
    return found


def _record(path: Path) -> None:
    parts = path.absolute().parts
    if "artifacts" in parts:  # assets.path records the published files itself
        key = "/".join(parts[parts.index("artifacts") :])
        runtime.record_read(key, runtime.file_sha256(path))
