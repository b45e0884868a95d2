"""Training a classifier on reinforced data under MMEngine's Runner."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from mmengine.hooks import Hook
from torchvision.datasets import ImageFolder

import dr_plugins
from dr_models.checkpoints import load_backbone
from dr_plugins.replay.deferred import DeferredViews
from dr_plugins.shards.manifest import Manifest
from mmlab_ext import ConfigError
from mmlab_ext.hooks.position import restore_position
from tests.mmlab_ext.configs import MODEL, pretraining
from tests.own_loss import ReverseKL

Sets = Callable[..., Path]
Builder = Callable[..., Any]


class Recorder(Hook):
    """Keeps what the model was given and what came of it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Any]] = []
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.batches.append((runner.epoch, data_batch))
        self.losses.append(outputs["loss"].item())

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.metrics.append(dict(metrics))


def record(runner: Any) -> Recorder:
    recorder = Recorder()
    runner.register_hook(recorder)
    return recorder


def state_of(runner: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_gets_the_views_and_answers_of_the_core(
    photographs: Path, shard_sets: Sets, build_runner: Builder, workers: int
) -> None:
    config = pretraining(photographs, shard_sets(), epochs=3)
    loader = config["train_dataloader"]
    loader.update(num_workers=workers, persistent_workers=workers > 0)
    loader["collate_fn"] = {"type": "default_collate" if workers else "pseudo_collate"}
    runner = build_runner(config)
    recorder = record(runner)
    runner.train()
    # Workers that the garbage collector has to end take seconds.
    runner.train_dataloader._iterator = None

    images = ImageFolder(str(photographs))
    core = dr_plugins.ReinforcedDataset(images, shard_sets(), p=0.8)
    position = {key: index for index, key in enumerate(core.source.keys)}
    seen: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for epoch, batch in recorder.batches:
        core.set_epoch(epoch)
        for view, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
            expected, target = core[position[sample.image_key]]
            assert torch.equal(view, expected)
            assert torch.equal(sample.targets.ids, target.ids)
            assert torch.equal(sample.targets.probs, target.probs)
            assert sample.gt_label.tolist() == [int(target.labels)]
            assert sample.reinforced == (int((target.ids >= 0).sum()) > 1)
            seen[epoch].append(sample.image_key)
    assert all(sorted(keys) == sorted(position) for keys in seen.values())
    assert seen[0] != seen[1]
    flags = [s.reinforced for _, batch in recorder.batches for s in batch["data_samples"]]
    assert len(flags) == 36
    assert 0 < flags.count(False) < 18


@pytest.mark.parametrize("name", ["randaug", "randaug_mixing"])
def test_views_that_the_model_finishes_train_it_alike(
    photographs: Path, shard_sets: Sets, build_runner: Builder, name: str
) -> None:
    pixels, losses = [], []
    for defer in (False, True):
        config = pretraining(photographs, shard_sets(name), epochs=2)
        config["train_dataloader"]["dataset"].update(defer=defer, size=24)
        config["randomness"] = {"seed": 0}
        runner = build_runner(config)
        recorder = record(runner)
        runner.train()
        inputs = [batch["inputs"] for _, batch in recorder.batches]
        assert {type(view) for views in inputs for view in views} == {
            DeferredViews if defer else torch.Tensor
        }
        pixels.append(
            [v.cpu() for v in map(DeferredViews.cat, inputs)]
            if defer
            else list(map(torch.stack, inputs))
        )
        losses.append(recorder.losses)
    assert len(pixels[0]) == 6
    assert all(map(torch.equal, *pixels))
    # Equal pixels may lie otherwise in memory, and are then added up in another order.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_loss_is_the_divergence_to_the_stored_answers(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets(), epochs=1))
    recorder = record(runner)
    network = timm.create_model(MODEL, num_classes=3)
    network.load_state_dict(
        {key.removeprefix("model."): value for key, value in state_of(runner).items()}
    )
    runner.train()
    batch = recorder.batches[0][1]
    mean, std = (
        torch.tensor(network.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    inputs = (torch.stack(batch["inputs"]) / 255 - mean) / std
    targets = torch.stack([sample.targets.dense() for sample in batch["data_samples"]])
    log_probs = network.train()(inputs).log_softmax(1)
    expected = torch.nn.functional.kl_div(log_probs, targets, reduction="batchmean")
    assert recorder.losses[0] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        {"type": "DistillationLoss", "loss": "tests.own_loss:ReverseKL"},
        {"type": "tests.own_loss.ReverseKL"},
    ],
)
def test_a_loss_that_a_user_wrote(
    photographs: Path, shard_sets: Sets, build_runner: Builder, loss: dict[str, Any]
) -> None:
    config = pretraining(photographs, shard_sets(), epochs=1)
    runner = build_runner({**config, "model": {**config["model"], "loss": loss}})
    recorder = record(runner)
    model = copy.deepcopy(runner.model).train()
    runner.train()
    inputs = model.data_preprocessor(recorder.batches[0][1], training=True)
    expected = ReverseKL()(model.model(inputs["inputs"]), inputs["targets"])
    assert recorder.losses[0] == pytest.approx(expected.item(), rel=1e-4)
    softened = {**config["model"], "loss": {**loss, "temperature": 2.0}}
    with pytest.raises(ConfigError, match=r"temperature 1\.0, model\.loss\.temperature 2\.0"):
        build_runner({**config, "model": softened}).train()


def test_validation_measures_what_the_network_answers(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets(), epochs=1))
    recorder = record(runner)
    runner.train()

    network = timm.create_model(MODEL, num_classes=3).eval()
    state = state_of(runner)
    network.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    config = network.pretrained_cfg
    transform = timm.data.create_transform(
        (3, 24, 24),
        interpolation="bilinear",
        crop_pct=0.875,
        mean=config["mean"],
        std=config["std"],
    )
    images = ImageFolder(str(photographs), transform=transform)
    with torch.no_grad():
        probs = torch.stack([network(image[None])[0].softmax(0) for image, _ in images])
    labels = torch.tensor(images.targets)
    ranks = (probs > probs.gather(1, labels[:, None])).sum(1)
    assert recorder.metrics == [
        {
            "accuracy/top1": pytest.approx(100 * (ranks < 1).double().mean().item()),
            "accuracy/top2": pytest.approx(100 * (ranks < 2).double().mean().item()),
            "calibration/ece": pytest.approx(
                dr_plugins.metrics.expected_calibration_error(probs, labels), abs=1e-4
            ),
        }
    ]


