"""The stages of a small dataset: each finished one is skipped, an interrupted one resumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import yaml

from dr_models.checkpoints import load_backbone
from dr_plugins.errors import CheckpointError
from examples.recipes import launching
from examples.recipes.launching import launch

_FOLDER = Path(__file__).parent
# Options that change no result, so a stage may resume with others.
_FREE = ("resume", "workers", "device", "data_dir", "dataset_download", "output", "experiment")


@dataclass
class Recipe:
    """One dataset's settings.

    Attributes:
        dataset: Its name for timm, such as ``cifar100-plus``.
        images: Its name for `dr-plugins reinforce --images`, without the directory.
        stages: Options of train.py for each training; for ``reinforce`` its policy, samples, topk
            and jobs.
        extra: More arguments of `dr-plugins reinforce`.
    """

    dataset: str
    images: str
    stages: dict[str, dict[str, Any]]
    extra: list[str] = field(default_factory=list)


def read_recipe(name: str) -> Recipe:
    """Read ``NAME.yaml`` and what it shares with the others."""
    shared, own = (
        yaml.safe_load((_FOLDER / f"{stem}.yaml").read_text()) for stem in ("shared", name)
    )
    training = {**shared["training"], **own["training"]}
    stages = {
        stage: {**options, **own["reinforce"]} if stage == "reinforce" else {**training, **options}
        for stage, options in shared["stages"].items()
    }
    return Recipe(own["dataset"], own["images"], stages)


@dataclass
class Run:
    """The stages of a recipe in one output directory.

    Attributes:
        recipe: What to do.
        data_dir: Where the images are.
        out: Output directory; a folder for each stage.
        common: Options of train.py for this machine.
        weights: Checkpoint of the network, trained on ImageNet+, to be fine-tuned.
        script: timm's train.py; None for the loop of these examples.
        jobs: The jobs of ``reinforce`` to run; None for all, which are then merged.
    """

    recipe: Recipe
    data_dir: Path
    out: Path
    common: Mapping[str, Any]
    weights: Path | None = None
    script: Path | None = None
    jobs: tuple[int, ...] | None = None

    def stage(self, name: str) -> None:
        """Run a stage, unless it is finished."""
        click.echo(f"\n== {name}")
        if name == "reinforce":
            self._reinforce()
        else:
            self._train(name)

    def _train(self, name: str) -> None:
        folder = self.out / name
        options = {**self.recipe.stages[name], **self.common, **self._images_of(name)}
        options |= {"output": str(self.out), "experiment": name, "data_dir": str(self.data_dir)}
        _same_as_before(folder, options)
        if not (folder / "finished").exists():
            last = folder / "last.pth.tar"
            if last.exists():
                click.echo(f"resuming {last}")
                options["resume"] = str(last)
            launch(options, self.script)
            # timm's train.py ends an interrupted training with exit status 0.
            if (done := int(_last_row(folder)["epoch"]) + 1) < options["epochs"]:
                raise click.ClickException(
                    f"{name} was interrupted after epoch {done} of {options['epochs']}; run the "
                    f"same command to resume"
                )
            (folder / "finished").touch()
        click.echo(f"{name}: top-1 {float(_last_row(folder)['eval_top1']):.2f} %")

    def _images_of(self, name: str) -> dict[str, Any]:
        options: dict[str, Any] = {"dataset": f"{self.recipe.dataset}?p=0"}
        if name.endswith("-plus"):
            shards = quote(str(self._shards.resolve()))
            # apple/ml-dr, plus.yaml and ft_plus.yaml: reinforce.p, reinforce.densify
            options["dataset"] = f"{self.recipe.dataset}?p=0.99&densify=smooth&shards={shards}"
        if name.startswith("finetune"):
            if self.weights is None:
                raise click.UsageError(f"{name} needs --weights, a network trained on ImageNet+")
            _check_weights(self.weights, self.recipe.stages[name]["model"])
            options["pretrained_path"] = str(self.weights)
        return options

    @property
    def _shards(self) -> Path:
        return self.out / "reinforced"

    def _reinforce(self) -> None:
        """Make the reinforcements of each job, then one set of them, as a single run would make."""
        settings = self.recipe.stages["reinforce"]
        jobs = range(settings["jobs"])
        wanted = jobs if self.jobs is None else self.jobs
        if others := sorted(set(wanted).difference(jobs)):
            raise click.UsageError(f"--job {others[0]}: the jobs are 0 to {jobs[-1]}")
        # Its last weights, like apple/ml-dr's models.py:get_path_to_checkpoint.
        checkpoint = self.out / "teacher" / "last.pth.tar"
        if not checkpoint.with_name("finished").exists():
            raise click.ClickException(
                f"the teacher in {checkpoint.parent} is not finished; run the stage teacher first"
            )
        model = self.recipe.stages["teacher"]["model"]
        images = self.recipe.images
        if images.startswith("torchvision:"):
            images = f"{images}:{self.data_dir}"
        for job in wanted:
            command = ["reinforce", "--images", images, "--teacher", f"timm:{model}@{checkpoint}"]
            for name in ("policy", "samples", "topk"):
                command += [f"--{name}", str(settings[name])]
            command += ["--first-sample", str(job * settings["samples"])]
            command += ["--device", self.common["device"]]
            launching.dr_plugins(*command, *self.recipe.extra, "--out", str(self._job(job)))
        if self.jobs is None:
            sets = [str(self._job(job)) for job in wanted]
            launching.dr_plugins("merge", *sets, "--out", str(self._shards))

    def _job(self, number: int) -> Path:
        return self.out / "jobs" / str(number)


def _check_weights(path: Path, model: str) -> None:
    """Refuse weights that timm would only partly load: the rest would stay random."""
    try:
        layout = load_backbone(str(path), to="timm", arch=model, options={}).report.layout
    except CheckpointError as error:
        raise click.ClickException(f"--weights: {error}") from error
    if layout == "cvnets":
        raise click.ClickException(
            f"--weights {path} has CVNets' names, which timm does not load; convert it with "
            f"dr-plugins convert-checkpoint"
        )


def _same_as_before(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuse to resume or skip a stage that was begun with other options."""
    kept = {name: value for name, value in options.items() if name not in _FREE}
    file = folder / "options.yaml"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(kept))
        return
    before = yaml.safe_load(file.read_text())
    changed = [n for n in sorted({*before, *kept}) if before.get(n) != kept.get(n)]
    if changed:
        raise click.ClickException(
            f"{folder} was begun with other options: "
            + ", ".join(f"{n} was {before.get(n)!r}, is {kept.get(n)!r}" for n in changed)
            + ". Use another --out, or remove the folder"
        )


def _last_row(folder: Path) -> dict[str, str]:
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]
