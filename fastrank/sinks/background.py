"""Calls to what may be slow or fail, such as a tracker's server: made one after the other, in a thread of their own."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds without any progress that `close` waits
SAY_AFTER = 3.0  # seconds of waiting after which it is said what is waited for
MOST = 100_000  # calls that may wait; a few hundred bytes each


class Background:
    """A thread that makes calls in their order. After the first error it makes no further call.

    Args:
        title: what people call the other side, such as "MLflow".
        finish: called last, at `close`, unless there was an error.
        say: shows the user a line. It is called only by `call` and `close`, in the thread of who calls these.
        consolation: a sentence that ends what is said of an error: what is not lost by it.

    A process that ends closes what is still open.
    """

    def __init__(self, title: str, finish: Callable[[], None], say: Callable[[str], None], consolation: str) -> None:
        self._title, self._finish, self._say, self._consolation = title, finish, say, consolation
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._done = 0  # how many calls have been made
        self._error: str | None = None  # that has not been said yet
        self._over = False  # after an error, or after `close`
        self.busy = False
        """Set while a call works long at what is not the other side's fault: `close` then waits as long as it takes."""
        # A daemon: what hangs is given up at the end, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have `function(*arguments)` called after what was put here before. Returns at once."""
        if not self._over and self._calls.qsize() >= MOST:
            self._fail("it does not keep up")
        self._tell()
        if not self._over:
            self._calls.put((function, arguments))

    def leave(self) -> None:
        """Have the thread end when all calls are made and `finish` too. Only the end of the process waits for it."""
        self._calls.put(None)

    def close(self) -> None:
        """Wait until all calls are made and `finish` too, or for `PATIENCE` seconds without any progress."""
        atexit.unregister(self.close)
        self._calls.put(None)
        done, since, said = self._done, time.monotonic(), False
        while self._thread.is_alive():
            self._thread.join(0.2)
            waited = time.monotonic() - since
            if self._done != done or self.busy:
                done, since = self._done, time.monotonic()
            elif waited > PATIENCE:
                self._over = True
                self._say(f"{self._title} does not answer and is given up. {self._consolation}")
                return
            elif waited > SAY_AFTER and not said:
                self._say(f"Waiting for {self._title}")
                said = True
        self._tell()
        self._over = True

    def _run(self) -> None:
        try:
            while (item := self._calls.get()) is not None and not self._over:
                function, arguments = item
                function(*arguments)
                self._done += 1
            if not self._over:
                self._finish()
        except Exception as error:
            self._fail(reason(error))

    def _fail(self, why: str) -> None:
        if not self._over:
            self._error = f"{self._title} is left out from now on: {why}. {self._consolation}"
            self._over = True

    def _tell(self) -> None:
        if self._error is not None:
            said, self._error = self._error, None
            self._say(said)


def reason(error: BaseException) -> str:
    """An error in one line, without a full stop at its end."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
