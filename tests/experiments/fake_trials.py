"""Stand-ins for `run_trial` that worker processes import by name: each does one thing that trials do, at once."""

import os
import signal
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastrank.experiments.config import Trial
from fastrank.experiments.events import EpochEnd, Finished, Report, Warned
from fastrank.experiments.layout import Layout
from fastrank.experiments.ledger import Status
from fastrank.experiments.train import run_trial

from fastrank import HistoryWarning


def result(trial: Trial, status: Status = Status.DONE) -> Finished:
    done = status is Status.DONE
    numbers = {"steps": trial.steps, "full_rank": 92.8}
    numbers |= {"average_rank": 50.5 if done else None, "train_accuracy": 1.0 if done else None}
    return Finished(status, {**numbers, "test_accuracy": 0.975 if done else None}, seconds=1.5)


def keep_checkpoint(trial: Trial, folder: Path) -> None:
    path = Layout(folder).checkpoint(trial.id)
    path.parent.mkdir(exist_ok=True)
    path.touch()


def quick(spec: dict[str, Any], folder: Path, report: Report) -> Finished:
    trial = Trial.model_validate(spec)
    keep_checkpoint(trial, folder)
    report(EpochEnd(1, 90.0, 0.5))
    return result(trial)


def eventful(spec: dict[str, Any], folder: Path, report: Report) -> Finished:
    """By batch size. 8: warns, diverges. 16: is killed once. 32: raises. 64: warns, is killed."""
    trial = Trial.model_validate(spec)
    marker = folder / f"{trial.id}.begun"
    first = not marker.exists()
    marker.touch()
    match trial.batch_size:
        case 8:
            warnings.warn("a part of the history was not written", HistoryWarning, stacklevel=1)
            return result(trial, Status.DIVERGED)
        case 16 if first:
            os.kill(os.getpid(), signal.SIGKILL)
        case 32:
            keep_checkpoint(trial, folder)
            raise ValueError("batch size 32 is cursed")
        case 64:
            report(Warned("about to die"))
            os.kill(os.getpid(), signal.SIGSEGV)
    return result(trial)


def endless(spec: dict[str, Any], folder: Path, report: Report) -> Finished:
    """Leaves its process id in the folder, then reports epochs until it is ended from outside."""
    trial = Trial.model_validate(spec)
    (folder / f"{trial.id}.pid").write_text(str(os.getpid()))
    while True:
        report(EpochEnd(1, 90.0, 0.5))
        time.sleep(0.05)


def telling(spec: dict[str, Any], folder: Path, pipe: Connection) -> None:
    """Real training, which sends its events and its end through `pipe`: for a process that is going to be killed."""
    pipe.send(run_trial(spec, folder, pipe.send))
