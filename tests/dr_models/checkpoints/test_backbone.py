"""Backbones out of checkpoints in any layout: found out, converted, never in part."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from dr_models.checkpoints import (
    TARGETS,
    CheckpointLocation,
    InputConvention,
    convert,
    load_backbone,
)
from dr_models.checkpoints.backbone import BackboneWeights
from dr_models.cvnets.inputs import IMAGENET_MEAN, IMAGENET_STD
from dr_models.cvnets.report import ConversionReport
from dr_plugins.errors import CheckpointError
from tests.dr_models.checkpoints.networks import cvnets_state

State = dict[str, torch.Tensor]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    def write(content: Any) -> str:
        torch.save(content, tmp_path / "best.pt")
        return str(tmp_path / "best.pt")

    return write


def resnet(name: str = "resnet18", classes: int = 5) -> State:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, num_classes=classes).state_dict()


def timm_state(name: str) -> State:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5).state_dict()


def without(state: State, *ends: str) -> State:
    return {key: value for key, value in state.items() if not key.endswith(ends)}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": state, "arch": "resnet18", "args": argparse.Namespace(lr=1)},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        # Classifiers of the MMEngine and Detectron2 extensions.
        lambda state: {"state_dict": {f"model.{key}": v for key, v in state.items()}, "meta": {}},
        lambda state: {"model": {f"model.{key}": v for key, v in state.items()}, "iteration": 3},
        lambda state: without(state, "num_batches_tracked"),
        lambda state: without(state, "fc.weight", "fc.bias"),
    ],
)
def test_resnets_are_recognised_in_what_trainers_write(
    write: Callable[[Any], str], wrap: Callable[[State], Any]
) -> None:
    state = resnet()
    weights = load_backbone(write(wrap(state)), to="mmengine", arch="resnet18")
    found = weights.state
    expected = without(state, "fc.weight", "fc.bias")
    if not any(key.endswith("num_batches_tracked") for key in found):
        expected = without(expected, "num_batches_tracked")
    assert_same(found, expected)
    assert weights.report.arch == "resnet18"
    assert weights.convention.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({"img_size": None, "mean": [0.5], "std": [0.25, 0.5, 1.0]}, (0.5,) * 3, (0.25, 0.5, 1.0)),
        ({"img_size": 64, "mean": None, "std": None}, IMAGENET_MEAN, IMAGENET_STD),
        ({"mean": [0.5], "std": [0.25]}, IMAGENET_MEAN, IMAGENET_STD),  # of another script
    ],
)
def test_images_are_those_that_train_py_was_told(
    write: Callable[[Any], str], tmp_path: Path, options: dict[str, Any], mean: Any, std: Any
) -> None:
    arguments = argparse.Namespace(model="resnet18", **options)
    path = write({"state_dict": resnet(), "arch": "resnet18", "args": arguments})
    convert(path, tmp_path / "converted.pth", arch="resnet18", to="mmengine")
    for file in (path, str(tmp_path / "converted.pth")):
        found = load_backbone(file, to="mmengine", arch="resnet18").convention
        assert (found.mean, found.std) == (mean, std)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_depths_and_widths_are_told_apart(write: Callable[[Any], str], name: str) -> None:
    weights = load_backbone(write(resnet(name)), to="timm")
    assert (weights.report.model, weights.report.layout) == (name, "torchvision")


def test_cvnets_checkpoints_are_recognised(write: Callable[[Any], str]) -> None:
    path = write({"state_dict": cvnets_state("resnet_18")})
    for location in (path, f"imagenet-plus://{path}?source=cvnets&arch=resnet_18"):
        weights = load_backbone(location, to="timm", arch="cvnets_resnet18")
        assert weights.report.model == "cvnets_resnet18.dr_in1k_plus"
        assert weights.convention.for_range(255) == ((0, 0, 0), (255, 255, 255))
        assert_same(weights.state, load_backbone(path, to="timm").state)


def test_names_tell_apart_what_tensors_do_not(write: Callable[[Any], str]) -> None:
    path = write(cvnets_state("swin_base_384"))
    name = "cvnets_swin_base_patch4_window7_384"
    assert load_backbone(path, to="timm", arch=name).report.arch == "swin_base_384"
    with pytest.raises(CheckpointError, match=r"swin_base or swin_base_384.*arch=swin_base"):
        load_backbone(path, to="timm")
    with pytest.raises(CheckpointError, match="cvnets_swin_base_patch4_w"):
        load_backbone(f"imagenet-plus://{path}?arch=swin_base", to="timm", arch=name)


@pytest.mark.parametrize(
    "content", ["arch in the file", "arch of the host", "arch of the location"]
)
def test_other_timm_networks_are_named_somewhere(write: Callable[[Any], str], content: str) -> None:
    state = timm_state("resnet50d")
    file = {"state_dict": state, "arch": "resnet50d"} if content == "arch in the file" else state
    location = CheckpointLocation(
        write(file), arch="resnet50d" if content == "arch of the location" else None
    )
    arch = "resnet50d" if content == "arch of the host" else None
    weights = load_backbone(location, to="mmengine", arch=arch)
    assert weights.report.model == "ResNetV1d"
    assert torch.equal(weights.state["stem.0.weight"], state["conv1.0.weight"])


@pytest.mark.parametrize("to", ["timm", "mmengine", "detectron2"])
def test_converted_files_say_themselves_what_they_are(
    write: Callable[[Any], str], tmp_path: Path, to: str
) -> None:
    if to == "timm":
        pytest.importorskip("timm")
    path, out = write(resnet()), tmp_path / f"resnet18{TARGETS[to]}"
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    convert(path, out, arch="torchvision:resnet18", to=to, mean=mean, std=std)
    weights = load_backbone(str(out), to=to, arch="resnet18")
    assert_same(weights.state, load_backbone(path, to=to).state)
    assert (weights.convention.mean, weights.convention.std) == (mean, std)
    with pytest.raises(CheckpointError, match=r"resnet18.*resnet50"):
        load_backbone(str(out), to=to, arch="resnet50")


def test_converted_for_timm_serves_the_others(write: Callable[[Any], str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path, out = write(resnet()), tmp_path / "resnet18.safetensors"
    convert(path, out, arch="torchvision:resnet18", to="timm", mean=(0, 0, 0), std=(1, 1, 1))
    weights = load_backbone(str(out), to="detectron2", arch="resnet18")
    assert_same(weights.state, load_backbone(path, to="detectron2").state)
    assert weights.convention.mean == (0, 0, 0)


def test_converted_for_one_host_does_not_serve_another(
    write: Callable[[Any], str], tmp_path: Path
) -> None:
    out = tmp_path / "resnet18.pth"
    convert(write(resnet()), out, arch="torchvision:resnet18", to="mmengine")
    with pytest.raises(CheckpointError, match=r"resnet18\.pth.*mmengine.*detectron2"):
        load_backbone(str(out), to="detectron2")


def damaged(state: State) -> State:
    return {key: value for key, value in state.items() if key != "layer1.0.conv1.weight"}


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (lambda: resnet("resnet34"), {"arch": "resnet18"}, r"resnet34.*resnet18"),
        (lambda: damaged(resnet()), {"arch": "resnet18"}, r"resnet18.*layer1\.0\.conv1\.weight"),
        (lambda: {**resnet(), "x": torch.ones(1)}, {"arch": "resnet18"}, "1 are unexpected"),
        (lambda: {"a": torch.ones(1)}, {}, r"best\.pt.*arch=NAME"),
        (lambda: {"conv_1.block": torch.ones(1)}, {}, r"best\.pt.*CVNets.*resnet_18"),
        (lambda: cvnets_state("resnet_18"), {"arch": "resnet18"}, "mmengine"),
        (lambda: resnet("wide_resnet50_2"), {}, r"wide_resnet50_2.*mmengine"),
    ],
)
def test_what_does_not_fit_is_refused(
    write: Callable[[Any], str], content: Callable[[], Any], options: Any, said: str
) -> None:
    pytest.importorskip("timm")
    with pytest.raises(CheckpointError, match=said) as error:
        load_backbone(write(content()), to="mmengine", **options)
    assert "best.pt" in str(error.value)


def test_a_wrong_source_is_refused(write: Callable[[Any], str]) -> None:
    path = write(cvnets_state("resnet_18"))
    with pytest.raises(CheckpointError, match=r"'timm'.*CVNets.*'cvnets'"):
        load_backbone(f"imagenet-plus://{path}?source=timm", to="timm", arch="cvnets_resnet18")
    path = write(resnet())
    with pytest.raises(CheckpointError, match=r"best\.pt.*CVNets.*'timm'"):
        load_backbone(f"imagenet-plus://{path}?source=cvnets", to="timm", arch="resnet18")


def test_a_file_with_foreign_metadata_is_a_plain_checkpoint(tmp_path: Path) -> None:
    save_file(resnet(), tmp_path / "x.safetensors", {"format": "pt"})
    weights = load_backbone(str(tmp_path / "x.safetensors"), to="timm", arch="resnet18")
    assert weights.report.arch == "resnet18"


def test_a_network_that_only_looks_like_a_resnet_is_what_it_is_called(
    write: Callable[[Any], str],
) -> None:
    state = timm_state("resnetaa50")
    assert state.keys() == resnet("resnet50").keys()
    named = write({"state_dict": state, "arch": "resnetaa50"})
    assert load_backbone(named, to="timm", arch="resnetaa50").report.arch == "resnetaa50"
    with pytest.raises(CheckpointError, match=r"resnetaa50.*resnet50"):
        load_backbone(named, to="timm", arch="resnet50")
    with pytest.raises(CheckpointError, match=r"resnetaa50.*detectron2"):
        load_backbone(named, to="detectron2", arch="resnet50")
    assert load_backbone(write(state), to="timm", arch="resnetaa50").report.arch == "resnetaa50"


def test_weights_describe_themselves_in_a_line() -> None:
    report = ConversionReport("timm:resnet18", "timm", "timm", "resnet18")
    weights = BackboneWeights({"a": torch.zeros(1000)}, InputConvention(), report)
    assert repr(weights).startswith("BackboneWeights(timm:resnet18, 1 tensors, InputConvention(")
    assert "\n" not in repr(weights)


def test_a_classifier_of_mmpretrain_is_called_that(write: Callable[[Any], str]) -> None:
    state = resnet()
    parts = {("head." if key[:3] == "fc." else "backbone.") + key: state[key] for key in state}
    path = write({"state_dict": parts, "meta": {}})
    with pytest.raises(CheckpointError, match=r"MMPretrain.*prefix='backbone\.'"):
        load_backbone(path, to="mmengine", arch="resnet18")
    own = {key.removeprefix("backbone."): parts[key] for key in parts if key[:2] == "ba"}
    assert load_backbone(write(own), to="mmengine").report.arch == "resnet18"


def test_averaged_and_named_in_the_address(write: Callable[[Any], str]) -> None:
    pytest.importorskip("timm")
    one, other = resnet(), {key: value + 1 for key, value in resnet().items()}
    path = write({"state_dict": one, "state_dict_ema": other})
    for option, expected in (("", other), ("?weights=averaged", other), ("?weights=plain", one)):
        weights = load_backbone(f"imagenet-plus://{path}{option}", to="timm", arch="resnet18")
        assert_same(weights.state, expected)
