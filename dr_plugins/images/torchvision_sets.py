"""torchvision's datasets: their splits and the names of their files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from torchvision import datasets

from dr_plugins.images.kinds import DatasetKind, label_of, loads_itself

# Arrays without files, and their subclasses: the published order identifies an image.
_ARRAYS = (
    *(datasets.CIFAR10, datasets.MNIST, datasets.USPS),
    *(datasets.SVHN, datasets.STL10, datasets.SEMEION, datasets.FER2013),
)
# Arguments for training and validation, where they are not split="train" and split="test".
_SPLITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CLEVRClassification": ({"split": "train"}, {"split": "val"}),  # the test split has no labels
    "ImageNet": ({"split": "train"}, {"split": "val"}),
    "Imagenette": ({"split": "train"}, {"split": "val"}),
    "INaturalist": ({"version": "2021_train"}, {"version": "2021_valid"}),
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "Places365": ({"split": "train-standard"}, {"split": "val"}),
}

# The files of other datasets, and the directory that their names are relative to. The first
# matching class counts.
_FILES: dict[type, Callable[[Any], tuple[Iterable[Any], Any]]] = {
    # Three subclasses of ImageFolder that keep their images below their root.
    datasets.Country211: lambda d: (_first(d.samples), d._base_folder / d._split),
    datasets.EuroSAT: lambda d: (_first(d.samples), d._data_folder),
    datasets.ImageNet: lambda d: (_first(d.samples), d.split_folder),
    datasets.DatasetFolder: lambda d: (_first(d.samples), d.root),
    datasets.Caltech101: lambda d: (
        [f"{d.categories[y]}/image_{i:04d}.jpg" for i, y in zip(d.index, d.y, strict=True)],
        "",
    ),
    datasets.Caltech256: lambda d: (
        [f"{d.categories[y]}/{y + 1:03d}_{i:04d}.jpg" for i, y in zip(d.index, d.y, strict=True)],
        "",
    ),
    datasets.GTSRB: lambda d: (_first(d._samples), d._target_folder),
    datasets.Imagenette: lambda d: (_first(d._samples), d._image_root),
    datasets.INaturalist: lambda d: ([f"{d.all_categories[y]}/{f}" for y, f in d.index], ""),
    datasets.LFWPeople: lambda d: (d.data, d.images_dir),
    datasets.OxfordIIITPet: lambda d: (d._images, d._images_folder),
    datasets.Places365: lambda d: (_first(d.imgs), d.images_dir),
    datasets.RenderedSST2: lambda d: (
        _first(d._samples),
        d._base_folder / d._split_to_folder[d._split],
    ),
    datasets.StanfordCars: lambda d: (_first(d._samples), d._images_base_path),
}


def open_torchvision(name: str, root: str, train: bool) -> Any:
    """Open a torchvision dataset.

    Args:
        name: Its class in ``torchvision.datasets``.
        root: Where it was downloaded to.
        train: Use the training split, or all of a dataset without splits; if false, the validation
            or test split.

    Raises:
        Exception: Of many types, from torchvision.
        ValueError: The dataset has no validation split.
    """
    kind = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    if name in _SPLITS:
        options = _SPLITS[name][0 if train else 1]
    elif "train" in parameters:
        options = {"train": train}
    elif "split" in parameters:
        options = {"split": "train" if train else "test"}
    elif train:
        options = {}
    else:
        raise ValueError(f"{name} has no validation split; use a folder of other images")
    return kind(root, **options)


def _keys(dataset: Any) -> list[str] | None:
    """A key for each item; None if it is not one of torchvision's classification datasets.

    An image's key does not depend on the other images, so it is the same in every split of a
    folder.
    """
    if isinstance(dataset, _ARRAYS):
        return [f"{i:05d}" for i in range(len(dataset))]
    for kind, list_files in _FILES.items():
        if isinstance(dataset, kind):
            paths, root = list_files(dataset)
            return [relative_key(os.fspath(path), root) for path in paths]
    if hasattr(dataset, "_image_files"):  # Flowers102, Food101 and similar
        files = [str(path) for path in dataset._image_files]
        common = os.path.commonpath([os.path.dirname(file) for file in files])
        root = getattr(dataset, "_images_folder", common)
        return [relative_key(file, root) for file in files]
    return None


def relative_key(path: str, root: str | os.PathLike[str]) -> str:
    """Return a file's path relative to a directory, with ``/``."""
    prefix = os.path.join(root, "")
    # os.path.relpath takes 10 microseconds per file, for up to a million files.
    short = path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, root)
    return PurePath(short).as_posix()


def _file(dataset: Any, index: int) -> tuple[Any, int] | None:
    """An item's file, read by our loader in place of torchvision's, which handles 16-bit images."""
    if not loads_itself(dataset, "torchvision.datasets.folder"):
        path, label = dataset.samples[index]
        return path, label_of(dataset, label)
    if not loads_itself(dataset, "torchvision.datasets") and hasattr(dataset, "_image_files"):
        # Flowers102, Food101 and similar
        return dataset._image_files[index], label_of(dataset, dataset._labels[index])
    return None


def _class_names(dataset: Any) -> Sequence[str] | None:
    # ImageNet has descriptions in `classes`, its folders' names in `wnids`; the last two are
    # Caltech's and iNaturalist's.
    for name in ("wnids", "classes", "categories", "all_categories"):
        if (found := getattr(dataset, name, None)) is not None:
            return found
    return None


KIND = DatasetKind(lambda dataset: True, _keys, _file, _class_names)
"""torchvision's datasets."""


def _first(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    return (path for path, _ in pairs)
