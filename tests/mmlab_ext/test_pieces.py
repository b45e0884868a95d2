"""Losses, metrics, samples, data and preprocessor, each against something else."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, METRICS, MODELS
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import mmlab_ext
from dr_plugins import SparseTargets
from dr_plugins.errors import DatasetMismatchError, ImageReadError, ReinforcementError
from mmlab_ext import ClassificationSample, ConfigError
from tests.stores import on_the_hub

Sets = Callable[..., Path]


def build(registry: Any, kind: str, **options: Any) -> Any:
    return registry.build({"type": kind, **options})


def test_names_are_found_from_the_scopes_of_the_hosts() -> None:
    for host in ("mmdet", "mmseg"):
        pytest.importorskip(host, reason=f"{host} is not installed")
        registry = __import__(f"{host}.registry", fromlist=["MODELS"])
        assert registry.MODELS.get("TimmFeatures") is mmlab_ext.TimmFeatures
        assert registry.HOOKS.get("ReinforcedBackboneHook") is mmlab_ext.ReinforcedBackboneHook
        assert registry.DATASETS.get("ReinforcedDataset") is mmlab_ext.ReinforcedDataset
        assert registry.METRICS.get("TopKAccuracy") is mmlab_ext.TopKAccuracy


@pytest.mark.parametrize("factor", [None, 2.0, 8])
def test_the_loss_averages_as_heads_ask(factor: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=generator)
    probs = torch.rand(4, 5, generator=generator).softmax(1)
    loss = build(MODELS, "KDLoss", temperature=2.0, loss_weight=0.5)
    rows = (probs * (probs.log() - (logits / 2).log_softmax(1))).sum(1) * 4
    expected = 0.5 * rows.sum() / (4 if factor is None else factor)
    torch.testing.assert_close(loss(logits, probs, avg_factor=factor, weight=None), expected)


def test_the_loss_refuses_what_it_would_ignore() -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="KDLoss got weight="):
        build(MODELS, "KDLoss")(logits, labels, weight=torch.ones(2))
    with pytest.raises(ValueError, match=r"set model\.loss\.reduction='batchmean'"):
        build(MODELS, "KDLoss", reduction="sum")(logits, labels, avg_factor=2)


def test_metrics_agree_with_numpy() -> None:
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(500, 7)) * 2, rng.integers(0, 7, 500)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    evaluator = Evaluator(
        [
            {"type": "TopKAccuracy", "topk": (1, 3, 9)},
            {"type": "ExpectedCalibrationError", "bins": 10},
            {"type": "CalibrationMetrics", "bins": 10, "prefix": "all"},
        ]
    )
    for start in range(0, 500, 64):
        batch = [
            ClassificationSample(
                gt_label=torch.tensor([int(label)]), pred_score=torch.tensor(scores)
            )
            for label, scores in zip(
                labels[start : start + 64], probs[start : start + 64], strict=True
            )
        ]
        evaluator.process(batch)
    got = evaluator.evaluate(500)

    order = np.argsort(-probs, axis=1)
    confidence, right = probs.max(1), order[:, 0] == labels
    ece = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert got.pop("all/adaptive_ece") > 0
    one_hot = np.eye(7)[labels]
    assert got == {
        "all/ece": pytest.approx(100 * ece, abs=1e-4),
        "all/nll": pytest.approx(-np.log((probs * one_hot).sum(1)).mean()),
        "all/brier": pytest.approx(((probs - one_hot) ** 2).sum(1).mean()),
        "accuracy/top1": pytest.approx(100 * right.mean()),
        "accuracy/top3": pytest.approx(100 * (order[:, :3] == labels[:, None]).any(1).mean()),
        "accuracy/top9": 100.0,
        "calibration/ece": pytest.approx(100 * ece, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TopKAccuracy", {"topk": (0, 1)}),
        ("ExpectedCalibrationError", {"bins": 0}),
        ("CalibrationMetrics", {"bins": 0}),
    ],
)
def test_metrics_refuse_what_cannot_be(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"val_evaluator: {kind}"):
        build(METRICS, kind, **options)


@pytest.mark.parametrize(
    ("scores", "label", "top1"),
    [
        ([0.2, 0.5, 0.3], 1, 100.0),
        ([0.2, 0.5, 0.3], 2, 0.0),
        ([float("nan")] * 3, 0, 0.0),
        ([0.1, float("nan"), 0.0], 0, 0.0),
        ([0.5, 0.5, 0.0], 0, 50.0),
        ([1 / 3] * 3, 0, 100 / 3),
    ],
)
def test_no_answer_is_as_good_as_chance(scores: list[float], label: int, top1: float) -> None:
    metric = build(METRICS, "TopKAccuracy", topk=1)
    metric.process(None, [{"gt_label": torch.tensor([label]), "pred_score": torch.tensor(scores)}])
    assert metric.compute_metrics(metric.results) == {"top1": pytest.approx(top1)}


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_no_class_are_refused(label: int) -> None:
    sample = {"gt_label": torch.tensor([label]), "pred_score": torch.rand(3)}
    with pytest.raises(ConfigError, match=f"has label {label}, but the model has 3 classes"):
        build(METRICS, "TopKAccuracy").process(None, [sample])


def test_metrics_name_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"samples hold \['gt_label'\]"):
        build(METRICS, "TopKAccuracy").process(None, [{"gt_label": torch.tensor([1])}])


def test_samples_travel_between_processes_without_shared_files() -> None:
    targets = SparseTargets(
        [[4, 1, -1]], [[0.5, 0.25, 0.0]], [4], num_classes=6, extras={"entropy": [0.75]}
    )[0]
    sample = ClassificationSample(
        metainfo={"img_shape": (8, 9)},
        gt_label=torch.tensor([4]),
        gt_score=targets.dense(),
        targets=targets,
        reinforced=True,
        image_key="n01/ü.jpg",
    )
    buffer = io.BytesIO()
    ForkingPickler(buffer).dump(sample)
    assert b"rebuild_storage" not in buffer.getvalue()
    copied = ForkingPickler.loads(buffer.getvalue())
    assert type(copied) is ClassificationSample
    assert (copied.img_shape, copied.image_key, copied.reinforced) == ((8, 9), "n01/ü.jpg", True)
    assert torch.equal(copied.gt_label, sample.gt_label)
    assert torch.equal(copied.gt_score, sample.gt_score)
    for name in ("ids", "probs", "labels"):
        assert torch.equal(getattr(copied.targets, name), getattr(targets, name))
    assert (copied.targets.num_classes, copied.targets.densify) == (6, "smooth")
    assert torch.equal(copied.targets.extras["entropy"], torch.tensor(0.75))


def test_dense_targets_for_heads_of_mmpretrain(photographs: Path, shard_sets: Sets) -> None:
    dataset = build(
        DATASETS,
        "ReinforcedDataset",
        images=str(photographs),
        shards=str(shard_sets()),
        gt_score=True,
    )
    dataset.set_epoch(0)
    for item in (dataset[index] for index in range(12)):
        sample = item["data_samples"]
        torch.testing.assert_close(sample.gt_score, sample.targets.dense())
        assert sample.gt_score.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_nobody_tells_the_epoch_gives_nothing(
    photographs: Path, shard_sets: Sets, workers: int
) -> None:
    options = {"images": str(photographs), "shards": str(shard_sets())}
    dataset = build(DATASETS, "ReinforcedDataset", **options)
    loader = DataLoader(dataset, 4, num_workers=workers, collate_fn=list)
    with pytest.raises(ConfigError, match=r"epoch.*'ReinforcementHook'"):
        next(iter(loader))
    dataset.set_epoch(0)
    assert len(next(iter(loader))) == 4


def test_a_set_on_the_hub(
    photographs: Path, shard_sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shutil.copytree(shard_sets(), tmp_path / "set")
    options = {"images": str(photographs), "p": 1.0}
    near = build(DATASETS, "ReinforcedDataset", shards=str(here), **options)
    with on_the_hub(monkeypatch, here) as address:
        far = build(DATASETS, "ReinforcedDataset", shards=address, **options)
        for dataset in (near, far):
            dataset.set_epoch(0)
        assert all(torch.equal(far[i]["inputs"], near[i]["inputs"]) for i in range(12))


def test_views_are_resized_for_the_student(photographs: Path, shard_sets: Sets) -> None:
    options = {"images": str(photographs), "shards": str(shard_sets())}
    plain = build(DATASETS, "ReinforcedDataset", **options)
    small = build(DATASETS, "ReinforcedDataset", size=(16, 20), **options)
    plain.set_epoch(0)
    small.set_epoch(0)
    resize = v2.Resize([16, 20], antialias=True)
    assert torch.equal(small[3]["inputs"], resize(plain[3]["inputs"]))
    assert plain[3]["inputs"].dtype == torch.uint8


@DATASETS.register_module(force=True)
class Listed(BaseDataset):
    """A dataset of OpenMMLab's kind."""

    def load_data_list(self) -> list[dict[str, Any]]:
        images = ImageFolder(self.data_prefix["img_path"])
        return [{"img_path": path, "gt_label": label} for path, label in reversed(images.samples)]


