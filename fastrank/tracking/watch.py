"""Watch: looks at rows as they arrive on the host, and tells sinks. It waits for nothing.

On a CPU a row has arrived when it is measured. On CUDA rows are sent when some are wanted here, and arrive a few steps
later; whoever looks is then told of them, with the numbers of their own steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..history import History
from ..schedules import Rule, any_due, load_state_of, state_of
from .scalars import scalars_of


class Listener(Protocol):
    """Where scalars are sent; see `fastrank.sinks`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """These are the scalars of a step."""

    def close(self) -> None:
        """Nothing more comes."""


class Watch:
    """Tells listeners of the rows of a history.

    Args:
        history: whose rows are looked at, from now on.
        listeners: told the scalars of rows that are due.
        rule: at which steps, beside the first. Of a step that is not measured, the next row is told.
        per_matrix: whether the scalars of each matrix are among them.
    """

    def __init__(self, history: History, listeners: Sequence[Listener], rule: Rule, per_matrix: bool) -> None:
        self._history, self._listeners, self._rule, self._per_matrix = history, listeners, rule, per_matrix
        self._due = True  # whether a row is to be told that has not been sent for
        self._looked = 0  # the step up to which the host has looked
        self._told = -1  # the step up to which rows have been told
        if listeners:
            history.watch()

    def look(self, step: int, *, recorded: bool) -> None:
        """After steps that the host has counted: tell of rows that have arrived, and send for those that are due.

        Args:
            step: the number of the last one, as the host counts.
            recorded: whether a row was recorded since the last call.
        """
        if not self._listeners:
            return
        self._due = self._due or any_due(self._rule, self._looked, step)
        self._looked = step
        if recorded and self._due:
            self._history.hurry()
            self._due = False
        self._tell()

    def close(self) -> None:
        """Tell of the rows that are left, and that nothing more comes."""
        self._tell()
        for listener in self._listeners:
            listener.close()

    def state(self) -> dict[str, Any]:
        """What `load` needs to tell of no row twice."""
        return {"looked": self._looked, "told": self._told, "rule": state_of(self._rule)}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a `state`; None: from one of a version that had no watch."""
        if state is not None:
            self._looked, self._told = state["looked"], state["told"]
            load_state_of(self._rule, state["rule"])

    def _tell(self) -> None:
        layout = self._history.layout
        for block in self._history.take_arrived():
            for step, values in zip(block.steps.tolist(), block.values.numpy(), strict=True):
                if self._is_due(step):
                    named = (block.shapes, layout.names, layout.columns)
                    scalars = scalars_of(values, *named, per_matrix=self._per_matrix)
                    for listener in self._listeners:
                        listener.log(step, scalars)

    def _is_due(self, step: int) -> bool:
        """Whether the row of this step is the first one, or the first at or after a step that is due."""
        since, self._told = self._told, max(step, self._told)
        return since < 0 or any_due(self._rule, since, step)
