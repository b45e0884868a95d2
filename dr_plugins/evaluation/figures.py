"""Reliability diagrams and heat maps of corruptions, as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.corruptions import ALEXNET_ERRORS, EXTRA
from dr_plugins.evaluation.results import SetResult
from dr_plugins.metrics.calibration import equal_width_bins

_BINS = 15


def draw_all(results: Sequence[SetResult], summary: Mapping[str, Any], out: Path) -> None:
    """Draw a reliability diagram of each set, and a heat map of each corrupted one.

    Args:
        results: Of all models and sets.
        summary: Of `results`, from `summarize`.
        out: Directory; the files are ``reliability_SET.png`` and ``corruptions_SET.png``.

    Raises:
        EvaluationError: matplotlib is not installed, or a file cannot be written.
    """
    for name in summary["sets"]:
        group = [result for result in results if result.set_name == name]
        draw_reliability(group, out / f"reliability_{name.replace('/', '_')}.png")
    for suite, found in summary["corruptions"].items():
        draw_corruptions(suite, found["models"], out / f"corruptions_{suite}.png")


def draw_reliability(results: Sequence[SetResult], path: Path) -> None:
    """Draw accuracy over confidence of each model on one set, and how many images a bin has.

    Args:
        results: One for each model.
        path: The PNG file.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    figure = new_figure(3.6 * len(results), 4.6)
    axes = figure.subplots(
        2, len(results), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1)
    )
    edges = np.linspace(0, 1, _BINS + 1)
    for result, (top, bottom) in zip(results, axes.T, strict=True):
        scores = result.scores
        bin_of = equal_width_bins(scores.confidence, _BINS).numpy()
        counts = np.bincount(bin_of, minlength=_BINS)
        filled = np.maximum(counts, 1)
        accuracy = np.bincount(bin_of, scores.top1.numpy(), _BINS) / filled
        confidence = np.bincount(bin_of, scores.confidence.numpy(), _BINS) / filled
        top.bar(edges[:-1], accuracy, 1 / _BINS, align="edge", edgecolor="white", label="accuracy")
        # From accuracy to confidence: the gap whose mean is the calibration error.
        top.bar(
            edges[:-1],
            np.where(counts > 0, confidence - accuracy, 0),
            1 / _BINS,
            bottom=accuracy,
            align="edge",
            facecolor="none",
            edgecolor="tab:red",
            hatch="////",
            label="gap to confidence",
        )
        top.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
        metrics = scores.metrics()
        top.set_title(
            f"{textwrap.fill(result.model, 44)}\n"
            f"top-1 {100 * metrics['top1']:.1f} %, ECE {100 * metrics['ece']:.1f} %",
            fontsize=9,
        )
        top.set(xlim=(0, 1), ylim=(0, 1))
        bottom.bar(edges[:-1], counts / len(scores), 1 / _BINS, align="edge", color="tab:gray")
        bottom.set_xlabel("confidence")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    figure.suptitle(f"{results[0].set_name} ({len(results[0].scores):,} images)", fontsize=10)
    save_figure(figure, path)


def draw_corruptions(suite: str, models: Mapping[str, Any], path: Path) -> None:
    """Draw the error of each corruption and severity, a panel for each model.

    Args:
        suite: Its name, for the title.
        models: The ``models`` of a suite in a summary, with their ``errors``.
        path: The PNG file.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    present = {name for found in models.values() for name in found["errors"]}
    rows = [name for name in (*ALEXNET_ERRORS, *EXTRA) if name in present]
    figure = new_figure(1.6 + 2.8 * len(models), 1.2 + 0.3 * len(rows))
    axes = figure.subplots(1, len(models), squeeze=False, sharey=True)
    for axis, (model, found) in zip(axes[0], models.items(), strict=True):
        errors = np.array(
            [[found["errors"].get(row, {}).get(each, np.nan) for each in "12345"] for row in rows]
        )
        image = axis.imshow(100 * errors, vmin=0, vmax=100, cmap="magma_r", aspect="auto")
        for (y, x), error in np.ndenumerate(errors):
            if not np.isnan(error):
                colour = "white" if error > 0.5 else "black"
                axis.text(
                    x, y, f"{100 * error:.0f}", ha="center", va="center", fontsize=7, color=colour
                )
        axis.set_xticks(range(5), list("12345"))
        axis.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
        axis.set_xlabel("severity")
        axis.set_title(textwrap.fill(model, 28), fontsize=9)
    figure.colorbar(image, ax=axes, label="top-1 error, %")
    figure.suptitle(suite, fontsize=10)
    save_figure(figure, path)


def check_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    new_figure(1, 1)


def new_figure(width: float, height: float) -> Any:
    """Return a figure, in inches, without a window and without pyplot's state.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvaluationError(
            f"figures need matplotlib: {error}. Install it with "
            f'`pip install "dr-plugins[evaluate]"`'
        ) from error
    return Figure((width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        EvaluationError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise EvaluationError(
            f"cannot write {path}: {error}. Choose a writable directory"
        ) from error
