"""timm networks as backbones: what they compute, what is frozen, what configurations build."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("timm")

from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from d2_ext import ConfigError, SimpleFeaturePyramid, TimmBackbone, add_dr_plugins_config
from dr_plugins.errors import CheckpointError
from tests.d2_ext.conftest import Saved, random_network

BUILDERS = (
    "build_dr_timm_backbone",
    "build_dr_timm_fpn_backbone",
    "build_dr_retinanet_timm_fpn_backbone",
    "build_dr_timm_simple_fpn_backbone",
)
PYRAMIDS = {
    "resnet50d": [256, 512, 1024, 2048],
    "cvnets_resnet50": [256, 512, 1024, 2048],
    "mobilenetv3_small_050": [8, 16, 24, 288],
    "efficientnet_b0": [24, 40, 112, 320],
    "swin_tiny_patch4_window7_224": [96, 192, 384, 768],
}


def config(*options: Any) -> Any:
    cfg = get_cfg()
    add_dr_plugins_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    keys, values = options[::2], options[1::2]
    for key, value in zip(keys, values, strict=True):
        if key.startswith(
            "MODEL.DR_TIMM.OPTIONS."
        ):  # which files may add, and command lines may not
            cfg.MODEL.DR_TIMM.OPTIONS[key.rpartition(".")[2]] = value
        else:
            cfg.merge_from_list([key, value])
    return cfg


@pytest.mark.parametrize("name", BUILDERS)
def test_names_are_registered(name: str) -> None:
    assert BACKBONE_REGISTRY.get(name).__name__ == name


@pytest.mark.parametrize("model", PYRAMIDS)
def test_pyramids_have_the_shapes_that_they_state(model: str) -> None:
    backbone = TimmBackbone(model).eval()
    shapes = backbone.output_shape()
    assert {name: (shape.stride, shape.channels) for name, shape in shapes.items()} == {
        f"res{stage}": (2**stage, channels)
        for stage, channels in zip(range(2, 6), PYRAMIDS[model], strict=True)
    }
    assert backbone.size_divisibility == 32
    with torch.inference_mode():
        features = backbone(torch.rand(1, 3, 64, 96))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        name: (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("model", ["resnet26d", "cvnets_resnet18", "mobilenetv3_small_050"])
def test_features_are_those_of_the_network(model: str, saved: Saved) -> None:
    network, path = saved(model)
    backbone = TimmBackbone(model, norm="FrozenBN").eval()
    backbone.network.load(str(path))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = list(backbone(images).values())
        if model.startswith("mobilenet"):
            expected = network.forward_intermediates(images, intermediates_only=True)[-4:]
        else:
            expected = []
            hidden = network.maxpool(network.act1(network.bn1(network.conv1(images))))
            for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
                hidden = layer(hidden)
                expected.append(hidden)
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_named_features_only() -> None:
    backbone = TimmBackbone("resnet18", out_features=["res5", "res3"])
    assert list(backbone.output_shape()) == ["res3", "res5"]
    assert backbone(torch.zeros(1, 3, 64, 64))["res5"].shape == (1, 512, 2, 2)


def test_dilated_stages_keep_their_names() -> None:
    shapes = TimmBackbone("resnet18", output_stride=16).output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 16,
    }


@pytest.mark.parametrize(
    ("freeze_at", "learn"),
    [(0, {"conv1", "layer1", "layer4"}), (1, {"layer1", "layer4"}), (2, {"layer4"}), (5, set())],
)
@pytest.mark.parametrize("norm", ["", "SyncBN"])
def test_freezing_stops_weights_and_statistics(freeze_at: int, learn: set[str], norm: str) -> None:
    backbone = TimmBackbone("resnet18", freeze_at=freeze_at, norm=norm)
    backbone.load_state_dict(backbone.state_dict())
    backbone.train()
    before = {key: value.clone() for key, value in backbone.network.features.state_dict().items()}
    loss = sum(feature.square().mean() for feature in backbone(torch.rand(2, 3, 64, 64)).values())
    if learn:
        loss.backward()
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=0.01)
    after = backbone.network.features.state_dict()
    changed = {key.partition(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed & {"conv1", "layer1", "layer4"} == learn
    statistics = {key.partition(".")[0] for key in after if "running_mean" in key} - {"bn1"}
    assert all((stage in changed) == (int(stage[-1]) >= freeze_at) for stage in statistics)


@pytest.mark.parametrize("norm", ["", "BN", "FrozenBN", "SyncBN"])
@pytest.mark.parametrize("model", ["resnet18", "mobilenetv3_small_050"])
def test_converted_norms_compute_the_same_and_are_all_converted(model: str, norm: str) -> None:
    source = random_network(model)
    images = torch.rand(2, 3, 64, 64)
    plain, converted = TimmBackbone(model).eval(), TimmBackbone(model, norm=norm).eval()
    for backbone in (plain, converted):
        backbone.network.load_state_dict(backbone.network.adapt(source.state_dict()))
    with torch.inference_mode():
        for name, feature in plain(images).items():
            torch.testing.assert_close(converted(images)[name], feature)
    kinds = {type(module).__name__ for module in converted.modules()}
    found = {kind for kind in kinds if "Norm" in kind}
    assert found
    assert all(
        kind.startswith({"": "BatchNorm", "BN": "BatchNorm"}.get(norm, norm[:-2])) for kind in found
    )


def test_gradient_checkpointing_computes_again_and_changes_no_gradient() -> None:
    gradients, calls = [], []
    images = torch.rand(2, 3, 64, 64)
    for again in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone("vit_tiny_patch16_224", grad_checkpointing=again)
        seen: list[int] = []
        for block in backbone.modules():
            if type(block).__name__ == "Block":
                block.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        backbone(images)["last_feat"].square().sum().backward()
        gradients.append({key: value.grad for key, value in backbone.named_parameters()})
        calls.append(len(seen))
    assert calls == [12, 24]
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


@pytest.mark.parametrize(
    "builder", ["build_dr_timm_fpn_backbone", "build_dr_retinanet_timm_fpn_backbone"]
)
def test_pyramid_networks_from_yacs(builder: str) -> None:
    levels = ["p2", "p3", "p4", "p5", "p6"]
    options = ["MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]]
    if "retinanet" in builder:
        levels = ["p3", "p4", "p5", "p6", "p7"]
        options = ["MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]]
    model = build_backbone(
        config("MODEL.BACKBONE.NAME", builder, "MODEL.DR_TIMM.NAME", "resnet18", *options)
    ).eval()
    assert list(model.output_shape()) == levels
    assert model.size_divisibility == 32
    with torch.inference_mode():
        features = model(torch.rand(1, 3, 64, 64))
    strides = [shape.stride for shape in model.output_shape().values()]
    assert [feature.shape[-1] for feature in features.values()] == [
        max(64 // stride, 1) for stride in strides
    ]


def test_simple_pyramid_of_a_vit_from_yacs() -> None:
    model = build_backbone(
        config(
            *("MODEL.BACKBONE.NAME", "build_dr_timm_simple_fpn_backbone"),
            *("MODEL.DR_TIMM.NAME", "vit_tiny_patch16_224", "MODEL.FPN.OUT_CHANNELS", 48),
            *("MODEL.DR_TIMM.OPTIONS.drop_path_rate", 0.1),
        )
    ).eval()
    assert {name: shape.channels for name, shape in model.output_shape().items()} == dict.fromkeys(
        ["p2", "p3", "p4", "p5", "p6"], 48
    )
    assert model.size_divisibility == 32
    assert any(type(module).__name__ == "DropPath" for module in model.modules())
    images = torch.rand(1, 3, 64, 128)
    with torch.inference_mode():
        features = model(images)
        feature = model.net(images)["last_feat"]
        third = model.scales[2](feature)
    assert [tuple(f.shape) for f in features.values()] == [
        (1, 48, 64 // stride, 128 // stride) for stride in (4, 8, 16, 32, 64)
    ]
    assert torch.equal(features["p4"], third)


def test_simple_pyramid_computes_what_detectron2s_does() -> None:
    vit = pytest.importorskip("detectron2.modeling.backbone.vit")
    ours = SimpleFeaturePyramid(TimmBackbone("vit_tiny_patch16_224"), out_channels=32).eval()
    theirs = vit.SimpleFeaturePyramid(
        ours.net,
        in_feature="last_feat",
        out_channels=32,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
    ).eval()
    assert ours.output_shape() == theirs.output_shape()
    values = [p for name, p in ours.named_parameters() if name.startswith("scales.")]
    targets = [p for stage in range(2, 6) for p in getattr(theirs, f"simfp_{stage}").parameters()]
    for target, value in zip(targets, values, strict=True):
        torch.nn.init.normal_(value, 0, 0.1)
        target.data.copy_(value.data)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for name, feature in theirs(images).items():
            torch.testing.assert_close(ours(images)[name], feature)


def test_lazy_form() -> None:
    node = LazyCall(FPN)(
        bottom_up=LazyCall(TimmBackbone)(model="resnet18", freeze_at=0, drop_path_rate=0.1),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=32,
        top_block=LazyCall(LastLevelMaxPool)(),
    )
    model = instantiate(node)
    assert isinstance(model.bottom_up, TimmBackbone)
    assert list(model.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize(
    ("options", "kind", "names"),
    [
        (
            ("MODEL.DR_TIMM.NAME", "resnet5O"),
            ConfigError,
            ("MODEL.DR_TIMM.NAME", "resnet5O", "resnet50"),
        ),
        (("MODEL.DR_TIMM.NORM", "GN"), ConfigError, ("MODEL.DR_TIMM.NORM", "GN", "SyncBN")),
        (("MODEL.DR_TIMM.OUT_FEATURES", ["res6"]), ConfigError, ("OUT_FEATURES", "res6", "res5")),
        (("MODEL.PIXEL_MEAN", [0.0]), ConfigError, ("MODEL.PIXEL_MEAN", "expected 3")),
        (("MODEL.DR_TIMM.OPTIONS.no_such", 1), ConfigError, ("MODEL.DR_TIMM.OPTIONS", "no_such")),
        (("MODEL.BACKBONE.FREEZE_AT", 9), ConfigError, ("MODEL.BACKBONE.FREEZE_AT", "9")),
        (("MODEL.DR_TIMM.OPTIONS.pretrained", True), ConfigError, ("pretrained", "MODEL.WEIGHTS")),
        (("MODEL.DR_TIMM.OPTIONS.out_indices", (1,)), ConfigError, ("OUT_FEATURES",)),
    ],
)
def test_wrong_settings(options: tuple[Any, ...], kind: type[Exception], names: Any) -> None:
    cfg = config(
        "MODEL.BACKBONE.NAME", "build_dr_timm_backbone", "MODEL.DR_TIMM.NAME", "resnet18", *options
    )
    with pytest.raises(kind) as error:
        build_backbone(cfg)
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize(
    ("builder", "options", "names"),
    [
        ("build_dr_timm_fpn_backbone", (), ("MODEL.FPN.IN_FEATURES", "is empty", "res2")),
        (
            "build_dr_timm_fpn_backbone",
            ("MODEL.FPN.IN_FEATURES", ["p2"]),
            ("MODEL.FPN.IN_FEATURES", "p2"),
        ),
        (
            "build_dr_timm_fpn_backbone",
            ("MODEL.DR_TIMM.NAME", "vit_tiny_patch16_224"),
            ("single scale", "build_dr_timm_simple_fpn_backbone"),
        ),
        ("build_dr_timm_simple_fpn_backbone", (), ("res2", "build_dr_timm_fpn_backbone")),
    ],
)
def test_wrong_necks(builder: str, options: tuple[Any, ...], names: tuple[str, ...]) -> None:
    cfg = config("MODEL.BACKBONE.NAME", builder, "MODEL.DR_TIMM.NAME", "resnet18", *options)
    with pytest.raises(ConfigError) as error:
        build_backbone(cfg)
    assert all(name in str(error.value) for name in names)


def test_keys_that_were_not_added() -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_dr_timm_backbone"
    with pytest.raises(ConfigError, match="add_dr_plugins_config"):
        build_backbone(cfg)


@pytest.mark.parametrize("options", [{"freeze_at": 1}, {"norm": "FrozenBN"}])
def test_frozen_noise_is_refused_in_training_only(options: dict[str, Any]) -> None:
    backbone = TimmBackbone("resnet18", **options)
    images = torch.zeros(2, 3, 64, 64)
    with pytest.raises(CheckpointError, match="FREEZE_AT") as error:
        backbone(images)
    assert "imagenet-plus://" in str(error.value)
    backbone.eval()(images)
    backbone.load_state_dict(backbone.state_dict())
    backbone.train()(images)
