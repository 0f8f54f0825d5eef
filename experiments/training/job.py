"""A job is what a worker is given to do: one trial, or a stack of them. Here it is run, whatever runs the worker."""

import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from fastrank import HistoryWarning

from ..data import DataError
from ..errors import UserError
from ..records import Layout
from ..trial import Trial
from .checkpoint import CheckpointError, load_checkpoint
from .events import Crashed, Event, Warned

RUN = "fastrank.experiments.training.job:run"


@dataclass(frozen=True)
class Job:
    """Trials that one worker trains together.

    Attributes:
        name: the trial's id, or the stack's: what its checkpoint and its unfinished history are called.
        specs: the canonical specification of every trial, by id.
        data: digest of the data set that the sweep is about; None where any set of that name will do.
    """

    name: str
    specs: dict[str, dict[str, Any]]
    data: str | None = None

    @property
    def is_stack(self) -> bool:
        """Whether its trials are trained as one program. A single trial is, too, where the job has a stack's name."""
        return list(self.specs) != [self.name]


RunJob = Callable[[Job, Path, str], Iterator[Event]]


def run(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Train a job's trials to their end, from their checkpoint where there is one. Yields events as they happen.

    Args:
        job: one trial, or several that can be stacked.
        folder: the sweep's folder; history and checkpoint go where `Layout` says.
        device: "cpu", "cuda" or "cuda:1".

    A trial that is interrupted and resumed comes to the same parameters and ranks, bit for bit, as one that is not.
    Therefore PyTorch runs on one thread here, since the order of floating-point sums depends on the number of threads,
    and cuDNN with deterministic algorithms. On a CPU all of the history is the same as well. On CUDA norms agree, as
    far as they are proven there, to 1e-4: how many columns a sketch has depends on how soon the host hears of the last
    one.

    A trial's history is complete on disk when its `Finished` comes. The caller removes the checkpoint once the results
    are safe. A non-finite training loss ends a trial as ``diverged``.
    """
    with reproducible(device):
        yield from _train(lambda: trainee(job, folder, torch.device(device)), job.name, Layout(folder))


def trainee(job: Job, folder: Path, device: torch.device) -> "Trainee":
    """What trains a job, with its trials about to begin: `StackTraining` for a stack, `Training` for one trial.

    Raises DataError where this machine has another data set under the name.
    """
    from .stack import StackTraining
    from .train import Training

    trials, layout = [Trial.model_validate(spec) for spec in job.specs.values()], Layout(folder)
    name, digest = trials[0].data.name, trials[0].data.info.digest
    if job.data not in (None, digest):
        raise DataError(
            f"{socket.gethostname()}: the data set {name!r} here is not the sweep's: its digest is {digest[:12]}, not "
            f"{job.data[:12]}; prepare it from the same images, or copy the file"
        )
    return StackTraining(job.name, trials, layout, device) if job.is_stack else Training(trials[0], layout, device)


def _train(start: Callable[[], "Trainee"], name: str, layout: Layout) -> Iterator[Event]:
    """Train what ``start`` makes: on from its checkpoint, or from zero where there is none or it cannot be used."""
    path = layout.checkpoint(name)
    trainee = None
    if path.exists():
        trainee = start()
        try:
            _resume(trainee, path)
        except CheckpointError as error:
            yield Warned(f"{error}. {name} starts over")
            trainee.close()
            trainee = None
    if trainee is None:
        layout.forget(name)
        trainee = start()
    try:
        yield from trainee.run()
    finally:
        trainee.close()


def _resume(trainee: "Trainee", path: Path) -> None:
    state = load_checkpoint(path)
    try:
        trainee.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the checkpoint does not fit: {error}") from error


class Trainee(Protocol):
    """What is being trained: one trial, or a stack of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint. Raises what PyTorch raises where it does not fit."""

    def run(self) -> Iterator[Event]:
        """Train to the end."""

    def practise(self, steps: int) -> None:
        """Take steps whose only purpose is to be timed."""

    def evaluate(self) -> None:
        """Find the test accuracy, only to be timed."""

    def take_spectrum(self) -> None:
        """Record whole spectra, only to be timed."""

    def close(self) -> None:
        """Let go of files and hooks."""


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """Inside this context PyTorch runs on one thread and with deterministic algorithms."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(1)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with sdpa_kernel(SDPBackend.MATH) if device != "cpu" else nullcontext():  # others sum in any order
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = before


def narrated(events: Iterator[Event]) -> Iterator[Event]:
    """The same events, with the rank tracker's warnings among them as `Warned`, and an error as a last `Crashed`."""
    said: list[Warned] = []
    elsewhere = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, HistoryWarning):
            said.append(Warned(str(message)))
        else:
            elsewhere(message, category, *place, **options)

    warnings.showwarning = show
    try:
        for event in events:
            yield from said
            said.clear()
            yield event
    except Exception as error:
        yield from said
        yield _crashed(error)
    finally:
        warnings.showwarning = elsewhere


def _crashed(error: Exception) -> Crashed:
    if isinstance(error, UserError):  # says itself what to do
        return Crashed(str(error), indivisible=True)
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        remedy = "check free space and permissions; the same command goes on from the checkpoint"
        return Crashed(f"{what}: {remedy}", indivisible=True)
    return Crashed(traceback.format_exc(), out_of_memory=_is_out_of_memory(error))


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host is out of memory. (The host may also just kill the process, without any error.)"""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
