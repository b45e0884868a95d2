"""Tensors that no trained network has, and names that say which network it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from dr_models.checkpoints import convert, load_backbone, load_checkpoint
from dr_models.checkpoints.network_record import NetworkRecord
from dr_models.checkpoints.values import check_values
from dr_plugins.errors import CheckpointError

State = dict[str, torch.Tensor]


def resnet() -> State:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).state_dict()


def with_number(value: torch.Tensor, number: float) -> torch.Tensor:
    changed = value.clone()
    changed.view(-1)[3] = number
    return changed


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("layer1.0.conv1.weight", lambda value: with_number(value, float("nan"))),
        ("layer1.0.conv1.weight", lambda value: with_number(value, float("inf"))),
        ("layer1.0.conv1.weight", lambda value: with_number(value, -1e30)),
        ("bn1.running_var", lambda value: with_number(value, -1e-3)),
        ("conv1.weight", lambda value: value.to(torch.int8)),
        ("conv1.weight", lambda value: value.to(torch.bool)),
        ("conv1.weight", lambda value: value.to(torch.complex64)),
        ("conv1.weight", lambda value: value.to(torch.float8_e4m3fn)),
        ("conv1.weight", lambda value: value[:0]),
        ("fc.bias", lambda value: torch.tensor(1.0)),
        ("fc.bias", lambda value: value[:0]),
        ("fc.weight", lambda value: torch.tensor(1.0)),
    ],
)
def test_meaningless_tensors_are_refused_by_name(key: str, change: Any, tmp_path: Path) -> None:
    state = resnet()
    state[key] = change(state[key])
    torch.save(state, tmp_path / "a.pt")
    name = key.partition(".")[0]
    with pytest.raises(CheckpointError, match=name):
        convert(tmp_path / "a.pt", tmp_path / "o.pth", arch="torchvision:resnet18", to="mmengine")
    with pytest.raises(CheckpointError):
        load_backbone(str(tmp_path / "a.pt"), to="mmengine")


@pytest.mark.parametrize("number", [0.0, 1e-42])
def test_a_file_of_zeros_is_refused(number: float) -> None:
    state = resnet()
    check_values(state, "a.pt")
    check_values({**state, "fc.weight": torch.full((5, 512), number)}, "a.pt")  # as before training
    later = {key: torch.full_like(value, number) for key, value in state.items() if "r4" in key}
    with pytest.raises(CheckpointError, match=r"a\.pt: .*zero"):
        check_values({**state, **later}, "a.pt")


def test_half_precision_and_averaged_counters_are_weights(tmp_path: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value.float() + 0.5
        for key, value in resnet().items()
    }
    torch.save(state, tmp_path / "a.pt")
    weights = load_backbone(str(tmp_path / "a.pt"), to="detectron2")
    assert weights.state["stem.conv1.weight"].dtype == torch.float16


NAMES = [
    {"arch": "resnetblur18"},
    {"args": argparse.Namespace(model="resnetblur18")},
    {"args": {"arch": "resnetblur18.tag"}},
    {"meta": {"cfg": "a = 1\nmodel = dict(\n    model='resnetblur18', type='TimmClassifier')\n"}},
]


@pytest.mark.parametrize("said", NAMES, ids=["arch", "args.model", "args.arch", "meta.cfg"])
def test_the_name_in_the_file_is_compared(said: dict[str, Any], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path, out = tmp_path / "a.pth.tar", tmp_path / "o.safetensors"
    state = timm.create_model("resnetblur18").state_dict()
    assert state.keys() == timm.create_model("resnet18").state_dict().keys()
    torch.save({"state_dict": state, **said}, path)
    assert load_checkpoint(path).arch.partition(".")[0] == "resnetblur18"
    uses = [
        lambda: convert(path, out, arch="timm:resnet18"),
        lambda: convert(path, out, arch="torchvision:resnet18"),
        lambda: load_backbone(f"imagenet-plus://{path}?arch=resnet18", to="timm"),
        lambda: load_backbone(f"imagenet-plus://{path}?arch=resnet18", to="detectron2"),
        lambda: load_backbone(str(path), to="timm", arch="resnet18"),
    ]
    for use in uses:
        with pytest.raises(CheckpointError, match=r"resnetblur18.*resnet18"):
            use()
    convert(path, out, arch="timm:resnetblur18")
    assert load_backbone(str(path), to="timm", arch="resnetblur18").report.model == "resnetblur18"
    with pytest.raises(CheckpointError, match="resnetblur18"):
        convert(out, tmp_path / "again.safetensors", arch="timm:resnet18")
    with pytest.raises(CheckpointError, match="resnetblur18"):
        load_backbone(f"imagenet-plus://{out}?arch=resnet18", to="timm")


@pytest.mark.parametrize(
    "said", ["resnet18", "resnet18.a1_in1k", "timm/resnet18.a1_in1k", "gluon_resnet18_v1b", "mine"]
)
def test_other_spellings_and_names_of_ones_own_are_no_hindrance(said: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save({"state_dict": resnet(), "arch": said}, tmp_path / "a.pt")
    for address in (f"imagenet-plus://{tmp_path}/a.pt?arch=resnet18", str(tmp_path / "a.pt")):
        report = load_backbone(address, to="timm", arch="resnet18").report
        assert report.arch.partition(".")[0] == "resnet18"


def test_a_host_of_another_name_is_refused_even_where_the_tensors_fit(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save({"state_dict": resnet(), "arch": "resnet18"}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"resnet18.*resnetblur18"):
        load_backbone(str(tmp_path / "a.pt"), to="timm", arch="resnetblur18")


# With a scope, as in MMPretrain's, and as MMEngine writes a config that names the class.
@pytest.mark.parametrize("prefix", ["", "mmengine.", "mmlab_ext.classifier."])
def test_a_classifier_of_mmengine_says_how_it_was_built(prefix: str, tmp_path: Path) -> None:
    cfg = (
        "data = dict(a=[dict(b=1)])\nmodel = dict(\n    aa_layer='avg',\n"
        "    data_preprocessor=dict(type='X'),\n    model='resnet18',\n    num_classes=5,\n"
        f"    type='{prefix}TimmClassifier')\n"
    )
    state = {f"model.{key}": value for key, value in resnet().items()}
    torch.save({"state_dict": state, "meta": {"cfg": cfg}}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").record == NetworkRecord(
        "resnet18", {"aa_layer": "avg"}
    )
    with pytest.raises(CheckpointError, match="aa_layer"):
        load_backbone(str(tmp_path / "a.pt"), to="mmengine")


@pytest.mark.parametrize("key", ["arch", "architecture", "model"])
def test_names_in_foreign_metadata_are_compared(key: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    save_file(resnet(), tmp_path / "a.safetensors", {"format": "pt", key: "resnetblur18"})
    with pytest.raises(CheckpointError, match=r"resnetblur18.*resnet18"):
        load_backbone(str(tmp_path / "a.safetensors"), to="timm", arch="resnet18")


def test_the_published_augmentation_may_hold_anything() -> None:
    low = torch.full((1,), float("-inf"))
    check_values({**resnet(), "neural_augmentor.brightness._low": low}, "a.pt")
