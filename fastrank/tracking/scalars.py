"""Scalars: the few numbers of a step that a logger is to show. There is no None and no NaN among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..history import Layout
from ..metrics import Status

FloatArray = NDArray[np.float64]

CAP = 64
"""Matrices that have curves of their own at most, unless the user asks for more."""


def scalars_of(
    values: FloatArray,
    shapes: Sequence[tuple[int, int]],
    layout: Layout,
    *,
    per_matrix: bool = False,
    cap: int = CAP,
) -> dict[str, float]:
    """The scalars of one step.

    Args:
        values: `(matrices, columns)`, as measured: ranks are -1 and other numbers NaN where there are none.
        shapes: (rows, cols) of each matrix.
        layout: names of the matrices and of the columns.
        per_matrix: every metric of each matrix as well.
        cap: how many matrices, the first ones, have curves of their own.

    Returns:
        `rank/mean`, `rank/lowest`: rank as a share of full rank, mean and lowest over the weights that have one, or
        over all matrices where no weights are tracked; one that is not certified counts as the middle of its bounds.
        `rank/below_half`: how many of those shares are below one half. `stable_rank/mean`, over the same matrices.
        `rank/nonfinite`: how many matrices of all are not finite, and have no rank.

        With `per_matrix`, `rank/NAME` (the share) and `COLUMN/NAME` for every other measured column but the status, and
        `rank/left_out`, the number of matrices beyond the cap. What a matrix does not have is left out.
    """
    column = {name: values[:, i] for i, name in enumerate(layout.columns)}
    shares = _shares(column["rank_lower"], column["rank_upper"], shapes)
    together = np.isfinite(shares)  # a mean over weights and gradients would be of nothing
    together[layout.weights or len(shares) :] = False
    known, stable = shares[together], column["stable_rank"][together & np.isfinite(column["stable_rank"])]
    nonfinite = column["status"] == Status.NONFINITE
    found = {"rank/below_half": float((known < 0.5).sum()), "rank/nonfinite": float(nonfinite.sum())}
    if len(known):
        found |= {"rank/mean": float(known.mean()), "rank/lowest": float(known.min())}
    if len(stable):
        found["stable_rank/mean"] = float(stable.mean())
    each: dict[str, float] = {}
    if per_matrix:
        found["rank/left_out"] = float(max(0, len(layout.names) - cap))
        for i, name in enumerate(layout.names[:cap]):
            own = {"rank": shares[i], **_others(column, i, shapes[i])}
            each |= {f"{key}/{name}": float(x) for key, x in own.items() if np.isfinite(x)}
    return each | found  # a matrix called "mean" takes no name from those of all matrices


def _shares(lower: FloatArray, upper: FloatArray, shapes: Sequence[tuple[int, int]]) -> FloatArray:
    """Ranks as shares of full rank; NaN where a matrix is not finite, or empty."""
    full = np.array([min(shape) for shape in shapes], dtype=np.float64)
    return np.divide((lower + upper) / 2, full, out=np.full_like(full, np.nan), where=(full > 0) & (lower >= 0))


def _others(column: dict[str, FloatArray], i: int, shape: tuple[int, int]) -> dict[str, float]:
    """What else was measured of matrix `i`; bounds of the rank at a further tolerance as one share, `rank@0.04`."""
    found = {}
    for name, values in column.items():
        if name.startswith("rank_lower@"):
            upper = column[name.replace("lower", "upper", 1)]
            share = _shares(values[i : i + 1], upper[i : i + 1], [shape])[0]
            found[f"rank@{name.partition('@')[2]}"] = share
        elif not name.startswith("rank_") and name != "status":
            found[name] = values[i]
    return found