def listed(root: Path, pipeline: Any = ()) -> dict[str, Any]:
    return {"type": "Listed", "data_prefix": {"img_path": str(root)}, "pipeline": list(pipeline)}


def test_a_dataset_of_the_host_lists_the_images(photographs: Path, shard_sets: Sets) -> None:
    shards = str(shard_sets())
    folder = build(DATASETS, "ReinforcedDataset", images=str(photographs), shards=shards)
    hosted = build(DATASETS, "ReinforcedDataset", images=listed(photographs), shards=shards)
    folder.set_epoch(0)
    hosted.set_epoch(0)
    expected = {item["data_samples"].image_key: item for item in map(folder.__getitem__, range(12))}
    for index in range(12):
        item = hosted[index]
        other = expected.pop(item["data_samples"].image_key)
        assert torch.equal(item["inputs"], other["inputs"])
        assert torch.equal(item["data_samples"].gt_label, other["data_samples"].gt_label)


def test_a_dataset_of_the_host_must_not_augment(photographs: Path, shard_sets: Sets) -> None:
    from mmengine.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class RandomResizedCrop:
        def __call__(self, results: Any) -> Any:
            return results

    config = listed(photographs, [{"type": "RandomResizedCrop"}])
    with pytest.raises(
        ConfigError,
        match=r"train_dataloader\.dataset\.images\.pipeline has RandomResizedCrop.*\[\]",
    ):
        build(DATASETS, "ReinforcedDataset", images=config, shards=str(shard_sets()))


