"""From files to models: tensors of safetensors and GGUF files, and the one loader that puts them in their places.

In: a file, or a folder as the hub has them, and a model's table of names. Out: a model whose every parameter came from
the file; or the other way, tensors in a folder. Nothing in a file is executed (no pickle), and no length that it claims
is believed before it is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plm_tutorial.gguf_files import TensorInfo, WeightsError, gguf_head

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the names that the hub's folders use


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, not read yet."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], Tensor]  # -> on the CPU, in the stored precision, or float32 if it is quantized


# ----------------------------------------------------------------------------------------------------------- readers


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}; fetch it again") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds a {type(values).__name__}; expected a table of options")
    return values


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        WeightsError: the file is damaged or another kind of file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if size < 8 or header > size - 8:
            raise ValueError(f"it has {size} bytes, and its header should have {header}")
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}; fetch it again") from error
    # A copy: what the library gives is a window on the file, which changes if somebody writes to it.
    return {
        name: Stored(path, shape, lambda name=name: file.get_tensor(name).clone()) for name, shape in shapes.items()
    }


def read_folder(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a folder as the hub has them: ``model.safetensors``, or shards with their index.

    Raises:
        WeightsError: there is none, one is damaged, or index and shards do not agree.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
            raise WeightsError(
                f"the folder {folder} has neither {SINGLE} nor {INDEX}; it holds {found}. Files of other formats, such "
                "as pytorch_model.bin, run code when they are read: convert them to safetensors, or pass a .gguf file"
            )
        return read_safetensors(folder / SINGLE)

    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) and p == Path(p).name for p in places.values()):
        raise WeightsError(f"{folder / INDEX} has no weight_map from names of tensors to names of files beside it")
    found: dict[str, Stored] = {}
    for shard in sorted(set(places.values())):
        for name, stored in read_safetensors(folder / shard).items():
            if places.get(name) != shard:
                raise WeightsError(f"{folder / shard} holds {name!r}, which {INDEX} places in {places.get(name)}")
            found[name] = stored
    if absent := sorted(places.keys() - found.keys()):
        raise WeightsError(f"{folder / places[absent[0]]} lacks the tensor {absent[0]!r} that {INDEX} places in it")
    return found


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return the metadata of a GGUF file, and its tensors by name.

    Raises:
        WeightsError: the file is damaged, another kind of file, or stores a tensor in a way that is unknown here.
    """
    head = gguf_head(path)
    tensors = {
        name: Stored(path, info.shape, partial(_dequantize, path, name, info)) for name, info in head.tensors.items()
    }
    return head.metadata, tensors


def _dequantize(path: Path, name: str, info: TensorInfo) -> Tensor:
    """Read a tensor of a GGUF file as float32."""
    data = np.fromfile(path, np.uint8, info.n_bytes, offset=info.start).reshape(*info.shape[:-1], -1)  # rows of bytes
    if info.kind in (types := {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}):
        return torch.from_numpy(data.view(types[info.kind])).float()
    try:
        with np.errstate(all="ignore"):  # a scale that is not finite is found by whoever reads the tensor
            return torch.from_numpy(gguf.quants.dequantize(data, info.kind))
    except NotImplementedError as error:
        raise WeightsError(
            f"{path}: tensor {name!r} is stored as {info.kind.name}, which is not implemented here; convert the file "
            "to a common quantization, such as Q8_0 or F16"
        ) from error


# ------------------------------------------------------------------------------------------------------------ loader


@dataclass(frozen=True)
class Change:
    """A published tensor that does not become one of our parameters just as it is."""

    ours: tuple[str, ...]  # the parameters that it becomes
    split: Callable[[Tensor, Any], Sequence[Tensor]]  # published tensor, configuration -> these parameters
    join: Callable[[Sequence[Tensor], Any], Tensor]  # the inverse: what shape the tensor must have, and export


@dataclass(frozen=True)
class Copy:
    """A published tensor that repeats another one (tied weights). It may be absent; it must be equal."""

    ours: str  # the parameter that it repeats


# A table says which published tensor becomes which parameter, by name. In names "{layer}" stands for 0, 1, 2, … up to
# the configuration's n_layers, "{decoder_layer}" up to n_decoder_layers. None drops a tensor on purpose.
Table = Mapping[str, "str | None | Change | Copy"]
COUNTS = {"{layer}": "n_layers", "{decoder_layer}": "n_decoder_layers"}


