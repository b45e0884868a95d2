"""``dr-plugins evaluate`` from a checkpoint to tables and figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("timm")
pytest.importorskip("matplotlib")

import timm

from dr_models.cli import evaluate
from dr_models.timm_models import imagenet_classes, load_model
from dr_plugins.errors import CheckpointError, EvaluationError

ARGUMENTS = argparse.Namespace(model="resnet18", img_size=32, crop_pct=1.0, mean=[0.5], std=[0.25])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=3).state_dict()
    path = tmp_path / "run" / "last.pth.tar"
    path.parent.mkdir()
    torch.save({"state_dict": state, "arch": "resnet18", "args": ARGUMENTS}, path)
    return path


def test_from_a_checkpoint_to_a_report(tmp_path: Path, checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, 4, 32, 32, 3), dtype=np.uint8)
    for label, images in enumerate(pixels):
        folder = tmp_path / "images" / f"class{label}"
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}.png")
    arguments = ["--model", "resnet18", "--checkpoint", str(checkpoint), "--workers", "0"]
    arguments += ["--data", str(tmp_path / "images"), "--suite", "folder,v2", "--quiet"]
    result = CliRunner().invoke(evaluate, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    metrics = summary["sets"]["folder"]["models"]["resnet18@run_last"]["metrics"]
    assert "v2" in summary["missing"]
    # By timm's network and the recorded preprocessing, without this package.
    network = timm.create_model("resnet18", num_classes=3).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=False)["state_dict"])
    views = torch.from_numpy(pixels.reshape(12, 32, 32, 3)).permute(0, 3, 1, 2) / 255
    labels = torch.arange(12) // 4
    with torch.no_grad():
        logits = network((views - 0.5) / 0.25)
    nll = torch.nn.functional.cross_entropy(logits, labels).item()
    assert metrics["nll"]["value"] == pytest.approx(nll, abs=1e-6)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert metrics["top1"]["value"] == pytest.approx(accuracy)
    assert (tmp_path / "out" / "reliability_folder.png").is_file()
    (tmp_path / "out" / "summary.md").unlink()
    (tmp_path / "out" / "summary.md").mkdir()  # cannot be written
    result = CliRunner().invoke(evaluate, [*arguments, "--out", str(tmp_path / "out")])
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert "summary.md" in result.output


def test_a_checkpoint_of_another_model(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError):
        load_model(f"resnet50@{checkpoint}")


def test_a_checkpoint_without_a_name() -> None:
    with pytest.raises(CheckpointError):
        load_model("test_resnet@")


def test_a_checkpoint_is_no_revision_on_the_hub(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        load_model(f"hf-hub:timm/resnet18@{checkpoint}")


def test_images_are_those_of_the_validation_in_train_py(tmp_path: Path) -> None:
    """resnet10t is tested at 224 pixels, but trained and validated at 176."""
    network = timm.create_model("resnet10t", num_classes=3)
    nothing = {"img_size": None, "input_size": None, "mean": None, "crop_pct": None}
    for recorded in (nothing, {**nothing, "img_size": 96, "crop_pct": 0.8}):
        content = {"state_dict": network.state_dict(), "args": argparse.Namespace(**recorded)}
        torch.save(content, tmp_path / "trained.pt")
        expected = timm.data.resolve_data_config(recorded, model=network)
        found = load_model(f"resnet10t@{tmp_path / 'trained.pt'}").identity["input"]
        assert found == expected

    others = argparse.Namespace(input_size=224)  # as DeiT and MAE call the side
    torch.save({"model": network.state_dict(), "args": others}, tmp_path / "others.pt")
    expected = timm.data.resolve_data_config({}, model=network, use_test_size=True)
    assert load_model(f"resnet10t@{tmp_path / 'others.pt'}").identity["input"] == expected


def test_arguments_replace_what_a_checkpoint_records(checkpoint: Path) -> None:
    assert load_model(f"resnet18@{checkpoint}").identity["input"]["input_size"] == (3, 32, 32)
    given = load_model(f"resnet18@{checkpoint}", img_size=64, crop_pct=0.5).identity["input"]
    assert given["input_size"] == (3, 64, 64)
    assert given["crop_pct"] == 0.5


def test_a_network_of_a_fixed_size(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=3).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(EvaluationError, match="160 pixels only, but 192"):
        load_model(f"test_vit@{tmp_path / 'weights.pt'}", img_size=192)


def test_the_classes_of_imagenet() -> None:
    classes = imagenet_classes()
    assert len(classes.wnids) == 1000
    assert len(classes.r) == len(classes.a) == 200
    assert set(classes.r) | set(classes.a) <= set(classes.wnids)
    assert len(classes.real) == 50_000
    assert sum(map(bool, classes.real)) == 46_837


@pytest.mark.parametrize(
    "wrong",
    [
        ["--model", "resnet18@a/b.pt", "--model", "resnet18@a/b.safetensors"],
        ["--model", "resnet18@a/b.pt", "--device", "nothing"],
        ["--model", "resnet18@a/b.pt", "--import", "no_such_module"],
        ["--model", "resnet18@a/b.pt", "--class-map", __file__],
    ],
)
def test_options_are_checked_before_anything_is_loaded(wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "imagenet-sketch" / "n01440764").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "imagenet-sketch" / "n01440764" / "a.png")
    arguments = ["--data", str(tmp_path), "--suite", "sketch, v2", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(evaluate, [*wrong, *arguments])
    assert result.exit_code == 2, result.output


def test_all_models_are_loaded_before_the_first_is_evaluated(
    tmp_path: Path, checkpoint: Path
) -> None:
    draw = Image.new("RGB", (32, 32)).save
    for name in ("a", "b", "c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        draw(tmp_path / "images" / name / "1.png")
    arguments = ["--data", str(tmp_path / "images"), "--suite", "folder", "--workers", "0"]
    arguments += ["--model", f"resnet18@{checkpoint}", "--model", f"resnet18@{tmp_path / 'no.pt'}"]
    result = CliRunner().invoke(evaluate, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "no.pt" in result.output
    assert not list((tmp_path / "out").iterdir())


def test_a_directory_that_cannot_be_written_is_noticed_first(tmp_path: Path) -> None:
    (tmp_path / "imagenet-r" / "n01443537").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "imagenet-r" / "n01443537" / "a.png")
    (tmp_path / "file").touch()
    arguments = ["--data", str(tmp_path), "--suite", "r", "--workers", "0"]
    arguments += ["--model", "resnet18@a/b.pt"]  # is not there either
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        result = CliRunner().invoke(evaluate, [*arguments, "--out", str(out)])
        assert result.exit_code in (1, 2)
        assert str(out) in result.output


def test_a_module_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_a_user.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    arguments = ["--import", "networks_of_a_user", "--model", "resnet18", "--data", str(tmp_path)]
    result = CliRunner().invoke(evaluate, [*arguments, "--suite", "r", "--out", str(tmp_path)])
    assert "none of the sets" in result.output


def test_no_set_is_there(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--model", f"resnet18@{checkpoint}", "--data", str(tmp_path), "--suite", "r"]
    result = CliRunner().invoke(evaluate, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
