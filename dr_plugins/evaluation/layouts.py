"""How the files of published test sets lie, and what their labels mean."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.corruptions import EXTRA, names
from dr_plugins.evaluation.image_set import ImageNetClasses, ImageSet

SEVERITIES = ("1", "2", "3", "4", "5")
# On the Hub, names end with the class.
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?:_n\d{8})?\.\w+$")
_BORDER = 2  # pixels of ObjectNet's images, red so that training on them is noticed


class NotFoundError(Exception):
    """A set is not there; the message is what was looked for."""


def by_wnid(
    name: str, root: Path, classes: ImageNetClasses, subset: Sequence[str] | None = None
) -> list[ImageSet]:
    """A folder for each class, named by its WordNet id; with a subset, for some classes only."""
    wnids = classes.wnids if subset is None else subset
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    ids = {wnid: number for number, wnid in enumerate(classes.wnids)}
    kept = None if subset is None else tuple(ids[wnid] for wnid in subset)
    files, labels = _labelled_files(root, label_of.get)
    return [ImageSet(name, root, files, torch.tensor(labels), len(classes.wnids), kept)]


def by_number(name: str, root: Path, classes: ImageNetClasses) -> list[ImageSet]:
    """Folders are named by label, ``0`` to ``999``, which sort differently as text."""
    count = len(classes.wnids)
    files, ids = _labelled_files(root, {str(label): label for label in range(count)}.get)
    return [ImageSet(name, root, files, torch.tensor(ids), count)]


def _labelled_files(
    root: Path, label_of: Callable[[str], int | None]
) -> tuple[tuple[str, ...], list[int]]:
    files: list[str] = []
    labels: list[int] = []
    for folder in _folders(root):
        label = label_of(folder)
        if label is None:
            raise EvaluationError(
                f"{root / folder} is not a class of this set; expected folders that are named as "
                f"published. Move it elsewhere"
            )
        images = _images(root / folder)
        files += (f"{folder}/{file}" for file in images)
        labels += [label] * len(images)
    if not files:
        raise NotFoundError(f"no class folders with images in {root}")
    return tuple(files), labels


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def _images(folder: Path) -> list[str]:
    return sorted(
        file
        for file in os.listdir(folder)
        if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
    )


def real(name: str, root: Path, classes: ImageNetClasses) -> list[ImageSet]:
    """Validation images by their numbers, in class folders or not; those without label are out."""
    keys = [key for folder in ["", *_folders(root)] for key in _keys_in(root, folder)]
    files, rows = [], []
    for key in keys:
        match = _VALIDATION_NAME.search(key)
        if match is None or not 1 <= int(match[1]) <= len(classes.real):
            raise NotFoundError(
                f"{root / key}: ImageNet-ReaL knows images by their names, ILSVRC2012_val_00000001 "
                f"to {len(classes.real):08d}; restore the published names"
            )
        right = classes.real[int(match[1]) - 1]
        if right:
            files.append(key)
            rows.append(right)
    if not files:
        raise NotFoundError(f"no images in {root}")
    labels = _several_labels(rows, len(classes.wnids))
    return [ImageSet(name, root, tuple(files), labels, len(classes.wnids))]


def _keys_in(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{file}" if folder else file for file in _images(root / folder)]


def _several_labels(rows: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    labels = torch.zeros(len(rows), count, dtype=torch.bool)
    for row, right in zip(labels, rows, strict=True):
        row[list(right)] = True
    return labels


def objectnet(name: str, place: Path, classes: ImageNetClasses) -> list[ImageSet]:
    """Images of the classes that ImageNet has too, whose mapping is part of the published set.

    As in its own evaluation (Barbu et al., 2019), a model chooses among all classes of ImageNet,
    and any that belongs to the object is right.
    """
    right_of = _objectnet_classes(place / "mappings")
    root = place / "images"
    files: list[str] = []
    rows: list[Sequence[int]] = []
    for folder in _folders(root) if root.is_dir() else ():
        if folder in right_of:
            images = _images(root / folder)
            files += (f"{folder}/{file}" for file in images)
            rows += [right_of[folder]] * len(images)
    if not files:
        raise NotFoundError(f"no images of ImageNet's classes in {root}")
    labels = _several_labels(rows, len(classes.wnids))
    return [
        ImageSet(
            name,
            root,
            tuple(files),
            labels,
            len(classes.wnids),
            edit=_without_border,
            edit_name=f"without border of {_BORDER} pixels",
        )
    ]


def _objectnet_classes(folder: Path) -> dict[str, list[int]]:
    """ImageNet's ids for each folder of images, from the four files in ``mappings``."""
    try:
        label_of = json.loads((folder / "folder_to_objectnet_label.json").read_text())
        imagenet_names = json.loads((folder / "objectnet_to_imagenet_1k.json").read_text())
        line_of = json.loads((folder / "pytorch_to_imagenet_2012_id.json").read_text())
        lines = (folder / "imagenet_to_label_2012_v2").read_text().splitlines()
        id_of_line = {int(line): int(label) for label, line in line_of.items()}
        id_of = {line.strip(): id_of_line[number] for number, line in enumerate(lines)}
        return {
            name: [id_of[each] for each in imagenet_names[label].split("; ")]
            for name, label in label_of.items()
            if label in imagenet_names
        }
    except FileNotFoundError as error:
        raise NotFoundError(f"no file {error.filename}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"{folder}: the files of ObjectNet's mapping do not fit each other ({error!r}); "
            f"restore the published ones"
        ) from error


def _without_border(image: Image.Image, key: str) -> Image.Image:
    return image.crop((_BORDER, _BORDER, image.width - _BORDER, image.height - _BORDER))


def corruptions(suite: str, place: Path, classes: ImageNetClasses) -> list[ImageSet]:
    """``CORRUPTION/SEVERITY/WNID``, as unpacked, or within folders named as the archives."""
    roots = {path.name: path for pattern in ("*", "*/*") for path in place.glob(pattern)}
    found = []
    for name in (*names(), *EXTRA):
        for severity in SEVERITIES:
            root = roots.get(name, place / name) / severity
            if not root.is_dir():
                continue
            with contextlib.suppress(NotFoundError):  # not unpacked yet
                (images,) = by_wnid(f"{suite}/{name}/{severity}", root, classes)
                found.append(replace(images, whole=True))
    if not found:
        raise NotFoundError(f"no CORRUPTION/SEVERITY folders with images in {place}")
    return found
