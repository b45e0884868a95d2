"""Merging shard sets: more reinforcements of the same images, and other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from dr_plugins.errors import (
    DatasetMismatchError,
    FormatError,
    ImageChangedError,
    SettingsMismatchError,
)
from dr_plugins.records import NO_PARTNER
from dr_plugins.shards.history import history_of
from dr_plugins.shards.key_index import KeyIndex, united
from dr_plugins.shards.manifest import MAX_SAMPLES, Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard
from dr_plugins.tools.deriving import (
    DerivedSet,
    ImageReader,
    keep_fingerprints,
    shard_size,
    write_set,
)
from dr_plugins.tools.fitting import check_same, same_views
from dr_plugins.utils.quoting import quoted


def merge(
    directories: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    progress: bool = False,
) -> Manifest:
    """Make one set of several, or resume an interrupted run.

    Sets of the same images are joined to more reinforcements of each, in the order given. Sets of
    other images add these images. Both together work as well, if every image has the same number of
    reinforcements in the end. Parameters, answers, labels and sizes are copied unchanged, and each
    view keeps its partner. One fingerprint per image is kept, the first one.

    Args:
        directories: At least two shard sets, with the same policy, teachers, classes, temperature,
            precision and k; any two have the same images or none in common.
        out: Directory of the new set; created if needed.
        progress: Show a progress bar.

    Returns:
        The manifest of the complete set.

    Raises:
        SettingsMismatchError: Two sets do not fit each other, hold the same views, or `out` holds
            another set.
        DatasetMismatchError: An image has different labels in two sets.
        ImageChangedError: An image has different sizes in two sets.
        FormatError: A set is damaged.
        LockedError: Another process writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.

    Example:
        >>> merge(["seed-0", "seed-1"], "both")                             # doctest: +SKIP
    """
    sets = [ShardSet(directory) for directory in directories]
    if len(sets) < 2:
        raise SettingsMismatchError(f"merging takes at least two sets, got {len(sets)}")
    for other in sets[1:]:
        check_same(
            sets[0].manifest.settings, other.manifest.settings, sets[0].location, other.location
        )
    groups = _grouped(sets)
    keys, owners = _united(groups)
    shard_images = max(shard_size(one.manifest) for one in sets)
    settings = {**_settings(sets, groups, keys), "shard_images": shard_images}
    derived = DerivedSet(settings, sets[0].manifest.layout, keys, _versions(sets), shard_images)
    return write_set(out, derived, _Merged(groups, owners, derived).make, progress=progress)


@dataclass(frozen=True)
class _Group:
    """Sets of the same images, whose reinforcements are joined."""

    sets: list[ShardSet]

    @property
    def samples(self) -> int:
        return sum(one.manifest.samples for one in self.sets)

    @property
    def keys(self) -> KeyIndex:
        return self.sets[0].keys

    @cached_property
    def readers(self) -> list[ImageReader]:
        return [ImageReader(one) for one in self.sets]

    def __str__(self) -> str:
        return " + ".join(str(one.location) for one in self.sets)


def _grouped(sets: list[ShardSet]) -> list[_Group]:
    by_images: dict[str, list[ShardSet]] = {}
    for one in sets:
        by_images.setdefault(one.keys.digest(), []).append(one)
    groups = [_Group(members) for members in by_images.values()]
    for group in groups[1:]:
        if group.samples != groups[0].samples:
            raise SettingsMismatchError(
                f"{groups[0]} has {groups[0].samples} reinforcements of each image, {group} has "
                f"{group.samples} of other images; make as many (dr-plugins subset --samples)"
            )
    if groups[0].samples > MAX_SAMPLES:
        raise SettingsMismatchError(
            f"{groups[0]} has {groups[0].samples} reinforcements of each image; at most "
            f"{MAX_SAMPLES} are possible"
        )
    return groups


def _united(groups: list[_Group]) -> tuple[KeyIndex, np.ndarray]:
    """All keys in order, and the number of each key's group."""
    if len(groups) == 1:
        return groups[0].keys, np.zeros(len(groups[0].keys), np.uint16)
    return united([group.keys for group in groups], groups)


def _settings(sets: list[ShardSet], groups: list[_Group], keys: KeyIndex) -> dict[str, Any]:
    """Settings that differ are null, except those that describe the whole."""
    every = [one.manifest.settings for one in sets]
    names = list(dict.fromkeys(name for settings in every for name in settings))
    common = {
        name: every[0].get(name) if all(s.get(name) == every[0].get(name) for s in every) else None
        for name in names
        if name not in ("left_out", "first_sample", "history")
    }
    seed, first = _draws(groups)
    left_out = {key for settings in every for key in settings.get("left_out", ())}
    left_out = {key for key in left_out if key not in keys}
    return {
        **common,
        "seed": seed,
        "samples": groups[0].samples,
        "images": len(keys),
        "keys": keys.digest(),
        **({"first_sample": first} if first else {}),
        **({"left_out": sorted(left_out)} if left_out else {}),
        "history": history_of("merge", [one.manifest for one in sets]),
    }


