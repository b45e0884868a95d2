"""Subsets of a shard set: fewer reinforcements, fewer classes of each answer, fewer images."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from dr_plugins.errors import DatasetMismatchError, FormatError, SettingsMismatchError
from dr_plugins.records import NO_PARTNER, RecordLayout, answer_fields, target_fields
from dr_plugins.shards.history import history_of
from dr_plugins.shards.manifest import Manifest
from dr_plugins.shards.reader import ShardSet
from dr_plugins.shards.shard import Shard
from dr_plugins.tools.deriving import (
    DerivedSet,
    ImageReader,
    keep_fingerprints,
    shard_size,
    write_set,
)
from dr_plugins.utils.quoting import quoted


def subset(
    directory: str | PathLike[str],
    out: str | PathLike[str],
    *,
    samples: int | None = None,
    topk: int | None = None,
    classes: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    progress: bool = False,
) -> Manifest:
    """Make a smaller set from a shard set, or resume an interrupted run.

    Each record keeps its parameters and the `topk` most probable classes with their stored
    probabilities. These are the records that generating with fewer samples or a smaller k stores,
    if the teacher's answer to a view does not depend on the other views of its batch, and no two
    classes have the same probability. Classes keep their numbers, so `num_classes` and labels are
    those of the whole set.

    The fingerprint of an image is kept if its view is. In policies with mixing, the images that are
    mixed into the chosen ones must be chosen too.

    Args:
        directory: The shard set.
        out: Directory of the new set; created if needed.
        samples: Reinforcements per image, the first ones; None keeps all.
        topk: Classes per reinforcement; None keeps all.
        classes: Names of the classes whose images to keep, by label; numbers as text if the set has
            no class names. None keeps all.
        keys: Keys of the images to keep, in any order; None keeps all.
        progress: Show a progress bar.

    Returns:
        The manifest of the complete set.

    Raises:
        SettingsMismatchError: `samples` or `topk` is more than the set has, or `out` holds another
            set.
        DatasetMismatchError: A class is unknown or has no images, or a chosen image is mixed with
            one that is not chosen.
        UnknownImageError: A key is not in the set.
        FormatError: The set is damaged.
        LockedError: Another process writes to `out`.
        OutputError: A file cannot be written; finished shards are kept.

    Example:
        >>> subset("imagenet-plus", "imagenet-plus-small",                  # doctest: +SKIP
        ...        samples=50, topk=5)
    """
    shards = ShardSet(directory)
    manifest = shards.manifest
    samples = _fewer("samples", samples, manifest.samples, shards)
    topk = _fewer("topk", topk, manifest.topk, shards)
    rows = _chosen(shards, classes, keys)
    history = history_of("subset", [manifest])
    return write_subset(shards, rows, samples, topk, out, history, progress=progress)


def write_subset(
    shards: ShardSet,
    rows: np.ndarray,
    samples: int,
    topk: int,
    out: str | PathLike[str],
    history: dict[str, Any],
    *,
    progress: bool,
) -> Manifest:
    """Write the set of some rows, int64 ``[images]``, ascending; see `subset`."""
    manifest = shards.manifest
    selected = len(rows) < len(shards)
    index = shards.keys.take(rows) if selected else shards.keys
    settings = {
        **manifest.settings,
        "samples": samples,
        "topk": topk,
        "images": len(index),
        "keys": index.digest(),
        "history": history,
    }
    answers = target_fields(topk, manifest.num_classes, settings["probs_dtype"], manifest.answer)
    layout = RecordLayout((*manifest.layout.parameters, *answers))
    derived = DerivedSet(settings, layout, index, manifest.versions, shard_size(manifest))
    return write_set(out, derived, _Subset(shards, rows, derived).make, progress=progress)


class _Subset:
    """Makes the shards of a subset."""

    def __init__(self, shards: ShardSet, rows: np.ndarray, derived: DerivedSet) -> None:
        self._shards, self._rows, self._derived = shards, rows, derived
        self._reader = ImageReader(shards)

    def make(self, rows: range) -> Shard:
        layout, samples = self._derived.layout, self._derived.settings["samples"]
        old = self._reader.read(self._rows[rows.start : rows.stop], samples)
        new = Shard.empty(rows.start, len(rows), samples, layout)
        self._check_order(rows, old.records)
        for field in layout.parameters:
            new.records[field.name] = old.records[field.name]
        for part in answer_fields(self._shards.manifest.answer):
            values = old.records[part.name]
            topk = self._derived.settings["topk"]
            new.records[part.name] = values[..., :topk] if part.is_per_class else values
        if any(field.name == "partner" for field in layout.fields):
            self._renumber_partners(rows, new.records)
        new.labels[:], new.sizes[:] = old.labels, old.sizes
        keep_fingerprints(new, old.fingerprints, old.fingerprinted_samples())
        return new

    def _check_order(self, rows: range, records: np.ndarray) -> None:
        probs = records["probs"]
        unsorted = (probs[..., 1:] > probs[..., :-1]).any(axis=(1, 2))
        if unsorted.any():
            key = self._derived.keys[rows[int(np.argmax(unsorted))]]
            raise FormatError(
                f"{self._shards.location}: a record of image {quoted(key)} does not list its most "
                f"probable class first: it was made by a faulty writer"
            )

    def _renumber_partners(self, rows: range, records: np.ndarray) -> None:
        partners = records["partner"]
        mixed = partners != NO_PARTNER
        found = np.searchsorted(self._rows, partners[mixed])
        kept = self._rows[np.minimum(found, len(self._rows) - 1)] == partners[mixed]
        if not kept.all():
            image = rows[int(np.nonzero(mixed)[0][np.argmin(kept)])]
            partner = int(partners[mixed][np.argmin(kept)])
            keys = self._shards.keys
            name = quoted(keys[partner]) if partner < len(keys) else f"row {partner}"
            raise DatasetMismatchError(
                f"{quoted(self._derived.keys[image])} is mixed with {name}, which is not chosen. "
                f"Choose all images of {self._shards.location}, whose policy mixes images."
            )
        partners[mixed] = found


def _fewer(name: str, wanted: int | None, there: int, shards: ShardSet) -> int:
    if wanted is not None and not 1 <= wanted <= there:
        raise SettingsMismatchError(
            f"{name} is {wanted}, but {shards.location} has {there}; choose 1 to {there}"
        )
    return there if wanted is None else wanted


def _chosen(
    shards: ShardSet, classes: Sequence[str] | None, keys: Sequence[str] | None
) -> np.ndarray:
    """The rows of the chosen images, int64, ascending."""
    chosen = np.ones(len(shards), bool)
    if keys is not None:
        chosen[:] = False
        chosen[shards.keys.rows(sorted(set(keys)))] = True
    if classes is not None:
        chosen &= np.isin(_labels(shards), _class_numbers(shards, classes))
    if not chosen.any():
        raise DatasetMismatchError(
            f"no image of {shards.location} is chosen; it has {len(shards)} images"
        )
    return np.flatnonzero(chosen)


def _labels(shards: ShardSet) -> np.ndarray:
    numbers = range(len(shards.manifest.shards))
    labels = np.concatenate([shards.shard(number).labels for number in numbers])
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        raise DatasetMismatchError(
            f"{len(unknown)} images of {shards.location} have no label, such as "
            f"{quoted(shards.keys[int(unknown[0])])}; choose by keys instead of classes"
        )
    return labels


def _class_numbers(shards: ShardSet, classes: Sequence[str]) -> list[int]:
    count = shards.manifest.num_classes
    names = shards.manifest.settings["class_names"] or [str(number) for number in range(count)]
    number_of = {name: number for number, name in enumerate(names)}
    unknown = [name for name in classes if name not in number_of]
    if unknown:
        raise DatasetMismatchError(
            f"{len(unknown)} class(es) are not in {shards.location}, such as {quoted(unknown[0])}; "
            f"it has {len(names)}, such as {', '.join(map(quoted, names[:3]))}"
        )
    return [number_of[name] for name in classes]
