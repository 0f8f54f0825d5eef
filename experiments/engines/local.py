"""The local engine: worker processes on this machine, each in a slot with a device of its own or a share of one."""

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

from ..training import Crashed, Event, Job
from .engine import ENVIRONMENT


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalEngine:
    """Runs jobs in worker processes, at most one a slot; a worker takes one job after another.

    Args:
        folder: the sweep's folder.
        devices: the device of each slot, such as ``["cpu", "cpu"]`` or ``["cuda:0", "cuda:0", "cuda:1"]``.
        function: ``module:name`` of what runs a job, with the signature of `job.run`.
        storage: where histories and checkpoints go; None for the sweep's folder.
    """

    def __init__(self, folder: Path, devices: Sequence[str], function: str, storage: str | None = None) -> None:
        self.device = devices[0].partition(":")[0]
        self._folder, self._function, self._storage = folder.absolute(), function, storage
        self._workers: list[Worker | None] = [None] * len(devices)
        self._devices = list(devices)

    @property
    def slots(self) -> int:
        """How many jobs can run at a time."""
        return len(self._devices)

    def has_room(self) -> bool:
        """Whether a slot is empty or its worker idle."""
        return any(worker is None or worker.job is None for worker in self._workers)

    def start(self, job: Job) -> None:
        """Give the job to an idle worker, or to a new one in an empty slot."""
        slot = next(i for i, worker in enumerate(self._workers) if worker is None or worker.job is None)
        worker = self._workers[slot] or Worker(self._function)
        self._workers[slot] = worker
        worker.run(job, self._folder, self._devices[slot], self._storage)

    def listen(self, timeout: float) -> Iterator[tuple[Job, Event]]:
        """Every event that is ready. For a worker that has died it is a `Crashed`, with what is known of the cause."""
        by_connection = {worker.connection: worker for worker in self._workers if worker is not None}
        for ready in wait(list(by_connection), timeout):
            worker = by_connection[ready]  # type: ignore[index]
            job, event = worker.job, worker.receive()
            if isinstance(event, Crashed):
                # Also a worker that is alive: a crash leaves CUDA in a state in which its next job would fail.
                worker.stop()
                self._workers[self._workers.index(worker)] = None
            if job is not None:  # an idle worker that dies is nobody's loss
                yield job, event

    def release(self, job: Job) -> None:
        """Mark the worker of this job as idle."""
        for worker in self._workers:
            if worker is not None and worker.job is job:
                worker.job = None

    def stop(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker is not None:
                worker.stop()
        self._workers = [None] * len(self._devices)


class Worker:
    """One worker process, and the job it is busy with (None when idle)."""

    def __init__(self, function: str) -> None:
        self.job: Job | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop, with the process)
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the folder the user stands in must not shadow an installed package
                [sys.executable, "-P", "-m", "fastrank.experiments.engines.worker", str(theirs.fileno()), function],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in the terminal is for the driver, which ends its workers
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, job: Job, folder: Path, device: str, storage: str | None) -> None:
        """Give it a job."""
        self.job = job
        with suppress(OSError):  # it has died: `receive` is about to find out, and says why
            self.connection.send((job, str(folder), device, storage))

    def receive(self) -> Event:
        """Its next event; a Crashed with what is known of the cause if it has died."""
        try:
            event: Event = self.connection.recv()
            return event
        except (EOFError, OSError):
            return self._cause_of_death()

    def stop(self) -> None:
        """End it, at once: what it has written is whole."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._output.close()

    def _cause_of_death(self) -> Crashed:
        code = self._process.wait()
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")[-4000:].strip()
        text = (f"{output}\n" if output else "") + f"the worker process (pid {self.pid}) {cause}"
        return Crashed(text, killed=code in (-signal.SIGKILL, -signal.SIGTERM))
