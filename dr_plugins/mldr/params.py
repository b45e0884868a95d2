"""Convert and validate ml-dr's transform parameters, one array per record field."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.transforms import RandAugment, Resize
from dr_plugins.transforms.base import Size
from dr_plugins.transforms.operations import OPERATIONS, operation_names
from dr_plugins.transforms.rand_augment import NEGATIVE

_LARGEST = (1 << 16) - 1
_NUMBERS = {name: number for number, name in enumerate(operation_names())}


def number_array(values: Sequence[Any], kind: str, width: int | None, what: str) -> np.ndarray:
    """Return numbers, or rows of numbers, as an array.

    Args:
        values: The numbers, or lists or tuples of them.
        kind: ``"i"`` for integers (int64), ``"f"`` for any numbers (float64).
        width: Numbers per row; None for a flat list of numbers.
        what: Name for error messages.

    Raises:
        ArchiveError: The values are of another type or shape.
    """
    shape = (len(values),) if width is None else (len(values), width)
    try:
        if width is not None and not {width}.issuperset(map(len, values)):
            raise ValueError(width)
        # Unlike np.array, array.array accepts numbers only and never allocates strings or objects.
        flat = array("q" if kind == "i" else "d", values if width is None else chain(*values))
    except (TypeError, ValueError, OverflowError):
        raise ArchiveError(
            f"its {what} are not {'integers' if kind == 'i' else 'numbers'} of shape {shape}"
        ) from None
    return np.asarray(flat).reshape(shape)


def convert_params(transform: Any, values: Sequence[Any], size: Size) -> np.ndarray | None:
    """Convert one transform's parameters to the values of its record field.

    Args:
        transform: The transform.
        values: ml-dr's parameters, one entry per view.
        size: (height, width) of the views.

    Returns:
        Array ``[len(values), ...]``; None if the transform has no record field.

    Raises:
        ArchiveError: A value is malformed or contradicts the transform.
    """
    result: np.ndarray | None = _CONVERTERS[transform.name](list(values), transform, size)
    return result


def _resize(values: list[Any], transform: Resize, size: Size) -> None:
    """Check that the sizes equal the configuration's, which replay uses."""
    expected = transform.size if isinstance(transform.size, tuple) else (transform.size,)
    allowed = {expected, expected * 2 if len(expected) == 1 else expected}
    for value in values:
        found = (value,) if type(value) is int else value
        if type(found) not in (tuple, list) or tuple(found) not in allowed:
            raise ArchiveError(f"a view is resized to {value!r:.80}, expected {transform.size}")


def _offsets(values: list[Any], transform: Any, size: Size) -> np.ndarray:
    offsets = number_array(values, "i", 2, "offsets of random_crop")
    return _within(offsets, _LARGEST, "an offset of random_crop")


def _boxes(values: list[Any], transform: Any, size: Size) -> np.ndarray:
    boxes = number_array(values, "i", 4, "boxes of random_resized_crop")
    if len(boxes) and boxes[:, 2:].min() < 1:
        raise ArchiveError("a box of random_resized_crop is empty")
    return _within(boxes, _LARGEST, "a box of random_resized_crop")


def _flips(values: list[Any], transform: Any, size: Size) -> np.ndarray:
    if not {bool, type(None)}.issuperset(map(type, values)):
        raise ArchiveError("a random_horizontal_flip is not True, False or None")
    return np.array([value is True for value in values], np.uint8)


def _refuse_skipped(values: list[Any], transform: Any) -> None:
    if transform.p >= 1 and None in values:
        raise ArchiveError(f"{transform.name} was skipped, but its configuration has p = 1")


