"""TrackedTraining: what the callbacks of all trainers share, from the begin of a training to its end."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from torch import distributed, nn
from torch.optim import Optimizer

from ..schedules import Rule, check_rule
from ..weights import has_shards, is_fsdp, reshard
from .tracker import RankTracker

_WRITERS: WeakValueDictionary[tuple[int, str], TrackedTraining] = WeakValueDictionary()
"""The training that a thread has begun last with a folder for its history, by thread and folder."""


class TrackedTraining:
    """The tracker of a trainer's callback, which is made when a training begins and closed when it ends.

    Of several processes the first one makes a tracker. Where weights are sharded, or the arguments say `share=True`,
    all of them do, and measure together; nothing else here is done together, so that it may be called on any of them.

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
        self._first = True  # whether this process is the first one of the job
        self._together = False  # whether all processes of the job measure together
        self.tracker: RankTracker | None = None
        """The last training's; None before the first, and where another process tracks."""

    def begin(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        steps: int,
        state: Mapping[str, Any] | None,
        *,
        first: bool,
        wrapped: nn.Module | None = None,
    ) -> None:
        """A training begins, in all processes: make its tracker where there is to be one.

        A tracker of an earlier training is closed: this one's, and one that writes to the same folder from the same
        thread. An error, or Ctrl-C in a notebook, has ended that training, and not every trainer says so.

        Args:
            model, optimizer: as the trainer has them now.
            steps: how many steps the trainer has taken before, in the run that it resumes.
            state: the tracker's state of that moment, that of the first process in all of them; None where there is
                none. After `steps` that is warned of, and the history begins with the coming step.
            first: whether this process is the first one of the job, which saves the checkpoints.
            wrapped: the model with what the trainer has put around it (default None: nothing). Only there the older
                FSDP says how it has sharded the weights.

        Raises:
            ValueError, HistoryError: as `RankTracker` and its `load_state_dict`, or `share` is a group of processes
                that does not begin with the first one.
        """
        self.end()
        if wrapped is not None and any(map(is_fsdp, wrapped.modules())):
            model = wrapped
        reshard(model)  # a trainer may have evaluated it before, as Lightning's sanity check does
        share = self._arguments.get("share")
        if share is None and has_shards(model):
            share = True  # also if what is tracked is not sharded: else each process would measure it, and write it
        self._first, self._together = first, share is True
        if not first and (share is None or share is False):
            self.tracker = None
            return
        grouped = distributed.is_available() and isinstance(share, distributed.ProcessGroup)
        if grouped and (distributed.get_rank(share) == 0) != first:
            raise ValueError("share: the group has to contain the first process of the job, which saves checkpoints")
        if (directory := self._arguments.get("directory")) is not None:
            folder = threading.get_ident(), os.path.realpath(directory)
            if (earlier := _WRITERS.get(folder)) is not None:
                earlier.end()
            _WRITERS[folder] = self
        if state is None and steps > 0 and first:
            warnings.warn(
                f"no state of fastrank's RankCallback was saved with this training's first {steps} steps: its history "
                f"begins at step {steps + 1}",
                stacklevel=3,
            )
        tracker = RankTracker(model, optimizer, first_step=steps + 1, **self._arguments | {"share": share})
        if state is not None:
            try:
                tracker.load_state_dict(state)
            except BaseException:
                tracker.close()
                raise
        self.tracker = tracker

    def state(self) -> dict[str, Any] | None:
        """The tracker's state; None where there is no tracker. That of the first process has the history."""
        return None if self.tracker is None else self.tracker.state_dict()

    def scalars(self) -> dict[str, float]:
        """What was measured since the last call, for a logger; empty where nothing was, or another process logs."""
        return self.tracker.scalars(per_matrix=self._per_matrix) if self.tracker is not None and self._first else {}

    def should_stop(self, processes: int) -> bool:
        """Whether an alert has asked for the training to be stopped, and all its processes hear so after the same step.

        Args:
            processes: how many there are. Of several that do not measure together, one cannot stop the others.
        """
        return self.tracker is not None and (self._together or processes == 1) and self.tracker.should_stop

    def end(self) -> None:
        """The training is over, in whatever way: close the tracker, which can still be read."""
        if self.tracker is not None:
            self.tracker.close()
