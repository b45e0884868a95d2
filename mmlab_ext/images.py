"""Opens the images that a config names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image

from dr_plugins import ImageSource
from dr_plugins.images.decoding import open_image
from dr_plugins.images.sources import open_source
from mmlab_ext.errors import ConfigError
from mmlab_ext.samples import one_class

KEY = "train_dataloader.dataset"
_LOADING = "LoadImageFromFile"


def open_images(images: Any, class_map: str | None = None, train: bool = True) -> ImageSource:
    """Open the images that a config names.

    Args:
        images: A folder with one folder per class, ``torchvision:NAME:ROOT``, the config of an
            OpenMMLab dataset, or a map-style dataset of (PIL image, label).
        class_map: See `open_source`.
        train: See `open_source`.

    Raises:
        ConfigError: A dataset with transforms, which would augment a second time.
        DatasetMismatchError: The folder or dataset does not exist.
    """
    if isinstance(images, str | os.PathLike):
        return open_source(os.fspath(images), class_map, train)
    if class_map is not None:
        raise ConfigError(f"{KEY}.class_map applies to a folder of images only; leave it out")
    dataset = DATASETS.build(dict(images)) if isinstance(images, Mapping) else images
    if isinstance(getattr(dataset, "source", None), ImageSource):
        source: ImageSource = dataset.source
        return source
    if isinstance(dataset, BaseDataset):
        return ImageSource(_Listed(dataset), _keys(dataset))
    return ImageSource(dataset)


class _Listed:
    """The files that an OpenMMLab dataset lists, read without its pipeline.

    The dataset itself would replace an unreadable file by another image.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        _refuse_transforms(dataset)
        dataset.full_init()
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        info = self.dataset.get_data_info(index)
        path = info["img_path"]
        label = one_class(info.get("gt_label", -1), f"{KEY}.images: {path}")
        return open_image(path, path), label


def _keys(dataset: BaseDataset) -> list[str]:
    prefixes = [value for value in dataset.data_prefix.values() if value]
    root = prefixes[0] if prefixes else dataset.data_root
    dataset.full_init()
    paths = [dataset.get_data_info(index).get("img_path") for index in range(len(dataset))]
    if None in paths:
        raise ConfigError(
            f"{KEY}.images: {type(dataset).__name__} lists no img_path, which reinforcements are "
            f"looked up by; name the folder of the images instead"
        )
    return [PurePath(os.path.relpath(path, root)).as_posix() for path in paths]


def _refuse_transforms(dataset: BaseDataset) -> None:
    transforms = getattr(dataset.pipeline, "transforms", [])
    others = [type(t).__name__ for t in transforms if type(t).__name__ != _LOADING]
    if others:
        raise ConfigError(
            f"{KEY}.images.pipeline has {', '.join(others)}, but stored augmentations apply to the "
            f"plain image. Set it to []"
        )
