"""A short run of a job, from which the seconds and the memory of the whole job are estimated."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .events import Event, JobCost
from .job import Job, reproducible, trainee

WARM_UP = 5  # steps before timing: kernels are compiled, a graph is captured, bases are found
LEAST = 5  # steps that are timed together, at least
SECONDS = 1.0  # for which steps are timed, unless MOST are reached before
MOST = 200  # steps after which no more are timed


def run(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Train a job's trials for about a second, or from one rank measurement to the next; yields one `JobCost`.

    What the run leaves in ``folder`` is of no use.
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
    # A multiple of `every`: the ranks are then measured at the same share of steps as in training. Where that is one in
    # hundreds, they may not be measured at all.
    together = every * -(-LEAST // every) if every <= MOST else MOST
    spent, steps = 0.0, 0
    while spent < SECONDS and steps < MOST:
        spent += seconds(lambda: subject.practise(together))
        steps += together
    evaluation, spectrum = (min(seconds(call) for _ in range(2)) for call in (subject.evaluate, subject.take_spectrum))
    subject.close()
    return JobCost(spent / steps, evaluation, spectrum, _memory(device))


def _memory(device: torch.device) -> int:
    """Peak memory in bytes: what PyTorch reserved on a CUDA device, or else that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
