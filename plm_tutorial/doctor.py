"""What `plm-tutorial doctor` finds: whether this machine can run the book, and what to do where it cannot.

In: the installed packages, the environment, the asset cache. Out: tables on a console, one line a problem, and an
exit code. Nothing is fetched, changed or written.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from plm_tutorial import assets, runtime

PACKAGE = "plm-tutorial"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and its cure."""

    text: str
    cure: str
    stops: bool = True  # False: the book runs all the same, or mends it itself


@dataclass
class Section:
    """One table, and the problems seen while it was filled."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def run(console: Console) -> int:
    """Print the findings; return 1 if a problem stops the book, else 0."""
    sections = [packages(), cached(), machine()]
    for section in sections:
        console.print(_table(section))
    problems = [problem for section in sections for problem in section.problems]
    for problem in problems:
        # soft_wrap: a line stays a line, so that its command can be copied and a log searched.
        mark = "problem" if problem.stops else "note"
        console.print(f"{mark}: {problem.text}: {problem.cure}", soft_wrap=True, markup=False, highlight=False)
    if not problems:
        console.print("Everything is in place.")
    return int(any(problem.stops for problem in problems))


def packages() -> Section:
    """Compare Python and the installed packages with what this package declares."""
    section = Section("Packages", ("package", "needed", "installed", ""))
    try:
        needed = metadata.requires(PACKAGE) or []
        python = metadata.metadata(PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        section.problems.append(Problem(f"{PACKAGE} is not installed in this Python", "python -m pip install -e ."))
        return section
    for name, spec, found, fits in _compare(["python" + python, *needed]):
        state = "ok" if fits else "too old or too new" if found else "missing"
        section.rows.append((name, spec, found or "-", state))
        if fits:
            continue
        cure = f"install Python {spec}" if name == "python" else f'python -m pip install "{name}{spec}"'
        section.problems.append(Problem(f"{name} is {f'{found}, not {spec}' if found else 'missing'}", cure))
    return section


def _compare(requirements: list[str]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield name, wanted versions, installed version ("" if none) and whether it fits, of each that applies here."""
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an optional set, or for another system
        found = platform.python_version() if requirement.name == "python" else _installed(requirement.name)
        fits = bool(found) and requirement.specifier.contains(found, prereleases=True)
        yield requirement.name, str(requirement.specifier), found, fits


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def cached() -> Section:
    """Look at every registered asset in the cache."""
    section = Section("Weights and data", ("asset", "size", "state", "licence"))
    lacking = 0
    for asset in assets.REGISTRY.values():
        found = assets.status(asset.name)
        section.rows.append((asset.name, assets.readable(asset.size), found.state, asset.licence))
        cure = f"plm-tutorial fetch {asset.name}"
        for file in found.files:
            if file.state == "damaged":
                section.problems.append(Problem(f"{found.folder / file.name} is damaged, it {file.fault}", cure))
        if found.state == "absent":
            lacking += asset.size
            section.problems.append(Problem(f"{asset.name} is not here; a page that needs it fetches it", cure, False))
    if lacking > (free := shutil.disk_usage(_existing(runtime.home())).free):
        text = f"{assets.readable(lacking)} are to be fetched, {assets.readable(free)} are free"
        section.problems.append(Problem(text, "make room, or set PLM_HOME to a folder on another disk"))
    return section


def machine() -> Section:
    """Look at the device, the settings and the cache folder."""
    section = Section("This machine", ("", ""))
    home, place = runtime.home(), _existing(runtime.home())
    section.rows += [
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("CPU", _or_problem(section, _cpu)),
        ("device", _or_problem(section, _device)),
        ("PLM_SCALE", _or_problem(section, runtime.scale)),
        ("PLM_SEED", _or_problem(section, lambda: str(runtime.seed()))),
        ("PLM_HOME", f"{home}{'' if os.environ.get('PLM_HOME') else ' (default)'}"),
        ("free there", assets.readable(shutil.disk_usage(place).free)),
    ]
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        text = f"the cache {home} cannot be written, {place} is {'read-only' if place.is_dir() else 'a file'}"
        section.problems.append(Problem(text, "make it writable, or set PLM_HOME to a folder that is"))
    return section


def _cpu() -> str:
    import torch

    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def _device() -> str:
    import torch

    device = runtime.device()
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return f"{device}: {found.name}, {found.total_memory / 2**30:.0f} GiB"
    return f"{device} (no CUDA device found)" if device.type == "cpu" and not torch.cuda.is_available() else str(device)


def _or_problem(section: Section, ask: Callable[[], str]) -> str:
    """Return the answer, or record that it cannot be had."""
    try:
        return ask()
    except ValueError as error:  # a setting that is wrong: the message ends with its cure
        text, _, cure = str(error).partition("; ")
        section.problems.append(Problem(text, cure))
    except (ImportError, OSError) as error:  # OSError: a library of torch does not load
        section.problems.append(Problem(f"torch does not load: {error}", "reinstall it: python -m pip install torch"))
    return "?"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(section.columns))
    for column in section.columns:
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for row in section.rows:
        table.add_row(*row)
    return table
