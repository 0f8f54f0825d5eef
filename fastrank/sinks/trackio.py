"""Trackio: points in the loop's run, with a step of their own, or in a run of their own."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import Any

from .missing import needs

STEP = "rank/step"
PROJECT = "fastrank"


class Trackio:
    """A sink that adds points to the run that the loop has open at the first point, or else opens a run.

    In the loop's run points have ``rank/step`` as a value, which can be chosen as the x axis, and stand at the step
    that the loop has reached: its step counter is not moved. In a run that is opened here, points have their own step.

    Args:
        run: the run (default: the one that is open, in the thread of the loop, at the first point). Whoever has opened
            it finishes it.
        init: arguments of `trackio.init` for a run that is opened here, such as `project` and `name`. With a `name` and
            `resume="allow"` a later process continues the run, and what it repeats is left out.

    Raises:
        ImportError: trackio is not installed.
    """

    title = "trackio"

    def __init__(self, run: Any = None, **init: Any) -> None:
        with needs("trackio"):
            import trackio  # noqa: F401  # and not at the first point
        self._run, self._init = run, init
        self._opened = False
        self._since = -1  # the last step of an earlier process

    def attach(self) -> None:
        """Take the run that is open in this thread, if there is one and none was given."""
        from trackio import context_vars

        if self._run is None:
            self._run = context_vars.current_run.get()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self.attach()
        if self._run is None:
            self._open()
        if not self._opened:
            self._run.log({**values, STEP: step}, step=max(self._reached(), 0))
        elif step > self._since:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish a run that was opened here."""
        if self._opened:
            self._run.finish()

    def _open(self) -> None:
        import trackio

        init = {"project": PROJECT, "embed": False, "auto_log_cpu": False, "auto_log_gpu": False} | self._init
        # In a context of its own: the loop may open a run later, and would else be given this one, or finish it.
        self._run = contextvars.Context().run(lambda: trackio.init(**init))
        self._opened = True
        self._since = self._reached()

    def _reached(self) -> int:
        """The last step of the run, or -1. Trackio has no public name for it."""
        return int(getattr(self._run, "_next_step", 0)) - 1
