"""Worker processes with a bounded queue, which end when their parent does."""

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

__all__ = ["WorkerPool"]

_QUEUED_PER_PROCESS = 3
_worker: Any = None


class WorkerPool:
    """Calls methods of one object, in other processes if there are any.

    Args:
        worker: The object; sent to every process once.
        processes: Number of processes; with 0 everything happens in this one.

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
            # A server that has imported this package forks the workers: they share its memory.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["dr_plugins.mldr.worker"])
            with _on_interrupt(signal.SIG_IGN):  # which its processes inherit
                forkserver.ensure_running()
            self._executor = ProcessPoolExecutor(
                self._processes, context, initializer=_start, initargs=(self._worker,)
            )
        return self

    def __exit__(self, *error: Any) -> None:
        if self._executor is not None:
            with _on_interrupt(signal.SIG_IGN):  # it does not take long
                self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, method: str, *arguments: Any) -> None:
        """Have a method called; its result comes out of `ready` or `drain`."""
        if self._executor is None:
            self._results.append(getattr(self._worker, method)(*arguments))
            return
        interrupts: list[Any] = []
        try:
            # A process that is only half started could neither be used nor ended.
            with _on_interrupt(lambda *signal_and_frame: interrupts.append(signal_and_frame)):
                self._pending.add(self._executor.submit(_call, method, arguments))
        except BrokenProcessPool as error:
            raise _lost() from error
        if interrupts:
            raise KeyboardInterrupt

    def ready(self) -> Iterator[Any]:
        """Yield results that are there; wait for one if the queue is full."""
        yield from self._take()
        full = len(self._pending) >= _QUEUED_PER_PROCESS * max(self._processes, 1)
        if self._pending:
            done, self._pending = wait(
                self._pending, timeout=None if full else 0, return_when=FIRST_COMPLETED
            )
            yield from map(_result, done)

    def drain(self) -> Iterator[Any]:
        """Yield all results, including those of what is submitted meanwhile."""
        while self._pending or self._results:
            yield from self._take()
            done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
            yield from map(_result, done)

    def _take(self) -> list[Any]:
        results, self._results = self._results, []
        return results


@contextmanager
def _on_interrupt(handler: Any) -> Iterator[None]:
    """Answer Ctrl-C in another way for a while."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python tells only the main thread
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(worker: Any) -> None:
    global _worker
    _worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server may have been running before
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
        raise _lost() from error


def _lost() -> ReinforcementError:
    return ReinforcementError(
        "a worker process was killed, perhaps for want of memory. Give the same command again, "
        "with fewer --workers; what is done is kept."
    )
