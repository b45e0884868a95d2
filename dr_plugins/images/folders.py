"""Image folders, one per class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from dr_plugins.utils.files import LOCK_NAME, MANIFEST_NAME, PROGRESS_NAME
from dr_plugins.utils.quoting import quoted, respelt

_OF_SETS = {LOCK_NAME, MANIFEST_NAME, PROGRESS_NAME}
_SPLITS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing", "eval")


class ClassFolders(datasets.ImageFolder):
    """torchvision's ImageFolder, but it counts ignored files and rejects folders of splits.

    A folder without images is not a class if it is hidden or holds a shard set.

    Args:
        root: The directory that holds the class folders.
        class_names: Names of the classes in label order; some may have no folder. None means the
            names of the folders, sorted.

    Attributes:
        left_out: Number of ignored files by extension, in lower case with its dot.

    Raises:
        FileNotFoundError: There are no folders, or a folder holds no images.
        ValueError: The folders are splits, or are not in `class_names`.
    """

    def __init__(self, root: str, class_names: Sequence[str] | None = None) -> None:
        self._names = class_names
        self._files: dict[str, list[str]] = {}
        self.left_out: Counter[str] = Counter()
        super().__init__(root)
        self._files = {}
        if class_names is not None:
            self.classes = list(class_names)

    def ambiguous(self) -> tuple[str, str] | None:
        """Return two classes that timm's train.py may number the other way round, or None.

        It sorts folders naturally and without regard to case, and those that are then equal (`cat`
        and `Cat`) randomly. A class map settles the order.
        """
        if self._names is not None:
            return None
        theirs = self.classes[::-1]  # so that equal ones differ from here
        theirs.sort(key=_natural_key)
        pairs = zip(self.classes, theirs, strict=True)
        return next((pair for pair in pairs if pair[0] != pair[1]), None)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Find the files of all folders; see `torchvision.datasets.DatasetFolder`."""
        with os.scandir(directory) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
        for name in folders:
            self._look_into(os.path.join(directory, name), name)
        empty = [name for name, files in self._files.items() if not files]
        if empty or not self._files:
            endings = ", ".join(IMG_EXTENSIONS)
            what = f"folders {empty[:3]} hold no images ({endings})" if empty else "no folders are"
            raise FileNotFoundError(f"{what} in {directory}")
        if self._names is None:
            self._refuse_splits(directory)
            return list(self._files), {name: i for i, name in enumerate(self._files)}
        index = {name: i for i, name in enumerate(self._names)}
        if len(index) != len(self._names):
            raise ValueError("the class map lists a class twice")
        unknown = [name for name in self._files if name not in index]
        if unknown:
            raise ValueError(
                f"folders {', '.join(map(quoted, unknown[:3]))} are not in the class map, "
                f"which must list one folder name per line" + _other_spelling(unknown, index)
            )
        return list(self._files), {name: index[name] for name in self._files}

    def make_dataset(
        self, directory: str | Path, class_to_idx: dict[str, int], *_: object, **__: object
    ) -> list[tuple[str, int]]:
        """List the files that `find_classes` found; see `torchvision.datasets.DatasetFolder`."""
        return [(file, class_to_idx[name]) for name in class_to_idx for file in self._files[name]]

    def _look_into(self, folder: str, name: str) -> None:
        images: list[str] = []
        others: Counter[str] = Counter()
        is_apart = name.startswith(".")
        for where, _, files in sorted(os.walk(folder, followlinks=True)):
            if os.path.islink(where) and _leads_into(where, os.path.dirname(where)):
                raise ValueError(f"{where} is a link to a folder that it is in; remove it")
            is_apart = is_apart or not _OF_SETS.isdisjoint(files)
            for file in sorted(files):
                if file.lower().endswith(IMG_EXTENSIONS):
                    images.append(os.path.join(where, file))
                else:
                    others[os.path.splitext(file)[1].lower()] += 1
        if images or not is_apart:
            self._files[name] = images
            self.left_out += others

    def _refuse_splits(self, directory: str | Path) -> None:
        named = [name for name in self._files if name.lower() in _SPLITS]
        deep = [name for name in named if self._is_deep(os.path.join(directory, name), name)]
        if deep or len(named) == len(self._files):
            suspect = (deep or named)[0]
            raise ValueError(
                f"the classes would be {', '.join(map(quoted, list(self._files)[:6]))}, but "
                f"{quoted(suspect)} is the name of a dataset split; pass the folder that holds "
                f"the class folders, such as {os.path.join(directory, suspect)}. If it is a class, "
                f"list all classes in a class map"
            )

    def _is_deep(self, folder: str, name: str) -> bool:
        """Whether all images of a class are in subfolders."""
        return all(os.path.dirname(file) != folder for file in self._files[name])


def _natural_key(name: str) -> list[str | int]:
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _leads_into(link: str, folder: str) -> bool:
    real, inside = os.path.realpath(link), os.path.realpath(folder)
    return os.path.commonpath((real, inside)) == real


def _other_spelling(unknown: Sequence[str], known: dict[str, int]) -> str:
    for name in unknown:
        for form in respelt(name):
            if form in known:
                return (
                    f"; it lists {quoted(form)}, which looks the same as {quoted(name)} but is in "
                    f"another Unicode normal form: rename one of them"
                )
    return ""
