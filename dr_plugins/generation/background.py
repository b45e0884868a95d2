"""A background thread that makes calls in order, with a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any


class Background:
    """Makes calls sequentially in a thread and raises their errors in the caller.

    After an error it makes no further calls. On exit the context manager waits for all calls, even
    if the caller failed; the caller's own error then takes precedence.

    Args:
        depth: Maximum number of unfinished calls; 0 waits for each.

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
        """Schedule a call; waits while too many are unfinished.

        Raises:
            Exception: The error of this call or of an earlier one.
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
