"""DataLoader workers that die, or cannot hand over batches, mostly as ``/dev/shm`` is too small."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any, NoReturn

from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

from dr_plugins.errors import WorkerError

__all__ = [
    "alive",
    "check_room",
    "naming_shared_memory",
    "noticing_dead_workers",
    "report_lost_batches",
]

_SHARED_MEMORY = "/dev/shm"
_MEBIBYTE = 1 << 20


class _LostBatch(ExceptionWrapper):
    """Takes the place of a batch; `DataLoader` raises what it wraps."""

    def __init__(self, message: str) -> None:
        self.message = message

    def reraise(self) -> NoReturn:
        raise WorkerError(self.message)


def report_lost_batches() -> None:
    """In a worker, make batches that cannot be handed over errors of the training process.

    A worker pickles its batches in a thread. Where that fails, Python prints the error and drops
    the batch, and DataLoader waits for it for ever. Call this before the first batch is made; it
    does nothing outside of workers.
    """
    if get_worker_info() is not None:
        Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Queue[Any], error: Exception, item: tuple[Any, Any]) -> None:
    queue.put((item[0], _LostBatch(_explained(error))))


@contextmanager
def naming_shared_memory() -> Iterator[None]:
    """Say what to do where PyTorch finds no room for a batch that a worker collates.

    Raises:
        WorkerError: Instead of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise WorkerError(_explained(error)) from error


def check_room(workers: int, batches: int, batch_bytes: int) -> None:
    """Refuse to start workers whose batches will not fit into shared memory.

    Args:
        workers: Number of processes.
        batches: Number of batches in all.
        batch_bytes: Bytes of one.

    Raises:
        WorkerError: There is too little room.
    """
    free = _free_bytes()
    # Each has two ready or in the making, and the main process holds one.
    waiting = min(2 * workers + 1, batches) if workers else 0
    if free is not None and waiting * batch_bytes > free:
        raise WorkerError(
            f"{workers} workers keep up to {waiting} batches of {batch_bytes / _MEBIBYTE:.0f} MiB "
            f"in {_SHARED_MEMORY}, where {free / _MEBIBYTE:.0f} MiB are free. {_advice()}"
        )


def alive(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a loader.

    Raises:
        WorkerError: A worker died.
    """
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:
            raise _worker_error(error) from error
        yield batch


@contextmanager
def noticing_dead_workers() -> Iterator[None]:
    """Turn the error of a dead worker into ours, wherever a signal makes PyTorch raise it."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_error(error) from error


def _worker_error(error: Exception) -> WorkerError:
    return WorkerError(
        f"a worker process died ({error}). Perhaps memory ran out: try fewer workers. "
        f"Finished shards are kept; the same command goes on after them."
    )


def _explained(error: Exception) -> str:
    message = f"a worker could not hand over a batch: {error}."
    if "open files" in str(error):
        return f"{message} Raise the limit (ulimit -n), or use fewer workers."
    free = _free_bytes()
    if "shared memory" not in str(error) or free is None:
        return message
    return f"{message} {_SHARED_MEMORY} has {free / _MEBIBYTE:.0f} MiB left. {_advice()}"


def _advice() -> str:
    return (
        f"Enlarge {_SHARED_MEMORY} (docker run --shm-size=8g, or --ipc=host), use smaller batches "
        f"or fewer workers, or none (--workers 0; num_workers=0)."
    )


def _free_bytes() -> int | None:
    """Bytes that shared memory has left; None on systems that keep it elsewhere."""
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
