"""Validation images: those of timm or torchvision, decoded as the training images are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data.dataset import ImageDataset

from dr_plugins import ImageSource
from dr_plugins.errors import DatasetMismatchError


def decoded_as_for_training(images: Any) -> Any:
    """Return the same images, in RGB; one that cannot be read completely is an error.

    timm replaces an unreadable image by the next one. If a script sets
    ``ImageFile.LOAD_TRUNCATED_IMAGES``, Pillow fills the missing part of an image with grey.

    Args:
        images: Dataset of timm or torchvision. Streams, and images that are not to be RGB, are
            returned as they are.
    """
    if getattr(images, "load_bytes", False) or getattr(images, "input_img_mode", "RGB") != "RGB":
        return images
    try:
        return _PlainImages(ImageSource(images))
    except DatasetMismatchError:  # no images that could be looked up by position
        return images


class _PlainImages(ImageDataset):
    """A timm dataset of an `ImageSource`; whatever else it has is that of the source's dataset."""

    transform: Callable[[Any], Any] | None = None

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self._source.load(index)
        return (image if self.transform is None else self.transform(image)), label

    def __getattr__(self, name: str) -> Any:
        if name == "_source":  # pickle asks for methods before there is one
            raise AttributeError(name)
        return getattr(self._source.dataset, name)
