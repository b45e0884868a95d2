"""``dr-plugins evaluate``: accuracy, robustness and calibration of timm's models."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import click

from dr_plugins.cli import options
from dr_plugins.cli.command import Command
from dr_plugins.cli.options import COUNT
from dr_plugins.cli.processes import count_workers, import_modules, usable_device


@click.command(
    cls=Command,
    epilog="""Examples:

  dr-plugins evaluate --data /data --model resnet50 --checkpoint best.pt --out results

  dr-plugins evaluate --data /data --suite imagenet,v2,c --out results \\
      --model resnet50@plain.pth.tar --model resnet50@reinforced.pth.tar

  dr-plugins evaluate --data flowers/test --suite folder,folder+c --class-map flowers.txt \\
      --model resnet18@last.pth.tar --out results

To resume an interrupted run, run the same command again.
""",
)
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    metavar="NAME[@FILE]",
    help="A model of timm, with its pretrained weights or those of a file; several are compared.",
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The weights, if there is one model.",
)
@click.option(
    "--data",
    "roots",
    required=True,
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with the sets under their published names (docs/evaluation.md lists them); "
    "may be given several times.",
)
@click.option(
    "--suite",
    "suites",
    help="Sets, separated by commas, such as imagenet,v2,c.  Also folder (the directory itself), "
    "and NAME+c, which corrupts a set on the fly.  [default: all that are published]",
)
@click.option(
    "--out",
    required=True,
    type=options.Output(file_okay=False, writable=True),
    help="Directory of the results.",
)
@click.option(
    "--class-map",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For folder: text file with one class folder name per line, in label order.",
)
@click.option("--img-size", type=COUNT, help="Side of the images.  [default: the model's]")
@click.option(
    "--crop-pct",
    type=click.FloatRange(0, 1, min_open=True),
    help="Part of the image that the centre crop keeps.  [default: the model's]",
)
@options.bf16("models")
@options.batch_size(128, "Images")
@options.all_cores("read")
@options.device("models")
@options.imports
@options.quiet
def evaluate(
    models: tuple[str, ...],
    checkpoint: Path | None,
    roots: tuple[Path, ...],
    suites: str | None,
    out: Path,
    class_map: Path | None,
    img_size: int | None,
    crop_pct: float | None,
    imports: tuple[str, ...],
    quiet: bool,
    **running: Any,
) -> None:
    """Measure accuracy, robustness and calibration of classifiers on ImageNet's test sets.

    Writes summary.json, summary.md, reliability diagrams and heat maps into the directory of the
    results. Sets that are missing are listed.
    """
    import torch

    from dr_plugins.evaluation import SUITES, SetResult, find_sets, markdown, summarize
    from dr_plugins.evaluation import evaluate as run
    from dr_plugins.evaluation.figures import check_matplotlib, draw_all

    try:
        from dr_models.timm_models import imagenet_classes, load_model, model_name
    except ImportError as error:
        raise click.ClickException(
            f"evaluate needs timm: {error}. Install it with `pip install dr-plugins[timm]`"
        ) from error

    check_matplotlib()
    if checkpoint is not None:
        if len(models) > 1 or "@" in models[0]:
            raise click.UsageError("--checkpoint is for one --model; write --model NAME@FILE")
        models = (f"{models[0]}@{checkpoint}",)
    if len({model_name(spec) for spec in models}) < len(models):
        raise click.UsageError("two models have the same name; rename a file or its folder")
    import_modules(imports)
    published = ",".join(name for name in SUITES if name != "folder")
    chosen = [name.strip() for name in (published if suites is None else suites).split(",")]
    if class_map is not None and not {"folder", "folder+c"} & {*chosen}:
        raise click.UsageError("--class-map is for --suite folder; the published sets need none")
    sets, missing = find_sets(chosen, roots, imagenet_classes(), class_map)
    for name, reason in missing.items():
        click.echo(f"not found: {name}: {reason}", err=True)
    if not sets:
        raise click.ClickException(f"none of the sets is there: {', '.join(chosen)}")
    running["device"] = running["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    usable_device(running["device"])
    running["workers"] = count_workers(running["workers"], 1, None)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{error}. Choose a writable directory") from error
    results: list[SetResult] = []
    try:
        load = functools.partial(load_model, img_size=img_size, crop_pct=crop_pct)
        for spec in models[1:]:  # what is wrong with one is said before the first one runs
            load(spec)
        for spec in models:
            model = load(spec)
            results += [run(model, each, out, progress=not quiet, **running) for each in sets]
    except KeyboardInterrupt:
        click.echo("\nRun the same command to resume after the last finished set.", err=True)
        raise
    summary = summarize(results, missing)
    try:
        (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        (out / "summary.md").write_text(markdown(summary), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{error}. Choose a writable directory") from error
    draw_all(results, summary, out)
    click.echo(markdown(summary))
