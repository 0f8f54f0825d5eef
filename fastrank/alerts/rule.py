"""What a rule is: what it is told, what it answers, and the alert that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


class AlertWarning(UserWarning):
    """A rule of `fastrank.alerts` has begun to hold for a matrix."""


@dataclass(frozen=True)
class Alert:
    """A rule has begun to hold for a matrix."""

    step: int
    """The step from which on it holds. Training may be some steps ahead by now."""
    name: str
    """The matrix."""
    rule: str
    """Name of the rule, such as `"below_0.1"`."""
    rank: int | None
    """The matrix's rank at this step, or its upper bound where it is not certified; None where it is not finite."""
    full_rank: int
    """min(rows, cols)."""
    message: str
    """All of this in a sentence."""


@dataclass(frozen=True)
class Rows:
    """What rules look at: n consecutive measured steps of m matrices."""

    steps: NDArray[np.int64]
    """(n,), increasing."""
    lower: NDArray[Any]
    """(n, m): the proven lower bounds of the rank; without meaning where `nonfinite`."""
    upper: NDArray[Any]
    """(n, m): the upper bounds."""
    full: NDArray[Any]
    """(m,): min(rows, cols)."""
    nonfinite: Bools
    """(n, m): the matrix holds NaN or Inf, and has no rank. Also where there was none, as of a parameter without a
    gradient: what a rule says of these rows does not count."""

    def columns(self, chosen: NDArray[np.intp]) -> Rows:
        """The same of these matrices only."""
        kept = (self.lower[:, chosen], self.upper[:, chosen], self.full[chosen], self.nonfinite[:, chosen])
        return Rows(self.steps, *kept)


Action = Literal["warn", "log", "stop"] | Callable[[Alert], object]
"""`"warn"`: a Python `AlertWarning`. `"log"`: that, and the value 1.0 to all sinks of the tracker's `log`, under
`alert/<rule>/<matrix>`; a trainer's own loggers are none of these.
`"stop"`: a warning, and training is asked to stop. A function is called with the alert."""


class Rule:
    """Says of which matrices something holds. A rule of one's own is a subclass with `holds`, and may have `says`.

    Args:
        name: what it is called in messages and in the names of curves.
        action: an `Action`, or several (default `"warn"`).
        names: globs; only matrices whose names match one are looked at (default: all).

    Raises:
        TypeError: an action that is neither a word nor a function. ValueError: a word that is not known.
    """

    def __init__(
        self, name: str, action: Action | Sequence[Action] = "warn", *, names: str | Sequence[str] | None = None
    ) -> None:
        self.name = name
        several = isinstance(action, Sequence) and not isinstance(action, str)
        self.actions: tuple[Action, ...] = tuple(action) if several else (action,)  # type: ignore[arg-type, assignment]
        for one in self.actions:
            if not callable(one) and not isinstance(one, str):
                raise TypeError(f"alerts, {name}: action: expected a function or a word, not {one!r}")
            if isinstance(one, str) and one not in ("warn", "log", "stop"):
                raise ValueError(f"alerts, {name}: action: expected 'warn', 'log', 'stop' or a function, not {one!r}")
        self.names = (names,) if isinstance(names, str) else names

    def holds(self, rows: Rows) -> tuple[Bools, Bools]:
        """Where the rule holds, and where it has ceased to, both `(n, m)`.

        An alert comes at the first row where it holds. There is no other for this matrix before a row where it has
        ceased to; in a row where neither is true, nothing changes. Called once with every row, in order.
        """
        raise NotImplementedError

    def says(self, name: str, rank: int | None, full_rank: int) -> str:
        """The message of an alert, without its step."""
        what = "it is not finite" if rank is None else f"rank {rank} of {full_rank}"
        return f"{name}: {self.name}: {what}"

    def state_dict(self) -> dict[str, Any]:
        """What `holds` remembers of earlier rows, as numbers, strings and lists (default: nothing)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from such a state. Empty: from the beginning."""