def _operations(values: list[Any], transform: RandAugment, size: Size) -> np.ndarray:
    _refuse_skipped(values, transform)
    codes = np.zeros((len(values), transform.num_ops), np.uint8)
    applied = [number for number, value in enumerate(values) if value is not None]
    if not applied:
        return codes
    known = _codes(transform, size)
    try:
        for number in applied:
            found = [known[name, strength] for name, strength in values[number]]
            if len(found) != transform.num_ops:
                raise ValueError(len(found))
            codes[number] = found
    except (TypeError, ValueError, LookupError):
        raise ArchiveError(
            f"rand_augment has {values[number]!r:.120}, expected {transform.num_ops} operations "
            f"with the magnitudes of level {transform.magnitude} at {size[0]}x{size[1]} pixels"
        ) from None
    return codes


@functools.lru_cache(maxsize=8)
def _codes(transform: RandAugment, size: Size) -> dict[tuple[int | str, float], int]:
    """Return the record code of each operation by (number or name, exact magnitude)."""
    codes: dict[tuple[int | str, float], int] = {}
    for number, operation in enumerate(OPERATIONS):
        name = operation.name
        strength = operation.magnitude(transform.magnitude, transform.num_magnitude_bins, size)
        if operation.signed and strength:
            codes[number, -strength] = codes[name, -strength] = number | NEGATIVE
        codes[number, strength] = codes[name, strength] = number
    return codes


def _erasures(values: list[Any], transform: Any, size: Size) -> np.ndarray:
    _refuse_skipped(values, transform)
    nothing = (-1, 0, 0, 0)  # ml-dr's marker: no box was found
    boxes = [nothing if value is None else value for value in values]
    erased = number_array(boxes, "i", 4, "boxes of random_erase")
    erased[erased[:, 0] == -1] = 0
    _within(erased, _LARGEST, "a box of random_erase")
    # ml-dr's slices clip boxes at the edge of the view.
    erased[:, 2:] = np.minimum(erased[:, 2:], np.array(size) - erased[:, :2])
    erased[(erased[:, 2:] <= 0).any(axis=1)] = 0
    return erased


def convert_mixing_params(name: str, values: Sequence[Any], unmixed: Any, size: Size) -> np.ndarray:
    """Convert parameters of ``mixup`` or ``cutmix`` to the values of their record field.

    Args:
        name: ``"mixup"`` or ``"cutmix"``.
        values: ml-dr's parameters, one entry per view; None where it was skipped.
        unmixed: Value to store for a skipped one.
        size: (height, width) of the views.

    Raises:
        ArchiveError: A value is malformed or out of range.
    """
    if name == "mixup":
        weights = [unmixed if value is None else value for value in values]
        shares = number_array(weights, "f", None, "weights of mixup")
        if not ((shares >= 0) & (shares <= 1)).all():
            raise ArchiveError("a weight of mixup is not between 0 and 1")
        return shares
    boxes = [unmixed if value is None else _cutmix_box(value) for value in values]
    corners = number_array(boxes, "i", 4, "boxes of cutmix")
    starts, ends = corners[:, :2], corners[:, 2:]
    if not ((starts >= 0) & (starts <= ends) & (ends <= np.array(size))).all():
        raise ArchiveError(f"a box of cutmix is not within {size[0]}x{size[1]} pixels")
    return corners


def _cutmix_box(value: Any) -> Any:
    """Return the box of ``(lam, (top, left, bottom, right))`` or ``[lam, *box]``."""
    if type(value) not in (list, tuple) or len(value) not in (2, 5):
        raise ArchiveError(f"cutmix has {value!r:.80}, expected a weight and a box")
    return value[1] if len(value) == 2 else value[1:]


def _within(numbers: np.ndarray, most: int, what: str) -> np.ndarray:
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= most:
        raise ArchiveError(f"{what} has a number outside 0 to {most}")
    return numbers


_CONVERTERS: dict[str, Callable[..., np.ndarray | None]] = {
    "resize": _resize,
    "random_crop": _offsets,
    "random_resized_crop": _boxes,
    "random_horizontal_flip": _flips,
    "rand_augment": _operations,
    "random_erase": _erasures,
}
