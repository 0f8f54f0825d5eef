"""What the driver asks of an engine: to start jobs, to tell what happens to them, and to end them."""

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
"""Environment variables of the processes in which jobs run."""


class Engine(Protocol):
    """Runs jobs, each in a slot of its own. A job is over with the last of its trials, or when it crashes."""

    device: str
    """``cpu`` or ``cuda``: where jobs run."""

    @property
    def slots(self) -> int:
        """How many jobs can run at a time, as far as is known."""

    def has_room(self) -> bool:
        """Whether there is a free slot, so that a job would start at once."""

    def start(self, job: Job) -> None:
        """Start a job, in a free slot."""

    def listen(self, timeout: float) -> Iterator[tuple[Job, Event]]:
        """Every event that is ready, after at most ``timeout`` seconds of waiting for the first."""

    def release(self, job: Job) -> None:
        """Free the slot of a job, all of whose trials are over."""

    def stop(self) -> None:
        """End all running jobs at once. The files that they have written are whole all the same."""
