"""``dr-plugins reinforce``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.options import COUNT, LOCAL_DIRECTORY, SAMPLES
from dr_plugins.cli.processes import (
    count_workers,
    ending,
    import_modules,
    name_messages,
    parse_actors,
    parse_part,
    usable_device,
)
from dr_plugins.cli.unfinished import described

_ACTORS = "1"


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
@options.images()
@options.teachers("several form an ensemble.")
@options.keys
@options.policy
@click.option("--out", required=True, type=LOCAL_DIRECTORY, help="Output directory.")
@click.option(
    "--samples",
    type=SAMPLES,
    default=400,
    show_default=True,
    help="Reinforcements per image, S.",
)
@click.option(
    "--first-sample",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the first reinforcement: `merge` joins sets of consecutive samples.",
)
@click.option(
    "--topk",
    type=COUNT,
    help="Classes stored per view.  [default: 10, or all if there are fewer]",
)
@options.size
@click.option(
    "--backend",
    type=click.Choice(["pil", "tensor"]),
    help="What resizes: Pillow, or torch, which is faster.  [default: the policy's, pil]",
)
@options.seed("all parameters")
@options.temperature
@options.bf16()
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the teachers with torch.compile: takes minutes, then runs faster.",
)
@click.option("--lossless", is_flag=True, help="Store probabilities in float32, not float16.")
@options.batch_size(256)
@click.option(
    "--shard-images",
    type=COUNT,
    default=1024,
    show_default=True,
    help="Images per shard; an interruption loses at most one shard.",
)
@options.all_cores(more=", divided among torchrun's ranks; 4 for each of Ray's actors")
@options.device()
@click.option(
    "--views-on",
    type=click.Choice(["workers", "device"]),
    help="Where views are made, with identical results; with `device`, workers only decode.  "
    "[default: device if it is cuda, else workers]",
)
@options.class_map
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
    type=options.Output(dir_okay=False),
    metavar="FILE",
    help="Leave out the images listed in FILE, one path per line; if it does not exist, the "
    "unreadable images are written to it.  The list is part of the set.",
)
@click.option(
    "--skip",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Leave out the images listed in FILE, one path per line, such as those of `dr-plugins "
    "suspects --keys`.  The list is part of the set.",
)
@options.imports
@click.option(
    "--part",
    metavar="I/N",
    help="Make every N-th shard only, beginning with the I-th; I is 1 to N.  [default: all shards "
    "that no other process makes]",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long to continue after SIGTERM to finish the shard at hand.",
)
@click.option(
    "--teacher-devices",
    metavar="DEVICES",
    help="One device for each teacher, such as cuda:0,cuda:1; torchrun's next rank gets the next "
    "ones.  [default: all on --device]",
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Make nothing: time some batches, and print the time and the space that the set needs.",
)
@click.option(
    "--engine",
    type=click.Choice(["ray"]),
    help="Make the set in actors on a Ray cluster (RAY_ADDRESS; by default on this machine).",
)
@click.option(
    "--actors",
    default=_ACTORS,
    show_default=True,
    metavar="MIN[:MAX]",
    help="Number of Ray's actors: MIN at the start, up to MAX as the cluster has room for them.",
)
@click.option(
    "--actor-gpus",
    type=click.FloatRange(min=0),
    help="GPUs of each actor.  [default: 0 with --device cpu, one for each teacher's device, "
    "else 1]",
)
@click.option(
    "--actor-resource",
    "actor_resources",
    multiple=True,
    metavar="NAME=AMOUNT",
    help="Custom resource of each actor, which decides where it is placed.",
)
@options.quiet
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
    keys: str,
    min_agreement: float | None,
    check_images: str,
    skip_unreadable: Path | None,
    skip: Path | None,
    imports: tuple[str, ...],
    quiet: bool,
    part: str | None,
    grace: float,
    teacher_devices: str | None,
    estimate: bool,
    engine: str | None,
    actors: str,
    actor_gpus: float | None,
    actor_resources: tuple[str, ...],
    **numbers: Any,
) -> None:
    """Reinforce a dataset: store augmentations of every image and the teachers' answers.

    Start it in as many processes as there are devices, with the same --out: each makes the shards
    that no other one makes. See docs/scale.md.
    """
    with ending_at_once():
        import torch

        from dr_plugins.generation.job import GenerationJob
        from dr_plugins.generation.launch import Rank, rank_device, rank_devices
        from dr_plugins.generation.planning import GenerationSettings
        from dr_plugins.generation.ray_engine import reinforce_on_ray
        from dr_plugins.generation.sharing import Process
        from dr_plugins.policies.policy import Policy

    if engine is None and (actors != _ACTORS or actor_gpus is not None or actor_resources):
        raise click.UsageError("--actors, --actor-gpus and --actor-resource need --engine ray")
    if engine is not None and part is not None:
        raise click.UsageError("--engine makes the whole set; leave out --part")
    if device is not None and teacher_devices is not None:
        raise click.UsageError("choose one of --device and --teacher-devices")
    rank = Rank.from_environment(os.environ)
    local_rank, local_world_size = (rank.local_rank, rank.local_world_size) if rank else (0, 1)
    process = rank.process if rank else Process(f"part {part}" if part else "")
    name_messages(process.name)
    devices = rank_devices(teacher_devices.split(","), local_rank) if teacher_devices else ()
    chosen = devices[0] if devices else device
    device = rank_device(chosen, local_rank, cuda=torch.cuda.is_available())
    if engine is None:
        for name in (*devices, device):
            usable_device(name)
        import_modules(imports)
    try:
        settings = GenerationSettings(
            Policy.load(policy, size=size, backend=backend),
            probs_dtype="float32" if lossless else "float16",
            **numbers,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    job = GenerationJob(
        images,
        teachers,
        out,
        settings,
        class_map=class_map,
        temperature=temperature,
        bf16=bf16,
        compiled=compiled,
        workers=count_workers(workers, local_world_size, engine),
        views_on=views_on,
        min_agreement=min_agreement,
        check_images=check_images,
        skip_unreadable=skip_unreadable,
        part=parse_part(part),
        grace=grace,
        imports=imports,
        path=os.getcwd(),
        keys=keys,
        skip=skip,
    )
    if estimate:
        click.echo(str(job.estimate(device, teacher_devices=devices)))
        return
    shown = not quiet and process.index == 0
    with ending(rank, out):
        if engine is None:
            job.run(device, process, teacher_devices=devices, progress=shown)
        else:
            crew = parse_actors(actors, actor_gpus, actor_resources, job.workers, device, devices)
            reinforce_on_ray(job, crew, device, teacher_devices=devices, progress=shown)
    if process.index == 0:
        click.echo(described(out))
