"""What a tracker of experiments, such as TensorBoard, is told of a sweep, in terms that all trackers share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Protocol

import torch

import fastrank

from ..errors import UsageError
from ..records import Ledger
from ..training import EpochEnd, Finished, build_network
from ..trial import Trial, short_hash

HEAT_MAP = "rank/by_matrix"


class SinkError(UsageError):
    """A sink cannot be used. The message names it and what it lacks."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's ``folder`` and ``name``, and a ``key`` that tells it from others of that name, on any machine."""

    folder: Path
    name: str
    key: str


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: ``done``, ``diverged`` or ``failed``.
        epoch: the last one that was completed; None where that is not known.
        values: numbers that a trial has only one of: ``accuracy/train``, ``seconds``.
        heat_map: PNG of the rank of every matrix over the steps; None where there is no history.
    """

    status: str
    epoch: int | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    heat_map: bytes | None = None


class Tracker(Protocol):
    """Keeps one run for each trial. A run that an earlier session began goes on, and has no epoch twice."""

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch of a trial is over. After a crash a trial may repeat epochs, with the same values."""

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """A trial is over, and with it its run."""

    def close(self) -> None:
        """Nothing more comes in this session. Runs that are open may go on in another."""


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder. Raises LedgerError."""
    meta = Ledger.open(folder).meta
    return Sweep(folder, meta["config"]["name"], short_hash([meta["config"], meta["created"]])[:6])


def settings(trial: Trial) -> dict[str, str | float]:
    """A trial's settings without hierarchy: ``model``, its options, ``data`` and what a sweep may vary."""
    options = trial.model.model_dump()
    axes = ("batch_size", "lr", "weight_decay", "momentum", "seed", "epochs")
    return {"model": options.pop("name"), **options, "data": trial.data.name, **{k: getattr(trial, k) for k in axes}}


def epoch_values(event: EpochEnd, full_rank: float) -> dict[str, float]:
    """The scalars of an epoch; empty for a trial that has diverged and goes on only because its stack does."""
    if not isfinite(event.train_loss):
        return {}
    values = {"accuracy/test": event.test_accuracy, "loss/train": event.train_loss}
    if event.average_rank is not None:
        values |= {"rank/average": event.average_rank, "rank/share_of_full": event.average_rank / full_rank}
    return values


def outcome(trial: Trial, event: Finished, heat_map: bytes | None) -> Outcome:
    """What trackers keep of a trial's result."""
    result = event.result
    values = {"accuracy/train": result.get("train_accuracy"), "seconds": event.seconds}
    known = {name: value for name, value in values.items() if value is not None}
    epoch = len(result.get("test_accuracies", range(trial.epochs)))
    return Outcome(str(event.status), epoch, known, heat_map)


def full_rank(trial: Trial) -> float:
    """Mean of min(rows, cols) over the tracked matrices."""
    model = build_network(trial.model, trial.data, seed=0)
    optimizer = torch.optim.SGD(model.parameters())
    return fastrank.RankTracker(model, optimizer, select=trial.tracking.select).full_rank
