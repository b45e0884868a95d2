"""``python -m examples.recipes.imagenet RECIPE``: one of the recipes next to this file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from dr_plugins.cli import Command
from examples.recipes.launching import CONTEXT, launch, options_of, train_script_option
from examples.recipes.smoke import CLASSES, make_images, make_shards

_FOLDER = Path(__file__).parent
_SIZE = 64  # pixels, of a smoke
_RECIPES = sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@click.command(cls=Command, context_settings=CONTEXT, epilog=f"Recipes: {', '.join(_RECIPES)}.\n")
@click.argument("recipe", metavar="RECIPE", type=click.Choice(_RECIPES))
@click.option("--smoke", is_flag=True, help="Run one epoch on six images that are made for it.")
@train_script_option
@click.argument("options", metavar="[TIMM_OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def main(recipe: str, smoke: bool, train_script: Path | None, options: tuple[str, ...]) -> None:
    """Train by a recipe on this machine.

    TIMM_OPTIONS are those of timm's train.py, such as `--data-dir imagenet --epochs 300`, and
    replace the recipe's.
    """
    chosen = yaml.safe_load((_FOLDER / f"{recipe}.yaml").read_text())
    chosen |= {"output": "output/recipes", "experiment": recipe, "device": _device()}
    chosen |= options_of(options)
    if not smoke:
        _check_folder(chosen)
        _check_results(chosen)
        launch(chosen, train_script, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        launch({**chosen, **smoke_options(chosen, Path(folder))}, train_script)


def _check_folder(options: dict[str, Any]) -> None:
    """Check the directory of plain images; that of others is checked when they are opened."""
    folder = options.get("data_dir")
    if not options["dataset"] and folder is None:
        raise click.UsageError("--data-dir is missing: the directory of ImageNet's train and val")
    if not options["dataset"] and not os.path.isdir(folder or ""):
        raise click.UsageError(
            f"--data-dir {folder}: no such directory; expected one that holds ImageNet's train "
            f"and val, with a folder for each class"
        )


def _check_results(options: dict[str, Any]) -> None:
    """Keep the checkpoints of an earlier run, such as one with fewer epochs."""
    folder = Path(options["output"]) / options["experiment"]
    found = sorted(folder.glob("*.pth.tar"), key=os.path.getmtime)
    if found and not options.get("resume"):
        raise click.UsageError(
            f"{folder} holds the checkpoints of an earlier run: continue it with --resume "
            f"{found[-1]}, or choose a name for this one with --experiment"
        )


def smoke_options(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a recipe needs to be trained for an epoch on a few images."""
    make_images(folder)
    small = {"data_dir": str(folder), "num_classes": CLASSES, "epochs": 1, "output": str(folder)}
    small |= {"batch_size": 2, "workers": 0, "amp_dtype": "bfloat16", "warmup_epochs": 0}
    small |= {"img_size": _SIZE}
    if recipe["model"].startswith("vit"):
        small |= {"model_kwargs": {"img_size": _SIZE, "depth": 2}}
    if recipe["model"].startswith("swin"):
        small |= {"model_kwargs": {"img_size": _SIZE}}
    if recipe["dataset"]:
        make_shards(folder, folder / "reinforcements" / "imagenet-plus")
    if "kd_model_name" in recipe:
        small |= {"kd_model_name": "smoke_ensemble", "device_modules": ["examples.recipes.smoke"]}
    return small


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
