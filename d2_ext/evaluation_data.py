"""Evaluation images for a classifier in Detectron2's loops."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from d2_ext.config import reinforced_node
from d2_ext.errors import ConfigError
from dr_plugins import ImageSource, ShardSet
from dr_plugins.images.sources import open_source
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.training.contract import Contract, RunFacts, Setting


def _test_loader_from_config(cfg: Any, images: Any, **kwargs: Any) -> dict[str, Any]:
    node = reinforced_node(cfg)
    shards = ShardSet(node.SHARDS) if node.SHARDS else None
    size = node.SIZE or (stored_policy(shards).view_size[0] if shards else 224)
    options = {
        "images": images,
        "shards": shards,
        "class_map": node.CLASS_MAP or None,
        "size": size,
        "crop_pct": node.CROP_PCT,
        "interpolation": node.INTERPOLATION,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }
    return {**options, **kwargs}


@configurable(from_config=_test_loader_from_config)
def build_classification_test_loader(
    images: Any,
    *,
    shards: str | os.PathLike[str] | ShardSet | None = None,
    class_map: str | None = None,
    batch_size: int = 64,
    size: int = 224,
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Build an evaluation loader: resize of the shorter side, and a centre crop.

    Args:
        images: A folder with one folder per class, ``torchvision:NAME:ROOT`` for the test split of
            a torchvision dataset, or a dataset of (PIL image, label).
        shards: The training shard set, to compare class names with.
        class_map: If `images` is a folder, see `open_source`.
        batch_size: Batch size per process.
        size: Side of the crop in pixels.
        crop_pct: Crop size as a fraction of the resized shorter side.
        interpolation: Of resizing: ``"bilinear"`` or ``"bicubic"``.
        num_workers: Number of worker processes.

    Returns:
        A loader of ``images``, uint8 ``[B, 3, size, size]``, and ``labels``, int64 ``[B]``, for
        this process's share of the images.

    Raises:
        ConfigError: `crop_pct` is out of range, or `interpolation` unknown.
        DatasetMismatchError: There are no images, or they have other classes than the shard set.

    Example:
        >>> loader = build_classification_test_loader("imagenet/val", size=224)  # doctest: +SKIP
    """
    source = _open_test_source(images, class_map)
    if shards is not None:
        contract = Contract.of_set(shards if isinstance(shards, ShardSet) else ShardSet(shards))
        what = "the set of DATASETS.TEST (lazy: dataloader.test.images)"
        contract.check_run(RunFacts(class_names=[Setting(what, source.class_names)]))
    return DataLoader(
        _TestImages(source, size, crop_pct, interpolation),
        batch_size=batch_size,
        sampler=InferenceSampler(len(source)),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class _TestImages(Dataset[Mapping[str, Any]]):
    """Images and labels as tensors."""

    def __init__(self, source: ImageSource, size: int, crop_pct: float, interpolation: str) -> None:
        if not 0 < crop_pct <= 1:
            raise ConfigError(f"CROP_PCT is {crop_pct}; expected above 0 and up to 1")
        if interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"INTERPOLATION is {interpolation!r}; expected bilinear or bicubic")
        self.source, self.size, self.resized = source, size, int(size / crop_pct)
        self.interpolation = InterpolationMode(interpolation)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.source.load(index)
        resized = transforms.resize(image, [self.resized], self.interpolation, antialias=True)
        view = transforms.center_crop(resized, [self.size, self.size])
        return {"images": transforms.pil_to_tensor(view), "labels": label}


def _open_test_source(images: Any, class_map: str | None) -> ImageSource:
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, str | os.PathLike):
        return open_source(images, class_map, train=False)
    return ImageSource(images)
