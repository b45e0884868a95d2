"""Training a classifier on reinforced data under MMEngine's Runner."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.hooks import Hook
from torchvision.datasets import ImageFolder

import dr_plugins
from dr_models.checkpoints import load_backbone
from dr_plugins.replay.deferred import DeferredViews
from mmlab_ext import ConfigError
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
    reinforced: Builder, photographs: Path, shard_sets: Sets, build_runner: Builder, workers: int
) -> None:
    config = reinforced(epochs=3)
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
    reinforced: Builder, build_runner: Builder
) -> None:
    runner = build_runner(reinforced(epochs=1))
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
    reinforced: Builder, build_runner: Builder, loss: dict[str, Any]
) -> None:
    config = reinforced(epochs=1)
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
    reinforced: Builder, photographs: Path, build_runner: Builder
) -> None:
    runner = build_runner(reinforced(epochs=1))
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
                100 * dr_plugins.metrics.expected_calibration_error(probs, labels), abs=1e-2
            ),
        }
    ]


def test_a_resumed_run_ends_as_one_in_a_piece(
    reinforced: Builder, build_runner: Builder, tmp_path: Path
) -> None:
    config = reinforced(epochs=4)
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


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (3, 1), (4, 2)])
def test_a_run_resumed_within_an_epoch_ends_as_one_in_a_piece(
    reinforced: Builder, build_runner: Builder, tmp_path: Path, stop: int, workers: int
) -> None:
    config = reinforced(epochs=3)  # of three batches
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


def test_the_epoch_is_logged_with_share_and_bytes(
    reinforced: Builder, shard_sets: Sets, build_runner: Builder, tmp_path: Path
) -> None:
    runner = build_runner(reinforced(epochs=1))
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
    reinforced: Builder, build_runner: Builder, tmp_path: Path
) -> None:
    runner = build_runner(reinforced(epochs=1))
    runner.train()
    weights = load_backbone(str(tmp_path / "work" / "epoch_1.pth"), to="timm", arch=MODEL)
    network = timm.create_model(MODEL, num_classes=3)
    network.load_state_dict(weights.state, strict=True)
    expected = state_of(runner)
    assert all(torch.equal(v, expected[f"model.{k}"]) for k, v in network.state_dict().items())


def test_a_validation_dataset_needs_no_metainfo(reinforced: Builder, build_runner: Builder) -> None:
    runner = build_runner(reinforced())
    dataset = runner.val_loop.dataloader.dataset
    runner.val_loop.dataloader.dataset.__class__ = type(
        "Plain", (type(dataset),), {"metainfo": property(_no_metainfo)}
    )
    runner.train()


def _no_metainfo(self: Any) -> None:
    raise AttributeError("metainfo")


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


def test_the_same_classifier_trains_on_labels(reinforced: Builder, build_runner: Builder) -> None:
    config = reinforced(epochs=1)
    config["train_dataloader"]["dataset"] = config["val_dataloader"]["dataset"]
    runner = build_runner({**config, "custom_hooks": []})
    recorder = record(runner)
    runner.train()
    assert len(recorder.losses) == 3
    assert all(0 < loss < 10 for loss in recorder.losses)
