"""What the recorded studies share: each finished run is kept, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plm_tutorial.evaluation import paired_bootstrap

RUNS = Path("runs")


def kept(study: str, key: str, run: Callable[[], dict]) -> dict:
    """Return the result of a run: the one that is kept under ``runs/<study>/<key>.json``, or a new one, then kept.

    The key must name everything that the result depends on. Remove ``runs/<study>`` to run all anew.
    """
    path = RUNS / study / f"{key}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    print(f"{study}: {key}", flush=True)
    result = run()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, path)
    return result


def difference_scores(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return by how much a is better than b, (N,) values of the same texts, as a record keeps it: with its interval."""
    ends = ("", ", low end of the 95 % interval", ", high end of the 95 % interval")
    return {name + end: float(value) for end, value in zip(ends, paired_bootstrap(a, b), strict=True)}