def test_a_resumed_run_ends_as_one_in_a_piece(
    photographs: Path, shard_sets: Sets, build_runner: Builder, tmp_path: Path
) -> None:
    config = pretraining(photographs, shard_sets(), epochs=4)
    whole = build_runner(config, work_dir=str(tmp_path / "whole"))
    whole_record = record(whole)
    whole.train()

    class Stop(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            if runner.epoch == 2:
                raise KeyboardInterrupt

    first = build_runner(config)
    first.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = build_runner(config, resume=True)
    second_record = record(second)
    second.train()
    assert [epoch for epoch, _ in second_record.batches] == [2] * 3 + [3] * 3
    assert second_record.losses == pytest.approx(whole_record.losses[6:], abs=1e-6)
    expected = state_of(whole)
    for key, value in state_of(second).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (3, 1), (4, 2), (5, 0)])
def test_a_run_resumed_within_an_epoch_ends_as_one_in_a_piece(
    photographs: Path,
    shard_sets: Sets,
    build_runner: Builder,
    tmp_path: Path,
    stop: int,
    workers: int,
) -> None:
    config = pretraining(photographs, shard_sets(), epochs=3)  # of three batches
    config["randomness"] = {"seed": 5}
    config["default_hooks"]["checkpoint"] = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": 1,
    }
    whole = build_runner(config, work_dir=str(tmp_path / "whole"))
    whole_record = record(whole)
    whole.train()

    class Stop(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
            if runner.iter + 1 == stop:
                raise KeyboardInterrupt

    first = build_runner(config)
    first.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    # MMEngine takes the seed from the checkpoint, but only after it has built the sampler.
    config["randomness"] = {"seed": None}
    config["train_dataloader"].update(num_workers=workers, persistent_workers=workers > 0)
    second = build_runner(config, resume=True)
    second_record = record(second)
    second.train()
    second.train_dataloader._iterator = None

    assert [epoch for epoch, _ in second_record.batches] == [
        epoch for epoch, _ in whole_record.batches[stop:]
    ]
    pairs = zip(second_record.batches, whole_record.batches[stop:], strict=True)
    for (_, batch), (_, other) in pairs:
        assert all(map(torch.equal, batch["inputs"], other["inputs"]))
    assert second_record.losses == pytest.approx(whole_record.losses[stop:], abs=1e-6)
    expected = state_of(whole)
    for key, value in state_of(second).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_within_an_epoch_of_other_images() -> None:
    loader = SimpleNamespace(dataset=range(12))
    runner = SimpleNamespace(train_dataloader=loader)
    position = {"images": 4, "size": 13, "seed": 1}
    with pytest.raises(ConfigError, match=r"13.*12"):
        restore_position(runner, {"meta": {"epoch": 0}, "reinforced_position": position})
    restore_position(runner, {"meta": {"epoch": 0}})  # from a run without the hook


def test_the_epoch_is_logged_with_share_and_bytes(
    photographs: Path, shard_sets: Sets, build_runner: Builder, tmp_path: Path
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets(), epochs=1))
    recorder = record(runner)
    runner.train()
    flags = [s.reinforced for _, batch in recorder.batches for s in batch["data_samples"]]
    size = dr_plugins.ShardSet(shard_sets()).manifest.layout.itemsize
    (log,) = (tmp_path / "work").glob("*/*.log")
    text = log.read_text()
    assert f"epoch 0, {sum(flags)} of 12 images reinforced" in text
    assert f"{sum(flags) * size:,} bytes" in text
    assert "; 12 images compared with what the teacher saw" in text


