"""Watch: looks at rows as they arrive on the host, and tells sinks and alerts. It waits for nothing.

On a CPU a row has arrived when it is measured. On CUDA rows are sent when some are wanted here, and arrive a few steps
later; whoever looks is then told of them, with the numbers of their own steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..alerts import Alerts, Rule
from ..history import Block, History, Layout
from ..metrics import Status
from ..schedules import Rule as Schedule
from ..schedules import check_rule, load_state_of, state_of, steps_due
from ..sinks import Relay, open_sink
from .scalars import scalars_of

TOGETHER = 32
"""Rows that are sent to the host together for alerts, on CUDA."""


class Watch:
    """Tells sinks of the rows of a history that are due, and shows all of them to alerts.

    Args:
        layout: of the rows.
        log: what to send scalars to, see `sinks.open_sink`.
        log_every: at which steps, beside the first, a number or a schedule. Of a step that is not measured, the next
            row is sent.
        per_matrix: whether the scalars of each matrix are among them.
        alerts: rules, see `fastrank.alerts`.
        on_host: whether rows arrive when they are measured.
        looked: the number of the step before the first one.
        initial: whether that has a row.

    Attributes:
        wanted: whether there is anything to do. The history keeps rows for it then, see `History.watch`.
        should_stop: whether an alert has asked for the training to be stopped.

    Raises:
        TypeError, ValueError, ImportError: an argument, which is named, is none of those, or a package is missing.
    """

    def __init__(
        self,
        layout: Layout,
        log: Sequence[Any],
        log_every: int | Schedule,
        per_matrix: bool,
        alerts: Sequence[Rule | Any],
        *,
        on_host: bool,
        looked: int,
        initial: bool = False,
    ) -> None:
        for name, value in (("log", log), ("alerts", alerts)):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TypeError(f"{name}: expected a list, not {value!r}")
        self.should_stop = False
        self._layout, self._rule, self._per_matrix = layout, check_rule(log_every, "log_every"), per_matrix
        self._relays = [Relay(open_sink(spec)) for spec in log]
        self._alerts = Alerts(alerts, layout.names) if alerts else None
        self._together = 1 if on_host else TOGETHER
        self._waiting = 0  # rows that alerts have not seen
        self._looked = looked  # the step up to which the host has looked
        self._dues = [looked]  # steps that are due, and neither their own row nor a later one was logged
        self._due = True  # whether a row is to be logged that has not been sent for
        self._recorded = looked if initial else looked - 1  # the last step that has a row
        self.wanted = bool(log or alerts)

    def look(self, history: History, step: int, *, recorded: bool) -> None:
        """After steps that the host has counted: look at rows that have arrived, and send for those that are due.

        What a function raises that an alert calls is raised here.

        Args:
            history: whose rows are looked at.
            step: the number of the last one, as the host counts.
            recorded: whether a row was recorded since the last call.
        """
        if not self.wanted:
            return
        dues = steps_due(self._rule, self._looked, step) if self._relays else []
        if dues and not (self._dues and self._dues[-1] > self._recorded):  # else the next row is logged in any case
            self._dues, self._due = [*self._dues, *dues], True
        self._looked, self._waiting = step, self._waiting + recorded
        if recorded:
            self._recorded = step
        wanted = (self._due and self._relays) or (self._alerts is not None and self._waiting >= self._together)
        if recorded and wanted:
            self._due, self._waiting = False, 0
            history.hurry()
        self._see_arrived(history)

    def close(self, history: History) -> None:
        """Look at the rows that are left, and tell sinks that nothing more comes."""
        try:
            self._see_arrived(history)
        finally:
            for relay in self._relays:
                relay.close()

    def state(self, history: History) -> dict[str, Any]:
        """What `load` needs, so that no row is logged twice, and no alert given twice. Looks at the rows that are left
        first: who goes on from a state does not see them arrive."""
        self._see_arrived(history)
        alerts = self._alerts.state_dict() if self._alerts is not None else {}
        steps = {"looked": self._looked, "recorded": self._recorded, "dues": list(self._dues)}
        return {**steps, "rule": state_of(self._rule), "alerts": alerts}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a `state`; None: from one of a version that had no watch."""
        if state is not None:
            self._looked, self._dues, self._recorded = state["looked"], list(state["dues"]), state["recorded"]
            load_state_of(self._rule, state["rule"])
            if self._alerts is not None:
                self._alerts.load_state_dict(state["alerts"])

    def _see_arrived(self, history: History) -> None:
        for block in history.take_arrived():
            if self._relays:
                self._log(block)
            if self._alerts is not None:
                self._show(self._alerts, block)

    def _log(self, block: Block) -> None:
        for step, values in zip(block.steps.tolist(), block.values.numpy(), strict=True):
            later = [due for due in self._dues if due > step]
            if len(later) < len(self._dues):
                self._dues = later
                self._send(step, scalars_of(values, block.shapes, self._layout, per_matrix=self._per_matrix))

    def _show(self, alerts: Alerts, block: Block) -> None:
        values, columns = block.values.numpy(), self._layout.columns
        lower, upper, status = (values[..., columns.index(c)] for c in ("rank_lower", "rank_upper", "status"))
        full = np.array([min(shape) for shape in block.shapes])
        nonfinite, absent = status == Status.NONFINITE, status == Status.ABSENT
        found = alerts.observe(block.steps.numpy(), lower, upper, full, nonfinite, absent)
        if found and alerts.act(found, self._send):
            self.should_stop = True

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        for relay in self._relays:
            relay.log(step, values)
