"""Engines: where jobs are run. One driver feeds them, hears what happens, and alone writes the ledger."""

from collections.abc import Iterator
from typing import Protocol

from ..training import Event, Job

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Memory that a step frees is kept for the next one. glibc would give it back to the system, which hands it out
    # again filled with zeros: on two cores a trial-step of a stack takes 5 to 20 % less without that.
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
"""Variables that the processes have in which jobs are run."""


class Engine(Protocol):
    """Runs jobs, each in a slot of its own. A job is over with the last of its trials, or when it crashes."""

    device: str
    """``cpu`` or ``cuda``: where jobs run."""

    @property
    def slots(self) -> int:
        """Jobs that can run at a time, as far as is known."""

    def has_room(self) -> bool:
        """Whether a job would be started now."""

    def start(self, job: Job) -> None:
        """Start a job, in a free slot."""

    def listen(self, timeout: float) -> Iterator[tuple[Job, Event]]:
        """Every event that is ready, after at most ``timeout`` seconds of waiting for the first."""

    def release(self, job: Job) -> None:
        """All of a job's trials are over: its slot is free."""

    def stop(self) -> None:
        """End all that runs, at once: what it has written is whole."""
