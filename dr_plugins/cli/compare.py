"""``dr-plugins compare-teachers``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.interrupts import ending_at_once
from dr_plugins.cli.options import SAMPLES
from dr_plugins.cli.processes import count_workers, import_modules, usable_device


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins compare-teachers --images imagenet/train --fraction 0.01 --policy randaug \\
      --teacher timm:resnetv2_152x2_bit --teacher timm:convnext_xlarge --out comparison

  dr-plugins compare-teachers --images flowers/train --class-map flowers.txt --size 224 \\
      --teacher timm:resnet50@tuned.pt --teacher python:my_models:teacher --fraction 1
""",
)
@options.images()
@options.teachers("give it for each teacher.")
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="Share of the images to ask about, drawn at random.",
)
@click.option(
    "--samples",
    type=SAMPLES,
    default=4,
    show_default=True,
    help="Views of each of these images.",
)
@options.policy
@options.size
@options.seed("the drawn images and of their views")
@options.temperature
@options.bf16()
@options.batch_size(64)
@options.all_cores()
@options.device()
@options.class_map
@click.option(
    "--out",
    type=options.Output(file_okay=False),
    help="Directory for comparison.json, comparison.md and comparison.png; the picture needs the "
    "extra evaluate.",
)
@options.imports
@options.quiet
def compare_teachers(
    images: str,
    teachers: tuple[str, ...],
    fraction: float,
    samples: int,
    policy: str,
    size: int | None,
    seed: int,
    temperature: float,
    bf16: bool,
    batch_size: int,
    workers: int | None,
    device: str | None,
    class_map: str | None,
    out: Path | None,
    imports: tuple[str, ...],
    quiet: bool,
) -> None:
    """Ask several teachers about some of the images: which is worth days of generation?

    All answer the same augmented views. Prints accuracy, calibration, entropy and cost of each
    teacher, of each pair and of all together, and how alike they are. See docs/teachers.md.
    """
    with ending_at_once():
        import torch

        from dr_plugins.comparison import compare_teachers as compare
        from dr_plugins.comparison import draw, markdown
        from dr_plugins.evaluation.figures import check_matplotlib
        from dr_plugins.generation.teacher_schemes import load_teacher
        from dr_plugins.generation.teachers import Ensemble
        from dr_plugins.images.sources import open_source
        from dr_plugins.policies.policy import Policy

    if len(set(teachers)) < len(teachers):
        raise click.UsageError("a --teacher is given twice")
    if out is not None:
        check_matplotlib()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    usable_device(device)
    import_modules(imports)
    precision = torch.bfloat16 if bf16 else None
    comparison = compare(
        open_source(images, class_map),
        {spec: Ensemble([load_teacher(spec)], temperature, precision) for spec in teachers},
        Policy.load(policy, size=size),
        fraction=fraction,
        samples=samples,
        seed=seed,
        device=device,
        batch_size=batch_size,
        workers=count_workers(workers, 1, None),
        progress=not quiet,
    )
    click.echo(markdown(comparison))  # first: whatever is wrong with the directory, it is not lost
    if out is not None:
        draw(comparison, out / "comparison.png")  # makes the directory
        text = json.dumps(comparison.to_json(), indent=1)
        (out / "comparison.json").write_text(text, encoding="utf-8")
        (out / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
