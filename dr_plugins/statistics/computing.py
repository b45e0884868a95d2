"""Computing the statistics of a shard set, one shard at a time, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm.auto import tqdm

from dr_plugins.errors import FormatError, WorkerError
from dr_plugins.shards.reader import ShardSet
from dr_plugins.statistics.answers import ViewAnswers, block_size, read_answers
from dr_plugins.statistics.image_statistics import TOP, Confusion, ImageStatistics


def compute_statistics(
    shards: ShardSet, workers: int = 0, *, progress: bool = False
) -> ImageStatistics:
    """Compute the statistics of all images, in memory that does not grow with shards or views.

    Each shard is compared with its checksum.

    Args:
        shards: The set; a remote one is fetched whole.
        workers: Processes; 0 uses this one.
        progress: Show a progress bar.

    Raises:
        FormatError: A shard is missing or damaged, or the set was replaced since it was opened.
        WorkerError: A process died.

    Example:
        >>> compute_statistics(ShardSet("imagenet-plus"), workers=8)        # doctest: +SKIP
    """
    shards.check_in_place()
    with tqdm(total=len(shards), desc="statistics", unit=" images", disable=not progress) as bar:
        parts = []
        for part in _parts(shards, workers):
            parts.append(part)
            bar.update(len(part))
    return ImageStatistics.joined(parts)


def statistics_of(shards: ShardSet, rows: Sequence[int]) -> ImageStatistics:
    """Compute the statistics of some images; raises the errors of `average_answers`."""
    labels = np.array([shards.image(row).label for row in rows], np.int32)
    blocks, done = [], 0
    for records in read_answers(shards, np.array(rows, np.int64)):
        some = labels[done : done + len(records)]
        blocks.append(_of_block(records, some, shards.manifest.num_classes))
        done += len(records)
    return ImageStatistics.joined(blocks)


def _parts(shards: ShardSet, workers: int) -> Iterator[ImageStatistics]:
    numbers = range(len(shards.manifest.shards))
    if not workers:
        yield from (_of_shard(shards, number) for number in numbers)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (shards,)) as pool:
        try:
            yield from pool.map(_work, numbers)
        except BrokenProcessPool as error:
            raise WorkerError(
                f"a process that reads {shards.location} died. It may have run out of memory: try "
                f"fewer workers (--workers)."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _of_shard(shards: ShardSet, number: int) -> ImageStatistics:
    entry = shards.manifest.shards[number]
    file = shards.location / entry.file
    shard = shards.shard(number)
    if file.local(entry.sha256).digest() != entry.sha256:
        raise FormatError(
            f"{file} is damaged: its checksum differs from the manifest's. Copy it again."
        )
    step, classes = block_size(shards), shards.manifest.num_classes
    blocks = []
    for start in range(0, len(shard.records), step):
        place = np.s_[start : start + step]
        try:
            blocks.append(_of_block(shard.records[place], shard.labels[place], classes))
        except FormatError as error:
            raise FormatError(f"{file}: {error}") from error
    shards.close_shards()
    return ImageStatistics.joined(blocks)


def _of_block(records: np.ndarray, labels: np.ndarray, num_classes: int) -> ImageStatistics:
    if len(labels) and int(labels.max()) >= num_classes:
        raise FormatError(
            f"an image has label {labels.max()} of {num_classes} classes: the set was made by a "
            f"faulty writer"
        )
    answers = ViewAnswers(records, num_classes)
    averages = answers.averages()
    is_known = labels >= 0
    agreement = answers.mean(answers.top == labels[:, None])
    spread = averages.entropy - answers.mean(answers.entropies())
    known_views = answers.counted & is_known[:, None]
    of_views = np.broadcast_to(labels[:, None], known_views.shape)[known_views]
    padding = ((0, 0), (0, max(0, TOP - averages.probs.shape[1])))
    single = np.float32
    return ImageStatistics(
        label=labels.astype(np.int32),
        confidence=answers.mean(answers.confidence).astype(single),
        entropy=averages.entropy.clip(0).astype(single),
        # KL(answer || average), averaged, is the average's entropy less that of the answers.
        spread=spread.clip(0).astype(single),
        agreement=np.where(is_known, agreement, np.nan).astype(single),
        label_prob=averages.of(labels).astype(single),
        mixed=answers.mixed,
        top_classes=np.pad(averages.classes, padding, constant_values=-1)[:, :TOP],
        top_probs=np.pad(averages.probs, padding)[:, :TOP].astype(single),
        confusion=Confusion.of(of_views, answers.top[known_views]),
    )


_shards: ShardSet | None = None  # of a worker process


def _start(shards: ShardSet) -> None:
    global _shards
    _shards = shards


def _work(number: int) -> ImageStatistics:
    assert _shards is not None
    return _of_shard(_shards, number)
