"""ResNets in the names of MMEngine's hosts and Detectron2 compute there what they did before."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import pytest
import torch
import torchvision

from dr_models.checkpoints import convert_state_dict
from dr_plugins.errors import CheckpointError
from tests.dr_models.checkpoints.networks import randomised


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def stages(network: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the four stages of a network in torchvision's or timm's names."""
    maps = []
    handles = [
        getattr(network, f"layer{stage}").register_forward_hook(
            lambda module, inputs, output: maps.append(output)
        )
        for stage in (1, 2, 3, 4)
    ]
    with torch.inference_mode():
        network(image)
    for handle in handles:
        handle.remove()
    return maps


def without_operators(name: str) -> None:
    """Stand in for compiled operators that no ResNet calls, where they are not installed."""
    try:
        __import__(name)
    except ImportError:
        module: Any = types.ModuleType(name)
        module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
        sys.modules[name] = module


def rename_by_hand(key: str) -> str:
    """An independent statement of Detectron2's names, from its own conversion of torchvision's."""
    if not key.startswith("layer"):
        key = "stem." + key
    for stage in (1, 2, 3, 4):
        key = key.replace(f"layer{stage}", f"res{stage + 1}")
    for number in (1, 2, 3):
        key = key.replace(f"bn{number}", f"conv{number}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_of_detectron2(name: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None).state_dict()
    converted, report = convert_state_dict(state, f"torchvision:{name}", "detectron2")
    expected = {
        rename_by_hand(key)
        for key in state
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }
    assert converted.keys() == expected
    assert not [key for key in converted if re.search(r"bn|layer|downsample|fc", key)]
    assert {"fc.weight", "fc.bias"} <= set(report.dropped)
    assert report.model_kwargs["MODEL.RESNETS.STRIDE_IN_1X1"] is False


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2_computes_the_same(name: str) -> None:
    pytest.importorskip("detectron2")
    from PIL import Image

    # Detectron2 0.6 needs names that have gone since.
    Image.LINEAR = getattr(Image, "LINEAR", Image.BILINEAR)  # type: ignore[attr-defined]
    without_operators("detectron2._C")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    network = randomised(torchvision.models.get_model(name, weights=None))
    converted, report = convert_state_dict(
        network.state_dict(), f"torchvision:{name}", "detectron2"
    )
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for setting, value in report.model_kwargs.items():
        cfg.merge_from_list([setting, value])
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    backbone.load_state_dict(converted)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = backbone(image)
    for ours, theirs in zip(stages(network, image), maps.values(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:resnet50", "timm:resnet50d"])
def test_mmdet_computes_the_same(name: str) -> None:
    pytest.importorskip("mmengine")
    pytest.importorskip("mmcv")
    without_operators("mmcv._ext")
    backbones = pytest.importorskip("mmdet.models.backbones.resnet")
    library, _, plain = name.partition(":")
    if library == "timm":
        network = randomised(pytest.importorskip("timm").create_model(plain))
    else:
        network = randomised(torchvision.models.get_model(plain, weights=None))
    converted, report = convert_state_dict(network.state_dict(), name, "mmengine")
    backbone = getattr(backbones, report.model)(**report.model_kwargs)
    backbone.eval()  # returns nothing, there
    backbone.load_state_dict(converted)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = backbone(image)
    for ours, theirs in zip(stages(network, image), maps, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to", ["detectron2", "mmengine"])
def test_what_a_host_does_not_have_is_refused_with_the_way_out(to: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.wide_resnet50_2(weights=None).state_dict()
    with pytest.raises(CheckpointError, match=rf"wide_resnet50_2 .* {to}: .*timm backbone"):
        convert_state_dict(state, "torchvision:wide_resnet50_2", to)


def test_a_deep_stem_does_not_fit_detectron2() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = timm.create_model("resnet50d").state_dict()
    with pytest.raises(CheckpointError, match=r"three convolutions"):
        convert_state_dict(state, "timm:resnet50d", "detectron2")
    with torch.device("meta"):
        state = timm.create_model("resnet18d").state_dict()
    with pytest.raises(CheckpointError, match=r"resnet18d.*mmengine"):
        convert_state_dict(state, "timm:resnet18d", "mmengine")
