"""The one door to published tokenizers and models: by registry name, from a folder or file, or from the hub; and back.

In: a name or a path. Out: a tokenizer of the ``tokenizers`` library, or a model of :mod:`plm_tutorial.models`. And a
model of ours as a folder that Transformers opens.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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

    from plm_tutorial import models

__all__ = ["WeightsError", "export", "gguf_metadata", "gguf_tokenizer", "load_model", "load_tokenizer", "save_adapter"]

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
    name_or_path: str | Path,
    head: str | None = None,
    n_labels: int | None = None,
    *,
    adapter: str | Path | None = None,
    pooling: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Return a published model with its weights, in eval mode.

    It is called as ``model(input_ids, attention_mask=None, ...)`` and returns one tensor: logits (B, T, V) if the
    checkpoint has an output layer, else hidden states (B, T, D). Its shape stands in ``model.config``.

    Args:
        name_or_path: a name of the registry (``minilm``, ``smollm2``), a folder with ``config.json`` and
            ``model.safetensors`` (or shards and their index), a ``.gguf`` file, or, with a network, a hub id.
        head: of a BERT or RoBERTa: None: the one that the checkpoint has; "none": none, hidden states come out; "mlm",
            "sequence", "token" or "span": that one. If the checkpoint has another or none, it is drawn at random from
            torch's global generator, for training; BERT's pooler, with which "sequence" begins, is taken where it is.
        n_labels: of a new head "sequence" or "token".
        adapter: a folder of :func:`save_adapter` or of peft, with LoRA matrices for this model. They stand beside its
            weights, ready to be trained on; see :func:`plm_tutorial.adaptation.merge`. A head that was trained with
            them is in the folder too, so head and n_labels may be left out.
        pooling: what the head "sequence" reads: "first", "mean" or "max"; see ``BertConfig.pooling``. None: "first".
        device: where to put it; None: ``runtime.device()``.
        dtype: the precision of its weights; None: float32, whatever the file has.

    Raises:
        ValueError: there is no such model, or head and n_labels do not fit; the message says what was tried.
        WeightsError: its files are damaged, incomplete, or of a kind that is not implemented here.
    """
    import torch  # here, because who only wants a tokenizer should not wait for it

    from plm_tutorial import adapter_files, models, weights

    path = _find_model(name_or_path)
    if path.is_file():
        _record(path)
        metadata, tensors = weights.read_gguf(path)
        family = _family(models.GGUF, metadata, "general.architecture", path)
        described, says_head = (metadata, tensors.keys()), True
    else:
        values = weights.read_json(path / "config.json")
        family = _family(models.HUB, values, "model_type", path / "config.json")
        tensors = weights.read_folder(path)
        described, says_head = (values,), bool(values.get("architectures"))
        for file in {path / "config.json", *(tensor.file for tensor in tensors.values())}:
            _record(file)
    try:
        config = family.config(*described)
    except ValueError as error:
        raise WeightsError(f"{path} does not describe a model that can be built: {error}") from error
    stored = None if adapter is None else adapter_files.read_adapter(adapter)
    if stored is not None and head is None:
        head, own_labels = adapter_files.asked_head(stored, family, config)
        n_labels = n_labels or own_labels
    dropped, new_head = set(), False
    names = {family.rename(name) for name in tensors}
    if family.head_names is not None:
        config, dropped, new_head = _with_head(family, config, head, n_labels, names, says_head, path)
    elif head is not None or n_labels is not None or pooling is not None:
        raise ValueError(
            f"a {family.model.__name__} has its output layer and no other head; leave out head, n_labels and pooling"
        )
    if pooling is not None:
        config = replace(config, pooling=pooling)
    dtype = dtype or torch.float32
    if stored is None:
        return weights.build(family, config, tensors, path, runtime.device(device), dtype, dropped, new_head)

    with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced by what the adapter holds
        model = weights.build(family, config, tensors, path, runtime.device(device), dtype, dropped, new_head)
        hub = models.HUB[config.to_hub()["model_type"]] if path.is_file() else family  # adapters have the hub's names
        given = adapter_files.put_in(stored, model, hub)
    for file in stored.files:
        _record(file)
    if new_head:
        table = weights.expand(family.weights(config), config).items()
        given += [place for name, place in table if family.rename(name) in names and name not in dropped]
        if lacking := [name for name, _ in model.named_parameters() if name.startswith("head.") and name not in given]:
            raise WeightsError(f"neither {path} nor {adapter} holds {lacking[0]}, a part of the head {config.head!r}")
    return model


