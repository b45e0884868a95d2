"""The published test sets, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.corruptions import corrupted, names
from dr_plugins.evaluation.image_set import ImageNetClasses, ImageSet
from dr_plugins.evaluation.layouts import (
    SEVERITIES,
    NotFoundError,
    by_number,
    by_wnid,
    corruptions,
    objectnet,
    real,
)
from dr_plugins.images.sources import image_keys, open_source


class _Published(NamedTuple):
    """A published set.

    Attributes:
        places: Directories that it may be in, below one of the roots.
        expected: Number of its images.
        read: From its name, its directory and ImageNet's classes to its images; ImageNet-C's are
            several sets.
    """

    places: tuple[str, ...]
    expected: int
    read: Callable[[str, Path, ImageNetClasses], list[ImageSet]]


_IMAGENET = ("imagenet/val", "imagenet/validation", "val", "validation")
_V2 = "imagenetv2-matched-frequency"
# By name; SUITE/VARIANT is another set of the same suite.
_PUBLISHED = {
    "imagenet": _Published(_IMAGENET, 50_000, by_wnid),
    "real": _Published(_IMAGENET, 46_837, real),
    "v2": _Published((f"{_V2}-format-val", _V2), 10_000, by_number),
    "v2/threshold0.7": _Published(
        ("imagenetv2-threshold0.7-format-val", "imagenetv2-threshold0.7"), 10_000, by_number
    ),
    "v2/top-images": _Published(
        ("imagenetv2-top-images-format-val", "imagenetv2-top-images"), 10_000, by_number
    ),
    "r": _Published(
        ("imagenet-r",), 30_000, lambda name, root, classes: by_wnid(name, root, classes, classes.r)
    ),
    "a": _Published(
        ("imagenet-a",), 7_500, lambda name, root, classes: by_wnid(name, root, classes, classes.a)
    ),
    "sketch": _Published(("imagenet-sketch/sketch", "imagenet-sketch", "sketch"), 50_889, by_wnid),
    "objectnet": _Published(("objectnet-1.0", "objectnet"), 18_574, objectnet),
    "c": _Published(("imagenet-c", "ImageNet-C"), 50_000, corruptions),
}
_FOLDER = "folder"
_SUFFIX = "+c"

SUITES = (*dict.fromkeys(name.partition("/")[0] for name in _PUBLISHED), _FOLDER)
"""Names of the sets; ``NAME+c`` is a set that is corrupted on the fly."""


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
        EvaluationError: An unknown name, a set that is there but not as it was published, or a
            folder whose classes libraries number in different orders, without `class_map`.

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
        found, absent = _find(plain, roots, classes, class_map)
        if plain == suite:
            sets += found.values()
            missing |= absent
        elif plain in found:
            sets += _corrupted(suite, found[plain])
        else:
            missing[suite] = absent[plain]
    return sets, missing


def _find(
    suite: str, roots: Sequence[Path], classes: ImageNetClasses, class_map: Path | None
) -> tuple[dict[str, ImageSet], dict[str, str]]:
    """A suite's sets by name, and why others are missing."""
    if suite == _FOLDER:
        return {_FOLDER: _folder(roots[0], class_map)}, {}
    found: dict[str, ImageSet] = {}
    missing: dict[str, str] = {}
    for name, published in _PUBLISHED.items():
        if name.partition("/")[0] != suite:
            continue
        try:
            sets = _read(name, published, roots, classes)
        except NotFoundError as error:
            missing[name] = str(error)
        else:
            expected = published.expected
            found |= {images.name: replace(images, expected=expected) for images in sets}
    return found, missing


def _read(
    name: str, published: _Published, roots: Sequence[Path], classes: ImageNetClasses
) -> list[ImageSet]:
    """Read a set from the first of its places that has images."""
    places = [root / place for root in roots for place in published.places]
    reasons = []
    for place in places:
        try:
            if place.is_dir():
                return published.read(name, place, classes)
        except NotFoundError as error:
            reasons.append(str(error))
        except OSError as error:
            raise EvaluationError(f"{name} in {place} cannot be read: {error}") from error
    raise NotFoundError("; ".join(reasons) or f"no directory {', '.join(map(str, places))}")


def _folder(root: Path, class_map: Path | None) -> ImageSet:
    source = open_source(str(root), class_map)
    if pair := source.base.ambiguous():
        ours, theirs = pair
        raise EvaluationError(
            f"{root}: the order of the classes is not clear. timm's train.py numbers folders "
            f"naturally and without regard to case, {theirs!r} before {ours!r}; shard sets and "
            f"torchvision sort by characters, {ours!r} before {theirs!r}. Pass a class map "
            f"(--class-map) in the order that the model was trained with; for one trained on a "
            f"shard set or with torchvision, `LC_ALL=C ls {root}` writes it"
        )
    labels = torch.tensor(source.base.targets)
    keys = tuple(image_keys(source.base))
    return ImageSet(_FOLDER, root, keys, labels, len(source.base.classes))


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
        for severity in SEVERITIES
    ]
