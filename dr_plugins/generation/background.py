"""Work that is done in order behind the caller's back, but not far behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

__all__ = ["Background"]


class Background:
    """Makes calls one after the other in a thread; the caller learns of their errors.

    After an error nothing more is called. At its end the context manager waits for all calls, also
    where the caller failed, whose own error then is the one that is raised.

    Args:
        depth: How many calls may be unfinished; 0 waits for each.

    Example:
        >>> done = []
        >>> with Background(depth=2) as background:
        ...     for i in range(4):
        ...         background.call(done.append, i)
        >>> done
        [0, 1, 2, 3]
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._failed = False
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1)

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Have a function called, waiting while too many calls are unfinished.

        Raises:
            Exception: That of this or of an earlier call.
        """
        self._pending.append(self._thread.submit(self._run, function, *args))
        self._wait(self._depth)

    def _wait(self, unfinished: int) -> None:
        while len(self._pending) > unfinished:
            self._pending.popleft().result()

    def _run(self, function: Callable[..., None], *args: Any) -> None:
        if self._failed:
            return
        try:
            function(*args)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._wait(0)
            else:
                wait(self._pending)
        finally:
            self._thread.shutdown()
