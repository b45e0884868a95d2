"""Plan an import: what its archives and the order of its images become."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.generation.views import ViewPlan
from dr_plugins.mldr.config import SetDescription
from dr_plugins.mldr.decode import Decoder
from dr_plugins.mldr.inspection import ArchivedSet
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.mldr.partial_shards import PartialShards
from dr_plugins.mldr.worker import Worker
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.key_index import KeyIndex

_SHARD_BYTES = 32 << 20  # memory that a worker needs to finish a shard
_SHARD_IMAGES = 1024


@dataclass(frozen=True)
class ImportSettings:
    """Options of an import.

    Attributes:
        num_classes: Number of the teacher's classes; by default that of the archive's dataset.
        probs_dtype: ``"float16"``, or the lossless ``"float32"``.
        min_agreement: Minimum share of images whose label equals the teacher's mean prediction.
        workers: Number of decoding processes; 0 decodes in this process.
        progress: Show progress bars.

    Example:
        >>> ImportSettings(workers=8).min_agreement
        0.5
    """

    num_classes: int | None = None
    probs_dtype: str = "float16"
    min_agreement: float = 0.5
    workers: int = 0
    progress: bool = False


@dataclass(frozen=True)
class ImportPlan:
    """An import before it starts.

    Attributes:
        paths: The archives.
        sets: ml-dr's sets in them.
        described: The description of each set.
        names: The name of each set, for messages.
        order: The images in the order in which ml-dr numbers them.
        order_digest: Digest of the order.
        num_classes: Number of the teacher's classes.
        layout: Layout of the records.
        keys: Index of the images' keys.
        rows: int64 ``[images]``, row of each image by its number in the archives.
        labels: int32 ``[images]``, label of each row, -1 if unknown.
        views: Samples, rows and shards.
        probs_dtype: See `ImportSettings`.
    """

    paths: list[Path]
    sets: list[ArchivedSet]
    described: list[SetDescription]
    names: list[str]
    order: ImageOrder
    order_digest: str
    num_classes: int
    layout: RecordLayout
    keys: KeyIndex
    rows: np.ndarray
    labels: np.ndarray
    views: ViewPlan
    probs_dtype: str

    @classmethod
    def of(
        cls,
        paths: list[Path],
        sets: list[ArchivedSet],
        order: ImageOrder,
        settings: ImportSettings,
    ) -> ImportPlan:
        """Plan an import.

        Raises:
            ArchiveError: The configuration of a set cannot be imported.
            DatasetMismatchError: The sets or the number of classes differ, or a set is there twice.
        """
        described = [one.describe(paths[one.archive]) for one in sets]
        names = [_name(paths, one) for one in sets]
        _check_equal(described, names)
        _refuse_copies(sets, names)
        first = described[0]
        classes = _count_classes(settings.num_classes or first.num_classes, order, settings)
        layout = RecordLayout(
            (*first.policy.fields, *target_fields(first.topk, classes, settings.probs_dtype))
        )
        keys = KeyIndex.build(order.keys)
        rows = keys.rows(order.keys)
        labels = np.empty(len(order), np.int32)
        labels[rows] = order.labels
        samples = sum(one.samples for one in described)
        shard_images = max(1, min(_SHARD_IMAGES, _SHARD_BYTES // (samples * layout.itemsize)))
        return cls(
            paths,
            sets,
            described,
            names,
            order,
            order.digest(),
            classes,
            layout,
            keys,
            rows,
            labels,
            ViewPlan(len(order), samples, shard_images, 1),
            settings.probs_dtype,
        )

    def worker(self, out: Path, work_dir: Path, set_id: str) -> Worker:
        """Return the worker that decodes members and writes shards.

        Args:
            out: Directory of the set.
            work_dir: Directory of unfinished shards.
            set_id: `Manifest.set_id`.
        """
        first = self.described[0]
        ends = np.cumsum([one.samples for one in self.described]).tolist()
        return Worker(
            [self.paths[one.archive] for one in self.sets],
            [
                Decoder(
                    one.policy,
                    self.layout,
                    one.samples,
                    one.topk,
                    self.num_classes,
                    len(self.order),
                )
                for one in self.described
            ],
            [slice(end - one.samples, end) for end, one in zip(ends, self.described, strict=True)],
            self.rows.astype(np.uint32) if first.policy.mixings else None,
            PartialShards(work_dir, self.layout, self.views.samples),
            out,
            set_id,
        )

    def manifest_settings(self) -> dict[str, Any]:
        """Return the settings in the manifest, which identify the set."""
        first, names = self.described[0], self.order.class_names
        return {
            "policy": first.policy.to_config(),
            "samples": self.views.samples,
            "topk": first.topk,
            "num_classes": self.num_classes,
            "class_names": names if names is not None and len(names) == self.num_classes else None,
            "probs_dtype": self.probs_dtype,
            "seed": None,
            "teachers": list(first.teachers),
            "weights": None,
            "temperature": 1.0,
            "precision": "float32",
            "device": None,
            "batch_size": None,
            "shard_images": self.views.shard_images,
            "images": len(self.order),
            "keys": self.keys.digest(),
            "order": self.order_digest,
            "archive_digests": [one.digest() for one in self.sets],
            "origin": {
                "format": "ml-dr",
                "dataset": first.dataset,
                "mean": list(first.mean),
                "std": list(first.std),
                "archives": [
                    {"name": name, "samples": one.samples}
                    for name, one in zip(self.names, self.described, strict=True)
                ],
            },
        }


def _name(paths: list[Path], archived: ArchivedSet) -> str:
    name = os.fsencode(paths[archived.archive].name).decode(
        errors="replace"
    )  # may not be valid UTF-8
    return f"{name}:{archived.folder}"


def _check_equal(described: list[SetDescription], names: list[str]) -> None:
    for one, name in zip(described[1:], names[1:], strict=True):
        for what in ("policy", "topk", "num_classes", "mean", "std"):
            here, there = getattr(one, what), getattr(described[0], what)
            if here != there:
                raise DatasetMismatchError(
                    f"{name} and {names[0]} differ in {what}: {here} and {there}. Only "
                    f"sets that agree can be merged; import these into separate directories."
                )


def _refuse_copies(sets: list[ArchivedSet], names: list[str]) -> None:
    digests = [one.digest() for one in sets]
    for number, digest in enumerate(digests):
        if (first := digests.index(digest)) < number:
            raise DatasetMismatchError(
                f"{names[first]} and {names[number]} hold the same reinforcements; pass one of them"
            )


def _count_classes(stated: int | None, order: ImageOrder, settings: ImportSettings) -> int:
    here = None if order.class_names is None else len(order.class_names)
    if stated is None:
        stated = here
    if stated is None:
        raise DatasetMismatchError("the number of classes is unknown; set --num-classes")
    if settings.num_classes is None and here not in (None, stated):
        raise DatasetMismatchError(
            f"the images have {here} classes, the archive's dataset has {stated}. Pass the whole "
            f"training set, or set --num-classes if the teacher has other classes."
        )
    return stated
