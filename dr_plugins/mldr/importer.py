"""Import ml-dr's archives: turn a stream of members in any order into a shard set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import FormatError, ImageReadError
from dr_plugins.mldr.alignment import Agreement, Alignment
from dr_plugins.mldr.archive import Member, iter_members
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.mldr.inspection import inspect, named
from dr_plugins.mldr.order import ImageOrder
from dr_plugins.mldr.partial_shards import (
    INSPECTION_NAME,
    SIZES_NAME,
    clear_work_dir,
    open_work_dir,
)
from dr_plugins.mldr.planning import ImportPlan, ImportSettings
from dr_plugins.mldr.pool import WorkerPool
from dr_plugins.mldr.worker import Measured, Prediction, Task
from dr_plugins.shards.claims import locked
from dr_plugins.shards.container import map_tensors, write_tensors
from dr_plugins.shards.manifest import FileEntry, Manifest
from dr_plugins.shards.output import OutputDirectory

_BATCH_MEMBERS, _BATCH_BYTES = 16, 1 << 20
_BATCH_HEADERS = 256
_MOST_SHOWN = 10  # unreadable images listed in a message
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_logger = logging.getLogger(__name__)


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
        plan = ImportPlan.of(paths, sets, order, settings)
        agreement = _Import(plan, out, work_dir, settings).run()
        clear_work_dir(work_dir)
        notes = list(dict.fromkeys(note for one in plan.described for note in one.notes))
        return ImportReport(Manifest.load(out), agreement, notes)


class _Import:
    """The execution of a plan."""

    def __init__(
        self, plan: ImportPlan, out: Path, work_dir: Path, settings: ImportSettings
    ) -> None:
        self._plan, self._settings = plan, settings
        self._output = OutputDirectory(out, plan.manifest_settings(), plan.layout, plan.keys)
        self._worker = plan.worker(out, work_dir, self._output.set_id)
        self._alignment = Alignment(plan.names, settings.min_agreement, plan.order.class_names)
        shards = range(plan.views.shards)
        self._done = np.zeros((len(plan.sets), len(plan.order)), bool)  # by row
        self._finished = np.zeros(len(shards), bool)
        self._missing = np.array([len(plan.views.rows(n)) for n in shards]) * len(plan.sets)

    def run(self) -> list[Agreement | None]:
        """Import what is missing; return the agreement of each set."""
        if self._output.is_finished:
            _logger.info("%s is already complete", self._output.directory)
            return []
        with WorkerPool(self._worker, self._settings.workers) as pool:
            self._measure(pool)
            self._resume(pool)
            with self._bar("importing", self._done.size, int(self._done.sum())) as bar:
                self._finish_full(pool, range(self._plan.views.shards))
                for number in range(len(self._plan.paths)):
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
        path, order = self._worker.partial_shards.directory / SIZES_NAME, self._plan.order
        source = {"order": self._plan.order_digest, "files_read": str(order.files is not None)}
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
        for shard in range(self._plan.views.shards):
            rows = self._plan.views.rows(shard)
            labels = self._plan.labels[rows.start : rows.stop]
            if self._output.keep(shard, (len(rows), self._plan.views.samples), rows.start):
                self._finished[shard] = True
                self._missing[shard] = 0
                self._done[:, rows.start : rows.stop] = True
                pool.submit("review", shard, rows.start, labels)
            elif self._worker.partial_shards.path(shard).exists():
                pool.submit("resume", shard, [self._plan.keys.encoded(r) for r in rows], labels)
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
        rows = self._plan.views.rows(shard)
        self._done[:, rows.start : rows.stop] = done.T
        self._missing[shard] -= done.sum()
        self._alignment.add(predictions)

    def _import(self, number: int, pool: WorkerPool, bar: Any) -> None:
        """Read one archive until none of its images is missing."""
        number_of = {p.folder: n for n, p in enumerate(self._plan.sets) if p.archive == number}
        wanted = [n for n in number_of.values() if not self._done[n].all()]
        left = sum(int((~self._done[n]).sum()) for n in wanted)
        batch: list[Task] = []
        for member, read in iter_members(self._plan.paths[number]) if left else ():
            set_number = number_of.get(member.folder)
            if set_number is None or member.index is None or member.index >= len(self._plan.order):
                continue
            row = int(self._plan.rows[member.index])
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
            data = self._plan.sets[set_number].check(member.index, read())
        except ArchiveError as error:
            raise named(error, self._plan.paths[number], member.name) from error
        shard, position = divmod(row, self._plan.views.shard_images)
        key, label = self._plan.keys.encoded(row), int(self._plan.labels[row])
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
                rows = self._plan.views.rows(shard)
                pool.submit("finish", shard, rows.start, self._plan.labels[rows.start : rows.stop])


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
