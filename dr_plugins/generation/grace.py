"""Time to finish a shard after SIGTERM, with which schedulers announce that they will kill."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_logger = logging.getLogger(__name__)


class Grace:
    """Delays SIGTERM until the shard at hand is stored, or for some seconds.

    Args:
        seconds: How long; 0 delays nothing.
    """

    def __init__(self, seconds: float = 0) -> None:
        self._seconds = seconds
        self._deadline: float | None = None
        self._before: Any = None
        self._process = os.getpid()

    @contextlib.contextmanager
    def delaying(self) -> Iterator[None]:
        """Delay SIGTERM within this context; outside the main thread this does nothing."""
        if not self._seconds or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, self._before)
        self.check(new_shard=True)

    def check(self, *, new_shard: bool) -> None:
        """End the work, as SIGTERM would have, if it has arrived and it is time.

        Args:
            new_shard: Whether the next batch begins a shard.
        """
        if self._deadline is None or not (new_shard or time.monotonic() > self._deadline):
            return
        self._deadline = None
        signal.signal(signal.SIGTERM, self._before)
        signal.raise_signal(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Forked workers inherit this handler; schedulers signal them as well.
        if self._deadline is None and os.getpid() == self._process:
            self._deadline = time.monotonic() + self._seconds
            _logger.warning(
                "SIGTERM: ending when the shard at hand is stored, in %g s at the latest",
                self._seconds,
            )
