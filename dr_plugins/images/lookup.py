"""The kind of a dataset, its classes, and the file behind one of its items.

A dataset of another library is recognized by the package that its class, or a base of it, is from:
an entry point of that name in the group ``dr_plugins.datasets`` is its `DatasetKind`::

    [project.entry-points."dr_plugins.datasets"]
    timm = "timm_ext.images:KIND"
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images import stored, torchvision_sets
from dr_plugins.images.classes import compare_class_names
from dr_plugins.images.kinds import DatasetKind

_GROUP = "dr_plugins.datasets"
_KINDS = {"dr_plugins": stored.KIND, "torchvision": torchvision_sets.KIND}


def kind_of(dataset: Any) -> DatasetKind | None:
    """Return the kind of a dataset; None if no package provides it."""
    for base in type(dataset).__mro__:
        kind = _kind(base.__module__.partition(".")[0])
        if kind is not None and kind.knows(dataset):
            return kind
    return None


@lru_cache(maxsize=64)
def _kind(package: str) -> DatasetKind | None:
    if package in _KINDS:
        return _KINDS[package]
    entry = next(iter(entry_points(group=_GROUP, name=package)), None)
    return None if entry is None else entry.load()


def base_of(dataset: Any) -> Any:
    """Return the dataset itself, or the dataset behind a subset."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def class_names_of(dataset: Any) -> list[str] | None:
    """Return the names of the classes in label order, None if unknown; not for subsets.

    They are unknown if a ``target_transform`` changes the labels.

    Raises:
        DatasetMismatchError: The parts of a ``ConcatDataset`` have different classes.
    """
    if isinstance(dataset, ConcatDataset):
        return _common_names([base_of(part) for part in dataset.datasets])
    if getattr(dataset, "target_transform", None) is not None:
        return None
    kind = kind_of(dataset)
    names = getattr(dataset, "classes", None) if kind is None else kind.class_names(dataset)
    return None if names is None else [str(name) for name in names]


def _common_names(parts: Sequence[Any]) -> list[str] | None:
    first, *others = map(class_names_of, parts)
    if None in (first, *others):
        return None
    for number, names in enumerate(others, 2):
        fault = compare_class_names(names, first, f"part {number} of the ConcatDataset", "part 1")
        if fault:
            raise DatasetMismatchError(fault)
    return first


def file_of(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the file behind an item and its label; (None, -1) if only the dataset can load it."""
    while type(dataset) in (Subset, ConcatDataset):  # a subclass may do more than select
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        else:
            index %= len(dataset)
            part = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
    kind = kind_of(dataset)
    found = None if kind is None else kind.file(dataset, index)
    return (None, -1) if found is None else found
