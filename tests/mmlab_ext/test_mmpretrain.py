"""mmpretrain's classifiers on our data, where it is installed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from mmengine.hooks import Hook

from mmlab_ext import ConfigError

pytest.importorskip("mmpretrain", reason="mmpretrain is not installed", exc_type=ImportError)

Builder = Callable[..., Any]


@pytest.fixture
def config(reinforced: Builder) -> dict[str, Any]:
    config: dict[str, Any] = reinforced(epochs=1, gt_score=True)
    config["default_scope"] = "mmpretrain"
    config["model"] = {
        "type": "ImageClassifier",
        "backbone": {"type": "ResNet", "depth": 18},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {
            "type": "LinearClsHead",
            "num_classes": 3,
            "in_channels": 512,
            "loss": {"type": "KDLoss"},
        },
        "data_preprocessor": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
    config["custom_hooks"] = [{"type": "ReinforcementHook"}]
    return config


def test_its_classifier_learns_the_answers(config: dict[str, Any], build_runner: Builder) -> None:
    runner = build_runner(config)
    losses: list[float] = []

    class Losses(Hook):
        def after_train_iter(self, *args: Any, outputs: Any = None, **kwargs: Any) -> None:
            losses.append(outputs["loss"].item())

    runner.register_hook(Losses())
    runner.train()
    assert len(losses) == 3
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert 0 <= runner.message_hub.get_scalar("val/accuracy/top1").current() <= 100


def test_its_mixing_is_refused(config: dict[str, Any], build_runner: Builder) -> None:
    config["model"]["train_cfg"] = {"augments": [{"type": "Mixup", "alpha": 0.2}]}
    with pytest.raises(ConfigError, match=r"model\.train_cfg\.augments"):
        build_runner(config).train()


def test_its_switch_to_another_recipe_is_refused_at_the_start(
    config: dict[str, Any], build_runner: Builder
) -> None:
    mixing = {"augments": [{"type": "Mixup", "alpha": 0.2}]}
    schedule = [{"action_epoch": 100, "batch_augments": mixing}]
    config["custom_hooks"].append({"type": "SwitchRecipeHook", "schedule": schedule})
    with pytest.raises(ConfigError, match="SwitchRecipeHook"):
        build_runner(config).train()
    schedule[0]["batch_augments"] = None
    build_runner(config).train()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "LabelSmoothLoss", "label_smooth_val": 0.1}, r"label_smooth_val=0\.1.*smoothed"),
        ({"type": "CrossEntropyLoss", "use_sigmoid": True}, "CrossEntropyLoss .*softmax"),
        ({"type": "FocalLoss"}, "FocalLoss .*softmax"),
    ],
)
def test_its_losses_for_labels_are_refused(
    config: dict[str, Any], build_runner: Builder, loss: dict[str, Any], message: str
) -> None:
    config["model"]["head"]["loss"] = loss
    with pytest.raises(ConfigError, match=f"{message}.*KDLoss"):
        build_runner(config).train()


def test_other_classes_are_refused(config: dict[str, Any], build_runner: Builder) -> None:
    config["model"]["head"]["num_classes"] = 5
    with pytest.raises(ConfigError, match=r"model\.head has 5 classes.* 3"):
        build_runner(config).train()
