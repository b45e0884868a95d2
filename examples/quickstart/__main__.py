"""``python -m examples.quickstart``: reinforce Fashion-MNIST, train on it with timm, compare."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from dr_plugins import ShardSet, describe, open_source, verify
from examples.quickstart.data import load
from examples.quickstart.folders import export_folders
from examples.quickstart.report import draw_accuracy, draw_samples, table
from examples.quickstart.running import run_all
from examples.quickstart.training import Recipe

_COUNT, _CLASSES = click.IntRange(min=1), click.IntRange(1, 10)
# Each of ten classes has as many, and an epoch a whole batch at least.
_BATCHES = click.IntRange(Recipe.batch_size + 10 - Recipe.batch_size % 10, 60_000)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default="runs/quickstart", help="Results.")
@click.option("--images", type=_BATCHES, default=2000, help="Training images, of 60,000.")
@click.option("--epochs", type=_COUNT, default=60, help="Epochs of each training.")
@click.option("--seeds", type=_COUNT, default=2, help="Trainings of each kind.")
@click.option("--samples", type=_COUNT, default=50, help="Reinforcements per image.")
@click.option("--topk", type=_CLASSES, default=5, help="Classes stored for each reinforcement.")
def main(out: Path, images: int, epochs: int, seeds: int, samples: int, topk: int) -> None:
    """Train the same student on Fashion-MNIST plain and reinforced, and compare.

    A shipped teacher reinforces a few thousand training images; a small network is then trained on
    them through timm, with and without reinforcement: same model, seed, iterations and optimiser.
    """
    start = time.perf_counter()
    images -= images % 10  # as many of each class
    root = export_folders(*load(images // 10, out / "data"), out / f"fashion-mnist-{images}")
    directory = out / f"{root.name}-plus-{samples}x{topk}"
    runs = run_all(root, directory, samples, topk, Recipe(epochs), seeds)

    source, shards = open_source(str(root / "train")), ShardSet(directory)
    checked = verify(directory, source, replay=200)
    if checked.problems:
        raise click.ClickException("\n".join(checked.problems))
    files = [path for path in directory.iterdir() if path.suffix == ".safetensors"]
    text = table(runs, sum(path.stat().st_size for path in files) / (len(shards) * samples))
    draw_accuracy(runs, out / "accuracy.png")
    draw_samples(source, shards, out / "reinforcements.png")
    (out / "results.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    minutes = (time.perf_counter() - start) / 60
    click.echo(f"\n{describe(shards)}\n\nverified: {checked.replayed} views replay bit for bit")
    click.echo(f"\n{images} training images, {epochs} epochs, 10,000 test images\n\n{text}\n")
    click.echo(f"{minutes:.1f} minutes. Pictures: {out}/accuracy.png, {out}/reinforcements.png")


if __name__ == "__main__":
    main()
