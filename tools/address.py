"""Rewrite the repository's address everywhere: `make address URL=https://github.com/you/your-fork`.

In: the new address. Out: `_config.yml`, where it is kept, and every file that must repeat it (the Colab cell of each
chapter, README, CITATION.cff, pyproject.toml), each replaced atomically. `tests/test_repository.py` finds a copy that
differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FORM = re.compile(r"https://[\w.-]+(/[\w.-]+){2,}")


def current() -> str:
    """Return the address that `_config.yml` gives."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def files_with(address: str) -> list[Path]:
    """Return the tracked text files that contain ``address``."""
    found = subprocess.run(
        ["git", "grep", "-l", "-I", "-F", "-z", address], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in found.split("\0") if name]


def rewrite(old: str, new: str) -> list[Path]:
    """Replace ``old`` by ``new`` in every tracked file and return the files changed."""
    changed = files_with(old)
    for path in changed:
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        os.replace(temporary, path)
    return changed


def main() -> int:
    if len(sys.argv) != 2 or not FORM.fullmatch(sys.argv[1]):
        given = " ".join(sys.argv[1:]) or "nothing"
        print(f"make address needs URL=https://host/owner/name without a trailing slash or .git; got {given}")
        return 2
    for path in rewrite(current(), sys.argv[1]):
        print(f"rewrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
