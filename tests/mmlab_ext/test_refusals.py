"""Trainings on reinforced data that are refused before their first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from dr_plugins.shards.manifest import Manifest
from mmlab_ext import ConfigError
from mmlab_ext.hooks.position import restore_position
from tests.mmlab_ext.configs import pretraining

Sets = Callable[..., Path]
Builder = Callable[..., Any]


def test_a_checkpoint_within_an_epoch_of_other_images() -> None:
    loader = SimpleNamespace(dataset=range(12))
    runner = SimpleNamespace(train_dataloader=loader)
    position = {"images": 4, "size": 13, "seed": 1}
    with pytest.raises(ConfigError, match=r"13.*12"):
        restore_position(runner, {"meta": {"epoch": 0}, "reinforced_position": position})
    restore_position(runner, {"meta": {"epoch": 0}})  # from a run without the hook


def test_a_pipeline_before_ours_is_refused(reinforced: Builder, build_runner: Builder) -> None:
    config = reinforced()
    dataset = config["train_dataloader"]["dataset"]
    dataset["pipeline"] = [{"type": "LoadImageFromFile"}, {"type": "RandomResizedCrop"}]
    with pytest.raises(
        ConfigError, match=r"train_dataloader\.dataset\.pipeline.*RandomResizedCrop"
    ):
        build_runner(config).train()


def test_a_checkpoint_of_which_nothing_fits(
    reinforced: Builder, tmp_path: Path, build_runner: Builder
) -> None:
    runner = build_runner(reinforced())
    state = runner.model.model.state_dict()
    for content in (state, {"state_dict": state}):  # as timm names its tensors
        torch.save(content, tmp_path / "of_timm.pth")
        with pytest.raises(ConfigError, match=r"load_from .*imagenet-plus://"):
            runner.load_checkpoint(str(tmp_path / "of_timm.pth"))
    wrapped = {f"module.model.{key}": value for key, value in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "of_mmengine.pth")
    runner.load_checkpoint(str(tmp_path / "of_mmengine.pth"))


def test_a_missing_shard_set_is_named(
    photographs: Path, tmp_path: Path, build_runner: Builder
) -> None:
    config = pretraining(photographs, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.shards: .*nowhere"):
        build_runner(config).train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.num_classes": 5}, r"model has 5 classes.* 3.*num_classes"),
        (
            {"model.loss": {"type": "KDLoss", "temperature": 2.0}},
            r"temperature 1\.0, model\.loss\.temperature 2\.0",
        ),
        (
            {"train_cfg": {"_delete_": True, "by_epoch": False, "max_iters": 2}},
            r"train_cfg .*IterBasedTrainLoop.*by_epoch=True",
        ),
        (
            {"train_dataloader.sampler": {"type": "InfiniteSampler"}},
            r"train_dataloader\.sampler\.type=InfiniteSampler",
        ),
        ({"model.model": "resnet5O"}, r"model\.model is 'resnet5O'.*did you mean"),
        (
            {"model.data_preprocessor": {"mean": [0, 0, 0]}},
            r"model\.data_preprocessor\.mean is \[0\.0, 0\.0, 0\.0\].*leave it out",
        ),
        ({"train_dataloader.num_batch_per_epoch": 2}, r"num_batch_per_epoch .*Leave it out"),
        ({"model.depth": 3}, r"timm cannot create test_resnet .*depth"),
        ({"custom_hooks": [{"type": "ReinforcementHook", "replay": -1}]}, r"replay is -1"),
        (
            {"train_dataloader.batch_size": 13, "train_dataloader.drop_last": True},
            r"train_dataloader\.batch_size is 13, more than the images",
        ),
        (
            {
                "train_dataloader.dataset.defer": True,
                "train_dataloader.collate_fn": {"type": "default_collate"},
            },
            r"dataset\.defer=True .* dict\(type='pseudo_collate'\)",
        ),
        (
            {
                "train_dataloader.dataset": {
                    "_delete_": True,
                    "type": "ClassBalancedDataset",
                    "dataset": "the former",
                    "oversample_thr": 0.1,
                }
            },
            r"train_dataloader\.dataset\.type=ClassBalancedDataset",
        ),
    ],
)
def test_wrong_configs_are_one_error(
    reinforced: Builder, build_runner: Builder, change: dict[str, Any], message: str
) -> None:
    config = reinforced()
    config.pop("param_scheduler")
    wrapper = change.get("train_dataloader.dataset")
    if wrapper is not None:
        wrapper["dataset"] = config["train_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=message):
        build_runner(config, **change).train()


def test_a_new_demand_is_checked(
    reinforced: Builder, build_runner: Builder, new_demand: str
) -> None:
    with pytest.raises(ConfigError, match=new_demand):
        build_runner(reinforced()).train()


def _add_transforms(runner: Any) -> None:  # as MMDetection's PipelineSwitchHook does
    step = type("RandomFlip", (), {})()
    runner.train_dataloader.dataset.pipeline = SimpleNamespace(transforms=[step])


def _add_mixing(runner: Any) -> None:  # as MMPretrain's SwitchRecipeHook does
    runner.model.data_preprocessor.batch_augments = SimpleNamespace()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_add_transforms, r"train_dataloader\.dataset\.pipeline \(RandomFlip\)"),
        (_add_mixing, "batch_augments .*mixed"),
    ],
)
def test_a_change_by_another_hook_is_refused_before_it_is_used(
    reinforced: Builder, build_runner: Builder, change: Callable[[Any], None], message: str
) -> None:
    runner = build_runner(reinforced(epochs=2))

    class Change(Hook):
        priority = "VERY_LOW"

        def before_train_epoch(self, runner: Any) -> None:
            if runner.epoch == 1:
                change(runner)

    runner.register_hook(Change())
    with pytest.raises(ConfigError, match=message):
        runner.train()
    assert runner.iter == len(runner.train_dataloader)


@pytest.mark.parametrize("name", ["to_rgb", "_channel_conversion", "channel_conversion"])
def test_a_preprocessor_that_swaps_channels_is_refused(
    reinforced: Builder, build_runner: Builder, name: str
) -> None:
    runner = build_runner(reinforced(gt_score=True))
    runner.model.data_preprocessor = torch.nn.Identity()  # in place of one of MMPretrain's
    setattr(runner.model.data_preprocessor, name, True)
    with pytest.raises(ConfigError, match=r"to_rgb.*BGR.* RGB already"):
        runner.train()


def test_a_preprocessor_that_hands_on_labels_only_is_refused(
    reinforced: Builder, build_runner: Builder
) -> None:
    runner = build_runner(reinforced())
    runner.model.data_preprocessor = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"type=Identity .*gt_score=True for MMPretrain"):
        runner.train()


def test_validation_decoded_to_bgr_is_refused(reinforced: Builder, build_runner: Builder) -> None:
    class LoadImageFromFile:
        pass

    runner = build_runner(reinforced())
    dataset = runner.val_loop.dataloader.dataset
    dataset.pipeline = SimpleNamespace(transforms=[LoadImageFromFile()])
    message = r"val_dataloader\.dataset\.pipeline .*BGR.*ImageFolder"
    with pytest.raises(ConfigError, match=message):
        runner.train()


def test_softened_answers_need_a_loss_that_knows_of_it(
    reinforced: Builder, build_runner: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "temperature", 3.0)
    runner = build_runner(reinforced(gt_score=True))
    runner.model.loss_module = torch.nn.CrossEntropyLoss()
    with pytest.raises(ConfigError, match=r"temperature 3\.0.*temperature 1\.0.*KDLoss"):
        runner.train()


def test_the_classes_of_a_head_are_compared(reinforced: Builder, build_runner: Builder) -> None:
    runner = build_runner(reinforced())
    # Where mmpretrain's classifiers have theirs.
    runner.model.head = torch.nn.Linear(1, 5)
    runner.model.head.num_classes = 5
    with pytest.raises(ConfigError, match=r"model\.head has 5 classes.* 3.*num_classes"):
        runner.train()


def test_a_hook_without_reinforced_data_is_refused(
    reinforced: Builder, build_runner: Builder
) -> None:
    config = reinforced()
    config["train_dataloader"]["dataset"] = config["val_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.type is ImageFolder"):
        build_runner(config).train()


def test_validation_with_other_labels_is_refused(
    reinforced: Builder, photographs: Path, build_runner: Builder, tmp_path: Path
) -> None:
    (first, *others) = sorted(path for path in photographs.iterdir() if path.is_dir())
    for folder in others:
        shutil.copytree(folder, tmp_path / "val" / folder.name)
    config = reinforced()
    config["val_dataloader"]["dataset"]["root"] = str(tmp_path / "val")
    message = rf"val_dataloader\.dataset has 2 classes.* 3.*'{first.name}'.*class_map"
    with pytest.raises(ConfigError, match=message):
        build_runner(config).train()
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(folder.name for folder in (first, *others)))
    config["val_dataloader"]["dataset"]["class_map"] = str(names)
    build_runner(config).train()


def test_validation_on_augmented_views_is_refused(
    reinforced: Builder, build_runner: Builder
) -> None:
    config = reinforced()
    config["val_dataloader"]["dataset"] = config["train_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.type=ReinforcedDataset"):
        build_runner(config).train()
