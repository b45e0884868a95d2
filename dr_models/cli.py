"""``dr-plugins convert-checkpoint``: a published checkpoint for another library."""

from __future__ import annotations

from pathlib import Path

import click

from dr_plugins.cli.command import Command

__all__ = ["convert_checkpoint"]

# Written out, so that `--help` need not load PyTorch; a test compares.
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
    help="A CVNets model as ml-dr names it (resnet_50, swin-384_base), timm:NAME or "
    "torchvision:NAME.",
)
@click.option("--to", type=click.Choice(_TARGETS), default="timm", show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: *.safetensors for timm and torchvision, *.pth for the others.  "
    "[default: a name such as cvnets_resnet50-for-timm.safetensors]",
)
@click.option(
    "--averaged/--plain",
    default=None,
    help="Which weights of a training checkpoint that holds both.  [default: averaged]",
)
@click.option(
    "--stock", is_flag=True, help="For timm: an unmodified network of its own, if there is one."
)
@click.option(
    "--stored-indices",
    is_flag=True,
    help="For Swin's ema_best: compute with the damaged position indices, as published.",
)
@click.option(
    "--allow-partial", is_flag=True, help="Accept missing and unexpected keys of the backbone."
)
@click.option(
    "--mean", type=_THREE, help="Of a timm or torchvision network's images, RGB from 0 to 1."
)
@click.option("--std", type=_THREE, help="Likewise.")
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
    """Convert a checkpoint into a file that another library loads by its own means.

    Prints how. The file also says which images the network was trained on. What cannot be converted
    exactly is refused.
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
    click.echo(f"written: {report.out}, which {to} loads so:\n\n{how_to_load(report, inputs)}")