def build(
    family: Any,
    config: Any,
    tensors: Mapping[str, Stored],
    source: Path,
    device: torch.device,
    dtype: torch.dtype,
    dropped: Collection[str] = (),
    new_head: bool = False,
) -> nn.Module:
    """Return a model of a family with its weights, in eval mode. It is made without memory and never initialised.

    Args:
        dropped: names of tensors that are left out on purpose.
        new_head: draw the model's head at random; only what the file has of it, and is not dropped, is taken.

    Raises:
        WeightsError: see :func:`load_weights`; or the layers of file and configuration differ in number.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; weights are torch.float32, torch.bfloat16, torch.float16 or torch.float64")
    table = family.weights(config)
    _check_layers(table, config, tensors, source, family.rename)
    with torch.device("meta"), _Unfilled():
        model = family.model(config)
    drawn = {f"head.{name}" for name, _ in model.head.named_parameters()} if new_head else set()
    load_weights(model, tensors, table, source, device, dtype, rename=family.rename, dropped=dropped, drawn=drawn)
    if new_head:
        loaded = {name: value for name, value in model.head.named_parameters() if not value.is_meta}
        model.draw_head()  # on the CPU in float32: the same numbers, wherever and in whatever precision they end up
        model.head.to(device, dtype).load_state_dict(loaded, strict=False)
    return model.eval()


class _Unfilled(TorchFunctionMode):
    """Leave out drawing initial weights. On the meta device it changes nothing, yet makes torch import its compiler."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function is nn.init.normal_ else function(*args, **(kwargs or {}))


def load_weights(
    model: nn.Module,
    tensors: Mapping[str, Stored],
    table: Table,
    source: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    rename: Callable[[str], str] = str,
    dropped: Collection[str] = (),
    drawn: Collection[str] = (),
) -> None:
    """Give each parameter of a model the stored tensor that a table assigns to it, one after the other.

    Args:
        model: has ``config`` with ``n_layers``; its parameters may be on the meta device.
        source: the file or folder that the tensors come from, for messages.
        rename: makes names that differ from file to file one: those of table and file are compared after it.
        dropped: names of tensors that are left out on purpose, whatever the table says.
        drawn: parameters that need no stored tensor: without one they are left as they are, to be drawn at random.

    Raises:
        WeightsError: a tensor is missing, is not in the table, has a wrong shape, or holds no floating-point numbers or
            some that are not finite.
    """
    parameters, config = dict(model.named_parameters()), model.config
    places = {
        name: place
        for name, place in (expand(table, config) | dict.fromkeys(dropped)).items()
        if place is None or all(ours in parameters for ours in names_of(place))
    }
    unfed = parameters.keys() - drawn - {ours for place in _parts(places).values() for ours in names_of(place)}
    assert not unfed, f"the table of {type(model).__name__} leaves out {sorted(unfed)}"

    stored = {}  # by the table's name: the file's name
    published = {rename(name): name for name in places}
    for name in tensors:
        if (known := published.get(rename(name))) is None:
            others = sorted(n for n in tensors if rename(n) not in published)
            raise WeightsError(
                f"{source} holds the tensor {_first(others)}, for which a {type(model).__name__} of this configuration "
                "has no use: it is another model, or one with a head that the configuration does not name"
            )
        if known in stored:
            raise WeightsError(f"{source} holds the same tensor twice, as {stored[known]!r} and as {name!r}")
        stored[known] = name
    wanted = {n: p for n, p in _parts(places).items() if n in stored or not drawn.issuperset(names_of(p))}
    if missing := sorted(wanted.keys() - stored.keys()):
        raise WeightsError(f"{source} lacks the tensor {_first(missing)}, without which the model is incomplete")

    for name, place in wanted.items():
        found, shape = tensors[stored[name]], joined(place, parameters, config).shape  # on the meta device: no work
        if found.shape != shape:
            raise WeightsError(
                f"{found.file}: tensor {stored[name]!r} has shape {found.shape}; the configuration expects "
                f"{tuple(shape)} for {' and '.join(names_of(place))}"
            )
    for name, place in wanted.items():
        value = _read(stored[name], tensors[stored[name]])
        values = place.split(value, config) if isinstance(place, Change) else [value]
        for ours, part in zip(names_of(place), values, strict=True):
            module, _, attribute = ours.rpartition(".")
            part = part.to(device, dtype).contiguous()
            setattr(model.get_submodule(module), attribute, nn.Parameter(part))
    for name, place in places.items():
        if isinstance(place, Copy) and name in stored:
            value = _read(stored[name], found := tensors[stored[name]])
            if not _equal(value, model.get_parameter(place.ours)):
                raise WeightsError(
                    f"{found.file}: tensor {stored[name]!r} should repeat {place.ours} and differs from it: the "
                    "configuration says that the two are tied, the weights were trained apart"
                )


