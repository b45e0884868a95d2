"""Backbones of timm: the features of the whole network, loaded whole or not at all."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

from dr_models import FeatureBackbone  # noqa: E402
from dr_models.checkpoints import (  # noqa: E402
    InputConvention,
    convert_state_dict,
    torchvision_model,
)
from dr_plugins.errors import BackboneError, CheckpointError  # noqa: E402
from tests.dr_models.checkpoints.networks import cvnets_state, randomised  # noqa: E402

PYRAMIDS = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "cvnets_resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "cvnets_mobilenetv3_small_100": ("blocks.0", "blocks.1", "blocks.3", "blocks.5"),
    "cvnets_mobilevit_xxs": ("stages.1", "stages.2", "stages.3", "final_conv"),
    "efficientnet_b0": ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    "cvnets_swin_tiny_patch4_window7_224": ("layers.0", "layers.1", "layers.2", "layers.3"),
}


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def saved(name: str, folder: Path, **options: Any) -> tuple[nn.Module, str]:
    network = randomised(timm.create_model(name, num_classes=7, **options))
    path = folder / "checkpoint.pt"
    torch.save({"state_dict": network.state_dict(), "arch": name.partition(".")[0]}, path)
    return network, str(path)


def outputs_of(network: nn.Module, names: tuple[str, ...], image: torch.Tensor) -> list[Any]:
    found = []
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2]))
    with torch.inference_mode():
        network(image)
    return found


def nchw(features: torch.Tensor, channels: int) -> torch.Tensor:
    return features if features.shape[1] == channels else features.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_features_are_those_of_the_whole_network(name: str, tmp_path: Path) -> None:
    network, path = saved(name, tmp_path)
    backbone = FeatureBackbone(name).eval()
    assert backbone.strides == [4, 8, 16, 32]
    assert not backbone.is_loaded
    weights = backbone.load(path)
    assert backbone.is_loaded
    assert not weights.report.missing + weights.report.unexpected
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        found = backbone(image)
    for feature, expected, channels, stride in zip(
        found,
        outputs_of(network, PYRAMIDS[name], image),
        backbone.channels,
        (4, 8, 16, 32),
        strict=True,
    ):
        assert feature.shape == (1, channels, 224 // stride, 224 // stride)
        torch.testing.assert_close(feature, nchw(expected, channels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(224, 320), (96, 160)])
def test_swin_takes_any_size_as_torchvisions_does(size: tuple[int, int], tmp_path: Path) -> None:
    state = cvnets_state("swin_tiny")
    torch.save(state, tmp_path / "best.pt")
    backbone = FeatureBackbone("cvnets_swin_tiny_patch4_window7_224").eval()
    backbone.load(str(tmp_path / "best.pt"))
    oracle = torchvision_model("swin_tiny").eval()
    oracle.load_state_dict(convert_state_dict(state, "swin_tiny", "torchvision")[0])
    image = torch.rand(1, 3, *size)
    expected = outputs_of(oracle, ("features.1", "features.3", "features.5", "features.7"), image)
    with torch.inference_mode():
        found = backbone(image)
    for feature, other, channels in zip(found, expected, backbone.channels, strict=True):
        torch.testing.assert_close(feature, nchw(other, channels), rtol=1e-4, atol=1e-4)


def test_networks_of_one_scale_give_their_last_map(tmp_path: Path) -> None:
    network, path = saved("vit_tiny_patch16_224", tmp_path)
    backbone = FeatureBackbone("vit_tiny_patch16_224").eval()
    backbone.load(path)
    assert (backbone.out_indices, backbone.channels, backbone.strides) == ((11,), [192], [16])
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        (found,) = backbone(image)
        # The extractor leaves the last normalisation out, as timm's own does.
        (expected,) = network.forward_intermediates(
            image, indices=[11], norm=False, intermediates_only=True
        )
        assert backbone(torch.rand(1, 3, 160, 256))[0].shape == (1, 192, 10, 16)
    torch.testing.assert_close(found, expected)


def test_arguments_reach_timm() -> None:
    backbone = FeatureBackbone("resnet18", out_indices=(-2, -1), output_stride=16)
    assert (backbone.out_indices, backbone.strides) == ((3, 4), [16, 16])
    assert backbone(torch.zeros(1, 3, 64, 64))[1].shape == (1, 512, 4, 4)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("cvnets_resnet18", (0.0,) * 3, (1.0,) * 3), ("resnet18", *(None,) * 2)],
)
def test_convention_is_timms(name: str, mean: Any, std: Any) -> None:
    convention = FeatureBackbone(name).convention
    assert convention.mean == (mean or InputConvention().mean)
    assert convention.std == (std or InputConvention().std)


FROZEN = {
    -1: set(),
    0: {"conv1", "bn1"},
    1: {"conv1", "bn1", "layer1"},
    4: {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"},
}


@pytest.mark.parametrize("stages", FROZEN)
def test_frozen_stages_neither_learn_nor_update_statistics(stages: int, tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    backbone = FeatureBackbone("resnet18", frozen_stages=stages)
    backbone.load(path)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), 0.1)
    features = backbone(torch.rand(2, 3, 64, 64))
    if stages < 4:
        sum(feature.square().mean() for feature in features).backward()
        optimizer.step()
    changed = {
        key.split(".")[1]
        for key, value in backbone.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == FROZEN[4] - FROZEN[stages]


def test_freezing_covers_stem_and_positions_of_a_transformer(tmp_path: Path) -> None:
    _, path = saved("vit_tiny_patch16_224", tmp_path)
    backbone = FeatureBackbone("vit_tiny_patch16_224", frozen_stages=2)
    backbone.load(path)
    frozen = {
        ".".join(key.split(".")[2:4])
        for key, parameter in backbone.named_parameters()
        if not parameter.requires_grad
    }
    assert frozen == {"cls_token", "pos_embed", "patch_embed.proj", "blocks.0", "blocks.1"}
    assert not FeatureBackbone("cvnets_resnet18", frozen_stages=0).features.maxpool[0].training


def test_the_convolution_in_place_of_pooling_belongs_to_the_stem() -> None:
    backbone = FeatureBackbone("cvnets_resnet18", frozen_stages=0)
    trained = {key for key, value in backbone.named_parameters() if value.requires_grad}
    assert {key.split(".")[1] for key in trained} == {"layer1", "layer2", "layer3", "layer4"}


def test_norm_eval_keeps_statistics(tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    backbone = FeatureBackbone("resnet18", norm_eval=True)
    backbone.load(path)
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    for evaluated in (False, True):  # as built, and after an evaluation
        if evaluated:
            backbone.eval().train()
        assert backbone.features.layer1.training
        backbone(torch.rand(2, 3, 64, 64))
        assert all(torch.equal(value, before[key]) for key, value in backbone.named_buffers())


@pytest.mark.parametrize("name", ["resnet18", "cvnets_swin_tiny_patch4_window7_224"])
def test_checkpointed_gradients_are_the_same(name: str, tmp_path: Path) -> None:
    _, path = saved(name, tmp_path)
    gradients = []
    calls = []
    for checkpointing in (False, True):
        backbone = FeatureBackbone(
            name, norm_eval=True, grad_checkpointing=checkpointing, drop_path_rate=0.0
        )
        backbone.load(path)
        backbone.train()
        count = [0]
        layers = [part for part in backbone.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        layers[len(layers) // 2].register_forward_hook(
            lambda *call, count=count: count.__setitem__(0, count[0] + 1)
        )
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        backbone(image)[-1].square().mean().backward()
        gradients.append({key: value.grad for key, value in backbone.named_parameters()})
        calls.append(count[0])
    assert calls == [1, 2]
    for key, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[1][key], rtol=1e-4, atol=1e-6)


def test_frozen_stages_with_random_weights_do_not_train() -> None:
    backbone = FeatureBackbone("resnet18", frozen_stages=1)
    image = torch.zeros(2, 3, 64, 64)
    backbone.eval()(image)
    with pytest.raises(CheckpointError, match=r"frozen_stages=1 .*resnet18"):
        backbone.train()(image)


@pytest.mark.parametrize("nested", [False, True])
def test_only_a_whole_checkpoint_counts_as_loaded(nested: bool) -> None:
    source = FeatureBackbone("resnet18").state_dict()
    prefix = "0." if nested else ""
    for lacking, loaded in ((None, True), ("features.conv1.weight", False)):
        backbone = FeatureBackbone("resnet18")
        host = nn.Sequential(backbone) if nested else backbone
        state = {prefix + key: value for key, value in source.items() if key != lacking}
        host.load_state_dict(state, strict=False)
        assert backbone.is_loaded == loaded


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "resnet5"}, BackboneError, r"'resnet5'.*resnet50"),
        ({"out_indices": (1, 5)}, BackboneError, r"out_indices is \[1, 5\].*features 0 to 4"),
        ({"out_indices": (2, 1)}, BackboneError, "ascending"),
        ({"out_indices": ()}, BackboneError, "ascending"),
        ({"frozen_stages": 5}, BackboneError, r"frozen_stages is 5.*resnet18"),
        ({"frozen_stages": -2}, BackboneError, "-1 to 4"),
        ({"no_such_option": 1}, BackboneError, "no_such_option"),
        (
            {"model": "hrnet_w18_small", "frozen_stages": 1},
            BackboneError,
            r"hrnet_w18_small.*frozen_stages=-1",
        ),
    ],
)
def test_wrong_settings(change: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        FeatureBackbone(**{"model": "resnet18", **change})


def test_a_later_checkpoint_in_part_is_noticed() -> None:
    backbone = FeatureBackbone("resnet18")
    whole = backbone.state_dict()
    backbone.load_state_dict({"other": torch.zeros(1)}, strict=False)
    assert not backbone.is_loaded
    backbone.load_state_dict(whole)
    backbone.load_state_dict({"other": torch.zeros(1)}, strict=False)
    assert backbone.is_loaded
    part = {key: value for key, value in whole.items() if "layer4" not in key}
    backbone.load_state_dict(part, strict=False)
    assert not backbone.is_loaded


def test_pyramids_that_begin_at_full_resolution() -> None:
    backbone = FeatureBackbone("vgg11")
    assert backbone.strides == [4, 8, 16, 32]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    _, path = saved("resnet34", tmp_path)
    with pytest.raises(CheckpointError, match=r"resnet34.*resnet18"):
        FeatureBackbone("resnet18").load(path)


def test_another_shape_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    with pytest.raises(CheckpointError, match=r"conv1.weight of resnet18 has shape .*in_chans"):
        FeatureBackbone("resnet18", in_chans=1).load(path)


@pytest.mark.parametrize(
    ("model", "own", "given"),
    [
        ("maxvit_tiny_rw_224", 224, (192, 256)),
        ("beit_base_patch16_224", 224, (192, 256)),
        ("mvitv2_tiny", 224, (192, 288)),
        ("halonet26t", 256, (224, 224)),
    ],
)
def test_networks_for_one_size_say_so(model: str, own: int, given: tuple[int, int]) -> None:
    backbone = FeatureBackbone(model).train()
    said = rf"{model}.*{given[0]}×{given[1]}.*{own}×{own}"
    with pytest.raises(BackboneError, match=said) as error:
        backbone(torch.zeros(1, 3, *given))
    assert "img_size" in str(error.value)
    assert error.value.__cause__ is not None
    assert backbone.features.training
    assert len(backbone(torch.zeros(2, 3, own, own))) == len(backbone.channels)


def test_the_size_that_was_named_is_taken() -> None:
    backbone = FeatureBackbone("maxvit_tiny_rw_224", img_size=(128, 256)).eval()
    with torch.inference_mode():
        found = backbone(torch.zeros(1, 3, 128, 256))
    assert [feature.shape[-2:] for feature in found] == [(32, 64), (16, 32), (8, 16), (4, 8)]
    with pytest.raises(BackboneError, match=r"120×256.*128×256"):
        backbone(torch.zeros(1, 3, 120, 256))


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        FeatureBackbone("resnet18")(torch.zeros(1, 4, 64, 64))
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        FeatureBackbone("resnet18")(torch.zeros(1, 3, 64, 64, dtype=torch.float64))


def test_defaults_of_the_backbone() -> None:
    parameters = inspect.signature(FeatureBackbone).parameters
    expected = {"out_indices": None, "frozen_stages": -1, "norm_eval": False}
    expected["grad_checkpointing"] = False
    assert {name: parameters[name].default for name in expected} == expected
