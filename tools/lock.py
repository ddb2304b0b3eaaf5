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
from pathlib import Path

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


def resolve(upgrade: bool) -> list[str]:
    """Return `name==version` lines for the project and its extras, sorted, as pip resolves them here."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), f"{ROOT}[{EXTRAS}]"]
        if LOCK.exists() and not upgrade:
            command += ["--constraint", str(LOCK)]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = set()
    for item in installed:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        version = item["metadata"]["version"].split("+")[0]  # the CPU and CUDA builds share a public version
        if name != "plm-tutorial" and not BROUGHT_BY_TORCH.match(name):
            pins.add(f"{name}=={version}")
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
