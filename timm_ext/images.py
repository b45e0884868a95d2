"""timm's datasets of images, for the core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dr_plugins.images.kinds import DatasetKind, label_of, loads_itself


def _keys(dataset: Any) -> list[str]:
    return [PurePath(name).as_posix() for name in dataset.filenames(absolute=False)]


def _file(dataset: Any, index: int) -> tuple[Any, int] | None:
    """An item's file: timm's ImageDataset replaces unreadable images by others, its reader not."""
    if loads_itself(dataset, "timm.data.dataset") or not hasattr(dataset, "reader"):
        return None
    file, label, *_ = dataset.reader[index]
    return file, label_of(dataset, label)


def _class_names(dataset: Any) -> Sequence[str] | None:
    reader = getattr(dataset, "reader", None)
    # Named differently for archives.
    numbers = getattr(reader, "class_to_idx", getattr(reader, "class_name_to_idx", None))
    return sorted(numbers, key=numbers.__getitem__) if numbers else None


KIND = DatasetKind(lambda dataset: hasattr(dataset, "filenames"), _keys, _file, _class_names)
"""timm's ``ImageDataset``."""
