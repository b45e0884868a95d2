"""Where the images of a reinforced dataset come from, as a config names them."""

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

__all__ = ["KEY", "open_images"]

KEY = "train_dataloader.dataset"
_LOADING = "LoadImageFromFile"


def open_images(images: Any, class_map: str | None = None, train: bool = True) -> ImageSource:
    """Open what the config names.

    Args:
        images: A folder with one folder for each class, ``torchvision:NAME:ROOT``, the config of a
            dataset of OpenMMLab's kind, or a map-style dataset of (PIL image, label).
        class_map: See `open_source`.
        train: Likewise.

    Raises:
        ConfigError: A dataset with transforms that would augment a second time.
        DatasetMismatchError: There is no such folder or dataset.
    """
    if isinstance(images, str | os.PathLike):
        return open_source(os.fspath(images), class_map, train)
    if class_map is not None:
        raise ConfigError(f"{KEY}.class_map is for a folder of images; leave it out")
    dataset = DATASETS.build(dict(images)) if isinstance(images, Mapping) else images
    if isinstance(getattr(dataset, "source", None), ImageSource):
        source: ImageSource = dataset.source
        return source
    if isinstance(dataset, BaseDataset):
        return ImageSource(_Listed(dataset), _keys(dataset))
    return ImageSource(dataset)


class _Listed:
    """The files that an OpenMMLab dataset lists, read without it.

    The dataset itself would answer for an unreadable file with another one.
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
            f"{KEY}.images: {type(dataset).__name__} lists no img_path, by which reinforcements "
            f"are found; name the folder of the images instead"
        )
    return [PurePath(os.path.relpath(path, root)).as_posix() for path in paths]


def _refuse_transforms(dataset: BaseDataset) -> None:
    transforms = getattr(dataset.pipeline, "transforms", [])
    others = [type(t).__name__ for t in transforms if type(t).__name__ != _LOADING]
    if others:
        raise ConfigError(
            f"{KEY}.images.pipeline has {', '.join(others)}: the stored augmentation is applied to "
            f"the plain image, and the teacher's answer is for that view. Set it to []"
        )