def test_its_checkpoints_are_read_as_those_of_timm(
    photographs: Path, shard_sets: Sets, build_runner: Builder, tmp_path: Path
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets(), epochs=1))
    runner.train()
    weights = load_backbone(str(tmp_path / "work" / "epoch_1.pth"), to="timm", arch=MODEL)
    network = timm.create_model(MODEL, num_classes=3)
    network.load_state_dict(weights.state, strict=True)
    expected = state_of(runner)
    assert all(torch.equal(v, expected[f"model.{k}"]) for k, v in network.state_dict().items())


def test_a_pipeline_before_ours_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    config = pretraining(photographs, shard_sets())
    dataset = config["train_dataloader"]["dataset"]
    dataset["pipeline"] = [{"type": "LoadImageFromFile"}, {"type": "RandomResizedCrop"}]
    with pytest.raises(
        ConfigError, match=r"train_dataloader\.dataset\.pipeline.*RandomResizedCrop"
    ):
        build_runner(config).train()


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
    photographs: Path,
    shard_sets: Sets,
    build_runner: Builder,
    change: dict[str, Any],
    message: str,
) -> None:
    config = pretraining(photographs, shard_sets())
    config.pop("param_scheduler")
    wrapper = change.get("train_dataloader.dataset")
    if wrapper is not None:
        wrapper["dataset"] = config["train_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=message):
        build_runner(config, **change).train()


def test_a_new_demand_is_checked(
    photographs: Path, shard_sets: Sets, build_runner: Builder, new_demand: str
) -> None:
    with pytest.raises(ConfigError, match=new_demand):
        build_runner(pretraining(photographs, shard_sets())).train()


@pytest.mark.parametrize("name", ["to_rgb", "_channel_conversion", "channel_conversion"])
def test_a_preprocessor_that_swaps_channels_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder, name: str
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets(), gt_score=True))
    runner.model.data_preprocessor = torch.nn.Identity()  # in place of one of MMPretrain's
    setattr(runner.model.data_preprocessor, name, True)
    with pytest.raises(ConfigError, match=r"to_rgb.*BGR.* RGB already"):
        runner.train()


def test_a_preprocessor_that_hands_on_labels_only_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets()))
    runner.model.data_preprocessor = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"type=Identity .*gt_score=True for MMPretrain"):
        runner.train()


def test_validation_decoded_to_bgr_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    class LoadImageFromFile:
        pass

    runner = build_runner(pretraining(photographs, shard_sets()))
    dataset = runner.val_loop.dataloader.dataset
    dataset.pipeline = SimpleNamespace(transforms=[LoadImageFromFile()])
    message = r"val_dataloader\.dataset\.pipeline .*BGR.*ImageFolder"
    with pytest.raises(ConfigError, match=message):
        runner.train()


