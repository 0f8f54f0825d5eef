"""What a worker tells the driver about the trial it runs. Plain values: they travel through a pipe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastrank.experiments.ledger import Status


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is over and in the checkpoint. ``average_rank`` is None where a matrix is not finite."""

    epoch: int
    average_rank: float | None
    test_accuracy: float


@dataclass(frozen=True)
class Warned:
    """Something the user should know, though training goes on."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The trial came to its end, ``done`` or ``diverged``; ``seconds`` of training over all its sessions."""

    status: Status
    result: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Crashed:
    """The trial raised an error; ``error`` is the traceback."""

    error: str


Report = Callable[[EpochEnd | Warned], None]
