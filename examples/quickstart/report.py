"""The quickstart's table and its two pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dr_plugins import ImageSource, Replayer, ShardSet
from examples.quickstart.training import Run

COLOURS = {"plain": "tab:grey", "reinforced": "tab:blue"}


def table(runs: Sequence[Run], bytes_each: float) -> str:
    """Return the result of all runs as text."""
    seeds = sorted({run.seed for run in runs})
    lines = [f"{'':<30}{'plain':>10}{'reinforced':>12}{'gain':>9}"]
    rows: list[tuple[str, Callable[[Run], float], str]] = [
        ("accuracy, %", lambda run: 100 * run.history[-1][1], ".2f"),
        ("calibration error, %", lambda run: 100 * run.history[-1][2], ".2f"),
        ("CPU seconds per epoch", lambda run: run.seconds_per_epoch, ".2f"),
    ]
    for what, value, style in rows:
        for seed in seeds:
            pair = [value(_only(runs, name, seed)) for name in COLOURS]
            lines.append(_line(f"{what}, seed {seed}", *pair, style))
        means = [statistics.mean(value(r) for r in runs if r.name == name) for name in COLOURS]
        lines.append(_line(f"{what}, mean", *means, style))
    lines.append(f"{'bytes per reinforcement':<30}{'':>10}{bytes_each:>12.1f}")
    return "\n".join(lines)


def _line(what: str, plain: float, reinforced: float, style: str) -> str:
    return f"{what:<30}{plain:>10{style}}{reinforced:>12{style}}{reinforced - plain:>+9{style}}"


def _only(runs: Sequence[Run], name: str, seed: int) -> Run:
    (run,) = (run for run in runs if (run.name, run.seed) == (name, seed))
    return run


def draw_accuracy(runs: Sequence[Run], path: Path) -> None:
    """Draw accuracy and calibration error over the epochs of all runs."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for run in runs:
        epochs, accuracy, error = (np.array(column) for column in zip(*run.history, strict=True))
        label = run.name if run.seed == runs[0].seed else None
        for axis, values in zip(axes, (accuracy, error), strict=True):
            axis.plot(epochs, 100 * values, color=COLOURS[run.name], label=label, alpha=0.8)
    axes[0].set(xlabel="epoch", ylabel="test accuracy, %", title="Accuracy", ylim=(70, None))
    axes[1].set(xlabel="epoch", ylabel="expected calibration error, %", title="Calibration")
    axes[1].set_ylim(0, 15)
    axes[0].legend(title=f"{len({run.seed for run in runs})} seeds each")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_samples(
    source: ImageSource, shards: ShardSet, path: Path, rows: int = 5, columns: int = 4
) -> None:
    """Draw images, stored views of them, and the teacher's three most probable classes."""
    replayer, names = Replayer(source, shards), shards.manifest.settings["class_names"]
    rng, columns = np.random.default_rng(0), min(columns, shards.manifest.samples)
    figure, axes = plt.subplots(
        rows, columns + 1, figsize=(2.1 * (columns + 1), 2.5 * rows), layout="constrained"
    )
    for line, index in zip(axes, _from_unsure_to_sure(replayer, rows), strict=True):
        image, label = source.load(index)
        line[0].imshow(np.asarray(image))
        line[0].set_title(f"image\n{names[label]}", fontsize=8)
        row = replayer.rows[index]
        samples = rng.choice(shards.manifest.samples, columns, replace=False)
        for axis, sample in zip(line[1:], samples, strict=True):
            record = shards.read(np.array([row]), np.array([sample]))
            view, _ = replayer.view(index, replayer.policy.decode(record)[0])
            axis.imshow(view.permute(1, 2, 0).numpy())
            top = zip(record["ids"][0][:3], record["probs"][0][:3], strict=True)
            axis.set_title("\n".join(f"{names[i]} {p:.2f}" for i, p in top), fontsize=8)
        for axis in line:
            axis.axis("off")
    figure.suptitle("The image, stored views of it, and the teacher's top three", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _from_unsure_to_sure(replayer: Replayer, count: int) -> list[int]:
    """Positions of images, from the one that the teacher is least sure of to average ones."""
    shards = replayer.shards
    sure = [
        shards.records(number)["probs"][..., 0].astype(float).mean(1)
        for number in range(len(shards.manifest.shards))
    ]
    order = np.argsort(np.concatenate(sure)[replayer.rows])
    return order[np.linspace(0, len(order) // 2, count).astype(int)].tolist()
