"""``python -m examples.quickstart``: reinforce Fashion-MNIST, train on it with timm, compare."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click
import torch

import examples.quickstart.models  # noqa: F401 - registers the quickstart's models with timm
from dr_plugins import ImageSource, Policy, ShardSet
from dr_plugins.describe import describe
from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble, load_teacher
from dr_plugins.sources import open_source
from dr_plugins.verify import verify
from examples.quickstart.data import prepare
from examples.quickstart.folders import export_folders
from examples.quickstart.report import draw_accuracy, draw_samples, table
from examples.quickstart.training import Recipe, Run, train

TEACHER = "timm:fashion_resnet_teacher"
POLICY = Path(__file__).with_name("policy.yaml")

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
    # One thread computes while a worker process loads: more of them only get in each other's way.
    torch.set_num_threads(1)
    start = time.perf_counter()
    root = export_folders(prepare(out / "data"), out / f"fashion-mnist-{images}", images)
    source = open_source(str(root / "train"))
    shards = _reinforce(source, out / f"{root.name}-plus-{samples}x{topk}", samples, topk)
    runs = _train(root, shards, Recipe(epochs), seeds)

    files = [path for path in shards.directory.iterdir() if path.suffix == ".safetensors"]
    bytes_each = sum(path.stat().st_size for path in files) / (len(shards) * samples)
    text = table(runs, bytes_each)
    draw_accuracy(runs, out / "accuracy.png")
    draw_samples(source, shards, out / "reinforcements.png")
    (out / "results.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    minutes = (time.perf_counter() - start) / 60
    click.echo(f"\n{images} training images, {epochs} epochs, 10,000 test images\n\n{text}\n")
    click.echo(f"{minutes:.1f} minutes. Pictures: {out}/accuracy.png, {out}/reinforcements.png")


def _reinforce(source: ImageSource, out: Path, samples: int, topk: int) -> ShardSet:
    click.echo(f"the teacher answers {len(source)} images x {samples} views")
    settings = GenerationSettings(Policy.load(POLICY), samples=samples, topk=topk, batch_size=250)
    reinforce(
        source,
        Ensemble([load_teacher(TEACHER)]),
        out,
        settings,
        teacher_specs=[TEACHER],
        workers=1,
        progress=True,
    )
    report = verify(out, source, replay=200)
    if report.problems:
        raise click.ClickException("\n".join(report.problems))
    shards = ShardSet(out)
    click.echo(f"\n{describe(shards)}\n\nverified: {report.replayed} views replay bit for bit\n")
    return shards


def _train(root: Path, shards: ShardSet, recipe: Recipe, seeds: int) -> list[Run]:
    names = {"plain": "", "reinforced": f"reinforced?shards={shards.directory.resolve()}"}
    return [
        train(name, dataset, root, recipe, seed)
        for seed in range(seeds)
        for name, dataset in names.items()
    ]


if __name__ == "__main__":
    main()
