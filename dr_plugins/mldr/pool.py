"""Worker processes with a bounded queue that exit with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

from dr_plugins.errors import ReinforcementError

_QUEUED_PER_PROCESS = 3
_worker: Any = None


class WorkerPool:
    """Calls methods of one object in worker processes.

    Args:
        worker: The object; sent to each process once.
        processes: Number of processes; 0 calls the methods in this process.

    Example:
        >>> with WorkerPool([3, 1, 2], 0) as pool:
        ...     pool.submit("index", 2)
        ...     list(pool.drain())
        [2]
    """

    def __init__(self, worker: Any, processes: int) -> None:
        self._worker, self._processes = worker, processes
        self._pending: set[Future[Any]] = set()
        self._results: list[Any] = []
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        if self._processes:
            # Workers fork from a server that has imported this package, and share its memory.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["dr_plugins.mldr.worker"])
            with _on_interrupt(signal.SIG_IGN):  # inherited by its processes
                forkserver.ensure_running()
            self._executor = ProcessPoolExecutor(
                self._processes, context, initializer=_start, initargs=(self._worker,)
            )
        return self

    def __exit__(self, *error: Any) -> None:
        if self._executor is not None:
            with _on_interrupt(signal.SIG_IGN):  # takes little time
                self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, method: str, *arguments: Any) -> None:
        """Queue a method call; `ready` or `drain` yields its result."""
        if self._executor is None:
            self._results.append(getattr(self._worker, method)(*arguments))
            return
        interrupts: list[Any] = []
        try:
            # An interrupted start would leave a process that cannot be used or stopped.
            with _on_interrupt(lambda *signal_and_frame: interrupts.append(signal_and_frame)):
                self._pending.add(self._executor.submit(_call, method, arguments))
        except BrokenProcessPool as error:
            raise _killed() from error
        if interrupts:
            raise KeyboardInterrupt

    def ready(self) -> Iterator[Any]:
        """Yield available results; wait for one if the queue is full."""
        yield from self._take()
        full = len(self._pending) >= _QUEUED_PER_PROCESS * max(self._processes, 1)
        if self._pending:
            done, self._pending = wait(
                self._pending, timeout=None if full else 0, return_when=FIRST_COMPLETED
            )
            yield from map(_result, done)

    def drain(self) -> Iterator[Any]:
        """Yield all results, including those of calls submitted during the iteration."""
        while self._pending or self._results:
            yield from self._take()
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            yield from map(_result, done)

    def _take(self) -> list[Any]:
        results, self._results = self._results, []
        return results


@contextmanager
def _on_interrupt(handler: Any) -> Iterator[None]:
    """Replace the handler of Ctrl-C temporarily."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(worker: Any) -> None:
    global _worker
    _worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server may have started earlier
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    call: Callable[..., Any] = getattr(_worker, method)
    return call(*arguments)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _killed() from error


def _killed() -> ReinforcementError:
    return ReinforcementError(
        "a worker process was killed, perhaps because memory ran out. Run the same command again "
        "with fewer --workers; finished work is kept."
    )