def _with_head(
    family: models.Family,
    config: models.BertConfig,
    head: str | None,
    n_labels: int | None,
    names: set[str],
    says_head: bool,
    path: Path,
) -> tuple[models.BertConfig, set[str], bool]:
    """Return the configuration with the head that was asked for, the tensors to leave out, and if the head is new.

    Args:
        names: of the stored tensors.
        says_head: the checkpoint says which head it has; otherwise its tensors show it.
    """
    if head is None and n_labels is not None:
        raise ValueError(f"n_labels is {n_labels}, and no head is named: pass head='sequence' or head='token' too")
    if head is None and not says_head and (found := sorted(names & family.head_names(config))):
        raise WeightsError(
            f"{path} holds tensors of a head, such as {found[0]!r}, and its config.json has no architectures to say "
            "which: pass head='mlm', 'sequence', 'token' or 'span', or head='none' to leave it out"
        )
    if head is None:
        return config, set(), False
    if head == "none":
        if n_labels is not None:
            raise ValueError(f"n_labels is {n_labels}, but head='none' leaves the model without labels; leave it out")
        return replace(config, head=None, n_labels=None, label_names=None), family.head_names(config), False
    own = config.n_labels if config.head == head else None
    n_asked = own if n_labels is None else n_labels
    names_asked = config.label_names if own is not None and n_asked == own else None
    asked = replace(config, head=head, n_labels=n_asked, label_names=names_asked)
    if says_head:
        has_it = config.head == head
    else:
        table = family.weights(asked).items()
        has_it = {family.rename(name) for name, place in table if str(place).startswith("head.")} <= names
    if has_it and own is not None and n_labels not in (None, own):
        raise ValueError(
            f"n_labels is {n_labels}, and the {head!r} head of {path} has {own}: leave n_labels out to use it. For a "
            f"new head: model = load_model(..., head='none'), then model.config = dataclasses.replace(model.config, "
            f"head={head!r}, n_labels={n_labels}) and model.draw_head()"
        )
    return asked, set() if has_it else family.head_names(config), not has_it


def _family(families: dict, values: dict, key: str, path: Path):
    """Return the family of models that a file says it is."""
    if not isinstance(name := values.get(key), str) or name not in families:
        raise WeightsError(f"{path} has {key} = {name!r}; implemented here: {', '.join(families)}")
    return families[name]


# --------------------------------------------------------------------------------------------------------- the way back

# Which special token has which part in Transformers, by the names of published tokenizers; the first found counts.
SPECIAL_TOKENS = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("<s>", "<|im_start|>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|im_end|>", "<|endoftext|>"),
}


