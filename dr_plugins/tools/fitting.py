"""Do shard sets fit each other? Checks before and while they are merged."""

from __future__ import annotations

from typing import Any

import numpy as np

from dr_plugins.errors import SettingsMismatchError
from dr_plugins.records import RecordLayout
from dr_plugins.utils.quoting import quoted

# What may differ between the sets: what is drawn, for which images, and how it was computed.
_MAY_DIFFER = frozenset(
    {
        "samples",
        "first_sample",
        "seed",
        "images",
        "keys",
        "left_out",
        "history",
        "batch_size",
        "shard_images",
        "device",
        "order",
        "archive_digests",
    }
)


def check_same(one: dict[str, Any], other: dict[str, Any], name: Any, other_name: Any) -> None:
    """Check that two sets' settings describe the same kind of reinforcements.

    Args:
        one: `Manifest.settings` of a set.
        other: Those of another one.
        name: What messages call the first set.
        other_name: What they call the other.

    Raises:
        SettingsMismatchError: They differ; names both values.
    """
    for entry in sorted((one.keys() | other.keys()) - _MAY_DIFFER):
        mine: Any = one.get(entry)
        theirs: Any = other.get(entry)
        if entry == "policy" and mine != theirs:
            parts = [part for part in {**mine, **theirs} if mine.get(part) != theirs.get(part)]
            entry, mine, theirs = f"policy {parts[0]}", mine.get(parts[0]), theirs.get(parts[0])
        if entry == "class_names" and mine and theirs and mine != theirs:
            raise SettingsMismatchError(_differing_classes(mine, theirs, name, other_name))
        if mine != theirs:
            remedy = ""
            if entry == "topk":
                least = min(mine, theirs)
                remedy = f" Cut the larger one first: dr-plugins subset --topk {least}"
            raise SettingsMismatchError(
                f"{name} and {other_name} differ: {entry} is {mine} in the first, {theirs} in the "
                f"second.{remedy}"
            )


def _differing_classes(mine: list[str], theirs: list[str], name: Any, other_name: Any) -> str:
    if sorted(mine) == sorted(theirs):
        number = next(
            n for n, pair in enumerate(zip(mine, theirs, strict=True)) if len({*pair}) > 1
        )
        what = f"class {number} is {quoted(mine[number])} in the first, {quoted(theirs[number])}"
        return f"{name} and {other_name} number their classes differently: {what} in the second."
    alone = sorted({*mine} ^ {*theirs})
    return (
        f"{name} and {other_name} have other classes: {len(mine)} and {len(theirs)}, of which "
        f"{len(alone)} are in only one of them, such as {quoted(alone[0])}."
    )


def same_views(one: np.ndarray, other: np.ndarray, layout: RecordLayout) -> tuple[int, int] | None:
    """Find out whether two sets' records are the same draws.

    They are if, at some distance between their samples, all images have the same parameters. A few
    equal parameters are no reason: a policy may have few.

    Args:
        one: Records of one set, ``[images, S]``.
        other: Records of the same images in the other, ``[images, S']``.
        layout: Byte layout of a record.

    Returns:
        The sample of each set from which on they are the same; None if they are other draws.
    """
    mine, theirs = _parameters(one, layout), _parameters(other, layout)
    starts = [(int(i), 0) for i in np.flatnonzero((mine[0] == theirs[0, 0]).all(-1))]
    starts += [(0, int(i)) for i in np.flatnonzero((theirs[0] == mine[0, 0]).all(-1))]
    for first, second in starts:
        count = min(mine.shape[1] - first, theirs.shape[1] - second)
        if (mine[:, first : first + count] == theirs[:, second : second + count]).all():
            return first, second
    return None


def _parameters(records: np.ndarray, layout: RecordLayout) -> np.ndarray:
    """The bytes of the parameters of each record, uint8 ``[images, S, bytes]``."""
    size = sum(layout.dtype[field.name].itemsize for field in layout.parameters)
    raw = records.view(np.uint8).reshape(*records.shape, layout.itemsize)
    return raw[..., :size]
