"""Write the lock file and the conda environment from what `pyproject.toml` asks for.

In: `pyproject.toml` and pip's own resolver (nothing is installed). Out: `requirements/lock.txt` and
`environment.yml`, which name the same versions; `tests/test_repository.py` compares the two.

Run it as `make lock`. Versions already locked are kept; `make lock UPGRADE=1` takes the newest that fit.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "lock.txt"
CONDA = ROOT / "environment.yml"
EXTRAS = "book,test,lab"
# On some platforms torch brings these along; it pins them itself, and elsewhere they do not exist.
BROUGHT_BY_TORCH = re.compile(r"(nvidia-|cuda-|triton$)")

LOCK_HEADER = f"""\
# Every package that the book is built and tested with: `pip install -r requirements/lock.txt`.
# Made from pyproject.toml (extras {EXTRAS}) by `make lock`; do not edit.
"""
CONDA_HEADER = """\
# The same versions as requirements/lock.txt, for conda users: `conda env create -f environment.yml`.
# Made by `make lock`; do not edit.
name: plm-tutorial
channels:
  - conda-forge
dependencies:
  - python=3.11
  - make
  - pip
  - pip:
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked() -> list[Requirement]:
    """Return what `pyproject.toml` asks for: the dependencies and those of the locked extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in EXTRAS.split(",") for line in project["optional-dependencies"][name]]
    return [Requirement(line) for line in project["dependencies"] + extras]


def reached(start: list[Requirement], needs: dict[str, list[Requirement]]) -> set[str]:
    """Return the names of all packages that these requirements bring along."""
    todo, seen = [(canonical(r.name), extra) for r in start for extra in {"", *r.extras}], set()
    while todo:
        name, extra = node = todo.pop()
        if node not in seen:
            seen.add(node)
            wanted = [r for r in needs.get(name, []) if not r.marker or r.marker.evaluate({"extra": extra})]
            todo += [(canonical(r.name), inner) for r in wanted for inner in {"", *r.extras}]
    return {name for name, _ in seen}


def resolve(upgrade: bool) -> list[str]:
    """Return `name==version` lines for the project and its extras, sorted, as pip resolves them here.

    A requirement with a marker in `pyproject.toml` (there is no wheel for some machines) passes it on to what it alone
    brings along, so that the lock installs on these machines too.
    """
    marked = [requirement for requirement in asked() if requirement.marker]
    for requirement in marked:
        if not requirement.marker.evaluate():
            sys.exit(f"make lock: {requirement.name} has no wheel here; run it where {requirement.marker}")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--use-pep517", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), f"{ROOT}[{EXTRAS}]"]
        if LOCK.exists() and not upgrade:
            command += ["--constraint", str(LOCK)]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {canonical(item["metadata"]["name"]): item["metadata"] for item in installed}
    needs = {name: [Requirement(line) for line in data.get("requires_dist", [])] for name, data in found.items()}
    markers = {}
    for requirement in marked:
        without = reached([other for other in asked() if other != requirement], needs)
        markers |= {name: f"; {requirement.marker}" for name in found.keys() - without}
    pins = set()
    for name, data in found.items():
        version = data["version"].split("+")[0]  # the CPU and CUDA builds share a public version
        if name != "plm-tutorial" and not BROUGHT_BY_TORCH.match(name):
            pins.add(f"{name}=={version}{markers.get(name, '')}")
    return sorted(pins)


def environment(pins: list[str]) -> str:
    """Return the text of `environment.yml` for these pins."""
    return CONDA_HEADER + "".join(f"      - {pin}\n" for pin in pins) + "      - -e .\n"


def main() -> None:
    pins = resolve(upgrade=bool(os.environ.get("UPGRADE")))
    LOCK.write_text(LOCK_HEADER + "\n".join(pins) + "\n", encoding="utf-8")
    CONDA.write_text(environment(pins), encoding="utf-8")
    print(f"{len(pins)} packages locked in {LOCK.relative_to(ROOT)} and {CONDA.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
