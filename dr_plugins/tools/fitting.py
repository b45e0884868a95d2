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
_COMPARED = 16  # images whose draws are compared, of those that are merged together


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
        while isinstance(mine, dict) and isinstance(theirs, dict) and mine != theirs:
            part = next(p for p in {**mine, **theirs} if mine.get(p) != theirs.get(p))
            entry, mine, theirs = f"{entry} {part}", mine.get(part), theirs.get(part)
        if isinstance(mine, dict) != isinstance(theirs, dict):
            mine, theirs = ("present" if isinstance(v, dict) else v for v in (mine, theirs))
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
    """Find out whether two sets hold some draws twice.

    Draws are the same if a sample of one set and a sample of the other have the same parameters
    for more than twice as many images as any two samples of one set: a policy with few outcomes
    draws equal parameters by chance.

    Args:
        one: Records of one set, ``[images, S]``.
        other: Records of the same images in the other, ``[images, S']``.
        layout: Byte layout of a record.

    Returns:
        A sample of each set that are the same; None if there are none.
    """
    chosen = np.unique(np.linspace(0, len(one) - 1, min(_COMPARED, len(one))).astype(int))
    views = np.concatenate([_parameters(r[chosen], layout) for r in (one, other)], axis=1)
    draws = np.unique(views, return_inverse=True)[1].reshape(views.shape)
    border = one.shape[1]
    by_chance, most, where = 0, 0, (0, 0)
    for sample in range(len(draws[0])):
        equal = (draws[:, sample, None] == draws[:, sample + 1 :]).sum(axis=0)
        same_set = border - sample - 1 if sample < border else len(equal)
        by_chance = max(by_chance, equal[:same_set].max(initial=0))
        between = equal[same_set:]
        if between.max(initial=0) > most:
            most, where = between.max(), (sample, int(between.argmax()))
    return where if most > 2 * by_chance else None


def _parameters(records: np.ndarray, layout: RecordLayout) -> np.ndarray:
    """The bytes of the parameters of each record, one opaque value each: ``[images, S]``."""
    size = sum(layout.dtype[field.name].itemsize for field in layout.parameters)
    raw = np.ascontiguousarray(records).view(np.uint8).reshape(*records.shape, layout.itemsize)
    return np.ascontiguousarray(raw[..., :size]).view(np.dtype((np.void, size)))[..., 0]
