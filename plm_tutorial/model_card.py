"""The report on a fine-tuned classifier: its confusion matrix as a picture, and a model card in the hub's form.

In: a configuration, counts and scores. Out: an image and a text. Nothing here computes results.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plm_tutorial import assets

if TYPE_CHECKING:
    import pandas as pd

    from plm_tutorial.finetuning import FinetuningConfig


def draw(matrix: np.ndarray, names: list[str], path: Path) -> None:
    """Write the confusion matrix (C, C) as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from plm_tutorial.figures.classification import draw_confusion

    size = max(3.5, 0.8 * len(names) + 1.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    FigureCanvasAgg(figure)
    ax = draw_confusion(figure.add_subplot(), matrix, names)
    if len(names) > 4 or max(map(len, names)) > 8:
        ax.tick_params(axis="x", rotation=60)
    figure.savefig(path, dpi=150)


def write(
    config: FinetuningConfig,
    counts: dict[str, dict[str, int]],
    scores: dict[str, float],
    table: pd.DataFrame,
    left_out: str,
) -> str:
    """Return a model card: what the model is for, what it was made of, how good it is, and where it may fail.

    Args:
        counts: split -> class -> texts.
        scores: what was measured, in words.
        table: a row a class, with precision, recall, F1 and number of texts.
        left_out: which rows of the file were not used.
    """
    asset = assets.REGISTRY.get(config.model)
    base = asset.hub.repo if asset is not None and asset.hub is not None else config.model
    names = list(counts["train"])
    texts = scores["test texts"]
    about = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        f"base_model: {base}",
        "---",
        "",
        f"# {Path(config.out).name}",
        "",
        f"Says which of {len(names)} classes a text belongs to: {', '.join(f'`{name}`' for name in names)}.",
        "",
        "## How good it is",
        "",
        f"Measured on {texts:,} texts that it was neither trained on nor chosen by; intervals are 95 % bootstrap "
        "intervals over these texts.",
        "",
        "| | |",
        "|---|---|",
        _line(scores, "accuracy"),
        _line(scores, "macro-F1"),
        f"| expected calibration error | {scores['test calibration error']:.3f} |",
    ]
    for name in scores:
        if name.startswith("test accuracy of "):
            about.append(f"| accuracy of {name.removeprefix('test accuracy of ')} | {scores[name]:.3f} |")
    about += ["", "| class | precision | recall | F1 | texts |", "|---|---|---|---|---|"]
    for name, row in table.iterrows():
        about.append(f"| {name} | {' | '.join(class_cells(row))} | {int(row['support'])} |")
    about += [
        "",
        "![Confusion matrix: true classes in rows, predicted ones in columns](confusion.png)",
        "",
        "## What it was made of",
        "",
        f"- base model: `{config.model}`; trained: {config.method}, {scores['parameters trained']:,} parameters",
        f"- data: `{Path(config.data).name}`, texts from `{config.text}`, classes from `{config.label}`",
    ]
    about += [f"- {split}: {sum(n.values()):,} texts ({_shares(n)})" for split, n in counts.items()]
    about += [f"- left out: {left_out}"] if left_out else []
    about += [
        f"- {scores['training steps']:,} steps of {config.batch} texts, {scores['epochs']} epochs, at most "
        f"{scores['tokens of a text, at most']} tokens a text, seed {config.seed}",
        "",
        "Copies of a text were kept in one split. Which row went where stands in `splits.csv`, what the model says of "
        "each test text in `test_predictions.csv`.",
        "",
        "## Where it may fail",
        "",
        "The scores hold for texts like those of the file. Texts of other origin, style, length or language may fare "
        "worse; measure before you rely on it. Read the errors in `test_predictions.csv`. The base model learned from "
        "text of the web, with its prejudices.",
        "",
        "## How to use it",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'print(pipeline("text-classification", "path/to/this/folder")("A text to be classified."))',
        "```",
        "",
        "or `plm-tutorial predict --model path/to/this/folder --data FILE.csv`.",
        "",
    ]
    return "\n".join(about)


def class_cells(row: pd.Series) -> list[str]:
    """Return precision, recall and F1 of a class as they are shown, "–" where there is none."""
    return ["–" if np.isnan(row[key]) else f"{row[key]:.3f}" for key in ("precision", "recall", "F1")]


def _line(scores: dict[str, float], name: str) -> str:
    value, low, high = (scores[f"test {name}{end}"] for end in ("", ", low", ", high"))
    return f"| {name} | {value:.3f} ({low:.3f} to {high:.3f}) |"


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())
