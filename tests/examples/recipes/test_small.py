"""The recipes for CIFAR-100+, Flowers-102+ and Food-101+, as small as they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("timm")

from dr_plugins import ShardSet
from examples.recipes import train
from examples.recipes.small.__main__ import main
from examples.recipes.small.stages import read_recipe
from tests.examples.recipes.test_imagenet import known_options

DATASETS = ("cifar100", "flowers102", "food101")


@pytest.fixture(autouse=True)
def _own_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIMM_TRAIN_SCRIPT", raising=False)


def run(*arguments: str, out: Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*arguments, "--smoke", "--out", str(out)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize("name", DATASETS)
def test_the_paper_s_settings(name: str) -> None:
    """apple/ml-dr, configs/NAME/*.yaml, and its README for the numbers of reinforcements."""
    recipe = read_recipe(name)
    made = recipe.stages.pop("reinforce")
    flowers = name == "flowers102"
    assert made["jobs"] * made["samples"] == (8000 if flowers else 800)
    assert made["topk"] == 10
    for options in recipe.stages.values():
        assert set(options) <= known_options() & set(train.DEFAULTS)
        assert (options["weight_decay"], options["batch_size"]) == (5e-4, 256)
        assert options["epochs"] == (10_000 if flowers else 1000)
    numbers = {k: (v["lr"], v.get("mixup"), v.get("cutmix")) for k, v in recipe.stages.items()}
    assert numbers == {
        "teacher": (0.002, 1.0, 1.0),
        "scratch": (0.2, 0.2, 1.0),
        "scratch-plus": (0.2, None, None),
        "finetune": (0.002, 0.2, 1.0),
        "finetune-plus": (0.002, None, None),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_smoke(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name != DATASETS[0]:
        request.getfixturevalue("_commands_here")
    output = run(name, out=tmp_path).output
    stages = ("teacher", "scratch", "scratch-plus", "finetune", "finetune-plus")
    assert all(f"{stage}: top-1 " in output for stage in stages)
    merged = ShardSet(tmp_path / "reinforced")
    assert (len(merged), merged.manifest.samples) == (6, 4)  # of two jobs
    if name == DATASETS[0]:
        again = run(name, out=tmp_path).output
        assert "loss" not in again
        assert all(f"{stage}: top-1 " in again for stage in stages)


@pytest.mark.slow
def test_an_interrupted_stage_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate, calls = train._Training._validate, []

    def interrupted(self: Any) -> float:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self)

    monkeypatch.setattr(train._Training, "_validate", interrupted)
    first = run("food101", "scratch", out=tmp_path, code=1).output
    assert "epoch 0: loss" in first
    second = run("food101", "scratch", out=tmp_path).output
    assert "epoch 0: loss" not in second
    assert "epoch 1: loss" in second

    options = tmp_path / "scratch" / "options.yaml"
    options.write_text(options.read_text().replace("lr: 0.2\n", "lr: 0.1\n"))
    assert "lr was 0.1, is 0.2" in run("food101", "scratch", out=tmp_path, code=1).output


def test_a_job_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    arguments = ["cifar100", "reinforce", "--job", "8", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "0 to 7" in result.output


def test_a_teacher_in_training_answers_nothing(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "last.pth.tar").touch()  # of its first epoch
    output = run("cifar100", "reinforce", "--job", "0", out=tmp_path, code=1).output
    assert str(tmp_path / "teacher") in output
    assert "dr-plugins" not in output


def test_fine_tuning_needs_a_network(tmp_path: Path) -> None:
    arguments = ["cifar100", "finetune", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--weights" in result.output


def test_fine_tuning_needs_all_of_a_network(tmp_path: Path) -> None:
    """timm would begin with random weights, and only log that names differ."""
    import timm

    state = timm.create_model("resnet18d").state_dict()
    torch.save(state, tmp_path / "smaller.pth")
    torch.save({f"stem.{key}": value for key, value in state.items()}, tmp_path / "renamed.pth")
    for path in (tmp_path / "smaller.pth", tmp_path / "renamed.pth"):
        arguments = ["cifar100", "finetune", "--weights", str(path), "--out", str(tmp_path)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert str(path) in result.output