def test_softened_answers_need_a_loss_that_knows_of_it(
    photographs: Path, shard_sets: Sets, build_runner: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "temperature", 3.0)
    runner = build_runner(pretraining(photographs, shard_sets(), gt_score=True))
    runner.model.loss_module = torch.nn.CrossEntropyLoss()
    with pytest.raises(ConfigError, match=r"temperature 3\.0.*temperature 1\.0.*KDLoss"):
        runner.train()


def test_a_validation_dataset_needs_no_metainfo(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets()))
    dataset = runner.val_loop.dataloader.dataset
    runner.val_loop.dataloader.dataset.__class__ = type(
        "Plain", (type(dataset),), {"metainfo": property(_no_metainfo)}
    )
    runner.train()


def _no_metainfo(self: Any) -> None:
    raise AttributeError("metainfo")


def test_the_classes_of_a_head_are_compared(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    runner = build_runner(pretraining(photographs, shard_sets()))
    # Where mmpretrain's classifiers have theirs.
    runner.model.head = torch.nn.Linear(1, 5)
    runner.model.head.num_classes = 5
    with pytest.raises(ConfigError, match=r"model\.head has 5 classes.* 3.*num_classes"):
        runner.train()


def test_a_hook_without_reinforced_data_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    config = pretraining(photographs, shard_sets())
    config["train_dataloader"]["dataset"] = config["val_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.type is ImageFolder"):
        build_runner(config).train()


def test_validation_with_other_labels_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder, tmp_path: Path
) -> None:
    (first, *others) = sorted(path for path in photographs.iterdir() if path.is_dir())
    for folder in others:
        shutil.copytree(folder, tmp_path / "val" / folder.name)
    config = pretraining(photographs, shard_sets())
    config["val_dataloader"]["dataset"]["root"] = str(tmp_path / "val")
    message = rf"val_dataloader\.dataset has 2 classes.* 3.*'{first.name}'.*class_map"
    with pytest.raises(ConfigError, match=message):
        build_runner(config).train()
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(folder.name for folder in (first, *others)))
    config["val_dataloader"]["dataset"]["class_map"] = str(names)
    build_runner(config).train()


def test_validation_on_augmented_views_is_refused(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    config = pretraining(photographs, shard_sets())
    config["val_dataloader"]["dataset"] = config["train_dataloader"]["dataset"]
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.type=ReinforcedDataset"):
        build_runner(config).train()


@pytest.mark.parametrize("check", ["error", "warn", "off"])
def test_changed_images_are_noticed_before_the_first_step(
    shard_sets: Sets, build_runner: Builder, tmp_path: Path, check: str
) -> None:
    from tests.tiny import make_photographs, photograph

    images = make_photographs(tmp_path / "images")
    config = pretraining(images, shard_sets(), epochs=1, check=check, seed=1)
    victim = sorted(images.rglob("*.JPEG"))[0]
    size = ImageFolder(str(images))[0][0].size
    photograph(999, size[1], size[0]).save(victim, quality=92)
    runner = build_runner(config)
    recorder = record(runner)
    if check == "error":
        with pytest.raises(dr_plugins.errors.ImageChangedError, match=victim.name):
            runner.train()
        assert recorder.batches == []
        return
    runner.train()
    assert len(recorder.batches) == 3
    (log,) = (tmp_path / "work").glob("*/*.log")
    noticed = f"WARNING - ReinforcementHook: image '{victim.parent.name}/{victim.name}' does not"
    assert (noticed in log.read_text()) == (check == "warn")


def test_the_same_classifier_trains_on_labels(
    photographs: Path, shard_sets: Sets, build_runner: Builder
) -> None:
    config = pretraining(photographs, shard_sets(), epochs=1)
    config["train_dataloader"]["dataset"] = config["val_dataloader"]["dataset"]
    runner = build_runner({**config, "custom_hooks": []})
    recorder = record(runner)
    runner.train()
    assert len(recorder.losses) == 3
    assert all(0 < loss < 10 for loss in recorder.losses)
