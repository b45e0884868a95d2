"""``python -m examples.recipes.small DATASET``: a teacher, a shard set, and students."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch

from dr_plugins.cli import Command
from examples.recipes.launching import train_script_option
from examples.recipes.small.stages import Recipe, Run, read_recipe
from examples.recipes.smoke import CLASSES, make_images

_DATASETS = ("cifar100", "flowers102", "food101")
_STAGES = ("teacher", "reinforce", "scratch", "scratch-plus", "finetune", "finetune-plus")
_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("dataset", metavar="DATASET", type=click.Choice(_DATASETS))
@click.argument("stages", metavar="[STAGES]", nargs=-1, type=click.Choice(_STAGES))
@click.option("--data-dir", type=_PATH, default="data", show_default=True, help="Of the images.")
@click.option("--out", type=_PATH, help="Results.  [default: output/recipes/DATASET]")
@click.option(
    "--download",
    "--dataset-download",  # as train.py calls it, and messages do
    "download",
    is_flag=True,
    help="Let torchvision download the images.",
)
@click.option("--weights", type=_FILE, help="Network trained on ImageNet+, to be fine-tuned.")
@click.option(
    "--job", "jobs", multiple=True, type=click.IntRange(0), help="Run only this job of reinforce."
)
@click.option("--smoke", is_flag=True, help="Run each stage in seconds, on images made for it.")
@train_script_option
def main(
    dataset: str,
    stages: tuple[str, ...],
    data_dir: Path,
    out: Path | None,
    download: bool,
    weights: Path | None,
    jobs: tuple[int, ...],
    smoke: bool,
    train_script: Path | None,
) -> None:
    """Run the STAGES of the paper's recipe for a dataset; by default all, one after the other.

    DATASET is cifar100, flowers102 or food101. Of its stages, teacher fine-tunes the teacher,
    reinforce makes the shard set, scratch and scratch-plus train the student on plain and on
    reinforced images, and finetune and finetune-plus do so from --weights.

    A finished stage is skipped, and an interrupted one resumes: run the same command again.
    """
    recipe = read_recipe(dataset)
    out = out or Path("output/recipes") / dataset
    common = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dataset_download": download,
    }
    common["workers"] = min(8, os.cpu_count() or 1)
    run = Run(recipe, data_dir, out, common, weights, train_script, jobs or None)
    if smoke:
        _shrink(run)
    chosen = stages or tuple(s for s in _STAGES if run.weights or not s.startswith("finetune"))
    for stage in chosen:
        run.stage(stage)
    if not stages and chosen != _STAGES:
        click.echo("\nfinetune and finetune-plus were left out: they need --weights")


def _shrink(run: Run) -> None:
    """Turn a run into one on tiny images, with a small network; the student is fine-tuned."""
    recipe: Recipe = run.recipe
    run.data_dir = make_images(run.out / "images")
    recipe.dataset, recipe.images = "reinforced", str(run.data_dir / "train")
    for name, options in recipe.stages.items():
        if name == "reinforce":
            options |= {"samples": 2, "topk": 2, "jobs": 2}
        else:
            options |= {"model": "test_resnet", "img_size": 64, "num_classes": CLASSES}
            options |= {"epochs": 2, "batch_size": 2}
    recipe.stages["teacher"]["pretrained"] = False
    recipe.extra = ["--size", "64", "--min-agreement", "0", "--workers", "0", "--quiet"]
    run.common = {**run.common, "workers": 0}
    run.weights = run.weights or run.out / "scratch-plus" / "last.pth.tar"


if __name__ == "__main__":
    main()
