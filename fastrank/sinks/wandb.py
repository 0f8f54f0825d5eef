"""Weights & Biases: points with a step of their own, ``rank/step``, in the loop's run or in one of their own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from .missing import needs
from .relay import SinkWarning

STEP = "rank/step"
PROJECT = "fastrank"  # unless WANDB_PROJECT names another
LEFT_OUT = (
    "Weights & Biases: points go to the run with the rows that the loop logs, one with each, and come more often than "
    "these: some are left out there, though the history has all. WeightsAndBiases(own_rows=True) makes a row for each "
    "point, which moves the run's step counter"
)


class WeightsAndBiases:
    """A sink that adds points to the run that the loop has open at the first point, or else opens a run.

    W&B has one step counter a run, and drops what is logged with `step=` below it. So points never move the counter of
    the loop's run: they have their own step as a value, ``rank/step``, which is the x axis of their curves, and each is
    sent with a row of the loop's, one at most a row. If points come more often than rows there is one warning, and of
    points with the same curves the newest is sent.

    Args:
        run: the run (default: the one that is active at the first point). Whoever has opened it finishes it.
        own_rows: make a row for each point in the loop's run too. Right for a loop that never passes `step=` to W&B.
        init: arguments of `wandb.init` for a run that is opened here, such as `project`, `name` and `id`. With an `id`
            and `resume="allow"` a later process continues the run, and what it repeats is left out.

    Raises:
        ImportError: wandb is not installed.
    """

    title = "Weights & Biases"

    def __init__(self, run: Any = None, *, own_rows: bool = False, **init: Any) -> None:
        with needs("wandb"):
            import wandb  # noqa: F401  # and not at the first point
        self._run, self._own_rows, self._init = run, own_rows, init
        self._opened = False
        self._since: float | None = None  # the last step of an earlier process, once it is known
        self._defined: set[str] = set()
        self._row = -1  # of the loop's, that a point was last sent with
        self._waiting: dict[tuple[str, ...], dict[str, float]] = {}  # by their curves, points that wait for a row
        self._warned = False

    @staticmethod
    def has_key() -> bool:
        """Whether a run can be opened now without asking the user for a key. Nothing is sent."""
        import wandb

        online = wandb.setup().settings.mode in ("online", "run", "shared")
        return not online or bool(wandb.login(prompt=False, verify=False))

    def attach(self) -> None:
        """Take the run that is active now, if there is one and none was given."""
        import wandb

        if self._run is None:
            self._run = wandb.run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve. Raises ValueError where there is no run, and no key to open one."""
        run = self._open()
        if self._since is not None and step <= self._since:
            return
        for name in values.keys() - self._defined:
            run.define_metric(name, step_metric=STEP)
            self._defined.add(name)
        point = {**values, STEP: step}
        if self._own_rows:
            run.log(point)
        else:
            self._wait(point)
            self._send_with_row(run)

    def close(self) -> None:
        """Finish a run that was opened here; add a point that waits to the last row of one that was not."""
        if self._opened:
            self._run.finish()
        elif self._waiting:
            self._send_with_row(self._run)

    def _open(self) -> Any:
        if self._since is None:
            self.attach()
            if self._run is None:
                self._run = self._new_run()
                self._opened = self._own_rows = True
            self._run.define_metric(STEP, hidden=True)
            self._since = float(self._run.summary.get(STEP, -1)) if self._run.resumed else -1.0
        return self._run

    def _new_run(self) -> Any:
        import wandb

        if not self.has_key():
            raise ValueError("there is no API key: run 'wandb login' once, or set WANDB_MODE=offline")
        usual = {
            "project": os.environ.get("WANDB_PROJECT") or PROJECT,
            "reinit": "create_new",  # it is not the active run of the process, which stays free for the loop
            "settings": wandb.Settings(console="off"),  # what the loop prints is not this run's
        }
        return wandb.init(**usual | self._init)

    def _wait(self, point: dict[str, float]) -> None:
        """Keep a point until there is a row for it, instead of an older one of the same curves."""
        curves = tuple(point)
        if curves in self._waiting and not self._warned:
            self._warned = True
            warnings.warn(LEFT_OUT, SinkWarning, stacklevel=3)
        self._waiting[curves] = point

    def _send_with_row(self, run: Any) -> None:
        """Add the oldest of the points that wait to the loop's present row, unless one was added to this row already.

        Another thread may begin a row meanwhile, so the row is asked for again: no row may have two points.
        """
        if run.step > self._row:
            run.log(self._waiting.pop(next(iter(self._waiting))), commit=False)
            self._row = run.step
