"""C4 models: the last stage of the backbone's network is in the heads, and is filled there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

import timm
from detectron2.modeling import build_model
from torch import nn

from d2_ext import load_reinforced
from dr_models.checkpoints import load_backbone
from dr_plugins.errors import CheckpointError
from tests.d2_ext.conftest import Saved, Yacs
from tests.dr_models.checkpoints.networks import cvnets_state

C4 = (
    *("MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.RPN.IN_FEATURES", ["res4"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32]], "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["res4"], "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
)
NATIVE = (*C4, "MODEL.BACKBONE.NAME", "build_resnet_backbone")
TIMM = (
    *C4,
    "MODEL.BACKBONE.NAME",
    "build_dr_timm_backbone",
    "MODEL.DR_TIMM.OUT_FEATURES",
    ["res4"],
)
# Backbones with their last stage too, whose features the heads do not use.
WHOLE_NATIVE = (*NATIVE, "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"])
WHOLE_TIMM = (*TIMM, "MODEL.DR_TIMM.OUT_FEATURES", [])
ZERO_TO_ONE = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [255.0] * 3)


def last_feature(model: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        feature: torch.Tensor = model.roi_heads.res5(model.backbone(images)["res4"])
    return feature


@pytest.mark.parametrize("options", [NATIVE, TIMM, WHOLE_NATIVE, WHOLE_TIMM])
def test_the_last_stage_is_loaded_into_the_heads(
    options: tuple[Any, ...], yacs: Yacs, saved: Saved
) -> None:
    network, path = saved("resnet50")
    model = build_model(yacs(*options, "MODEL.DR_TIMM.NAME", "resnet50")).eval()
    load_reinforced(model, f"imagenet-plus://{path}")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network.forward_features(images)
    torch.testing.assert_close(last_feature(model, images), expected, rtol=1e-4, atol=1e-4)


def test_published_networks_in_c4_models(yacs: Yacs, tmp_path: Path) -> None:
    torch.save(cvnets_state("resnet_50"), tmp_path / "best.pt")
    address = f"imagenet-plus://{tmp_path}/best.pt?source=cvnets"
    network = timm.create_model("cvnets_resnet50").eval()
    network.load_state_dict(load_backbone(address, to="timm").state)
    options = (*TIMM, *ZERO_TO_ONE, "MODEL.DR_TIMM.NAME", "cvnets_resnet50")
    model = build_model(yacs(*options)).eval()
    load_reinforced(model, address)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network.forward_features(images)
    torch.testing.assert_close(last_feature(model, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50d", ()),  # pools where it projects: all names and shapes fit
        ("resnet50", ("MODEL.RESNETS.STRIDE_IN_1X1", True)),
        ("regnetx_080", ("MODEL.RESNETS.RES2_OUT_CHANNELS", 180)),
    ],
)
def test_a_last_stage_that_computes_something_else_is_refused(
    name: str, options: tuple[Any, ...], yacs: Yacs, saved: Saved
) -> None:
    _, path = saved(name)
    model = build_model(yacs(*TIMM, "MODEL.DR_TIMM.NAME", name, *options))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    address = f"imagenet-plus://{path}?arch={name}"
    with pytest.raises(CheckpointError, match=r"roi_heads\.res5 .*STRIDE_IN_1X1"):
        load_reinforced(model, address)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    # It may be meant to be so.
    load_reinforced(model, f"{address}&new_keys=roi_heads.res5.*")
    assert model.backbone.network.is_loaded


def test_heads_of_other_models_have_their_own_stage(yacs: Yacs, saved: Saved) -> None:
    network, path = saved("resnet50")
    cfg = yacs(*TIMM, "MODEL.DR_TIMM.NAME", "resnet50")
    pair = nn.ModuleDict({"student": build_model(cfg), "teacher": build_model(cfg)})
    load_reinforced(pair, f"imagenet-plus://{path}")
    for model in pair.values():
        weight = model.roi_heads.res5[2].conv3.weight
        assert torch.equal(weight, network.layer4[2].conv3.weight)