def export(
    model: nn.Module,
    folder: str | Path,
    tokenizer: tokenizers.Tokenizer | None = None,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a model as a folder in the hub's form, which :func:`load_model` and Transformers open, and return its path.

    It holds ``config.json``, ``model.safetensors`` or shards with an index, and with a tokenizer ``tokenizer.json`` and
    ``tokenizer_config.json``. Tensors have their published names and the precision they have in the model. The folder
    appears when it is complete; an error before that leaves what was there.

    Args:
        model: a ``Bert``, ``GPT2``, ``Llama`` or ``T5``; also the book's own ``Decoder`` and ``Transformer``, whose
            folders open with :func:`load_model` alone.
        tokenizer: the model's own, of the ``tokenizers`` library.
        overwrite: replace the folder, whole, if it is a model's, that is, has a ``config.json``.
        max_shard_bytes: tensors beyond this size go to a further file.

    Raises:
        ValueError: the model has no published form, the tokenizer is another model's, or the folder is in use.
    """
    from plm_tutorial import weights

    folder = Path(folder).expanduser().resolve()
    family, values = _published_form(model)
    if tokenizer is not None:
        if tokenizer.get_vocab_size() > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model knows {model.config.vocab_size}: "
                "pass the tokenizer that belongs to this model"
            )
        values |= _special_ids(tokenizer, values)
    with _complete_folder(folder, overwrite) as new:
        weights.write_folder(new, model, family.weights(model.config), max_shard_bytes)
        _write_json(new / "config.json", values)
        if tokenizer is not None:
            tokenizer.save(str(new / "tokenizer.json"))
            _write_json(new / "tokenizer_config.json", _tokenizer_config(tokenizer, model.config))
    return folder


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base: str | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model's adapter, and what was trained whole beside it, as a folder in peft's form; return its path.

    It holds ``adapter_config.json`` and ``adapter_model.safetensors``. ``load_model(name, adapter=folder)`` opens it,
    for the same name; so does peft, if the model is one of Transformers. The folder appears when it is complete.

    Args:
        model: has an adapter, made by :func:`plm_tutorial.adaptation.inject` or loaded; merged or not.
        base: what the adapter belongs to, a hub id or a folder: a note for whoever opens it.
        overwrite: replace the folder, whole, if it is an adapter's.
        dtype: of the numbers in the file, such as ``torch.float16`` for half the size; None: the model's own.

    Raises:
        ValueError: there is no adapter, more is trained than it holds, the model has no published form, or the folder
            is in use.
    """
    from safetensors.torch import save_file

    from plm_tutorial import adapter_files

    folder = Path(folder).expanduser().resolve()
    family, published = _published_form(model)
    options, tensors = adapter_files.adapter_form(model, family, published, base)
    tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}
    with _complete_folder(folder, overwrite, adapter_files.CONFIG) as new:
        save_file(tensors, new / adapter_files.TENSORS, {"format": "pt"})
        (new / adapter_files.TENSORS).chmod(new.stat().st_mode & 0o666)  # else readable by its owner alone
        _write_json(new / adapter_files.CONFIG, options)
    return folder


def _published_form(model: nn.Module) -> tuple[models.Family, dict]:
    """Return the family of a model, and its ``config.json``."""
    from plm_tutorial import models

    to_hub = getattr(getattr(model, "config", None), "to_hub", None)
    values = to_hub() if to_hub else {}
    family = models.HUB.get(values.get("model_type"))
    if family is None or not isinstance(model, family.model):
        names = sorted({family.model.__name__ for family in models.HUB.values()})
        raise ValueError(f"a {type(model).__name__} has no published form; export takes {', '.join(names)}")
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return family, values | {"dtype": dtype, "torch_dtype": dtype}  # the latter for releases before Transformers 5


def _special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    found = {part: [t for t in names if t in special][:1] for part, names in SPECIAL_TOKENS.items()}
    return {part: names[0] for part, names in found.items() if names}


def _special_ids(tokenizer: tokenizers.Tokenizer, values: dict) -> dict[str, int]:
    """Return the ids of begin, end and padding, where a ``config.json`` leaves them open."""
    tokens = _special_tokens(tokenizer)
    parts = [part for part in ("bos_token", "eos_token", "pad_token") if part in tokens]
    return {f"{part}_id": tokenizer.token_to_id(tokens[part]) for part in parts if values.get(f"{part}_id") is None}


def _tokenizer_config(tokenizer: tokenizers.Tokenizer, config) -> dict:
    inputs = ["input_ids", "attention_mask"]
    if getattr(config, "n_token_types", 1) > 1:
        inputs.insert(1, "token_type_ids")
    return {
        # Of any kind: what it does stands in tokenizer.json. A class of the model's family would build its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        **_special_tokens(tokenizer),
    }


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _complete_folder(folder: Path, overwrite: bool, mark: str = "config.json") -> Iterator[Path]:
    """Give a new folder to fill, beside the one that is meant; it takes that one's place when the block has ended.

    Args:
        mark: the file without which an existing folder is another's, and not replaced.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; pass the name of a folder, which export makes")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise ValueError(f"the folder {folder} is not empty; pass another one, or overwrite=True to replace it")
        if not (folder / mark).is_file():
            raise ValueError(f"the folder {folder} holds no {mark}, so it is no model's and is not replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        if folder.is_dir():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.is_dir():
                os.replace(old, folder)
            raise


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
