"""The report's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from examples.evidence.corruptions import SEVERITIES
from examples.evidence.grid import LENGTHS, METHODS, Training
from examples.evidence.results import Results, corrupted

LABELS = {
    "plain": "plain",
    "smoothing": "label smoothing",
    "stored": "one stored answer, free augmentation",
    "independent": "online, independent crops",
    "online": "online, same view",
    "reinforced": "reinforced",
}
_STYLES: dict[str, dict[str, Any]] = {
    "plain": {"color": "0.45", "marker": "o"},
    "smoothing": {"color": "tab:olive", "marker": "v"},
    "stored": {"color": "tab:red", "marker": "s"},
    "independent": {"color": "tab:orange", "marker": "^"},
    "online": {"color": "tab:green", "marker": "D", "linestyle": "--"},
    "reinforced": {"color": "tab:blue", "marker": "o", "linewidth": 2.5},
}


def draw_lengths(results: Results, row: Training, path: Path) -> None:
    """Draw accuracy and calibration error over the length of training; hollow: seeds pending."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for axis, metric in zip(axes, ("accuracy", "ECE"), strict=True):
        for method in METHODS:
            rows = [replace(row, method=method, epochs=epochs) for epochs in LENGTHS]
            _line(axis, LENGTHS, [results.sample(r, metric) for r in rows], method)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LENGTHS, [str(epochs) for epochs in LENGTHS])
        axis.set_xlabel("epochs of training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy, %")
    axes[1].set_ylabel("expected calibration error, %")
    axes[1].set_ylim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, path)


def draw_severities(results: Results, row: Training, path: Path) -> None:
    """Draw accuracy and calibration error over the severity of corruptions; 0 is uncorrupted."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for axis, metric, what in zip(axes, ("accuracy", "ECE"), ("accuracy", "ece"), strict=True):
        for method in METHODS:
            this = replace(row, method=method)
            metrics = [metric, *(corrupted(what, severity) for severity in SEVERITIES)]
            _line(axis, range(6), [results.sample(this, m) for m in metrics], method)
        axis.set_xlabel("severity, mean of six corruptions")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[1].set_ylabel("expected calibration error, %")
    axes[1].set_ylim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, path)


def _line(axis: Any, xs: Sequence[int], samples: Sequence[Any], method: str) -> None:
    points = [(x, s) for x, s in zip(xs, samples, strict=True) if len(s)]
    style = {"markersize": 5, **_STYLES[method]}
    if points:
        values = [(x, sample.mean, sample.deviation) for x, sample in points]
        axis.errorbar(*zip(*values, strict=True), capsize=3, label=LABELS[method], **style)
    for x, sample in points:  # hollow where seeds are pending
        if not sample.is_complete:
            axis.plot(x, sample.mean, zorder=3, markerfacecolor="white", **style)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
