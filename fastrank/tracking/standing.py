"""How a tracker's history stands, as far as the host knows: what its reprs say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..history import Block, History
from ..metrics import Status
from ..plotting import Standing
from ..schedules import Rule, multiples

POINTS = 24
"""Ranks of each matrix in its curve, evenly spaced among those in memory."""
SHOWN = ("rank_lower", "rank_upper", "stable_rank", "status")


def standing_of(
    history: History, shapes: Sequence[tuple[int, int]], first: int | None, rule: Rule, model: str
) -> Standing:
    """What the host knows of a history. Waits for nothing.

    Args:
        shapes: (rows, cols) of each matrix.
        first: number of the first recorded step.
        rule: after which steps matrices are measured.
        model: what the matrices are of.
    """
    names, blocks = history.layout.names, history.known()
    if not blocks:
        return Standing(names, shapes, None, None, {}, model, _in_words(rule))
    last = int(blocks[-1].steps[-1])
    values = _numbers(blocks, history.layout.columns)
    chosen = np.unique(np.linspace(0, len(values) - 1, POINTS).round().astype(int))
    curves = dict(zip(names, values[chosen, :, :2].mean(-1).T.tolist(), strict=True))
    latest: dict[str, dict[str, Any]] = {
        name: {column: None if np.isnan(x) else x for column, x in zip(SHOWN, row, strict=True)}
        for name, row in zip(names, values[-1].tolist(), strict=True)
    }
    for row in latest.values():
        row["status"] = Status(int(row["status"])).name
    steps, weights = (last if first is None else first, last), history.layout.weights
    return Standing(names, shapes, *steps, latest, model, _in_words(rule), weights=weights, curves=curves)


def _numbers(blocks: Sequence[Block], columns: Sequence[str]) -> NDArray[np.float64]:
    """The columns `SHOWN` of all rows, `(steps, matrices, 4)`; NaN where there is no such number."""
    places = [columns.index(column) for column in SHOWN]
    values: NDArray[np.float64] = np.concatenate([block.values[..., places].numpy() for block in blocks])
    values[values < 0] = np.nan  # ranks are -1 where there are none
    return values


def _in_words(rule: Rule) -> str:
    if isinstance(rule, multiples):
        return "every step" if rule.n == 1 else f"every {rule.n}"
    return (
        repr(rule) if hasattr(rule, "__dataclass_fields__") else f"by {getattr(rule, '__name__', type(rule).__name__)}"
    )
