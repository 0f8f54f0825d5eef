"""A short run of a job, which tells what the whole of it will take: seconds and bytes."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .events import Event, JobCost
from .job import Job, reproducible, trainee

WARM_UP = 5  # steps: kernels are compiled, a graph is captured, bases are found
LEAST = 5  # steps that are timed together
SECONDS = 1.0  # that steps are timed for, at least
MOST = 200  # steps


def run(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Train a job's trials for a second, or from one measurement to the next; yields `JobCost`.

    What it leaves in ``folder`` is of no use.
    """
    with reproducible(device):  # as trials are run
        yield _measure(job, folder, torch.device(device))


def _measure(job: Job, folder: Path, device: torch.device) -> JobCost:
    subject = trainee(job, folder, device)

    def seconds(call: Callable[[], None]) -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds(lambda: subject.practise(WARM_UP))
    every: int = next(iter(job.specs.values()))["tracking"].get("every", 1)
    # As many of them as in training have their ranks measured; where that is one in hundreds, it may be none.
    together = every * -(-LEAST // every) if every <= MOST else MOST
    spent, steps = 0.0, 0
    while spent < SECONDS and steps < MOST:
        spent += seconds(lambda: subject.practise(together))
        steps += together
    evaluation, spectrum = (min(seconds(call) for _ in range(2)) for call in (subject.evaluate, subject.take_spectrum))
    subject.close()
    return JobCost(spent / steps, evaluation, spectrum, _memory(device))


def _memory(device: torch.device) -> int:
    """The most that was held at a time, in bytes: of the device's memory, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