def write_folder(folder: Path, model: nn.Module, table: Table, max_shard_bytes: int) -> None:
    """Write a model's tensors into a folder as the hub has them: ``model.safetensors``, or shards with their index.

    Tied weights are written once, each tensor in the precision that it has.

    Raises:
        ValueError: a parameter has no published name, or holds numbers that are not finite.
    """
    parameters = dict(model.named_parameters())
    places = _parts(expand(table, model.config))
    places = {n: place for n, place in sorted(places.items()) if all(ours in parameters for ours in names_of(place))}
    if rest := sorted(parameters.keys() - {ours for place in places.values() for ours in names_of(place)}):
        raise ValueError(
            f"the parameter {_first(rest)} of this {type(model).__name__} has no published name: take out what was "
            "added to the model, or merge it into its weights, and export again"
        )
    shards, sizes = [[]], [0]
    for name, place in places.items():
        size = sum(parameters[ours].nbytes for ours in names_of(place))
        if sizes[-1] and sizes[-1] + size > max_shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(name)
        sizes[-1] += size
    n = len(shards)
    files = [SINGLE] if n == 1 else [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]
    for file, names in zip(files, shards, strict=True):
        tensors = {name: joined(places[name], parameters, model.config).cpu().contiguous() for name in names}
        for name, tensor in tensors.items():
            if not tensor.float().sum().isfinite():
                raise ValueError(
                    f"the parameter {' and '.join(names_of(places[name]))} holds numbers that are not finite, as after "
                    "a training that diverged; nothing was written"
                )
        save_file(tensors, folder / file, {"format": "pt"})
        (folder / file).chmod(folder.stat().st_mode & 0o666)  # the library makes it readable by its owner alone
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _parts(places: Mapping[str, str | None | Change | Copy]) -> dict[str, str | Change]:
    """Return those places that parameters are made of: no copies, and nothing that is dropped."""
    return {name: place for name, place in places.items() if isinstance(place, str | Change)}


def names_of(place: str | Change | Copy) -> tuple[str, ...]:
    """Return the names of the parameters that a published tensor becomes, or repeats."""
    return place.ours if isinstance(place, Change) else (place if isinstance(place, str) else place.ours,)


def joined(place: str | Change, parameters: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the published tensor that our parameters make."""
    values = [parameters[ours].detach() for ours in names_of(place)]
    return place.join(values, config) if isinstance(place, Change) else values[0]


def _equal(value: Tensor, parameter: Tensor) -> bool:
    return value.shape == parameter.shape and torch.equal(value.to(parameter.device, parameter.dtype), parameter)


def _read(name: str, stored: Stored) -> Tensor:
    try:
        value = stored.read()
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{stored.file}: tensor {name!r} cannot be read: {error}; fetch the file again") from error
    if not value.is_floating_point():
        raise WeightsError(f"{stored.file}: tensor {name!r} is of type {value.dtype}; expected floating-point numbers")
    if not value.float().sum().isfinite():
        raise WeightsError(f"{stored.file}: tensor {name!r} holds numbers that are not finite; fetch the file again")
    return value


def expand(table: Table, config: Any) -> dict[str, str | None | Change | Copy]:
    """Return a table with a line for each layer of the configuration."""
    places: dict[str, str | None | Change | Copy] = {}
    for name, place in table.items():
        mark = next((mark for mark in COUNTS if mark in name), "")
        for layer in range(getattr(config, COUNTS[mark]) if mark else 1):
            places[name.replace(mark, str(layer)) if mark else name] = _of_layer(place, mark, str(layer))
    return places


def _of_layer(place: str | None | Change | Copy, mark: str, layer: str) -> str | None | Change | Copy:
    if not mark or place is None:
        return place
    if isinstance(place, Change):
        return replace(place, ours=tuple(ours.replace(mark, layer) for ours in place.ours))
    return Copy(place.ours.replace(mark, layer)) if isinstance(place, Copy) else place.replace(mark, layer)


def _check_layers(
    table: Table, config: Any, tensors: Collection[str], source: Path, rename: Callable[[str], str]
) -> None:
    """Compare the number of layers before any is built: a damaged number may be in the billions."""
    for mark, count in COUNTS.items():
        prefixes = {rename(name).split(mark)[0] for name in table if mark in name}
        if not prefixes:
            continue
        pattern = re.compile(f"(?:{'|'.join(map(re.escape, prefixes))})([0-9]{{1,9}})\\.")
        found = {int(match[1]) for name in tensors if (match := pattern.match(rename(name)))}
        if not found:
            raise WeightsError(
                f"{source} holds no tensors of layers ({', '.join(sorted(prefixes))}0 …): it is another model"
            )
        if getattr(config, count) != max(found) + 1:
            raise WeightsError(
                f"{source} holds tensors of {max(found) + 1} layers, its configuration has {getattr(config, count)}; "
                "one of them is damaged or belongs to another model"
            )


def _first(names: list[str]) -> str:
    return repr(names[0]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
