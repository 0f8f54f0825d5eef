"""Alarm: calls a method after a while, from a thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Alarm:
    """Calls `call` once, `seconds` after it was set.

    Args:
        seconds: how long it waits.
        call: a method. Its object is not kept alive, and the process is not either.
    """

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = min(seconds, threading.TIMEOUT_MAX)
        self._call = weakref.WeakMethod(call)
        self._timer: threading.Timer | None = None

    def set(self) -> None:
        """Begin to wait, unless it waits already."""
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._fire)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        call = self._call()
        if call is not None:
            call()
