"""Checks validation images against training images."""

from __future__ import annotations

import filecmp
import logging
import os
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from dr_plugins import ImageSource, ReinforcedDataset
from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.stored import StoredImages
from dr_plugins.training.contract import RunFacts, Setting
from dr_plugins.utils.files import regular_only
from timm_ext.primary_log import is_primary, log_on_primary

_MOST_COMPARED, _MOST_OPENED = 1000, 10_000  # validation images, training images
_END = 256  # bytes; files of one size and format begin alike, but end differently


def check_validation(images: Any, train: ReinforcedDataset) -> None:
    """Compare validation images with training images, where both are known.

    Logs a warning if some are the same: timm uses all of ``--data-dir`` if there is no folder for
    the split.

    Args:
        images: Validation dataset of timm or torchvision.
        train: Training dataset.

    Raises:
        DatasetMismatchError: The classes differ.
    """
    if isinstance(images, IterableDataset):
        return
    _check_classes(images, train)
    if not is_primary():
        return
    found, compared, example = _shared(images, train.source.base)
    if found:
        log_on_primary(
            f"validation uses training images: {found} of the {compared} images compared, such as "
            f"{example}. Accuracies will be too high. Put validation images in a separate folder "
            f"of --data-dir, such as `val`, or name it with --val-split",
            logging.WARNING,
        )


def _check_classes(images: Any, train: ReinforcedDataset) -> None:
    try:
        source = ImageSource(images)
    except DatasetMismatchError:  # its images have no names
        return
    names = Setting("the set of validation images", source.class_names)
    train.contract().check_run(RunFacts(class_names=[names]))


def _shared(images: Any, training: Any) -> tuple[int, int, str]:
    """Number of validation images that are training images, number compared, and an example."""
    files, others = _files(images), _files(training)
    if files and others:
        return _shared_files(files, others)
    is_same = _root(images) is not None and _root(images) == _root(training)
    # Without files, as in CIFAR.
    is_same |= type(images) is type(training) and _is_same_data(images, training)
    return (len(images) if is_same else 0), len(images), f"the first of {type(images).__name__}"


def _is_same_data(images: Any, training: Any) -> bool:
    if isinstance(images, StoredImages):  # archives and lists have no splits
        return list(images.keys) == list(training.keys)
    return bool(getattr(images, "train", False))


def _shared_files(files: list[str], training: list[str]) -> tuple[int, int, str]:
    """Look for training images of the same name, then for some under other names."""
    some = _spread(files, _MOST_COMPARED)
    found = _of_the_same_name(some, training)
    if not found:
        files, training = _of_few_classes(files, training)
        some = _spread(files, _MOST_COMPARED)
        found = _of_the_same_content(some, training)
    return len(found), len(some), next(iter(found.values()), "")


def _of_the_same_name(some: list[str], training: list[str]) -> dict[str, str]:
    """Compare folder and name, then content, so that links and copies are found."""
    wanted: dict[str, set[str]] = {}
    for file in some:
        for path in (file, os.path.realpath(file)):
            wanted.setdefault(_name(path), set()).add(file)
    found = {}
    for path in training:
        for file in wanted.get(_name(path), ()):
            if _is_same(file, path):
                found[file] = path
    return found


def _of_few_classes(files: list[str], training: list[str]) -> tuple[list[str], list[str]]:
    """The files of so few folders that the training images can be opened."""
    in_folder: dict[str, list[str]] = {}
    for path in training:
        in_folder.setdefault(os.path.dirname(_name(path)), []).append(path)
    folders = sorted({os.path.dirname(_name(file)) for file in files} & in_folder.keys())
    few = set(_spread(folders, _MOST_OPENED * len(in_folder) // len(training) or 1))
    some = [file for file in files if os.path.dirname(_name(file)) in few]
    return some, _spread([path for each in few for path in in_folder[each]], _MOST_OPENED)


def _of_the_same_content(some: list[str], training: list[str]) -> dict[str, str]:
    """Compare size and end, then content, so that links and copies of other names are found."""
    wanted = {_fingerprint(file): file for file in some}
    found = {}
    for path in training:
        file = wanted.get(_fingerprint(path))
        if file is not None and _is_same(file, path):
            found[file] = path
    return found


def _fingerprint(path: str) -> object:
    try:
        with open(path, "rb", buffering=0, opener=regular_only) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _END, 0))
            return size, file.read(_END)
    except OSError:
        return path  # the loader reports unreadable files


def _spread(items: list[str], most: int) -> list[str]:
    return items[:: max(-(-len(items) // most), 1)]


def _name(path: str) -> str:
    # os.path.split takes microseconds for each of a million files.
    return path[path.rfind(os.sep, 0, max(path.rfind(os.sep), 0)) + 1 :]


def _is_same(file: str, path: str) -> bool:
    try:
        return os.path.samefile(file, path) or filecmp.cmp(file, path, shallow=False)
    except OSError:  # the loader reports unreadable files
        return False


def _files(images: Any) -> list[str] | None:
    """Paths of timm's and torchvision's image folders, Flowers102 and similar datasets."""
    samples = getattr(getattr(images, "reader", images), "samples", None)
    if samples is None:
        return [str(file) for file in getattr(images, "_image_files", ())] or None
    return [file for file, *_ in samples if isinstance(file, str)] or None


def _root(images: Any) -> Path | None:
    root = getattr(getattr(images, "reader", None), "root", None)
    return None if root is None else Path(root).resolve()
