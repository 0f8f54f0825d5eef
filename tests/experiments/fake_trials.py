"""Stand-ins for `job.run` that worker processes import by name: each does one thing that trials do, at once."""

import errno
import os
import signal
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from fastrank import HistoryWarning
from fastrank.experiments.data import DataError
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Status
from fastrank.experiments.training.events import EpochEnd, Event, Finished, Warned
from fastrank.experiments.training.job import Job, run
from fastrank.experiments.trial import Trial


def result(name: str, trial: Trial, status: Status = Status.DONE) -> Finished:
    done = status is Status.DONE
    numbers = {"steps": trial.steps, "full_rank": 92.8}
    numbers |= {"average_rank": 50.5 if done else None, "train_accuracy": 1.0 if done else None}
    return Finished(name, status, {**numbers, "test_accuracy": 0.975 if done else None}, seconds=1.5)


def keep_checkpoint(job: Job, folder: Path) -> None:
    path = Layout(folder).checkpoint(job.name)
    path.parent.mkdir(exist_ok=True)
    path.touch()


def trials(job: Job) -> dict[str, Trial]:
    return {name: Trial.model_validate(spec) for name, spec in job.specs.items()}


def quick(job: Job, folder: Path, device: str) -> Iterator[Event]:
    keep_checkpoint(job, folder)
    for name, trial in trials(job).items():
        yield EpochEnd(name, 1, 90.0, 0.5, 1.0)
        yield result(name, trial)


def informed(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Knows which data the sweep is about, and keeps the memory that it frees."""
    assert job.data == next(iter(trials(job).values())).data.info.digest
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == str(2**30)
    yield from quick(job, folder, device)


def foreign(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Has other data than the sweep."""
    keep_checkpoint(job, folder)
    raise DataError("the data set 'digits' here is not the sweep's")
    yield


def eventful(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """By batch size. 8: warns, diverges. 16: is killed once. 32: raises. 64: warns, crashes in native code."""
    ((name, trial),) = trials(job).items()
    marker = folder / f"{name}.begun"
    first = not marker.exists()
    marker.touch()
    match trial.batch_size:
        case 8:
            warnings.warn("a part of the history was not written", HistoryWarning, stacklevel=1)
            yield result(name, trial, Status.DIVERGED)
            return
        case 16 if first:
            os.kill(os.getpid(), signal.SIGKILL)
        case 32:
            keep_checkpoint(job, folder)
            raise ValueError("batch size 32 is cursed")
        case 64:
            yield Warned("about to die")
            os.kill(os.getpid(), signal.SIGSEGV)
    yield result(name, trial)


def doomed(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Is killed whenever it is run."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def hungry(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Has memory for three trials at a time."""
    if len(job.specs) > 3:
        raise MemoryError
    yield from quick(job, folder, device)


def poisoned(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """The trial of seed 5 takes whatever stack it is in down with it."""
    if any(trial.seed == 5 for trial in trials(job).values()):
        raise ValueError("seed 5 is poison")
    yield from quick(job, folder, device)


def endless(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Leaves its process id in the folder, then reports epochs until it is ended from outside."""
    (name,) = job.specs
    (folder / f"{name}.pid").write_text(str(os.getpid()))
    while True:
        yield EpochEnd(name, 1, 90.0, 0.5, 1.0)
        time.sleep(0.05)


def telling(job: Job, folder: Path, pipe: Connection) -> None:
    """Real training, which sends what happens through `pipe`: for a process that is going to be killed."""
    for event in run(job, folder, "cpu"):
        pipe.send(event)


def on_a_node(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Real training, not too fast, which leaves in the folder the id of the Ray node that it begins on."""
    import ray

    with (folder / f"{job.name}.nodes").open("a") as file:
        file.write(ray.get_runtime_context().get_node_id() + "\n")
    for event in run(job, folder, device):
        yield event
        time.sleep(0.1)


def on_a_full_disk(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Cannot write the histories at the end."""
    keep_checkpoint(job, folder)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(Layout(folder).history(job.name)))
    yield
