"""TrackedTraining: what the callbacks of all trainers share, from the begin of a training to its end."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from torch import nn
from torch.optim import Optimizer

from ..schedules import Rule, check_rule
from .tracker import RankTracker

_WRITERS: WeakValueDictionary[tuple[int, str], TrackedTraining] = WeakValueDictionary()
"""The training that a thread has begun last with a folder for its history, by thread and folder."""


class TrackedTraining:
    """The tracker of a trainer's callback, which is made when a training begins and closed when it ends.

    Args:
        arguments: of `RankTracker`, without `model`, `optimizer` and `first_step`, which the trainer gives.
        log_every: steps of the trainer from one that is logged to the next, or a rule (None: as the trainer logs).
        per_matrix: whether the scalars of each matrix are logged as well.

    Raises:
        TypeError: an argument that `RankTracker` does not have, or that the trainer gives. ValueError: `log_every`.
    """

    def __init__(self, arguments: Mapping[str, Any], log_every: int | Rule | None, per_matrix: bool) -> None:
        self.log_every = None if log_every is None else check_rule(log_every, "log_every")
        sinks = {"log_every": 1 if log_every is None else log_every, "log_per_matrix": per_matrix}
        taken = set(inspect.signature(RankTracker).parameters) - {"model", "optimizer", "first_step", *sinks}
        for name in arguments:  # so that an error comes now
            if name not in taken:
                raise TypeError(
                    f"RankCallback: unexpected argument {name!r}; it takes log_every, per_matrix and the arguments of "
                    "RankTracker, without model, optimizer and first_step, which the trainer gives"
                )
        self._arguments = sinks | dict(arguments)
        self._per_matrix = per_matrix
        self.tracker: RankTracker | None = None
        """The last training's; None before the first."""

    def begin(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        steps: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        """A training begins: make its tracker.

        A tracker of an earlier training is closed: this one's, and one that writes to the same folder from the same
        thread. An error, or Ctrl-C in a notebook, has ended that training, and not every trainer says so.

        Args:
            model, optimizer: as the trainer has them now.
            steps: how many steps the trainer has taken before, in the run that it resumes.
            state: the tracker's state of that moment; None where there is none. After `steps` that is warned of, and
                the history begins with the coming step.

        Raises:
            ValueError, HistoryError: as `RankTracker` and its `load_state_dict`.
        """
        self.end()
        if (directory := self._arguments.get("directory")) is not None:
            folder = threading.get_ident(), os.path.realpath(directory)
            if (earlier := _WRITERS.get(folder)) is not None:
                earlier.end()
            _WRITERS[folder] = self
        if state is None and steps > 0:
            warnings.warn(
                f"no state of fastrank's RankCallback was saved with this training's first {steps} steps: its history "
                f"begins at step {steps + 1}",
                stacklevel=3,
            )
        tracker = RankTracker(model, optimizer, first_step=steps + 1, **self._arguments)
        if state is not None:
            try:
                tracker.load_state_dict(state)
            except BaseException:
                tracker.close()
                raise
        self.tracker = tracker

    def state(self) -> dict[str, Any] | None:
        """The tracker's state; None before the first training."""
        return None if self.tracker is None else self.tracker.state_dict()

    def scalars(self) -> dict[str, float]:
        """What was measured since the last call, for a logger; empty where nothing was, or nothing is tracked here."""
        return {} if self.tracker is None else self.tracker.scalars(per_matrix=self._per_matrix)

    @property
    def should_stop(self) -> bool:
        """Whether an alert has asked for the training to be stopped."""
        return self.tracker is not None and self.tracker.should_stop

    def end(self) -> None:
        """The training is over, in whatever way: close the tracker, which can still be read."""
        if self.tracker is not None:
            self.tracker.close()
