"""Images of any size: features for every pixel, and nothing changed where sides divide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

from dr_models import FeatureBackbone  # noqa: E402

# What the sides must be multiples of, by the networks' construction.
MULTIPLES = {
    "resnet18": 1,
    "cvnets_resnet18": 1,
    "cvnets_mobilevit_xxs": 1,
    "mobilevitv2_050": 64,
    "vit_tiny_patch16_224": 16,
    "cvnets_vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "swin_tiny_patch4_window7_224": 4,
    "cvnets_swin_tiny_patch4_window7_224": 4,
    "swinv2_tiny_window8_256": 4,
    "convnext_atto": 32,
}
SIZES = [(64, 78), (79, 65), (33, 47), (66, 81)]


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MULTIPLES)
def test_features_of_odd_sizes_are_rounded_up(name: str) -> None:
    backbone = FeatureBackbone(name).eval()
    assert backbone.multiple == MULTIPLES[name]
    for height, width in SIZES:
        with torch.inference_mode():
            features = backbone(torch.rand(1, 3, height, width))
        expected = [(-(-height // stride), -(-width // stride)) for stride in backbone.strides]
        assert [tuple(feature.shape[-2:]) for feature in features] == expected


@pytest.mark.parametrize("name", ["cvnets_vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_padding_is_of_zeros_below_and_on_the_right(name: str) -> None:
    backbone = FeatureBackbone(name).eval()
    image = torch.rand(1, 3, 61, 75)
    whole = torch.zeros(1, 3, 64, 75 + -75 % MULTIPLES[name])
    whole[..., :61, :75] = image
    with torch.inference_mode():
        for found, expected in zip(backbone(image), backbone(whole), strict=True):
            assert torch.equal(found, expected[..., : found.shape[-2], : found.shape[-1]])


@pytest.mark.parametrize("name", MULTIPLES)
def test_where_sides_divide_the_network_is_timms(name: str) -> None:
    backbone = FeatureBackbone(name).eval()
    side = 84 if "patch14" in name else 64
    image = torch.rand(1, 3, side, 2 * side)
    with torch.inference_mode():
        expected = backbone.features(image)
        found = backbone(image)
    for ours, theirs, channels in zip(found, expected, backbone.channels, strict=True):
        theirs = theirs if theirs.shape[1] == channels else theirs.permute(0, 3, 1, 2)
        assert torch.equal(ours, theirs)


def compiled(kind: str, backbone: nn.Module, image: torch.Tensor) -> Any:
    if kind == "scripted":
        return torch.jit.script(backbone)
    return torch.jit.trace(backbone, image, strict=False, check_trace=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "scripted"),
        ("convnext_atto", "scripted"),
        ("cvnets_swin_tiny_patch4_window7_224", "scripted"),
        ("cvnets_mobilevit_xxs", "scripted"),
        ("resnet18", "traced"),
        ("cvnets_vit_tiny_patch16_224", "traced"),
    ],
)
def test_backbones_are_exported_as_timms_networks_are(name: str, kind: str) -> None:
    backbone = FeatureBackbone(name).eval()
    image, other = torch.rand(1, 3, 65, 70), torch.rand(1, 3, 97, 131)
    with torch.no_grad():
        exported = compiled(kind, backbone, image)
        for size in (image, other):
            for found, expected in zip(exported(size), backbone(size), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
