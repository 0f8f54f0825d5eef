"""The operator `fastrank::take_step`: a tracker takes a step of a compiled graph. Importing this registers it."""

from __future__ import annotations

from torch import Tensor

from ...operators import register
from .in_graph import IN_GRAPHS


def _take_step(calls: Tensor, values: list[Tensor], number: int, which: int) -> None:
    calls.add_(1)
    own = IN_GRAPHS.get(number)
    if own is None:
        raise RuntimeError("the RankTracker of this compiled step is gone, or is that of another process")
    own.run(values, which)


def _fake(*given: object) -> None:
    """Nothing is returned."""


register("take_step(Tensor(a!) calls, Tensor[] values, int number, int which) -> ()", _take_step, _fake)
