"""Watch: looks at rows as they arrive on the host, and tells sinks and alerts. It waits for nothing.

On a CPU a row has arrived when it is measured. On CUDA rows are sent when some are wanted here, and arrive a few steps
later; whoever looks is then told of them, with the numbers of their own steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..alerts import Alerts, Rule
from ..history import Block, History
from ..metrics import Status
from ..schedules import Rule as Schedule
from ..schedules import any_due, check_rule, load_state_of, state_of
from ..sinks import Relay, open_sink
from .scalars import scalars_of

TOGETHER = 32
"""Rows that are sent to the host together for alerts, on CUDA."""


class Watch:
    """Tells sinks of the rows of a history that are due, and shows all of them to alerts.

    Args:
        history: whose rows are looked at, from now on.
        log: what to send scalars to, see `sinks.open_sink`.
        log_every: at which steps, beside the first, a number or a schedule. Of a step that is not measured, the next
            row is sent.
        per_matrix: whether the scalars of each matrix are among them.
        alerts: rules, see `fastrank.alerts`.
        on_host: whether rows arrive when they are measured.
        looked: the number of the step before the first one.

    Attributes:
        should_stop: whether an alert has asked for the training to be stopped.

    Raises:
        TypeError, ValueError, ImportError: an argument, which is named, is none of those, or a package is missing.
    """

    def __init__(
        self,
        history: History,
        log: Sequence[Any],
        log_every: int | Schedule,
        per_matrix: bool,
        alerts: Sequence[Rule | Any],
        *,
        on_host: bool,
        looked: int,
    ) -> None:
        for name, value in (("log", log), ("alerts", alerts)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TypeError(f"{name}: expected a list, not {value!r}")
        self.should_stop = False
        self._history, self._rule, self._per_matrix = history, check_rule(log_every, "log_every"), per_matrix
        self._relays = [Relay(open_sink(spec)) for spec in log]
        self._alerts = Alerts(alerts, history.layout.names) if alerts else None
        self._together = 1 if on_host else TOGETHER
        self._waiting = 0  # rows that alerts have not seen
        self._due = True  # whether a row is to be logged that has not been sent for
        self._looked = looked  # the step up to which the host has looked
        self._logged = -1  # the step up to which rows have been logged
        self._watching = bool(log or alerts)
        if self._watching:
            history.watch()

    def look(self, step: int, *, recorded: bool) -> None:
        """After steps that the host has counted: look at rows that have arrived, and send for those that are due.

        What a function raises that an alert calls is raised here.

        Args:
            step: the number of the last one, as the host counts.
            recorded: whether a row was recorded since the last call.
        """
        if not self._watching:
            return
        self._due = self._due or any_due(self._rule, self._looked, step)
        self._looked = step
        self._waiting += recorded
        wanted = (self._due and self._relays) or (self._alerts is not None and self._waiting >= self._together)
        if recorded and wanted:
            self._due, self._waiting = False, 0
            self._history.hurry()
        self._see_arrived()

    def close(self) -> None:
        """Look at the rows that are left, and tell sinks that nothing more comes."""
        try:
            self._see_arrived()
        finally:
            for relay in self._relays:
                relay.close()

    def state(self) -> dict[str, Any]:
        """What `load` needs, so that no row is logged twice, and no alert given twice."""
        alerts = self._alerts.state_dict() if self._alerts is not None else {}
        return {"looked": self._looked, "logged": self._logged, "rule": state_of(self._rule), "alerts": alerts}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a `state`; None: from one of a version that had no watch."""
        if state is not None:
            self._looked, self._logged = state["looked"], state["logged"]
            load_state_of(self._rule, state["rule"])
            if self._alerts is not None:
                self._alerts.load_state_dict(state["alerts"])

    def _see_arrived(self) -> None:
        for block in self._history.take_arrived():
            if self._relays:
                self._log(block)
            if self._alerts is not None:
                self._show(self._alerts, block)

    def _log(self, block: Block) -> None:
        layout = self._history.layout
        for step, values in zip(block.steps.tolist(), block.values.numpy(), strict=True):
            # The first row is, and the first one at or after a step that is due.
            since, self._logged = self._logged, max(step, self._logged)
            if since < 0 or any_due(self._rule, since, step):
                named = (block.shapes, layout.names, layout.columns)
                self._send(step, scalars_of(values, *named, per_matrix=self._per_matrix))

    def _show(self, alerts: Alerts, block: Block) -> None:
        values, columns = block.values.numpy(), self._history.layout.columns
        lower, upper, status = (values[..., columns.index(c)] for c in ("rank_lower", "rank_upper", "status"))
        full = np.array([min(shape) for shape in block.shapes])
        found = alerts.observe(block.steps.numpy(), lower, upper, full, status == Status.NONFINITE)
        if found and alerts.act(found, self._send):
            self.should_stop = True

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        for relay in self._relays:
            relay.log(step, values)