def test_an_unreadable_image_is_named_and_not_replaced(shard_sets: Sets, tmp_path: Path) -> None:
    from tests.tiny import make_photographs

    images = make_photographs(tmp_path / "images")
    dataset = build(
        DATASETS, "ReinforcedDataset", images=listed(images), shards=str(shard_sets()), p=1.0
    )
    victim = Path(dataset.reinforced.source.dataset.dataset.get_data_info(5)["img_path"])
    victim.write_bytes(b"not an image")
    dataset.set_epoch(0)
    with pytest.raises(ImageReadError, match=victim.name):
        dataset[5]


@pytest.mark.parametrize("named", [str, listed])
def test_a_set_that_leaves_out_images(tmp_path: Path, named: Callable[[Path], Any]) -> None:
    from tests.tiny import make_photographs, make_set

    root = make_photographs(tmp_path / "images")
    (root / "n01" / "n01_2.JPEG").write_bytes(b"not an image")
    shards = make_set(tmp_path / "set", root, left_out=["n01/n01_2.JPEG"])
    dataset = build(DATASETS, "ReinforcedDataset", images=named(root), shards=str(shards))
    dataset.set_epoch(0)
    for item in dataset.__getitems__(range(len(dataset))):
        sample = item["data_samples"]
        assert sample.gt_label == int(sample.image_key[2]) - 1
    assert len(dataset) == 11


def test_images_of_a_list_are_left_out(photographs: Path, shard_sets: Sets, tmp_path: Path) -> None:
    skip = tmp_path / "skip.txt"
    skip.write_text("n01/n01_2.JPEG\n")
    options = {"images": str(photographs), "shards": str(shard_sets()), "skip": str(skip)}
    dataset = build(DATASETS, "ReinforcedDataset", **options)
    assert len(dataset) == 11
    assert "n01/n01_2.JPEG" not in dataset.reinforced.source.keys


def test_unfinished_views_are_not_resized(photographs: Path, shard_sets: Sets) -> None:
    options = {"images": str(photographs), "shards": str(shard_sets())}
    with pytest.raises(ConfigError, match=r"size=32.*\(24, 24\).*defer"):
        build(DATASETS, "ReinforcedDataset", **options, size=32, defer=True)


@pytest.mark.parametrize("label", [[1], 1, torch.tensor(1), np.array([1])])
def test_a_label_is_one_class_however_it_is_written(label: Any) -> None:
    sample = ClassificationSample(pred_score=torch.tensor([0.1, 0.9]))
    sample.set_field(label, "gt_label")
    metric = build(METRICS, "TopKAccuracy", topk=1)
    metric.process(None, [sample.to_dict()])
    assert metric.compute_metrics(metric.results) == {"top1": 100.0}
    preprocessor = build(MODELS, "TimmDataPreprocessor", mean=[0, 0, 0], std=[1, 1, 1])
    batch = {"inputs": [torch.zeros(3, 4, 4)] * 2, "data_samples": [sample] * 2}
    assert preprocessor(batch, training=True)["targets"].tolist() == [1, 1]


