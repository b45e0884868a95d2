"""Kinds of datasets: what the images of a library's datasets are called, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchvision.datasets.folder import default_loader


@dataclass(frozen=True)
class DatasetKind:
    """What the core asks about the datasets of one library.

    Attributes:
        knows: Whether a dataset is of this kind.
        keys: A key for each item, which does not depend on the order; None if the dataset has no
            names.
        file: The file of an item (a path, or an open binary file) and its label, -1 if unknown;
            None if only the dataset itself can load it.
        class_names: Names of the classes in label order; None if unknown.
    """

    knows: Callable[[Any], bool]
    keys: Callable[[Any], Sequence[str] | None]
    file: Callable[[Any, int], tuple[Any, int] | None]
    class_names: Callable[[Any], Sequence[str] | None]


def loads_itself(dataset: Any, module: str) -> bool:
    """Return whether items are loaded by other code than that of `module`, or by another loader."""
    own = f"{getattr(type(dataset).__getitem__, '__module__', None)}."
    has_own_loader = getattr(dataset, "loader", None) not in (None, default_loader)
    return has_own_loader or not own.startswith(f"{module}.")


def label_of(dataset: Any, label: Any) -> int:
    """Return an item's label as the dataset would, -1 if it is unknown."""
    if label is None:
        return -1
    transform = getattr(dataset, "target_transform", None)
    return int(label if transform is None else transform(label))
