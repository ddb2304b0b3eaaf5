"""The repository itself: versions agree, notebooks are stripped, addresses and layout are in one place."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted([*ROOT.glob("chapters/*.ipynb"), *ROOT.glob("reference/*.ipynb")])
sys.path.insert(0, str(ROOT / "tools"))

import address  # noqa: E402
import lock  # noqa: E402


def locked() -> list[str]:
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_conda_environment_has_the_locked_versions():
    assert (ROOT / "environment.yml").read_text() == lock.environment(locked())


def test_lock_satisfies_pyproject():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    versions = dict(line.partition(";")[0].split("==") for line in locked())
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert versions.get(name) and requirement.specifier.contains(versions[name], prereleases=True), requirement


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    ran = subprocess.run(
        [sys.executable, "-m", "nbstripout", "--verify", str(path)], capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_first_code_cell_installs_on_colab_and_does_nothing_elsewhere(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "".join(cells[0]["source"])
    assert 'if "google.colab" in sys.modules:' in source
    assert f"git+{address.current()}" in source
    assert "remove-cell" in cells[0]["metadata"]["tags"]


def test_code_and_pages_are_clean():
    """ruff's rules for the package, and for the code cells of pages (which fit a column of 92 characters)."""
    ran = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_every_notebook_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    assert {str(path.relative_to(ROOT).with_suffix("")) for path in NOTEBOOKS} <= listed


def tracked_text() -> dict[str, str]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {}
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.suffix not in {".png", ".safetensors"} and path.exists():
            found[name] = path.read_text(encoding="utf-8")
    return found


def test_the_repositorys_address_is_the_same_everywhere():
    ours = address.current()
    forge = ours.rsplit("/", 2)[0]
    pattern = re.compile(re.escape(forge) + r"/[\w.-]+/" + re.escape(ours.rsplit("/", 1)[1]) + r"\b")
    for name, text in tracked_text().items():
        assert set(pattern.findall(text)) <= {ours}, f"{name} repeats another address; run `make address URL={ours}`"


def test_address_refuses_what_is_no_address():
    for wrong in ["", "github.com/me/fork", "https://github.com/me", "https://github.com/me/fork/"]:
        ran = subprocess.run([sys.executable, "tools/address.py", wrong], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 2 and "make address needs URL=" in ran.stdout


def test_address_rewrites_every_copy(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "_config.yml").write_text("repository: {url: https://host.example/a/book}\n")
    (tmp_path / "README.md").write_text("see https://host.example/a/book/issues and https://host.example/a/other\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    monkeypatch.setattr(address, "ROOT", tmp_path)
    address.rewrite(address.current(), "https://forge.example/b/fork")
    assert address.current() == "https://forge.example/b/fork"
    expected = "see https://forge.example/b/fork/issues and https://host.example/a/other\n"
    assert (tmp_path / "README.md").read_text() == expected


def test_readme_names_the_commands_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|[`>] ?)make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert {"book", "test"} <= named <= targets


def test_an_installed_package_carries_all_modules_scripts_and_records(tmp_path):
    """What a reader gets who installs the package alone, as on Colab."""
    source = tmp_path / "source"
    for name in ("plm_tutorial", "artifacts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {p for p in (source / "plm_tutorial").rglob("*") if p.suffix in {".py", ".js", ".css"}}
    assert {str(path.relative_to(source)) for path in wanted} <= names
    records = {str(path.relative_to(source / "artifacts")) for path in (source / "artifacts").glob("*/*")}
    assert records and {f"plm_tutorial/_artifacts/{name}" for name in records} <= names


def test_no_pickle_and_no_remote_code():
    for path in (ROOT / "plm_tutorial").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"\bimport pickle|torch\.load\(|trust_remote_code|^\s*import transformers", text, re.M), (
            path
        )
