"""Where the code runs: scale, seed, device, cache folder, and the record a page leaves of its run.

In: the environment variables PLM_SCALE, PLM_SEED, PLM_DEVICE and PLM_HOME. Out: plain values that the other
modules and the pages ask for. This is the only module that looks at hardware; it looks when asked, not at import.
"""

from __future__ import annotations

import hashlib
import os
import platform
import random
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

SCALES = ("smoke", "cpu", "gpu")
PAGE_KEY = "plm_page"  # under which the record stands in the metadata of a cell's output


def scale() -> str:
    """Return how large a run should be: ``smoke`` (seconds), ``cpu`` (as published) or ``gpu``.

    Raises:
        ValueError: PLM_SCALE is none of these.
    """
    value = os.environ.get("PLM_SCALE", "cpu")
    if value not in SCALES:
        raise ValueError(f"PLM_SCALE is {value!r}; set it to one of {', '.join(SCALES)}, or unset it for 'cpu'")
    return value


def by_scale(*, smoke: T, cpu: T, gpu: T) -> T:
    """Return the argument named like the current :func:`scale`."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[scale()]


def seed() -> int:
    """Return the seed of this run: PLM_SEED, or 0.

    Raises:
        ValueError: PLM_SEED is not a whole number from 0 to 2**31 - 1.
    """
    text = os.environ.get("PLM_SEED", "0")
    if not text.isdecimal() or int(text) >= 2**31:
        raise ValueError(f"PLM_SEED is {text!r}; set it to a whole number from 0 to 2147483647, or unset it for 0")
    return int(text)


def set_seed(offset: int = 0) -> int:
    """Seed ``random``, numpy and, if it is loaded already, torch with ``seed() + offset``; return that number."""
    value = seed() + offset
    random.seed(value)
    import numpy as np

    np.random.seed(value)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(value)
    return value


def device(name: str | None = None) -> torch.device:
    """Return the device to compute on: ``name``, else PLM_DEVICE, else CUDA, Apple's MPS or the CPU, in this order.

    Raises:
        ValueError: the device asked for does not exist on this machine.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = name or os.environ.get("PLM_DEVICE") or next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available.get(wanted.split(":")[0], False):
        have = ", ".join(d for d, there in available.items() if there)
        raise ValueError(
            f"device {wanted!r} is not available here; this machine has: {have}. Pass one of these, or unset PLM_DEVICE"
        )
    return torch.device(wanted)


def machine() -> str:
    """Return what a record says of where it was made: cores, kind of processor, Python, and the GPU if one is used."""
    import torch

    what = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{what}, {torch.cuda.get_device_name()}" if device().type == "cuda" else what


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next use; say whether that could be arranged.

    The C library of Linux gives each large block back to the system when it is freed, and the system clears each that
    it hands out. A training step frees and asks for the same tensors again and again.
    """
    import ctypes

    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not the GNU C library
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1))


def home() -> Path:
    """Return the folder for weights, data and derived files: PLM_HOME, or ``~/.cache/plm_tutorial``."""
    return Path(os.environ.get("PLM_HOME") or Path.home() / ".cache" / "plm_tutorial").expanduser().absolute()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# What this process read besides code, for the page record: "asset/file" or a path under artifacts/ -> sha256.
_reads: dict[str, str] = {}


def record_read(key: str, sha256: str) -> None:
    """Note that this process used the file ``key`` with this content."""
    _reads[key] = sha256


@dataclass(frozen=True)
class PageRecord:
    """What a page's kernel depended on and used; shown by nothing, read by the book's build."""

    modules: dict[str, str]  # loaded modules of plm_tutorial -> sha256 of their source
    reads: dict[str, str]  # assets and artifacts read -> sha256
    peak_memory: int  # bytes; largest resident size of the kernel
    scale: str
    seed: int
    python: str = field(default_factory=lambda: ".".join(map(str, sys.version_info[:3])))

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        return {"text/plain": "page record"}, {PAGE_KEY: asdict(self)}


def page_record() -> PageRecord:
    """Return the record of the current process. The build appends a call of this to each page it executes."""
    modules = {}
    for name, module in sorted(sys.modules.items()):
        if name == "plm_tutorial" or name.startswith("plm_tutorial."):
            source = getattr(module, "__file__", None)
            if source and Path(source).exists():
                modules[name] = file_sha256(Path(source))
    return PageRecord(modules, dict(_reads), _peak_memory(), scale(), seed())


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
