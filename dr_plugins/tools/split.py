"""Splitting a shard set into several: by images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike

import numpy as np

from dr_plugins.errors import SettingsMismatchError
from dr_plugins.shards.history import history_of
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.tools.subset import write_subset


def split(
    directory: str | PathLike[str],
    out: str | PathLike[str],
    *,
    parts: int | None = None,
    keys: Sequence[str] | None = None,
    progress: bool = False,
) -> list[Manifest]:
    """Split a shard set by images, or resume an interrupted run; `merge` joins the parts again.

    Args:
        directory: The shard set.
        out: Directory of the parts, which are called ``part-00000``, ``part-00001`` and so on.
        parts: Number of parts, of consecutive keys and as equal as possible.
        keys: Keys of the images of the first part; the second one gets all others.
        progress: Show progress bars.

    Returns:
        The parts' manifests.

    Raises:
        ValueError: Not exactly one of `parts` and `keys` is given.
        SettingsMismatchError: A part would have no images, or exists and differs.
        DatasetMismatchError: The policy mixes images, and an image is mixed with one of another
            part.
        UnknownImageError: A key is not in the set.
        FormatError: The set is damaged.
        LockedError: Another process writes to a part.
        OutputError: A file cannot be written; finished shards are kept.

    Example:
        >>> split("imagenet-plus", "imagenet-plus-parts", parts=8)          # doctest: +SKIP
    """
    if (parts is None) == (keys is None):
        raise ValueError("pass either parts or keys")
    shards = ShardSet(directory)
    chosen = np.zeros(len(shards), bool)
    if keys is not None:
        chosen[shards.keys.rows(sorted(set(keys)))] = True
        divided = [np.flatnonzero(chosen), np.flatnonzero(~chosen)]
    else:
        divided = np.array_split(np.arange(len(shards)), parts or 1)
    if not all(map(len, divided)):
        raise SettingsMismatchError(
            f"{shards.location} has {len(shards)} images, so one of {len(divided)} parts would "
            f"have none"
        )
    manifest = shards.manifest
    written = []
    for number, rows in enumerate(divided):
        history = history_of("split", [manifest], part=f"{number + 1}/{len(divided)}")
        part = os.path.join(out, f"part-{number:05d}")
        written.append(
            write_subset(
                shards, rows, manifest.samples, manifest.topk, part, history, progress=progress
            )
        )
    return written
