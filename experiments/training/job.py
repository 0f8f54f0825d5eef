"""A job: what a worker is given to do, one trial or a stack of them, and how it is run anywhere."""

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
        """Whether its trials are trained as one program; a single trial may be, if it was left of a stack."""
        return list(self.specs) != [self.name]


RunJob = Callable[[Job, Path, str], Iterator[Event]]


def run(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """Train a job's trials to their end, from their checkpoint where there is one; yields what happens.

    Args:
        job: one trial, or several that can be stacked.
        folder: the sweep's folder; history and checkpoint go where `Layout` says.
        device: "cpu", "cuda" or "cuda:1".

    The parameters and the ranks are the same, bit for bit, as of trials that were never interrupted: PyTorch
    runs on one thread here, since the order of floating-point sums depends on their number, and takes
    deterministic algorithms of cuDNN. So is all of the history on a CPU. On CUDA norms are, as far as they are proven
    there, to 1e-4: how many columns a sketch has depends on how soon the host hears of the last one.

    The histories are complete on disk when `Finished` comes; the checkpoint is the caller's to remove once the results
    are safe. A non-finite training loss ends a trial as ``diverged``.
    """
    with reproducible(device):
        yield from _train(lambda: trainee(job, folder, torch.device(device)), job.name, Layout(folder))


def trainee(job: Job, folder: Path, device: torch.device) -> "Trainee":
    """A job's trials, about to be trained from zero.

    Raises DataError where this machine has another data set under the name.
    """
    from .stack import StackTraining
    from .train import Training

    trials, layout = [Trial.model_validate(spec) for spec in job.specs.values()], Layout(folder)
    name, there = trials[0].data.name, trials[0].data.info.digest
    if job.data not in (None, there):
        raise DataError(
            f"{socket.gethostname()}: the data set {name!r} here is not the sweep's: its digest is {there[:12]}, not "
            f"{job.data[:12]}; prepare it from the same images, or copy the file"
        )
    return StackTraining(job.name, trials, layout, device) if job.is_stack else Training(trials[0], layout, device)


def _train(start: Callable[[], "Trainee"], name: str, layout: Layout) -> Iterator[Event]:
    """Go on from the checkpoint; from zero where there is none or it cannot be used."""
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
    """What is being trained: a trial, or a stack of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint was written. Raises what PyTorch raises where it does not fit."""

    def run(self) -> Iterator[Event]:
        """Train to the end."""

    def practise(self, steps: int) -> None:
        """Take steps that nothing else counts, to see how long they take."""

    def evaluate(self) -> None:
        """Find the test accuracy, to see how long it takes."""

    def take_spectrum(self) -> None:
        """Measure whole spectra, to see how long it takes."""

    def close(self) -> None:
        """Let go of files and hooks."""


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """One thread and deterministic algorithms, until it is left."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(1)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with sdpa_kernel(SDPBackend.MATH) if device != "cpu" else nullcontext():  # the others sum in any order
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = before


def narrated(events: Iterator[Event]) -> Iterator[Event]:
    """The same events; what the tracker warns of comes among them, and an error as `Crashed` at their end."""
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
    """Of a device, or of the host as far as it says so; the system may also just kill the process."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