def _draws(groups: list[_Group]) -> tuple[int | None, int]:
    """The seed and first sample with which one generation draws all views; None if none does."""
    first = groups[0].sets[0].manifest.settings
    seed, start = first.get("seed"), first.get("first_sample", 0)
    for group in groups:
        following = start
        for settings in (one.manifest.settings for one in group.sets):
            if (settings.get("seed"), settings.get("first_sample", 0)) != (seed, following):
                return None, 0
            following += settings["samples"]
    return seed, start


def _versions(sets: list[ShardSet]) -> dict[str, str]:
    every = [one.manifest.versions for one in sets]
    names = dict.fromkeys(name for versions in every for name in versions)
    return {
        name: ", ".join(dict.fromkeys(versions.get(name, "unknown") for versions in every))
        for name in names
    }


class _Merged:
    """Makes the shards of a merged set."""

    def __init__(self, groups: list[_Group], owners: np.ndarray, derived: DerivedSet) -> None:
        self._groups, self._owners, self._derived = groups, owners, derived
        # The order of a group's images is that of the merged set: its i-th row becomes rows[i].
        self._rows = [np.flatnonzero(owners == number) for number in range(len(groups))]
        self._mixes = any(field.name == "partner" for field in derived.layout.fields)

    def make(self, rows: range) -> Shard:
        samples = int(self._derived.settings["samples"])
        new = Shard.empty(rows.start, len(rows), samples, self._derived.layout)
        owners = self._owners[rows.start : rows.stop]
        fingerprints = np.zeros_like(new.fingerprints)
        fingerprinted = np.full(len(rows), -1)
        for number in np.unique(owners).tolist():
            here = np.flatnonzero(owners == number)
            old = np.searchsorted(self._rows[number], rows.start + here)
            joined = self._joined(number, old)
            new.records[here], new.labels[here] = joined.records, joined.labels
            new.sizes[here], fingerprints[here] = joined.sizes, joined.fingerprints
            fingerprinted[here] = joined.fingerprinted_samples()
        keep_fingerprints(new, fingerprints, fingerprinted)
        return new

    def _joined(self, number: int, rows: np.ndarray) -> Shard:
        """All reinforcements of some images of a group, with new numbers of partners."""
        group = self._groups[number]
        parts = [
            reader.read(rows, one.manifest.samples)
            for reader, one in zip(group.readers, group.sets, strict=True)
        ]
        joined, first = Shard.empty(0, len(rows), group.samples, self._derived.layout), 0
        joined.fingerprinted = np.zeros(len(rows), np.int32)
        for position, part in enumerate(parts):
            for earlier in range(position):
                both = same_views(parts[earlier].records, part.records, self._derived.layout)
                if both is not None:
                    raise SettingsMismatchError(
                        f"{group.sets[earlier].location} and {group.sets[position].location} hold "
                        f"the same views: sample {both[0]} of the first is sample {both[1]} of "
                        f"the second, for images from {quoted(group.keys[int(rows[0])])} to "
                        f"{quoted(group.keys[int(rows[-1])])}. Generate one of the sets with "
                        f"another seed."
                    )
            joined.records[:, first : first + part.records.shape[1]] = part.records
            self._add_facts(joined, part, first, group, position, rows)
            first += part.records.shape[1]
        if self._mixes:
            partners = joined.records["partner"]
            mixed = partners != NO_PARTNER
            if (partners[mixed] >= len(group.keys)).any():
                raise FormatError(
                    f"a record of {group} mixes in row {partners[mixed].max()} of "
                    f"{len(group.keys)}: it was made by a faulty writer"
                )
            partners[mixed] = self._rows[number][partners[mixed]]
        return joined

    def _add_facts(
        self, joined: Shard, part: Shard, first: int, group: _Group, position: int, rows: np.ndarray
    ) -> None:
        """Fill in what the sets before did not know, and compare what they knew."""
        names = f"{group.sets[0].location} and {group.sets[position].location}"
        known = (joined.labels >= 0) & (part.labels >= 0)
        other = np.flatnonzero(known & (joined.labels != part.labels))
        if len(other):
            raise DatasetMismatchError(
                f"image {quoted(group.keys[int(rows[other[0]])])} has other labels in {names}: "
                f"{joined.labels[other[0]]} and {part.labels[other[0]]}"
            )
        known = _any(joined.sizes) & _any(part.sizes)
        other = np.flatnonzero(known & _any(joined.sizes != part.sizes))
        if len(other):
            sizes = [f"{h}x{w}" for h, w in (joined.sizes[other[0]], part.sizes[other[0]])]
            raise ImageChangedError(
                f"image {quoted(group.keys[int(rows[other[0]])])} has other sizes in {names}: "
                f"{' and '.join(sizes)} pixels"
            )
        new = joined.labels < 0
        joined.labels[new] = part.labels[new]
        new = ~_any(joined.sizes)
        joined.sizes[new] = part.sizes[new]
        new = ~_any(joined.fingerprints)
        joined.fingerprints[new] = part.fingerprints[new]
        assert joined.fingerprinted is not None
        joined.fingerprinted[new] = part.fingerprinted_samples()[new] + first


def _any(values: np.ndarray) -> np.ndarray:
    """Whether any value of each image is not zero, booleans ``[images]``."""
    return np.asarray(values.any(axis=1))
