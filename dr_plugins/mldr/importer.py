"""Import ml-dr's archives: turn a stream of members in any order into a shard set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import DatasetMismatchError, FormatError, ImageReadError
from dr_plugins.generation.views import ViewPlan
from dr_plugins.mldr.alignment import Agreement, Alignment
from dr_plugins.mldr.archive import Member, iter_members
from dr_plugins.mldr.config import SetDescription
from dr_plugins.mldr.decode import Decoder
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.inspection import ArchivedSet, inspect, named
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.mldr.partial_shards import (
    INSPECTION_NAME,
    SIZES_NAME,
    PartialShards,
    clear_work_dir,
    open_work_dir,
)
from dr_plugins.mldr.pool import WorkerPool
from dr_plugins.mldr.worker import Measured, Prediction, Task, Worker
from dr_plugins.records import RecordLayout, target_fields
from dr_plugins.shards.container import map_tensors, write_tensors
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.output import OutputDirectory, locked

__all__ = ["ImportReport", "ImportSettings", "import_archives"]

_SHARD_BYTES = 32 << 20  # memory that a worker needs to finish a shard
_SHARD_IMAGES = 1024
_BATCH_MEMBERS, _BATCH_BYTES = 16, 1 << 20
_BATCH_HEADERS = 256
_MOST_SHOWN = 10  # unreadable images listed in a message
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_logger = logging.getLogger(__name__)


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
class ImportReport:
    """Result of an import.

    Attributes:
        manifest: The manifest of the set.
        agreement: How often the teacher's mean prediction is the label, for each of ml-dr's sets;
            None if no label is known. Empty if the set was already complete.
        notes: Remarks for the user on how the archives were interpreted.

    Example:
        >>> report = import_archives(["rrc.tar.gz"], order, "out")          # doctest: +SKIP
        >>> [found.share for found in report.agreement]                     # doctest: +SKIP
    """

    manifest: Manifest
    agreement: list[Agreement | None]
    notes: list[str]


def import_archives(
    archives: Sequence[str | PathLike[str]],
    order: ImageOrder,
    out: str | PathLike[str],
    settings: ImportSettings | None = None,
) -> ImportReport:
    """Turn ml-dr archives into a shard set, or resume an interrupted import.

    Args:
        archives: ``.tar.gz`` or ``.tar`` files, or the directories they unpack to. Several
            archives are merged: each image gets the reinforcements of all of them.
        order: The images in the order in which ml-dr numbers them.
        out: Directory of the set; created if needed.
        settings: Import options.

    Raises:
        ArchiveError: An archive is damaged, unsafe, incomplete, or does not match the others.
        AlignmentError: The archives do not belong to these images in this order.
        ImageReadError: Images cannot be read; the message lists the first ones.
        DatasetMismatchError: The number of classes differs.
        SettingsMismatchError: `out` holds another set.
        LockedError: Another process is writing to `out`.
        OutputError: A file cannot be written.

    Example:
        >>> source = open_source("imagenet/train")                          # doctest: +SKIP
        >>> import_archives(["imagenet_plus_randaug_mini.tar.gz"],          # doctest: +SKIP
        ...                 ImageOrder.of_source(source), "imagenet-plus-mini")
    """
    settings = settings or ImportSettings()
    paths, out = [Path(path) for path in archives], Path(out)
    with locked(out):
        work_dir = open_work_dir(out)
        sets = inspect(paths, order, work_dir / INSPECTION_NAME, progress=settings.progress)
        described = [one.describe(paths[one.archive]) for one in sets]
        run = _Import(paths, sets, described, order, out, work_dir, settings)
        agreement = run.run()
        clear_work_dir(work_dir)
        notes = list(dict.fromkeys(note for one in described for note in one.notes))
        return ImportReport(Manifest.load(out), agreement, notes)


class _Import:
    """One import. The constructor computes the layout; `run` does the work."""

    def __init__(
        self,
        paths: list[Path],
        sets: list[ArchivedSet],
        described: list[SetDescription],
        order: ImageOrder,
        out: Path,
        work_dir: Path,
        settings: ImportSettings,
    ) -> None:
        self._paths, self._sets, self._order, self._settings = paths, sets, order, settings
        first, self._names = described[0], [_name(paths, one) for one in sets]
        _check_equal(described, self._names)
        classes = _count_classes(settings.num_classes or first.num_classes, order, settings)
        samples = sum(one.samples for one in described)
        layout = RecordLayout(
            (*first.policy.fields, *target_fields(first.topk, classes, settings.probs_dtype))
        )
        self._keys = KeyIndex.build(order.keys)
        self._order_digest = order.digest()
        self._rows = self._keys.rows(order.keys)
        self._labels = np.empty(len(order), np.int32)
        self._labels[self._rows] = order.labels
        per_shard = _SHARD_BYTES // (samples * layout.itemsize)
        shard_images = max(1, min(_SHARD_IMAGES, per_shard))
        self._plan = ViewPlan(len(order), samples, shard_images, 1)
        described_set = self._describe(first, classes, samples, shard_images, described)
        self._output = OutputDirectory(out, described_set, layout, self._keys)
        ends = np.cumsum([one.samples for one in described]).tolist()
        self._worker = Worker(
            [paths[one.archive] for one in sets],
            [
                Decoder(one.policy, layout, one.samples, one.topk, classes, len(order))
                for one in described
            ],
            [slice(end - one.samples, end) for end, one in zip(ends, described, strict=True)],
            self._rows.astype(np.uint32) if first.policy.mixings else None,
            PartialShards(work_dir, layout, samples),
            out,
            self._output.set_id,
        )
        self._alignment = Alignment(self._names, settings.min_agreement, order.class_names)
        self._done = np.zeros((len(sets), len(order)), bool)  # by row
        self._finished = np.zeros(self._plan.shards, bool)
        self._missing = np.array([len(self._plan.rows(n)) for n in range(self._plan.shards)])
        self._missing *= len(sets)

    def _describe(
        self,
        first: SetDescription,
        classes: int,
        samples: int,
        shard_images: int,
        described: list[SetDescription],
    ) -> dict[str, Any]:
        names = self._order.class_names
        return {
            "policy": first.policy.to_config(),
            "samples": samples,
            "topk": first.topk,
            "num_classes": classes,
            "class_names": names if names is not None and len(names) == classes else None,
            "probs_dtype": self._settings.probs_dtype,
            "seed": None,
            "teachers": list(first.teachers),
            "weights": None,
            "temperature": 1.0,
            "precision": "float32",
            "device": None,
            "batch_size": None,
            "shard_images": shard_images,
            "images": len(self._order),
            "keys": self._keys.digest(),
            "order": self._order_digest,
            "archive_digests": [one.digest() for one in self._sets],
            "origin": {
                "format": "ml-dr",
                "dataset": first.dataset,
                "mean": list(first.mean),
                "std": list(first.std),
                "archives": [
                    {"name": name, "samples": one.samples}
                    for name, one in zip(self._names, described, strict=True)
                ],
            },
        }

    def run(self) -> list[Agreement | None]:
        """Import what is missing; return the agreement of each set."""
        if self._output.is_finished:
            _logger.info("%s is already complete", self._output.directory)
            return []
        with WorkerPool(self._worker, self._settings.workers) as pool:
            self._measure(pool)
            self._resume(pool)
            with self._bar("importing", self._done.size, int(self._done.sum())) as bar:
                self._finish_full(pool, range(self._plan.shards))
                for number in range(len(self._paths)):
                    self._import(number, pool, bar)
                for result in pool.drain():
                    self._handle(result, pool, bar)
            if not self._finished.all():
                raise ArchiveError("an archive has changed since it was scanned")
            agreement = self._alignment.finish()
        self._output.finish()
        return agreement

    def _bar(self, what: str, total: int, initial: int = 0) -> Any:
        return tqdm(
            desc=what,
            total=total,
            initial=initial,
            unit=" images",
            bar_format=_BAR,
            disable=not self._settings.progress,
        )

    def _measure(self, pool: WorkerPool) -> None:
        """Store the sizes of all images, unless an earlier run did."""
        path, order = self._worker.partial_shards.directory / SIZES_NAME, self._order
        source = {"order": self._order_digest, "looked_at": str(order.files is not None)}
        if _has_metadata(path, source):
            return
        sizes = np.zeros((len(order), 2), np.int32)
        unreadable: list[str] = []
        if order.size is not None:
            sizes[:] = order.size
        files = order.files or ()
        with self._bar("reading image sizes", len(files)) as bar:
            for first in range(0, len(files), _BATCH_HEADERS):
                batch = range(first, min(first + _BATCH_HEADERS, len(files)))
                pool.submit("measure", first, [files[number] for number in batch])
                for result in pool.ready():
                    _collect_sizes(result, sizes, unreadable, bar)
            for result in pool.drain():
                _collect_sizes(result, sizes, unreadable, bar)
        if unreadable:
            shown = "; ".join(unreadable[:_MOST_SHOWN])
            raise ImageReadError(
                f"{len(unreadable)} of {len(files)} images cannot be read: {shown}"
                f"{'; ...' if len(unreadable) > _MOST_SHOWN else ''}. Restore them, then run "
                f"the same command again."
            )
        write_tensors(path, {"sizes": sizes}, source)

    def _resume(self, pool: WorkerPool) -> None:
        """Find out what an interrupted import has finished."""
        for shard in range(self._plan.shards):
            rows = self._plan.rows(shard)
            labels = self._labels[rows.start : rows.stop]
            if self._output.keep(shard, (len(rows), self._plan.samples), rows.start):
                self._finished[shard] = True
                self._missing[shard] = 0
                self._done[:, rows.start : rows.stop] = True
                pool.submit("review", shard, rows.start, labels)
            elif self._worker.partial_shards.path(shard).exists():
                pool.submit("resume", shard, [self._keys.encoded(r) for r in rows], labels)
            for result in pool.ready():
                self._record_progress(result)
        for result in pool.drain():
            self._record_progress(result)
        if self._done.any():
            _logger.info("resuming: %d of %d images are done", self._done.sum(), self._done.size)

    def _record_progress(self, result: Any) -> None:
        if isinstance(result, list):
            self._alignment.add(result)
            return
        shard, done, predictions = result
        rows = self._plan.rows(shard)
        self._done[:, rows.start : rows.stop] = done.T
        self._missing[shard] -= done.sum()
        self._alignment.add(predictions)

    def _import(self, number: int, pool: WorkerPool, bar: Any) -> None:
        """Read one archive until none of its images is missing."""
        number_of = {p.folder: n for n, p in enumerate(self._sets) if p.archive == number}
        wanted = [n for n in number_of.values() if not self._done[n].all()]
        left = sum(int((~self._done[n]).sum()) for n in wanted)
        batch: list[Task] = []
        for member, read in iter_members(self._paths[number]) if left else ():
            set_number = number_of.get(member.folder)
            if set_number is None or member.index is None or member.index >= len(self._order):
                continue
            row = int(self._rows[member.index])
            if self._done[set_number, row]:
                continue
            batch.append(self._task(number, set_number, member, row, read))
            left -= 1
            if _is_full(batch) or not left:
                pool.submit("store", batch)
                batch = []
                for result in pool.ready():
                    self._handle(result, pool, bar)
            if not left:
                break

    def _task(
        self, number: int, set_number: int, member: Member, row: int, read: Callable[[], bytes]
    ) -> Task:
        assert member.index is not None
        try:
            data = self._sets[set_number].check(member.index, read())
        except ArchiveError as error:
            raise named(error, self._paths[number], member.name) from error
        shard, position = divmod(row, self._plan.shard_images)
        key, label = self._keys.encoded(row), int(self._labels[row])
        return Task(set_number, member.name, member.index, shard, position, key, label, data)

    def _handle(self, result: Any, pool: WorkerPool, bar: Any) -> None:
        if isinstance(result, tuple):
            shard, entry = result
            assert isinstance(entry, FileEntry)
            self._output.register(shard, entry)
            return
        predictions: list[Prediction] = result
        for prediction in predictions:
            self._missing[prediction.shard] -= 1
        bar.update(len(predictions))
        self._alignment.add(predictions)
        self._finish_full(pool, {prediction.shard for prediction in predictions})

    def _finish_full(self, pool: WorkerPool, shards: Any) -> None:
        for shard in shards:
            if self._missing[shard] == 0 and not self._finished[shard]:
                self._finished[shard] = True
                rows = self._plan.rows(shard)
                pool.submit("finish", shard, rows.start, self._labels[rows.start : rows.stop])


def _has_metadata(path: Path, metadata: dict[str, str]) -> bool:
    try:
        return path.exists() and map_tensors(path)[1] == metadata
    except FormatError:
        return False


def _collect_sizes(result: Measured, sizes: np.ndarray, unreadable: list[str], bar: Any) -> None:
    sizes[result.first : result.first + len(result.sizes)] = result.sizes
    unreadable += result.unreadable
    bar.update(len(result.sizes))


def _is_full(batch: list[Task]) -> bool:
    return len(batch) >= _BATCH_MEMBERS or sum(len(task.data) for task in batch) >= _BATCH_BYTES


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
