"""A trial's history, boiled down to what figures and report need of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

BINS = 500  # points a curve is drawn with, and columns of a heat map: more than a panel has pixels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Digest:
    """What is kept of a history of one trial.

    Attributes:
        curves: for every tolerance (key: its column suffix, "" for the first) the average rank over the matrices,
            `step_first, step_last, low, mean, high` a bin of steps.
        last: for every tolerance the average rank over the matrices at the last step; NaN where not finite.
        steps: recorded steps.
        rows, certified, nonfinite: rows in all, rows whose bounds agree at every tolerance, rows without a rank.
    """

    curves: dict[str, pd.DataFrame]
    last: dict[str, float]
    steps: int
    rows: int
    certified: int
    nonfinite: int


def digest(history: pa.Table, suffixes: list[str], bins: int = BINS) -> Digest:
    """Boil down `history` (the columns of `fastrank.read_history`) for the tolerances with these column suffixes."""
    curves, last = {}, {}
    certified = np.ones(history.num_rows, dtype=bool)
    for suffix in suffixes:
        steps, average = average_by_step(history, suffix)
        curves[suffix] = binned(steps, average, bins)
        last[suffix] = float(average[-1])
        lower, upper = bounds(history, suffix)
        certified &= lower == upper  # NaN, a row without a rank, equals nothing
    nonfinite = int(np.isnan(bounds(history, suffixes[0])[0]).sum())
    return Digest(curves, last, len(steps), history.num_rows, int(certified.sum()), nonfinite)


def bounds(history: pa.Table, suffix: str = "") -> tuple[FloatArray, FloatArray]:
    """`rank_lower` and `rank_upper` of every row; NaN where the matrix was not finite."""
    tail = f"@{suffix}" if suffix else ""
    lower, upper = (history[f"rank_{side}{tail}"].to_numpy().astype(np.float64) for side in ("lower", "upper"))
    return lower, upper


def ranks(history: pa.Table, suffix: str = "") -> FloatArray:
    """Rank of every row: the certified one, or the middle of its bounds; NaN where the matrix was not finite."""
    lower, upper = bounds(history, suffix)
    return (lower + upper) / 2


def average_by_step(history: pa.Table, suffix: str = "") -> tuple[NDArray[np.int64], FloatArray]:
    """Recorded steps, and the mean rank over the matrices at each.

    One matrix without a rank makes the mean of its step NaN: a mean over the others would be another quantity.
    """
    steps, group = np.unique(history["step"].to_numpy(), return_inverse=True)
    return steps, np.bincount(group, weights=ranks(history, suffix)) / np.bincount(group)


def binned(steps: NDArray[np.int64], values: FloatArray, bins: int = BINS) -> pd.DataFrame:
    """Lowest, mean and highest of `values` over at most `bins` runs of consecutive steps; NaN where all are NaN."""
    starts = np.linspace(0, len(steps), min(bins, len(steps)), endpoint=False).astype(np.int64)
    finite = np.isfinite(values)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    count = np.add.reduceat(finite.astype(np.float64), starts)
    return pd.DataFrame(
        {
            "step_first": steps[starts],
            "step_last": steps[np.append(starts[1:], len(steps)) - 1],
            "low": np.fmin.reduceat(values, starts),
            "mean": np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
            "high": np.fmax.reduceat(values, starts),
        }
    )
