"""The recipes for ImageNet: names of options, and the teachers of ImageNet+."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from click.testing import CliRunner

timm = pytest.importorskip("timm")

RECIPES = Path(__file__).resolve().parents[3] / "examples" / "recipes"
IMAGENET = sorted((RECIPES / "imagenet").glob("*.yaml"))


def known_options() -> set[str]:
    lines = Path(__file__).with_name("timm_options.txt").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_every_option_is_one_of_train_py(path: Path) -> None:
    recipe = read(path)
    assert set(recipe) <= known_options()
    assert timm.is_model(recipe["model"])
    # YAML reads 1e-4 as text.
    numbers = ("lr_base", "weight_decay", "warmup_lr", "min_lr")
    assert all(isinstance(recipe[name], float) for name in numbers)


def test_the_paper_s_settings_of_resnet50d() -> None:
    """apple/ml-dr, configs/imagenet: plus.yaml, erm.yaml, kd.yaml."""
    plus, plain, online = (
        read(RECIPES / "imagenet" / f"resnet50d{kind}.yaml") for kind in ("", "_erm", "_kd")
    )
    for recipe in (plus, plain, online):
        assert (recipe["opt"], recipe["momentum"]) == ("sgd", 0.9)  # timm's sgd is Nesterov's
        assert (recipe["lr_base"], recipe["lr_base_size"], recipe["epochs"]) == (0.4, 1024, 150)
        assert (recipe["sched"], recipe["warmup_epochs"]) == ("cosine", 5)
    assert [recipe["weight_decay"] for recipe in (plus, plain, online)] == [1e-4, 1e-4, 1e-5]
    assert plus["dataset"] == "imagenet-plus?p=0.99&densify=smooth"
    assert (plain["mixup"], plain["cutmix"], plain["smoothing"]) == (0.2, 1.0, 0.1)
    assert (online["mixup"], online["cutmix"], online["mixup_prob"]) == (1.0, 1.0, 1.0)
    assert (online["kd_temperature"], online["task_loss_weight"]) == (1.0, 0.0)


def test_the_largest_teacher_fits_the_weights_that_are_published() -> None:
    """Facebook's file has the names and shapes of torchvision's ResNeXt-101 32x48d."""
    from torchvision.models.resnet import Bottleneck, ResNet

    import examples.recipes.imagenet.ig_resnext101  # noqa: F401 - registers it

    with torch.device("meta"):
        ours = timm.create_model("resnext101_32x48d.fb_wsl_ig1b_ft_in1k")
        theirs = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=48)
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes


def test_the_ensemble_answers_with_the_mean_of_its_members() -> None:
    from examples.recipes.imagenet.ig_resnext101 import MEMBERS, EnsembleLogits

    assert [timm.is_model(name) for name in MEMBERS] == [True] * 4
    members = [timm.create_model("test_resnet", num_classes=5).eval() for _ in range(3)]
    images = torch.randn(2, 3, 64, 64)
    mean = sum(member(images).softmax(dim=1) for member in members) / 3
    torch.testing.assert_close(EnsembleLogits(members)(images).softmax(dim=1), mean)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [path.stem for path in IMAGENET])
def test_smoke(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.recipes.imagenet.__main__ import main

    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)
    result = CliRunner().invoke(main, [recipe, "--smoke"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (loss,) = re.findall(r"epoch 0: loss ([0-9.]+), top-1", result.output)
    assert 0 < float(loss) < 10


@pytest.mark.slow
@pytest.mark.skipif("TIMM_TRAIN_SCRIPT" not in os.environ, reason="timm's train.py is not at hand")
@pytest.mark.parametrize("recipe", ["resnet50d", "resnet50d_kd", "vit_small"])
def test_smoke_with_train_py(recipe: str, capfd: pytest.CaptureFixture[str]) -> None:
    from examples.recipes.imagenet.__main__ import main

    result = CliRunner().invoke(main, [recipe, "--smoke"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    output = capfd.readouterr().out
    (epoch,) = json.loads(output[output.index("--result") + len("--result") :])
    assert 0 < epoch["train"]["loss"] < 10


def test_options_that_the_loop_does_not_know_are_errors() -> None:
    from examples.recipes.train import DEFAULTS, train

    assert set(DEFAULTS) <= known_options()
    with pytest.raises(click.UsageError, match="learning_rate"):
        train({"learning_rate": 0.1})


@pytest.mark.parametrize("recipe", ["resnet50", "resnet50d_erm"])
@pytest.mark.parametrize("given", [[], ["--data-dir", "nosuch"]])
def test_images_that_are_not_there(recipe: str, given: list[str], tmp_path: Path) -> None:
    from examples.recipes.imagenet.__main__ import main

    result = CliRunner().invoke(main, [recipe, *given, f"--output={tmp_path}", "--workers=0"])
    assert isinstance(result.exception, SystemExit)  # without a traceback
    assert "--data-dir nosuch: no such directory" in result.output or not given
    assert "--data-dir" in result.output


def test_options_are_read_as_train_py_reads_them() -> None:
    from examples.recipes.launching import options_of

    given = ["--data-dir=a/b", "--lr", "1e-3", "--scale", "0.5", "1", "--amp", "--mean", "-0.5"]
    expected = {"data_dir": "a/b", "lr": 1e-3, "scale": [0.5, 1], "amp": True, "mean": -0.5}
    assert options_of(given) == expected
    for short in (["-b", "64"], ["--amp", "-b", "64"], ["64"]):
        with pytest.raises(click.UsageError, match=short[-2:][0]):
            options_of(short)


def test_train_py_gets_options_as_arguments(tmp_path: Path) -> None:
    """It ignores an unknown key of a file."""
    from examples.recipes.imagenet.__main__ import main

    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[2] + '.args').write_text(str(sys.argv[3:]))"
    )
    given = ["--epochs=3", "--lerning-rate", "0.1", f"--output={tmp_path}"]
    result = CliRunner().invoke(main, ["resnet50", "--train-script", str(script), *given])
    assert result.exit_code == 0, result.output
    recipe = tmp_path / "resnet50" / "recipe.yaml"
    assert read(recipe)["epochs"] == 3
    assert recipe.with_name("recipe.yaml.args").read_text() == str(given)


def test_checkpoints_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    from examples.recipes.imagenet.__main__ import main

    script, last = tmp_path / "train.py", tmp_path / "resnet50" / "last.pth.tar"
    script.touch()
    last.parent.mkdir()
    last.touch()

    def status(*options: str) -> int:
        given = ["resnet50", f"--train-script={script}", f"--output={tmp_path}", *options]
        return CliRunner().invoke(main, given).exit_code

    assert status("--epochs", "300") == 2
    assert status("--resume", str(last)) == 0
    assert status("--experiment", "2024_01") == 0
    assert (tmp_path / "2024_01" / "recipe.yaml").exists()


def test_the_last_update_of_an_epoch_is_the_mean_of_its_batches(tmp_path: Path) -> None:
    from examples.recipes.smoke import make_images
    from examples.recipes.train import train

    shared = {"data_dir": str(make_images(tmp_path / "images")), "output": str(tmp_path)}
    shared |= {"model": "test_resnet", "num_classes": 3, "img_size": 32, "device": "cpu"}
    shared |= {"batch_size": 2, "workers": 0, "epochs": 1, "warmup_epochs": 0, "lr": 0.1}
    weights = []
    for steps in (3, 4):  # of the three batches of an epoch
        train({**shared, "grad_accum_steps": steps, "experiment": str(steps)})
        path = tmp_path / str(steps) / "last.pth.tar"
        weights.append(torch.load(path, weights_only=False)["state_dict"])
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.usefixtures("_commands_here")
@pytest.mark.parametrize("config", ["cropflip", "randaug_mixing"])
def test_imagenet_plus_and_its_subsets(config: str, tmp_path: Path) -> None:
    from dr_plugins import ShardSet
    from examples.recipes.imagenet.teacher import main

    options = ["--smoke", "--out", str(tmp_path), "--size", "32", "--min-agreement", "0"]
    options += ["--device", "cpu", "--workers", "0", "--quiet"]
    result = CliRunner().invoke(main, [config, *options, "--estimate"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "24 views" in result.output  # 4 of each of 6 images
    assert not (tmp_path / "imagenet-plus").exists()
    result = CliRunner().invoke(main, [config, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    sizes = {}
    for suffix in ("", "-small", "-mini"):
        manifest = ShardSet(tmp_path / f"imagenet-plus{suffix}").manifest
        sizes[suffix] = (manifest.samples, manifest.layout.dtype["ids"].shape)
    assert sizes == {"": (4, (3,)), "-small": (2, (1,)), "-mini": (1, (3,))}
