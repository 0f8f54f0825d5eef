"""A short run of a job, which tells what the whole of it will take: seconds and bytes."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fastrank.experiments.events import Event, Measured
from fastrank.experiments.job import Job, trainee

WARM_UP = 5  # steps: kernels are compiled, a graph is captured, bases are found
SECONDS = 1.0  # that steps are timed for, at least
MOST = 200  # steps


def run(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Train a job's trials for a second or so in ``folder``, which is of no use afterwards; yields `Measured`."""
    place = torch.device(device)
    subject = trainee(job, folder, place)

    def seconds(call: Callable[[], None]) -> float:
        started = time.perf_counter()
        call()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return time.perf_counter() - started

    subject.practise(WARM_UP)
    spent, steps = 0.0, 0
    while spent < SECONDS and steps < MOST:
        spent += seconds(lambda: subject.practise(5))
        steps += 5
    evaluation = seconds(subject.evaluate)
    subject.close()
    yield Measured(spent / steps, evaluation, _memory(place))


def _memory(device: torch.device) -> int:
    """The most that was held at a time, in bytes: of the device's memory, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
