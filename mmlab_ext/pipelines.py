"""Checks of datasets' pipelines and of the images that come out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from mmlab_ext.errors import ConfigError

_PLAIN = (str, bytes, int, float, type, ModuleType, np.ndarray, torch.Tensor)
_LONG = 1000  # longer lists hold images or annotations, not transforms


def steps(dataset: Any) -> Iterator[Any]:
    """The dataset, the datasets it wraps, and all their transforms, at any depth."""
    seen: set[int] = set()
    waiting = [dataset]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, _PLAIN):
            continue
        seen.add(id(part))
        if isinstance(part, Mapping | list | tuple):
            if len(part) <= _LONG:
                waiting += part.values() if isinstance(part, Mapping) else part
        else:
            yield part
            waiting += getattr(part, "__dict__", {}).values()


def decodes_to_bgr(dataset: Any) -> bool:
    """Whether a dataset decodes images with OpenMMLab's transform, which gives BGR."""
    return any(type(step).__name__ == "LoadImageFromFile" for step in steps(dataset))


def refuse_normalising(dataset: Any, key: str) -> None:
    """Refuse a dataset whose transforms normalise before ``model.data_preprocessor`` does.

    Args:
        dataset: A dataset with a pipeline, or a wrapper of such datasets.
        key: Its name in the config.

    Raises:
        ConfigError: It has a transform called ``Normalize``, of any library.
    """
    for step in steps(dataset):
        kind = next((c for c in type(step).__mro__ if c.__name__ == "Normalize"), None)
        if kind is not None:
            raise ConfigError(
                f"the pipeline of {key} has {type(step).__name__} ({kind.__module__}), but "
                f"model.data_preprocessor normalises too: images would be normalised twice. Leave "
                f"it out of the pipeline"
            )


def refuse_normalised(inputs: Any, key: str) -> None:
    """Refuse a batch that is already normalised, or scaled to 0 to 1.

    Args:
        inputs: A tensor, or lists and dictionaries of them, as collated.
        key: The dataset's name in the config.

    Raises:
        ConfigError: The values are not those of images from 0 to 255.
    """
    images = [image for image in _tensors(inputs) if image.is_floating_point() and image.numel()]
    if not images:
        return
    low = min(float(image.min()) for image in images)
    high = max(float(image.max()) for image in images)
    # Photometric distortion exceeds 0 to 255 by up to 32, and images may be black.
    is_black = all(bool((image == image.round()).all()) for image in images)
    if low < -64 or (high < 4 and not is_black):
        raise ConfigError(
            f"{key} gives images from {low:.3g} to {high:.3g}, but model.data_preprocessor "
            f"normalises and expects 0 to 255: something in the pipeline has normalised or scaled "
            f"them. Leave that out"
        )


def _tensors(inputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(inputs, torch.Tensor):
        yield inputs
    elif isinstance(inputs, Mapping | list | tuple):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(part)
