"""``dr-plugins convert-checkpoint``: convert a published checkpoint for another library."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command

# A copy of `TARGETS`, so that `--help` does not import PyTorch; a test compares them.
_TARGETS = ("timm", "torchvision", "detectron2", "mmengine")
_THREE = (float, float, float)


@click.command(
    "convert-checkpoint",
    cls=Command,
    epilog="""Examples:

  dr-plugins convert-checkpoint best.pt --arch resnet_50
  dr-plugins convert-checkpoint best.pt --arch timm:resnet50d --to mmengine --out r50d.pth
""",
)
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--arch",
    required=True,
    help="A CVNets model by ml-dr's name (resnet_50, swin-384_base), timm:NAME or "
    "torchvision:NAME.",
)
@click.option("--to", type=click.Choice(_TARGETS), default="timm", show_default=True)
@click.option(
    "--out",
    type=options.Output(dir_okay=False),
    help="Output file: *.safetensors for timm and torchvision, *.pth for the others.  "
    "[default: a name such as cvnets_resnet50-for-timm.safetensors]",
)
@click.option(
    "--averaged/--plain",
    default=None,
    help="Which weights of a training checkpoint that has both.  [default: averaged]",
)
@click.option(
    "--stock", is_flag=True, help="For timm: convert to an unmodified network, if possible."
)
@click.option(
    "--stored-indices",
    is_flag=True,
    help="For Swin's ema_best: reproduce the damaged position indices, as published.",
)
@click.option(
    "--allow-partial", is_flag=True, help="Accept missing and unexpected keys of the backbone."
)
@click.option(
    "--mean", type=_THREE, help="Mean of a timm or torchvision network's images, RGB from 0 to 1."
)
@click.option("--std", type=_THREE, help="Standard deviation of these images.")
def convert_checkpoint(
    source: Path,
    arch: str,
    to: str,
    out: Path | None,
    averaged: bool | None,
    stock: bool,
    stored_indices: bool,
    allow_partial: bool,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> None:
    """Convert a checkpoint to a file that another library loads with its own API.

    Prints the code for loading it. The file includes the input convention of the network. A
    conversion that would not be exact is an error.
    """
    from dr_models.checkpoints import convert, read_convention
    from dr_models.checkpoints.usage import how_to_load

    report = convert(
        source,
        out,
        arch=arch,
        to=to,
        averaged=averaged,
        stock=stock,
        stored_indices=stored_indices,
        allow_partial=allow_partial,
        mean=mean,
        std=std,
    )
    inputs = read_convention(report.out)
    click.echo(report)
    click.echo(
        f"input: RGB from 0 to 1, mean {list(inputs.mean)}, std {list(inputs.std)}, "
        f"{inputs.input_size[0]}×{inputs.input_size[1]}"
    )
    click.echo(f"written: {report.out}; load it in {to} with:\n\n{how_to_load(report, inputs)}")
