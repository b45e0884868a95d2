"""Detectron2's own ResNets, filled from checkpoints: equal features, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone

from d2_ext import load_reinforced
from dr_models.checkpoints import load_backbone
from dr_plugins.errors import CheckpointError
from tests.d2_ext.conftest import NATIVE, TIMM, Saved, Yacs
from tests.dr_models.checkpoints.networks import cvnets_state

DEPTH_50 = ("MODEL.RESNETS.DEPTH", 50)
ALL_STAGES = ("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


def stages(network: Any, images: torch.Tensor) -> list[torch.Tensor]:
    hidden = network.maxpool(network.bn1(network.conv1(images)).relu())
    found = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        hidden = layer(hidden)
        found.append(hidden)
    return found


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize(("name", "options"), [("resnet18", NATIVE), ("resnet50", DEPTH_50)])
def test_features_are_those_of_the_network(
    name: str, options: tuple[Any, ...], norm: str, yacs: Yacs, saved: Saved
) -> None:
    network, path = saved(name)
    model = build_model(yacs(*options, *ALL_STAGES, "MODEL.RESNETS.NORM", norm)).eval()
    (weights,) = load_reinforced(model, f"imagenet-plus://{path}?source=timm")
    assert weights.report.arch == name
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        features = model.backbone.bottom_up(images)
        expected = stages(network, images)
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for feature, wanted in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(feature, wanted, rtol=1e-4, atol=1e-4)


def test_features_of_a_torchvision_checkpoint(yacs: Yacs, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18().eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "network.pth")
    model = build_model(yacs(*NATIVE)).eval()
    load_reinforced(model, f"imagenet-plus://{tmp_path}/network.pth?source=torchvision")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features = model.backbone.bottom_up(images)
        torch.testing.assert_close(features["res5"], stages(network, images)[-1])


def test_cvnets_resnets_belong_into_the_timm_backbone(yacs: Yacs, tmp_path: Path) -> None:
    torch.save(cvnets_state("resnet_50"), tmp_path / "best.pt")
    address = f"imagenet-plus://{tmp_path}/best.pt?source=cvnets&arch=resnet50"
    network = timm.create_model("cvnets_resnet50").eval()
    network.load_state_dict(load_backbone(address, to="timm").state)
    zero_to_one = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [255.0] * 3)
    timm_50 = (*TIMM, "MODEL.DR_TIMM.NAME", "cvnets_resnet50")
    model = build_model(yacs(*timm_50, *zero_to_one)).eval()
    load_reinforced(model, address)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        feature = model.backbone.bottom_up(images)["res5"]
        torch.testing.assert_close(feature, stages(network, images)[-1], rtol=1e-4, atol=1e-4)
    # Its stem is not Detectron2's, and it is fed images from 0 to 1.
    with pytest.raises(CheckpointError, match="timm backbone of the detectron2 extension"):
        load_reinforced(build_model(yacs(*DEPTH_50, *zero_to_one)), address)
    with pytest.raises(CheckpointError, match=r"MODEL\.PIXEL_STD: \[255\.0"):
        load_reinforced(build_model(yacs(*timm_50)), address)


def test_offsets_of_deformable_convolutions_start_anew(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet50")
    model = build_model(
        yacs(*DEPTH_50, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True])
    )
    load_reinforced(model, f"imagenet-plus://{path}")
    block = model.backbone.bottom_up.res5[1]
    assert torch.equal(block.conv2.weight, network.layer4[1].conv2.weight)
    assert not block.conv2_offset.weight.any()


def test_tensors_that_are_meant_to_be_new_are_named(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet18")
    model = build_model(yacs(*NATIVE))
    model.backbone.bottom_up.res5.add_module("gate", torch.nn.Conv2d(512, 8, 1))
    before = model.backbone.bottom_up.res5.gate.weight.clone()
    address = f"imagenet-plus://{path}"
    with pytest.raises(CheckpointError, match=r"gate\.weight.*new_keys"):
        load_reinforced(model, address)
    for pattern in ("*.gates.*", "gate.*"):  # a slip, and a name that is not whole
        with pytest.raises(CheckpointError, match=r"new_keys has .*gate"):
            load_reinforced(model, f"{address}?new_keys={pattern}")
    load_reinforced(model, f"{address}?new_keys=*.res5.gate.weight,*.res5.gate.bias")
    assert torch.equal(model.backbone.bottom_up.res5.gate.weight, before)
    weight = model.backbone.bottom_up.res5[1].conv2.weight
    assert torch.equal(weight, network.layer4[1].conv2.weight)


def test_a_stem_of_three_convolutions_is_called_that(yacs: Yacs, saved: Saved) -> None:
    """DeepLab's has a first convolution that strides, like the blocks that are refused."""
    deeplab = pytest.importorskip("detectron2.projects.deeplab")
    _, path = saved("resnet50")
    cfg = yacs(*DEPTH_50, "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone")
    deeplab.add_deeplab_config(cfg)
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"
    model = deeplab.build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3))
    with pytest.raises(CheckpointError, match=r"stem\.conv2") as error:
        load_reinforced(model, f"imagenet-plus://{path}")
    assert "STRIDE_IN_1X1 to" not in str(error.value)


