"""The published test sets: where their files lie, and what their labels mean."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.corruptions import EXTRA, corrupted, names
from dr_plugins.evaluation.image_set import ImageNetClasses, ImageSet
from dr_plugins.images.sources import image_keys, open_source

SUITES = ("imagenet", "real", "v2", "r", "a", "sketch", "objectnet", "c", "folder")
"""Names of the sets; ``NAME+c`` is a set that is corrupted on the fly."""

_SUFFIX = "+c"
_PLACES = {
    "imagenet": ("imagenet/val", "imagenet/validation", "val", "validation"),
    "v2": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    "v2/threshold0.7": ("imagenetv2-threshold0.7-format-val", "imagenetv2-threshold0.7"),
    "v2/top-images": ("imagenetv2-top-images-format-val", "imagenetv2-top-images"),
    "r": ("imagenet-r",),
    "a": ("imagenet-a",),
    "sketch": ("imagenet-sketch", "sketch"),
    "objectnet": ("objectnet-1.0", "objectnet"),
    "c": ("imagenet-c", "ImageNet-C"),
}
_EXPECTED = {
    "imagenet": 50_000,
    "real": 46_837,
    "v2": 10_000,
    "v2/threshold0.7": 10_000,
    "v2/top-images": 10_000,
    "r": 30_000,
    "a": 7_500,
    "sketch": 50_889,
    "objectnet": 18_574,
    "c": 50_000,
}
_SEVERITIES = ("1", "2", "3", "4", "5")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+$")
_BORDER = 2  # pixels of ObjectNet's images, red so that training on them is noticed


class _NotFoundError(Exception):
    """A set is not there; the message is where it was looked for."""


def find_sets(
    suites: Iterable[str],
    roots: Sequence[Path],
    classes: ImageNetClasses,
    class_map: Path | None = None,
) -> tuple[list[ImageSet], dict[str, str]]:
    """Find test sets under some directories.

    Args:
        suites: Some of `SUITES`, or ``NAME+c``. ``folder`` is the first of `roots` itself.
        roots: Directories that hold the sets under their published names, or ImageNet itself.
        classes: Of ImageNet.
        class_map: Of ``folder``, see `open_source`.

    Returns:
        The sets that are there, ImageNet-C's one by one, and why others are missing, by name.

    Raises:
        EvaluationError: An unknown name, or a set that is there but not as it was published.

    Example:
        >>> sets, missing = find_sets(["r", "v2"], [Path("/data")], classes)   # doctest: +SKIP
        >>> sets                                                            # doctest: +SKIP
        [ImageSet('r', 30000 images, '/data/imagenet-r')]
    """
    sets: list[ImageSet] = []
    missing: dict[str, str] = {}
    for suite in dict.fromkeys(suites):
        plain = suite.removesuffix(_SUFFIX)
        if plain not in SUITES or (plain == "c" and plain != suite):
            raise EvaluationError(
                f"unknown suite {suite!r}; expected some of {', '.join(SUITES)}, or one of them "
                f"with {_SUFFIX} (except c) to corrupt it on the fly"
            )
        try:
            found = _find(plain, roots, classes, class_map)
        except _NotFoundError as error:
            missing[suite] = str(error)
            continue
        sets += found if plain == suite else _corrupted(suite, found[0])
    return sets, missing


def _find(
    suite: str, roots: Sequence[Path], classes: ImageNetClasses, class_map: Path | None
) -> list[ImageSet]:
    if suite == "folder":
        return [_folder(roots[0], class_map)]
    if suite == "c":
        return _published_corruptions(_place("c", roots), classes)
    if suite == "v2":
        return _v2(roots, classes)
    if suite == "objectnet":
        return [_objectnet(_place(suite, roots), classes)]
    if suite == "real":
        return [_real(_place("imagenet", roots), classes)]
    subset = {"r": classes.r, "a": classes.a}.get(suite)
    return [_by_wnid(suite, _place(suite, roots), classes, subset)]


def _place(name: str, roots: Sequence[Path]) -> Path:
    places = [root / place for root in roots for place in _PLACES[name]]
    for place in places:
        if place.is_dir():
            return place
    raise _NotFoundError(f"no directory {', '.join(map(str, places))}")


def _folder(root: Path, class_map: Path | None) -> ImageSet:
    source = open_source(str(root), class_map)
    labels = torch.tensor(source.base.targets)
    count = len(source.class_names or ())
    return ImageSet("folder", root, tuple(image_keys(source.base)), labels, count)


def _by_wnid(
    name: str, root: Path, classes: ImageNetClasses, subset: Sequence[str] | None = None
) -> ImageSet:
    """A folder for each class, named by its WordNet id."""
    wnids = classes.wnids if subset is None else subset
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    ids = {wnid: number for number, wnid in enumerate(classes.wnids)}
    kept = None if subset is None else tuple(ids[wnid] for wnid in subset)
    files, labels = _labelled_files(root, label_of.get)
    return ImageSet(
        name,
        root,
        files,
        torch.tensor(labels),
        len(classes.wnids),
        kept,
        expected=_EXPECTED[name.partition("/")[0]],
    )


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
        raise _NotFoundError(f"no class folders with images in {root}")
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


def _v2(roots: Sequence[Path], classes: ImageNetClasses) -> list[ImageSet]:
    """Folders are named by label, ``0`` to ``999``, which sort differently as text."""
    count = len(classes.wnids)
    labels = {str(label): label for label in range(count)}
    found, errors = [], []
    for name in ("v2", "v2/threshold0.7", "v2/top-images"):
        try:
            root = _place(name, roots)
        except _NotFoundError as error:
            errors.append(error)
            continue
        files, ids = _labelled_files(root, labels.get)
        found.append(
            ImageSet(name, root, files, torch.tensor(ids), count, expected=_EXPECTED[name])
        )
    if not found:
        raise errors[0]
    return found


def _real(root: Path, classes: ImageNetClasses) -> ImageSet:
    """Validation images by their numbers, in class folders or not; those without label are out."""
    keys = [key for folder in ["", *_folders(root)] for key in _keys_in(root, folder)]
    files, rows = [], []
    for key in keys:
        match = _VALIDATION_NAME.search(key)
        if match is None or not 1 <= int(match[1]) <= len(classes.real):
            raise EvaluationError(
                f"{root / key}: ImageNet-ReaL knows images by their names, ILSVRC2012_val_00000001 "
                f"to {len(classes.real):08d}; restore the published names"
            )
        right = classes.real[int(match[1]) - 1]
        if right:
            files.append(key)
            rows.append(right)
    if not files:
        raise _NotFoundError(f"no images in {root}")
    labels = _several_labels(rows, len(classes.wnids))
    return ImageSet(
        "real", root, tuple(files), labels, len(classes.wnids), expected=_EXPECTED["real"]
    )


def _keys_in(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{file}" if folder else file for file in _images(root / folder)]


def _several_labels(rows: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    labels = torch.zeros(len(rows), count, dtype=torch.bool)
    for row, right in zip(labels, rows, strict=True):
        row[list(right)] = True
    return labels


def _objectnet(place: Path, classes: ImageNetClasses) -> ImageSet:
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
        raise _NotFoundError(f"no images of ImageNet's classes in {root}")
    return ImageSet(
        "objectnet",
        root,
        tuple(files),
        _several_labels(rows, len(classes.wnids)),
        len(classes.wnids),
        edit=_without_border,
        edit_name=f"without border of {_BORDER} pixels",
        expected=_EXPECTED["objectnet"],
    )


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
        raise _NotFoundError(f"no file {error.filename}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"{folder}: the files of ObjectNet's mapping do not fit each other ({error!r}); "
            f"restore the published ones"
        ) from error


def _without_border(image: Image.Image, key: str) -> Image.Image:
    return image.crop((_BORDER, _BORDER, image.width - _BORDER, image.height - _BORDER))


def _published_corruptions(place: Path, classes: ImageNetClasses) -> list[ImageSet]:
    """``CORRUPTION/SEVERITY/WNID``, as unpacked, or within folders named as the archives."""
    roots = {path.name: path for pattern in ("*", "*/*") for path in place.glob(pattern)}
    found = []
    for name in (*names(), *EXTRA):
        for severity in _SEVERITIES:
            root = roots.get(name, place / name) / severity
            if root.is_dir():
                images = _by_wnid(f"c/{name}/{severity}", root, classes)
                found.append(replace(images, whole=True))
    if not found:
        raise _NotFoundError(f"no CORRUPTION/SEVERITY folders in {place}")
    return found


def _corrupted(suite: str, images: ImageSet) -> list[ImageSet]:
    return [
        replace(
            images,
            name=f"{suite}/{name}/{severity}",
            whole=True,
            edit=corrupted(name, int(severity), images.edit),
            edit_name=f"{images.edit_name} {name} {severity}".strip(),
        )
        for name in names()
        for severity in _SEVERITIES
    ]
