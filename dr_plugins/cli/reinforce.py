"""``dr-plugins reinforce``."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from dr_plugins.cli.command import Command

__all__ = ["CLASS_MAP", "IMAGES", "import_named", "reinforce", "usable_device"]

IMAGES = "Directory with one folder per class, or torchvision:NAME:ROOT."
CLASS_MAP = "Text file with one class folder name per line, in label order."
_POLICY = "Preset (cifar, mixing, randaug, randaug_mixing, rrc) or YAML file."
_COUNT = click.IntRange(min=1)


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins reinforce --images imagenet/train --teacher timm:resnetv2_152x2_bit \\
      --teacher timm:convnext_xlarge --policy randaug --out imagenet-plus

  dr-plugins reinforce --images torchvision:CIFAR100:data --teacher python:my_models:teacher \\
      --policy cifar --size 32 --samples 100 --out cifar100-plus

A policy file extends a preset and changes single values:

  preset: rrc
  random_resized_crop: {size: 160, scale: [0.3, 1.0]}

To resume an interrupted run, run the same command again.
""",
)
@click.option("--images", required=True, help=IMAGES)
@click.option(
    "--teacher",
    "teachers",
    required=True,
    multiple=True,
    help="timm:NAME, timm:NAME@CHECKPOINT or python:MODULE:FUNCTION; several form an ensemble.",
)
@click.option("--policy", default="randaug", show_default=True, help=_POLICY)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Output directory.")
@click.option(
    "--samples", type=_COUNT, default=400, show_default=True, help="Reinforcements per image, S."
)
@click.option(
    "--first-sample",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the first reinforcement: `merge` joins sets of consecutive samples.",
)
@click.option("--topk", type=_COUNT, default=10, show_default=True, help="Classes stored per view.")
@click.option("--size", type=_COUNT, help="Side of the views in pixels.  [default: the policy's]")
@click.option(
    "--backend", type=click.Choice(["pil", "tensor"]), help="[default: the policy's, pil]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 64) - 1),
    default=0,
    show_default=True,
    help="Seed of all parameters.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Temperature of the teachers' softmax.",
)
@click.option("--bf16", is_flag=True, help="Run the teachers in bfloat16 mixed precision.")
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the teachers with torch.compile: takes minutes, then runs faster.",
)
@click.option("--lossless", is_flag=True, help="Store probabilities in float32, not float16.")
@click.option(
    "--batch-size", type=_COUNT, default=256, show_default=True, help="Views per forward pass."
)
@click.option(
    "--shard-images",
    type=_COUNT,
    default=1024,
    show_default=True,
    help="Images per shard; an interruption loses at most one shard.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that augment.  [default: one per core]"
)
@click.option("--device", help="Device of the teachers.  [default: cuda if available, else cpu]")
@click.option(
    "--views-on",
    type=click.Choice(["workers", "device"]),
    help="Where views are made, with identical results; with `device`, workers only decode.  "
    "[default: device if it is cuda, else workers]",
)
@click.option("--class-map", type=click.Path(exists=True, dir_okay=False), help=CLASS_MAP)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Least share of sampled views whose label is the teacher's top class.  "
    "[default: 5 % or 1.5 / classes; below 10 classes, clearly more than by chance]",
)
@click.option(
    "--check-images",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="How to look for unreadable images before the teacher starts: check their beginnings and "
    "ends, or decode all of them.",
)
@click.option(
    "--skip-unreadable",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Leave out the images listed in FILE, one path per line; if it does not exist, the "
    "unreadable images are written to it.  The list is part of the set.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Module to import first, such as one that registers models with timm.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def reinforce(
    images: str,
    teachers: tuple[str, ...],
    policy: str,
    out: Path,
    size: int | None,
    backend: str | None,
    temperature: float,
    bf16: bool,
    compiled: bool,
    lossless: bool,
    workers: int | None,
    device: str | None,
    views_on: str | None,
    class_map: str | None,
    min_agreement: float | None,
    check_images: str,
    skip_unreadable: Path | None,
    imports: tuple[str, ...],
    quiet: bool,
    **numbers: int,
) -> None:
    """Reinforce a dataset: store augmentations of every image and the teachers' answers."""
    import torch

    from dr_plugins.generation.generate import GenerationSettings
    from dr_plugins.generation.generate import reinforce as generate
    from dr_plugins.generation.readable import skip_list
    from dr_plugins.generation.teacher_schemes import load_teacher
    from dr_plugins.generation.teachers import Ensemble
    from dr_plugins.images.sources import open_source
    from dr_plugins.policies.policy import Policy
    from dr_plugins.shards.reader import ShardSet

    device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sys.path.append(os.getcwd())  # for python:MODULE:FUNCTION
    for name in imports:
        import_named(name)
    settings = GenerationSettings(
        Policy.load(policy, size=size, backend=backend),
        probs_dtype="float32" if lossless else "float16",
        **numbers,
    )
    source = open_source(images, class_map)
    ensemble = Ensemble(
        [load_teacher(spec) for spec in teachers],
        temperature,
        torch.bfloat16 if bf16 else None,
        compiled,
    )
    workers = (os.cpu_count() or 1) if workers is None else workers
    left_out: list[str] = []
    checked = False
    if skip_unreadable is not None:
        checked = not skip_unreadable.exists()
        left_out = skip_list(
            skip_unreadable, source, check=check_images, workers=workers, progress=not quiet
        )
    try:
        generate(
            source,
            ensemble,
            out,
            settings,
            teacher_specs=teachers,
            device=device,
            workers=workers,
            views_on=views_on,
            min_agreement=min_agreement,
            left_out=left_out,
            check_images=None if checked else check_images,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        click.echo("\nRun the same command to resume after the last finished shard.", err=True)
        raise
    click.echo(repr(ShardSet(out)))


def import_named(name: str) -> None:
    """Import a module that a user names."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise click.BadParameter(str(error), param_hint="--import") from error


def usable_device(name: str) -> str:
    """Return a device's name after a check that it works."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(reason, param_hint="--device") from error
    return name
