"""``python -m examples.recipes.imagenet.teacher``: ImageNet+ as it was made, and its smaller sets.

The settings are those of apple/ml-dr, configs/imagenet/reinforce/*.yaml; the numbers of
reinforcements and classes those of its README, "Reinforced Data".
"""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli import Command
from examples.recipes import launching
from examples.recipes.imagenet.ig_resnext101 import MEMBERS
from examples.recipes.smoke import make_images

# ml-dr's configuration: our policy.
_POLICIES = {
    "cropflip": "rrc",
    "mixing": "mixing",
    "randaug": "randaug",
    "randaug_mixing": "randaug_mixing",
}
_SUBSETS = {"small": ("--samples", "100", "--topk", "5"), "mini": ("--samples", "50")}
_SMOKE_SUBSETS = {"small": ("--samples", "2", "--topk", "1"), "mini": ("--samples", "1")}


@click.command(cls=Command, context_settings=launching.CONTEXT)
@click.argument("config", metavar="[CONFIG]", type=click.Choice(list(_POLICIES)), default="randaug")
@click.option("--images", default="imagenet/train", help="As for dr-plugins reinforce.")
@click.option("--out", type=click.Path(path_type=Path), default="imagenet/reinforcements")
@click.option("--estimate", is_flag=True, help="Only print what the set costs.")
@click.option("--smoke", is_flag=True, help="Make a tiny set of images that are made for it.")
@click.argument("options", metavar="[REINFORCE_OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def main(
    config: str, images: str, out: Path, estimate: bool, smoke: bool, options: tuple[str, ...]
) -> None:
    """Make OUT/imagenet-plus, and of it OUT/imagenet-plus-small and -mini.

    CONFIG is one of apple/ml-dr's: cropflip, mixing, randaug (the default) or randaug_mixing.
    REINFORCE_OPTIONS are more options of `dr-plugins reinforce`, such as `--bf16 --compile`.
    """
    teachers = [f"timm:{name}" for name in MEMBERS]
    samples, topk, subsets = "400", "10", _SUBSETS
    if smoke:
        images = str(make_images(out / "images") / "train")
        teachers = ["python:examples.recipes.smoke:build_teacher"] * 2
        samples, topk, subsets = "4", "3", _SMOKE_SUBSETS
    whole = out / "imagenet-plus"
    arguments = ["--images", images, "--policy", _POLICIES[config], "--out", str(whole)]
    arguments += ["--samples", samples, "--topk", topk]
    arguments += ["--import", "examples.recipes.imagenet.ig_resnext101"]
    for teacher in teachers:
        arguments += ["--teacher", teacher]
    launching.dr_plugins("reinforce", *arguments, *options, *(["--estimate"] if estimate else []))
    if not estimate:
        for name, fewer in subsets.items():
            launching.dr_plugins("subset", str(whole), *fewer, "--out", f"{whole}-{name}")


if __name__ == "__main__":
    main()
