"""DataLoader workers that die or lose batches, mostly because ``/dev/shm`` is too small."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any, NoReturn

from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info

from dr_plugins.errors import WorkerError

_SHARED_MEMORY = "/dev/shm"
_MEBIBYTE = 1 << 20


class _LostBatch(ExceptionWrapper):
    """Replaces a batch; `DataLoader` raises the wrapped error."""

    def __init__(self, message: str) -> None:
        self.message = message

    def reraise(self) -> NoReturn:
        raise WorkerError(self.message)


def report_lost_batches() -> None:
    """In a worker, report a batch that cannot be pickled as an error in the main process.

    A worker pickles its batches in a thread. If that fails, Python prints the error and drops the
    batch, and DataLoader waits for it forever. Call this before making the first batch; it does
    nothing outside workers.
    """
    if get_worker_info() is not None:
        Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Queue[Any], error: Exception, item: tuple[Any, Any]) -> None:
    queue.put((item[0], _LostBatch(_explained(error))))


@contextmanager
def naming_shared_memory() -> Iterator[None]:
    """Replace PyTorch's error when a worker has no shared memory left for a batch.

    Raises:
        WorkerError: Instead of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise WorkerError(_explained(error)) from error


def leave_sigterm_to_parent(worker: int) -> None:
    """In a worker, ignore SIGTERM: for ``worker_init_fn``.

    torchrun and schedulers signal all processes, but whether there is time to finish a shard, with
    these workers, is for the main process to decide. They end when it does.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check_room(workers: int, batches: int, batch_bytes: int) -> None:
    """Check that the workers' batches fit into shared memory.

    Args:
        workers: Number of processes.
        batches: Total number of batches.
        batch_bytes: Bytes of one batch.

    Raises:
        WorkerError: They do not fit.
    """
    free = _free_bytes()
    # Each worker prefetches two, and the main process holds one.
    waiting = min(2 * workers + 1, batches) if workers else 0
    if free is not None and waiting * batch_bytes > free:
        raise WorkerError(
            f"{workers} workers keep up to {waiting} batches of {batch_bytes / _MEBIBYTE:.0f} MiB "
            f"in {_SHARED_MEMORY}, which has {free / _MEBIBYTE:.0f} MiB free. {_advice()}"
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
    """Convert PyTorch's error about a dead worker, which a signal can raise anywhere."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_error(error) from error


def _worker_error(error: Exception) -> WorkerError:
    return WorkerError(
        f"a worker process died ({error}). It may have run out of memory: try fewer workers. "
        f"What is finished is kept; run the same command again to resume."
    )


def _explained(error: Exception) -> str:
    message = f"a worker could not send a batch: {error}."
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
    """Free bytes of shared memory; None on systems without ``/dev/shm``."""
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
