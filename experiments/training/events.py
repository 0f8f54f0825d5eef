"""What a worker tells the driver about the trials it runs. Plain values: they travel between processes."""

from dataclasses import dataclass
from typing import Any

from ..records import Status


@dataclass(frozen=True)
class EpochEnd:
    """An epoch of a trial is over, and saved in a checkpoint if the disk allowed it.

    ``average_rank`` is None where a matrix is not finite; ``train_loss`` is the mean over the epoch's steps.
    """

    trial: str
    epoch: int
    average_rank: float | None
    test_accuracy: float
    train_loss: float


@dataclass(frozen=True)
class Warned:
    """Something the user should know, though training goes on."""

    text: str


@dataclass(frozen=True)
class Finished:
    """A trial came to its end, ``done`` or ``diverged``. ``seconds``: of training, over all sessions of the trial."""

    trial: str
    status: Status
    result: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class JobCost:
    """What a short run of a job measured, for all its trials together.

    These are the seconds of a step, of an evaluation on the test part and of a recording of all spectra, and the peak
    memory in bytes.
    """

    step_seconds: float
    evaluation_seconds: float
    spectrum_seconds: float
    memory: int


@dataclass(frozen=True)
class Crashed:
    """The job raised an error or its process died: none of its trials goes on.

    ``error``: the traceback, or what is known of the death. ``killed``: the process was killed from outside, by the
    system or with its node. ``indivisible``: smaller stacks would fail in the same way, because a file cannot be
    written or the data are not the sweep's.
    """

    error: str
    out_of_memory: bool = False
    killed: bool = False
    indivisible: bool = False


Event = EpochEnd | Warned | Finished | JobCost | Crashed
