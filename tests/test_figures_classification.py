"""What the figures about classifiers show: every count, every bin, every run."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from plm_tutorial.evaluation import confusion_matrix, reliability_bins
from plm_tutorial.figures.classification import draw_confusion, draw_learning_curves, draw_reliability
from tests.conftest import words


def labels_of(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


# ---- Confusion matrix ------------------------------------------------------------------------------------------------


def test_cells_hold_counts_and_shares_of_rows(ax):
    matrix = confusion_matrix([0] * 1200 + [1] * 10, [0] * 900 + [1] * 300 + [0] * 1 + [1] * 9)
    assert draw_confusion(ax, matrix, ["bad", "good"]) is ax
    assert words(ax) == ["900\n75.0 %", "300\n25.0 %", "1\n10.0 %", "9\n90.0 %"]
    assert labels_of(ax.xaxis) == labels_of(ax.yaxis) == ["bad", "good"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    places = [text.get_position() for text in ax.texts]
    assert places == [(0, 0), (1, 0), (0, 1), (1, 1)], "columns are predictions, rows go down"
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0.1, 0.9]])
    assert ax.images[0].get_clim() == (0, 1), "the same colour means the same share in every figure"


def _luminance(colour) -> float:
    """Return the relative luminance of the Web Content Accessibility Guidelines."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_number_can_be_read_on_its_ground(ax):
    """The guidelines ask for a contrast of 4.5 between text and its ground."""
    shares = np.arange(0, 1001, 5)
    for share in shares:
        draw_confusion(ax, [[share, 1000 - share], [0, 1]])
    for image, text in zip(ax.images, ax.texts[::4], strict=True):
        ground = _luminance(image.to_rgba(image.get_array())[0, 0, :3])
        ink = _luminance(to_rgb(text.get_color()))
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5, text.get_text()


def test_a_class_that_never_occurs_has_no_shares(ax):
    draw_confusion(ax, confusion_matrix([0, 1], [0, 2], 3))
    assert words(ax)[6:] == ["0\n–"] * 3
    assert labels_of(ax.xaxis) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        ([[1, 2, 3]], None, "matrix has the shape (1, 3); expected (C, C)"),
        ([], None, "matrix has the shape (0,)"),
        ([[0.5, 0.5], [0.1, 0.9]], None, "matrix holds float64, the smallest 0.1; expected counts"),
        ([[1, -1], [0, 1]], None, "the smallest -1; expected counts"),
        ([[1, 0], [0, 1]], ["bad"], "got 1 names, ['bad'], for 2 classes"),
    ],
)
def test_wrong_matrices(ax, matrix, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_confusion(ax, matrix, names)


# ---- Reliability diagram ---------------------------------------------------------------------------------------------


def test_bars_gaps_and_counts(ax):
    bins = reliability_bins([0.55, 0.6, 0.95, 0.9, 0.92] * 300, [1, 0, 1, 1, 0] * 300, 5)
    assert draw_reliability(ax, bins) is ax
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in ax.patches]
    np.testing.assert_allclose(bars, [(0.4, 0.2, 0.5), (0.8, 0.2, 2 / 3)])
    (gaps,) = ax.collections
    for path, confidence, frequency in zip(gaps.get_paths(), (0.575, 2.77 / 3), (0.5, 2 / 3), strict=True):
        np.testing.assert_allclose(path.vertices, [(confidence, frequency), (confidence, confidence)])
    assert words(ax) == ["600", "900"]
    diagonal = ax.lines[0].get_xydata()
    np.testing.assert_array_equal(diagonal[:, 0], diagonal[:, 1])
    assert ax.get_ylim() == (0, 1)


@pytest.mark.parametrize("equal", ["width", "mass"])
@pytest.mark.parametrize("n_bins", [1, 5, 15, 40])
def test_counts_do_not_run_into_each_other(ax, equal, n_bins):
    rng = np.random.default_rng(0)
    confidence = 1 - 0.5 * rng.random(3000) ** 3  # as of a classifier that is mostly sure
    bins = reliability_bins(confidence, rng.random(3000) < confidence, n_bins, equal)
    draw_reliability(ax, bins)
    full = bins.count > 0
    drawn = [int(word.replace(",", "")) for word in words(ax)]
    assert equal == "mass" or drawn == bins.count[full].tolist() or n_bins == 40
    assert len(drawn) <= full.sum() and set(drawn) <= set(bins.count.tolist())
    ax.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.x0)
    for one, next_one in zip(boxes, boxes[1:], strict=False):
        assert one.x1 <= next_one.x0 + 1
    left, right = ax.get_xlim()
    assert left <= confidence.min() and right >= confidence.max()


def test_a_single_confidence_can_be_drawn(ax):
    draw_reliability(ax, reliability_bins([0.7] * 10, [1] * 8 + [0] * 2, 5, "mass"))
    ax.figure.canvas.draw()


def test_nothing_to_draw(ax):
    bins = reliability_bins([0.7], [1], 5)
    with pytest.raises(ValueError, match="all bins are empty"):
        draw_reliability(ax, bins._replace(count=np.zeros(5, int)))


# ---- Learning curves -------------------------------------------------------------------------------------------------


def test_means_ranges_and_runs(ax):
    scores = {"probe": [[0.6, 0.7, 0.8], [0.5, 0.72, 0.81]], "full": [0.5, 0.7, 0.9]}
    assert draw_learning_curves(ax, [16, 256, 4096], scores, ylabel="accuracy") is ax
    mean, dots, single = ax.lines
    np.testing.assert_allclose(mean.get_xydata(), [(16, 0.55), (256, 0.71), (4096, 0.805)])
    assert sorted(map(tuple, dots.get_xydata())) == sorted(
        (size, score) for row in scores["probe"] for size, score in zip([16, 256, 4096], row, strict=True)
    )
    np.testing.assert_allclose(single.get_ydata(), scores["full"])
    (band,) = ax.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(6)}
    assert {(16, 0.5), (16, 0.6), (256, 0.7), (256, 0.72), (4096, 0.8), (4096, 0.81)} <= corners
    assert ax.get_xscale() == "log"
    assert labels_of(ax.xaxis) == ["16", "256", "4,096"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["probe", "full"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training examples", "accuracy")


def test_missing_runs_are_left_out(ax):
    runs = [[0.6, math.nan, math.nan], [0.5, 0.7, math.nan]]
    with np.errstate(all="raise"):
        draw_learning_curves(ax, [16, 64, 256], {"probe": runs}, ylabel="accuracy")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(16, 0.55), (64, 0.7)])
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("sizes", "scores", "message"),
    [
        ([16, 64], {}, "there are no scores to draw"),
        ([16, 64], {"probe": [0.5, 0.6, 0.7]}, "the scores of 'probe' have the shape (1, 3); expected (runs, 2)"),
        ([16, 64], {"probe": [math.nan, math.nan]}, "the scores of 'probe' are all NaN"),
        ([64, 16], {"probe": [0.5, 0.6]}, "sizes is [64.0, 16.0]; expected numbers above 0 in rising order"),
        ([0, 16], {"probe": [0.5, 0.6]}, "sizes is [0.0, 16.0]"),
        ([], {"probe": []}, "sizes is []"),
    ],
)
def test_wrong_curves(ax, sizes, scores, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_learning_curves(ax, sizes, scores, ylabel="accuracy")