def test_another_eps_is_refused(yacs: Yacs, saved: Saved) -> None:
    """All tensors fit, and the features are off by a percent."""
    _, path = saved("resnet18")
    model = build_model(yacs(*NATIVE))
    model.backbone.bottom_up.res3[0].conv1.norm.eps = 1e-3
    with pytest.raises(CheckpointError, match=r"res3\.0\.conv1\.norm.*0\.001"):
        load_reinforced(model, f"imagenet-plus://{path}")


def test_backbone_alone(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet18")
    backbone = build_resnet_backbone(yacs(*NATIVE), ShapeSpec(channels=3))
    load_reinforced(backbone, f"imagenet-plus://{path}")
    assert torch.equal(backbone.stem.conv1.weight, network.conv1.weight)


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("resnet50", NATIVE, ("MODEL.RESNETS.DEPTH 50", "res2.0.conv3")),
        ("resnet18", DEPTH_50, ("MODEL.RESNETS.DEPTH 18", "missing in the checkpoint")),
        ("resnet50d", DEPTH_50, ("resnet50d", "stem", "timm backbone")),
        ("mobilenetv3_small_050", DEPTH_50, ("mobilenetv3_small_050", "timm backbone")),
        ("resnet18", (*NATIVE, "MODEL.RESNETS.NORM", "GN"), ("running_mean",)),
        ("resnet50", (*DEPTH_50, "MODEL.RESNETS.WIDTH_PER_GROUP", 32), ("another shape", "conv1")),
        (
            "resnet50",
            (*DEPTH_50, "MODEL.RESNETS.STRIDE_IN_1X1", True),
            ("MODEL.RESNETS.STRIDE_IN_1X1", "False", "stages.stride_in_1x1"),
        ),
    ],
)
def test_another_network_is_refused_and_nothing_is_loaded(
    name: str, options: tuple[Any, ...], names: tuple[str, ...], yacs: Yacs, saved: Saved
) -> None:
    _, path = saved(name)
    model = build_model(yacs(*options))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_reinforced(model, f"imagenet-plus://{path}?source=timm&arch={name}")
    assert all(text in str(error.value) for text in names), str(error.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "prefix", "extra"])
def test_incomplete_checkpoints_are_refused(
    change: str, yacs: Yacs, saved: Saved, tmp_path: Path
) -> None:
    network, _ = saved("resnet18")
    state = dict(network.state_dict())
    if change == "missing":
        del state["layer3.1.bn2.running_var"]
    elif change == "prefix":
        state = {f"encoder.{key}": value for key, value in state.items()}
    else:
        state["layer4.2.conv1.weight"] = torch.zeros(512, 512, 3, 3)
    torch.save(state, tmp_path / "state.pth")
    model = build_model(yacs(*NATIVE))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_reinforced(model, f"imagenet-plus://{tmp_path}/state.pth?arch=resnet18")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
