"""The driver's side of the workers: start, feed, listen, bury."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fastrank.experiments.events import Crashed, EpochEnd, Finished, Warned

Event = EpochEnd | Warned | Finished | Crashed


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """One worker process, and the trial it is busy with (None when idle)."""

    def __init__(self, function: str) -> None:
        self.trial: str | None = None
        self.dead = False  # known to be: all that it had said has been received
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop, with the process)
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the folder the user stands in must not shadow an installed package
                [sys.executable, "-P", "-m", "fastrank.experiments.worker", str(theirs.fileno()), function],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C in the terminal is for the driver, which ends its workers
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, trial: str, spec: dict[str, Any], folder: Path) -> None:
        """Give it a trial."""
        self.trial = trial
        with suppress(OSError):  # it has died: `receive` is about to find out, and says why
            self.connection.send((spec, str(folder.absolute())))

    def receive(self) -> Event:
        """Its next event; a Crashed with what is known of the cause if it has died."""
        try:
            event: Event = self.connection.recv()
            return event
        except (EOFError, OSError):
            self.dead = True
            return Crashed(self._cause_of_death())

    def stop(self) -> None:
        """End it, at once: what it has written is whole."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._output.close()

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")[-4000:].strip()
        return (f"{output}\n" if output else "") + f"the worker process (pid {self.pid}) {cause}"


def listen(workers: Sequence[Worker], timeout: float) -> Iterator[tuple[Worker, Event]]:
    """Every event that is ready, after at most ``timeout`` seconds of waiting for the first."""
    by_connection = {worker.connection: worker for worker in workers}
    for ready in wait(list(by_connection), timeout):
        worker = by_connection[ready]  # type: ignore[index]
        yield worker, worker.receive()
