"""``dr-plugins evaluate`` from a checkpoint to tables and figures."""

from __future__ import annotations

import argparse
import json
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
from dr_plugins.errors import CheckpointError

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
    assert list(summary["missing"]) == ["v2"]
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


def test_a_checkpoint_of_another_model(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError):
        load_model(f"resnet50@{checkpoint}")


def test_arguments_replace_what_a_checkpoint_records(checkpoint: Path) -> None:
    assert load_model(f"resnet18@{checkpoint}").identity["input"]["input_size"] == (3, 32, 32)
    given = load_model(f"resnet18@{checkpoint}", img_size=64, crop_pct=0.5).identity["input"]
    assert given["input_size"] == (3, 64, 64)
    assert given["crop_pct"] == 0.5


def test_the_classes_of_imagenet() -> None:
    classes = imagenet_classes()
    assert len(classes.wnids) == 1000
    assert len(classes.r) == len(classes.a) == 200
    assert set(classes.r) | set(classes.a) <= set(classes.wnids)
    assert len(classes.real) == 50_000
    assert sum(map(bool, classes.real)) == 46_837


def test_no_set_is_there(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ["--model", f"resnet18@{checkpoint}", "--data", str(tmp_path), "--suite", "r"]
    result = CliRunner().invoke(evaluate, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
