"""Networks as ml-dr publishes them, in configurations of Detectron2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

import timm
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import dr_models.networks  # noqa: F401
from dr_models.checkpoints import CVNETS_MODELS, load_backbone
from dr_plugins.errors import CheckpointError
from tests.d2_ext.conftest import TIMM, Yacs
from tests.dr_models.checkpoints.networks import cvnets_state

SIMPLE = ("MODEL.BACKBONE.NAME", "build_dr_timm_simple_fpn_backbone")
ZERO_TO_ONE = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [255.0] * 3)
NO_FREEZING = ("MODEL.BACKBONE.FREEZE_AT", 0)
PUBLISHED = {
    "resnet_18": ("cvnets_resnet18", TIMM),
    "mobilenetv3_small": ("cvnets_mobilenetv3_small_100", TIMM),
    "efficientnet_b2": ("cvnets_efficientnet_b2", TIMM),
    "swin_tiny": ("cvnets_swin_tiny_patch4_window7_224", TIMM),
    "vit_tiny": ("cvnets_vit_tiny_patch16_224", SIMPLE),
}


def published(arch: str) -> dict[str, torch.Tensor]:
    state = cvnets_state(arch)
    for entry in CVNETS_MODELS[arch].entries():
        if (
            entry.target == "conv_head.weight" and entry.change
        ):  # a linear layer there, a convolution in timm
            state[entry.source] = state[entry.source].flatten(1)
    return state


@pytest.mark.parametrize("arch", PUBLISHED)
def test_features_are_those_of_the_published_network(arch: str, yacs: Yacs, tmp_path: Path) -> None:
    name, options = PUBLISHED[arch]
    torch.save(published(arch), tmp_path / "best.pt")
    address = f"imagenet-plus://{tmp_path}/best.pt?source=cvnets&arch={arch}"
    cfg = yacs(*options, *ZERO_TO_ONE, *NO_FREEZING, "MODEL.DR_TIMM.NAME", name)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(address)
    network = timm.create_model(name).eval()
    network.load_state_dict(load_backbone(address, to="timm").state)
    images = torch.rand(1, 3, 224, 224)
    bottom_up = getattr(model.backbone, "bottom_up", None) or model.backbone.net
    with torch.inference_mode():
        found = list(bottom_up(images).values())[-1]
        plain = {"norm": False} if arch == "vit_tiny" else {}
        expected = network.forward_intermediates(images, intermediates_only=True, **plain)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    other = yacs(*options, *NO_FREEZING, "MODEL.DR_TIMM.NAME", name)
    with pytest.raises(CheckpointError, match=r"MODEL\.PIXEL_MEAN: \[0\.0"):
        DetectionCheckpointer(build_model(other)).load(address)
