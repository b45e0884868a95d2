"""Checkpoints into backbones, compared with the networks that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

import dr_models.networks  # noqa: F401  registers cvnets_*
import mmlab_ext  # noqa: F401  registers
from dr_plugins.errors import BackboneError, CheckpointError
from mmlab_ext import ConfigError
from mmlab_ext.loading import load_into
from tests.dr_models.checkpoints.networks import randomised


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def trained(name: str, **kwargs: Any) -> nn.Module:
    torch.manual_seed(5)
    return randomised(timm.create_model(name, num_classes=4, **kwargs))


def saved(name: str, folder: Path, **kwargs: Any) -> tuple[nn.Module, str]:
    network = trained(name, **kwargs)
    path = folder / f"{name}.pt"
    torch.save(network.state_dict(), path)
    return network, str(path)


def features_of(network: Any) -> list[torch.Tensor]:
    """timm's own features of strides 4 and more, from the network's tensors."""
    extractor = timm.create_model(network.pretrained_cfg["architecture"], features_only=True)
    extractor.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        return extractor.eval()(images())[1:]


def build(config: dict[str, Any]) -> Any:
    """Build a backbone, and initialise it as the Runner does."""
    backbone = MODELS.build(config)
    backbone.init_weights()
    return backbone


def assert_same(backbone: nn.Module, expected: list[torch.Tensor]) -> None:
    backbone.eval()  # returns None in MMDetection
    with torch.no_grad():
        got = backbone(images())
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def resnet(host: str, kind: str = "ResNet", depth: int = 18, **kwargs: Any) -> dict[str, Any]:
    pytest.importorskip(host, reason=f"{host} is not installed")
    import importlib

    importlib.import_module(f"{host}.models")
    return {"type": f"{host}.{kind}", "depth": depth, **kwargs}


@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
@pytest.mark.parametrize(
    ("kind", "depth", "name"),
    [("ResNet", 18, "resnet18"), ("ResNet", 50, "resnet50"), ("ResNetV1d", 50, "resnet50d")],
)
def test_a_resnet_of_the_host_computes_what_the_source_did(
    host: str, kind: str, depth: int, name: str, tmp_path: Path
) -> None:
    network, path = saved(name, tmp_path)
    pretrained = {"type": "Pretrained", "checkpoint": f"imagenet-plus://{path}?source=timm"}
    strides = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
    backbone = build(resnet(host, kind, depth, init_cfg=pretrained, **strides))
    assert_same(backbone, features_of(network))


@pytest.mark.parametrize("name", ["resnet50d", "mobilenetv3_large_100", "cvnets_resnet18"])
def test_timm_features_compute_what_the_source_did(name: str, tmp_path: Path) -> None:
    network, path = saved(name, tmp_path)
    pretrained = {
        "type": "Pretrained",
        "checkpoint": f"imagenet-plus://{path}?source=timm&arch={name}",
    }
    backbone = build({"type": "TimmFeatures", "model": name, "init_cfg": pretrained})
    assert_same(backbone, features_of(network))


def test_a_backbone_without_its_last_stage_takes_what_it_has(tmp_path: Path) -> None:
    network, path = saved("resnet18", tmp_path)
    config = resnet("mmdet", num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1))
    backbone = MODELS.build({**config, "out_indices": (0, 1, 2)})
    load_into(backbone, path)
    assert_same(backbone, features_of(network)[:3])


def test_frozen_stages_and_norm_eval_hold_after_loading(tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    backbone = MODELS.build(resnet("mmdet", frozen_stages=1, norm_eval=True))
    backbone.train()
    load_into(backbone, path)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(feature.sum() for feature in backbone(images())).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1).step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert not any("running" in key for key in changed)
    assert not any(key.startswith(("conv1", "bn1", "layer1")) for key in changed)
    assert any(key.startswith("layer2") for key in changed)


@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
def test_another_depth_is_an_error(host: str, tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    pretrained = {"type": "Pretrained", "checkpoint": f"imagenet-plus://{path}"}
    with pytest.raises(CheckpointError, match=r"init_cfg of ResNet: .*resnet18.*resnet34"):
        build(resnet(host, depth=34, init_cfg=pretrained))


def test_variants_that_compute_something_else_are_errors(tmp_path: Path) -> None:
    _, path = saved("resnet50", tmp_path)
    with pytest.raises(BackboneError, match="style='pytorch'"):
        load_into(MODELS.build(resnet("mmdet", depth=50, style="caffe")), path)
    with pytest.raises(BackboneError, match="deep_stem=True"):
        load_into(MODELS.build(resnet("mmdet", depth=50, deep_stem=True)), path)
    with pytest.raises(CheckpointError, match=r"tensors do not fit: .*Configure the ResNet"):
        load_into(MODELS.build(resnet("mmdet", depth=50, base_channels=32)), path)
    other = MODELS.build({**resnet("mmdet", "ResNeXt", 50), "groups": 32, "base_width": 4})
    with pytest.raises(BackboneError, match=r"ResNeXt is none of.*TimmFeatures"):
        load_into(other, path)


def test_an_unknown_layout_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"encoder.weight": torch.zeros(3), "encoder.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="init_cfg of ResNet: "):
        build(
            resnet(
                "mmdet",
                init_cfg={"type": "Pretrained", "checkpoint": f"imagenet-plus://{path}"},
            )
        )


def test_other_checkpoints_stay_with_mmengine(tmp_path: Path) -> None:
    network, path = saved("resnet18", tmp_path)
    backbone = build(resnet("mmdet", init_cfg={"type": "Pretrained", "checkpoint": path}))
    assert_same(backbone, features_of(network))


def test_mmengines_own_loader_is_refused(tmp_path: Path) -> None:
    _, path = saved("resnet18", tmp_path)
    backbone = MODELS.build(resnet("mmdet"))
    with pytest.raises(CheckpointError, match=r"only warns .*ReinforcedBackboneHook.*not load_fr"):
        load_checkpoint(backbone, f"imagenet-plus://{path}?source=timm", map_location="cpu")
    # The class in the place of its name goes round the registry.
    by_class = {"type": PretrainedInit, "checkpoint": f"imagenet-plus://{path}"}
    with pytest.raises(CheckpointError, match="only warns"):
        build(resnet("mmdet", depth=34, init_cfg=by_class))


@pytest.mark.parametrize("kind", ["Pretrained", "mmengine.Pretrained", PretrainedInit])
@pytest.mark.parametrize("prefix", ["", "imagenet-plus://"])
def test_timm_features_load_strictly_however_it_is_written(
    kind: Any, prefix: str, tmp_path: Path
) -> None:
    network, path = saved("resnet18", tmp_path)
    init_cfg = {"type": kind, "checkpoint": f"{prefix}{path}"}
    backbone = build({"type": "TimmFeatures", "model": "resnet18", "init_cfg": init_cfg})
    assert backbone.body.is_loaded
    assert torch.equal(backbone.body.features.conv1.weight, network.conv1.weight)
    with pytest.raises(CheckpointError, match=r"resnet18.*resnet34"):
        build({"type": "TimmFeatures", "model": "resnet34", "init_cfg": [init_cfg]})


def test_the_frameworks_pretrained_is_refused() -> None:
    config = {"type": "TimmFeatures", "model": "resnet18", "pretrained": "torchvision://resnet18"}
    with pytest.raises(ConfigError, match=r"pretrained .*is 'torchvision.*set it to None"):
        MODELS.build(config)


@pytest.mark.parametrize("kind", ["TimmFeatures", "TimmClassifier"])
def test_synchronised_normalisation_keeps_the_activations(kind: str) -> None:
    model = MODELS.build({"type": kind, "model": "mobilenetv3_small_050"})
    with pytest.raises(BackboneError, match=r"3[34] activations.*sync_bn=True"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    plain = MODELS.build({"type": kind, "model": "mobilenetv3_small_050"})
    synchronised = MODELS.build({"type": kind, "model": "mobilenetv3_small_050", "sync_bn": True})
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in synchronised.modules()) == 34
    synchronised.load_state_dict(plain.state_dict())
    with torch.no_grad():
        outputs = [model.eval()(images()) for model in (plain, synchronised)]
    torch.testing.assert_close(*outputs)
    # ResNets have none to lose.
    nn.SyncBatchNorm.convert_sync_batchnorm(
        MODELS.build({"type": kind, "model": "resnet18"})
    ).train()


def test_a_classifier_is_initialised_with_its_last_layer(tmp_path: Path) -> None:
    network, path = saved("resnet18", tmp_path)
    pretrained = {"type": "Pretrained", "checkpoint": f"imagenet-plus://{path}"}
    config = {"type": "TimmClassifier", "model": "resnet18", "init_cfg": pretrained}
    classifier = build({**config, "num_classes": 4})
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(images()), network(images()))
    with pytest.raises(CheckpointError, match=r"has 4, but model\.num_classes is 7"):
        build({**config, "num_classes": 7})


def test_a_classifier_of_other_classes_keeps_its_own_last_layer(tmp_path: Path) -> None:
    network, path = saved("resnet18", tmp_path)
    classifier = MODELS.build({"type": "TimmClassifier", "model": "resnet18", "num_classes": 7})
    head = classifier.model.fc.weight.clone()
    load_into(classifier, path)
    assert torch.equal(classifier.model.fc.weight, head)
    with torch.no_grad():
        expected = network.forward_features(images())
        torch.testing.assert_close(classifier.eval().model.forward_features(images()), expected)


def test_frozen_stages_with_random_weights_are_an_error() -> None:
    backbone = MODELS.build({"type": "TimmFeatures", "model": "resnet18", "frozen_stages": 1})
    backbone.init_weights()
    with pytest.raises(CheckpointError, match=r"frozen_stages=1 freezes .* load a checkpoint"):
        backbone.train()(images())


def test_frozen_statistics_stay_when_normalisation_is_synchronised(tmp_path: Path) -> None:
    """As the Runner's ``sync_bn`` converts, after the backbone was built."""
    _, path = saved("resnet18", tmp_path)
    backbone = MODELS.build({"type": "TimmFeatures", "model": "resnet18", "frozen_stages": 1})
    load_into(backbone, path)
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone).train()
    modes = {
        name.removeprefix("body.features."): module.training
        for name, module in backbone.named_modules()
        if isinstance(module, nn.SyncBatchNorm)
    }
    assert {name for name, training in modes.items() if not training} == {
        name for name in modes if name.startswith(("bn1", "layer1"))
    }
