"""The head of a GGUF file: its key-value pairs and the list of its tensors; and the error of all files of weights.

In: a path. Out: plain Python values. The gguf library reads these files too, but makes arrays of each string, which
takes seconds for a vocabulary, and believes every length that a damaged file claims.

Layout: magic, version, number of tensors, number of pairs; then key, type and value of each pair; then name,
dimensions, type and offset of each tensor; then the tensors. A string is its length and its bytes, an array is the type
of its items, their number and the items. Source: docs/gguf.md of ggml, https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names the file and, where it is one, the tensor."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in a GGUF file."""

    shape: tuple[int, ...]  # slowest dimension first, as in torch; the file has it the other way round
    kind: gguf.GGMLQuantizationType  # how its numbers are stored
    start: int  # first byte in the file
    n_bytes: int


@dataclass(frozen=True)
class GGUFHead:
    """All of a GGUF file but the tensors' numbers."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def gguf_metadata(path: str | Path) -> dict[str, Any]:
    """Return the key-value pairs at the head of a GGUF file; what follows them is not read.

    Raises:
        WeightsError: the file is no GGUF file of version 2 or 3, or is damaged.
    """
    with _opened(path) as cursor:
        return _metadata(cursor)[0]


def gguf_head(path: str | Path) -> GGUFHead:
    """Return the key-value pairs of a GGUF file and where its tensors lie.

    Raises:
        WeightsError: the file is no GGUF file of version 2 or 3, is damaged, or stores a tensor in an unknown way.
    """
    with _opened(path) as cursor:
        metadata, n_tensors = _metadata(cursor)
        alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its general.alignment is {alignment!r}, which is no power of two")
        infos = [_tensor(cursor) for _ in range(n_tensors)]
        return GGUFHead(metadata, _place(infos, cursor, alignment))


class _Cursor:
    """The bytes of a file, taken from the front. Asking for more than there are is an error, not an allocation."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends after {len(self.data)} bytes, in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, code: str, count: int = 1) -> tuple:
        data = self.take(struct.calcsize("<" + code) * count)  # first: `struct` fails on a format that is too large
        return struct.unpack(f"<{count}{code}", data)

    def text(self) -> str:
        return self.take(*self.numbers("Q")).decode()


@contextmanager
def _opened(path: str | Path) -> Iterator[_Cursor]:
    """Give a cursor on a file, and say which file it was if its content makes no sense."""
    with open(path, "rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Cursor(data)
        except ValueError as error:
            raise WeightsError(f"{path} cannot be read as a GGUF file: {error}; fetch it again") from error


_FORMATS = {  # of the numbers in a GGUF file, for `struct`; everything is little-endian
    gguf.GGUFValueType[name]: code
    for name, code in {
        "UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "UINT32": "I", "INT32": "i",
        "UINT64": "Q", "INT64": "q", "FLOAT32": "f", "FLOAT64": "d", "BOOL": "?",
    }.items()
}  # fmt: skip


def _metadata(cursor: _Cursor) -> tuple[dict[str, Any], int]:
    """Return the key-value pairs and the number of tensors that follow."""
    if cursor.data[:4] != b"GGUF":
        raise ValueError("it does not begin like GGUF")
    _, version, n_tensors, n_pairs = *cursor.numbers("I", 2), *cursor.numbers("Q", 2)
    if version not in (2, 3):
        raise ValueError(f"it does not begin like GGUF version 2 or 3, little-endian, but has version {version}")
    pairs = {}
    for _ in range(n_pairs):
        key = cursor.text()
        if key in pairs:
            raise ValueError(f"the key {key!r} is in it twice")
        pairs[key] = _value(cursor, *cursor.numbers("I"))
    return pairs, n_tensors


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == gguf.GGUFValueType.STRING:
        return cursor.text()
    if kind != gguf.GGUFValueType.ARRAY:
        return cursor.numbers(_format(kind))[0]
    kind, count = *cursor.numbers("I"), *cursor.numbers("Q")
    if kind == gguf.GGUFValueType.STRING:
        return [cursor.text() for _ in range(count)]
    return list(cursor.numbers(_format(kind), count))


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"it has a value of type {kind}, which is unknown here")
    return _FORMATS[kind]


def _tensor(cursor: _Cursor) -> tuple[str, TensorInfo]:
    """Read one entry of the list of tensors; ``start`` counts from the first tensor's byte as yet."""
    name = cursor.text()
    (n_dims,) = cursor.numbers("I")
    if not 1 <= n_dims <= 4:
        raise ValueError(f"tensor {name!r} has {n_dims} dimensions; expected 1 to 4")
    dims = cursor.numbers("Q", n_dims)
    (kind,), (start,) = cursor.numbers("I"), cursor.numbers("Q")
    try:
        kind = gguf.GGMLQuantizationType(kind)
    except ValueError:
        raise ValueError(f"tensor {name!r} is stored in the quantization {kind}, which is unknown here") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]  # numbers and bytes of a block
    if 0 in dims or dims[0] % block:
        raise ValueError(f"tensor {name!r} has dimensions {dims}; {kind.name} needs rows of a multiple of {block}")
    return name, TensorInfo(dims[::-1], kind, start, math.prod(dims) // block * block_bytes)


def _place(infos: list[tuple[str, TensorInfo]], cursor: _Cursor, alignment: int) -> dict[str, TensorInfo]:
    """Return the tensors with their place in the file, having checked that they follow one another without a gap."""

    def aligned(position: int) -> int:
        return -(-position // alignment) * alignment

    base, size = aligned(cursor.at), len(cursor.data)
    tensors, end, previous = {}, 0, ""
    for name, info in infos:
        if name in tensors:
            raise ValueError(f"tensor {name!r} is in it twice")
        if info.start != aligned(end):
            before = f", behind {previous!r}" if tensors else ""
            raise ValueError(f"tensor {name!r} should start at byte {aligned(end)}{before}, but {info.start} is given")
        end, previous = info.start + info.n_bytes, name
        if base + end > size:
            raise ValueError(f"it ends after {size} bytes, in tensor {name!r}, which needs {base + end}")
        tensors[name] = TensorInfo(info.shape, info.kind, base + info.start, info.n_bytes)
    if size > base + aligned(end):
        raise ValueError(f"it has {size - base - end} bytes behind its last tensor")
    return tensors