@pytest.mark.parametrize("label", [[0, 2], [], "cat", None, [[0], [1, 2]], 0.5])
def test_an_image_of_several_classes_is_an_error(
    label: Any, photographs: Path, shard_sets: Sets
) -> None:
    sample = ClassificationSample(pred_score=torch.tensor([0.1, 0.9]))
    sample.set_field(label, "gt_label")
    with pytest.raises(ConfigError, match="has gt_label"):
        build(METRICS, "TopKAccuracy").process(None, [sample.to_dict()])
    preprocessor = build(MODELS, "TimmDataPreprocessor", mean=[0, 0, 0], std=[1, 1, 1])
    batch = {"inputs": [torch.zeros(3, 4, 4)], "data_samples": [sample]}
    with pytest.raises(ConfigError, match="has gt_label"):
        preprocessor(batch, training=True)

    @DATASETS.register_module(force=True)
    class Labelled(Listed):
        def get_data_info(self, index: int) -> dict[str, Any]:
            return {**super().get_data_info(index), "gt_label": label}

    images = {**listed(photographs), "type": "Labelled"}
    dataset = build(DATASETS, "ReinforcedDataset", images=images, shards=str(shard_sets()))
    dataset.set_epoch(0)
    with pytest.raises(ConfigError, match="has gt_label"):
        dataset[0]


def test_images_that_are_not_there(shard_sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(DatasetMismatchError, match="nowhere"):
        build(
            DATASETS,
            "ReinforcedDataset",
            images=str(tmp_path / "nowhere"),
            shards=str(shard_sets()),
        )


@pytest.mark.parametrize("options", [{"size": 0}, {"crop_pct": 1.5}, {"interpolation": "cubic"}])
def test_validation_images_refuse_what_cannot_be(
    photographs: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="expected"):
        build(DATASETS, "ImageFolder", root=str(photographs), **options)


def test_classes_are_told_to_the_evaluator(photographs: Path, shard_sets: Sets) -> None:
    train = build(DATASETS, "ReinforcedDataset", images=str(photographs), shards=str(shard_sets()))
    val = build(DATASETS, "ImageFolder", root=str(photographs))
    assert train.metainfo == val.metainfo == {"classes": ("n01", "n02", "n03")}


def test_the_preprocessor_names_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"model\.data_preprocessor has mean \[0\]"):
        build(MODELS, "TimmDataPreprocessor", mean=[0], std=[1, 1, 1])
    preprocessor = build(MODELS, "TimmDataPreprocessor", mean=[0, 0, 0], std=[1, 1, 1])
    views = [torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]
    with pytest.raises(ConfigError, match=r"shapes \[\(3, 4, 4\), \(3, 5, 4\)\]"):
        preprocessor({"inputs": views})
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset gives images without"):
        preprocessor({"inputs": views[:1]}, training=True)


def test_channels_last_changes_the_layout_only() -> None:
    image = torch.randint(0, 256, (2, 3, 6, 5), dtype=torch.uint8)
    options = {"mean": [10, 20, 30], "std": [2, 3, 4]}
    plain = build(MODELS, "TimmDataPreprocessor", **options)({"inputs": image})["inputs"]
    last = build(MODELS, "TimmDataPreprocessor", channels_last=True, **options)
    got = last({"inputs": image})["inputs"]
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, plain)
    expected = (image.double() - torch.tensor([10, 20, 30]).view(1, 3, 1, 1)) / torch.tensor(
        [2, 3, 4]
    ).view(1, 3, 1, 1)
    torch.testing.assert_close(plain, expected.float())


def test_predictions_come_without_samples_too() -> None:
    classifier = build(MODELS, "TimmClassifier", model="test_resnet", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = classifier(images)
        samples = classifier(images, mode="predict")
    for sample, row in zip(samples, logits, strict=True):
        torch.testing.assert_close(sample.pred_score, row.softmax(0))
        assert sample.pred_label.tolist() == [int(row.argmax())]
    with pytest.raises(ValueError, match="mode is 'both'"):
        classifier(images, mode="both")
    with pytest.raises(ReinforcementError, match=r"model\.data_preprocessor gives no targets"):
        classifier(images, mode="loss")


def test_recomputed_activations_give_the_same_gradients() -> None:
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = build(MODELS, "TimmFeatures", model="resnet18", with_cp=with_cp).train()
        sum(feature.square().mean() for feature in backbone(images)).backward()
        grads.append([parameter.grad for parameter in backbone.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain)
