"""From a trial's history to the few numbers that figures and report need, read part by part.

Steps are put into bins, equal parts of all steps of a trial. The recorded steps of one bin are a run of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ...history import HistoryError

BINS = 500  # points that a curve is drawn with: more than a panel has pixels
MATRIX_BINS = 120  # columns of a heat map

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Digest:
    """What is kept of a history of one trial.

    Attributes:
        curves: for every tolerance (key: its column suffix, "" for the first) the average rank over the matrices: a row
            `bin, step_first, step_last, low, mean, high` for each run of steps. Trials of as many steps have the same
            bins.
        last: for every tolerance the average rank over the matrices at the last step; NaN where that is not recorded,
            or a matrix is not finite.
        matrices: `name, rows, cols, last`: every matrix, and its rank at the first tolerance at the last step.
        ended: whether the last step is recorded, of all matrices.
        matrix_means: (matrices, runs of steps), mean ranks at the first tolerance; NaN where never finite.
        matrix_steps: (runs of steps, 2), first and last step of each.
        steps: how many steps are recorded. Those of which matrices are missing count too, but have no average.
        missing: how many of the steps that are due (multiples of `every`) are not recorded, or not of all matrices.
        rows, certified, nonfinite: rows in all, rows whose bounds agree at every tolerance, rows without a rank.
    """

    curves: dict[str, pd.DataFrame]
    last: dict[str, float]
    matrices: pd.DataFrame
    ended: bool
    matrix_means: FloatArray
    matrix_steps: IntArray
    steps: int
    missing: int
    rows: int
    certified: int
    nonfinite: int


def columns(suffixes: Iterable[str]) -> list[str]:
    """Names of the columns of a history that `digest` reads, for the tolerances with these column suffixes."""
    return ["step", "name", "rows", "cols", *(key for suffix in suffixes for key in rank_columns(suffix))]


def rank_columns(suffix: str = "") -> tuple[str, str]:
    """Names of `rank_lower` and `rank_upper` of the tolerance with this column suffix."""
    tail = f"@{suffix}" if suffix else ""
    return f"rank_lower{tail}", f"rank_upper{tail}"


def bounds(table: pa.Table, suffix: str = "") -> tuple[FloatArray, FloatArray]:
    """`rank_lower` and `rank_upper` of every row; NaN where the matrix was not finite."""
    lower, upper = (table[key].to_numpy().astype(np.float64) for key in rank_columns(suffix))
    return lower, upper


def ranks(table: pa.Table, suffix: str = "") -> FloatArray:
    """Rank of every row: the certified one, or the middle of its bounds; NaN where the matrix was not finite."""
    lower, upper = bounds(table, suffix)
    return (lower + upper) / 2


def digest(
    parts: Iterable[pa.Table], suffixes: Sequence[str], steps: int, *, every: int = 1, bins: int = BINS
) -> Digest:
    """Digest a history. What is held in memory grows with the number of steps, not with that of rows.

    Args:
        parts: tables of the history's rows, in order, with (at least) the columns that `columns` names.
        suffixes: column suffix of every tolerance, "" for the first.
        steps: how many steps the trial has, recorded or not.
        every: steps from one recorded step to the next.
        bins: how many bins curves have.

    Raises:
        fastrank.HistoryError: the history has no row, or reaches beyond `steps`.
    """
    tally = _Tally(suffixes, steps)
    for part in parts:
        tally.add(part)
    if not tally.rows:
        raise HistoryError("it is empty")
    recorded, whole = np.flatnonzero(tally.count), tally.count == len(tally.shapes)
    # A mean over some of the matrices would be another quantity.
    count = np.where(whole[recorded], tally.count[recorded], np.nan)
    averages = {suffix: total[recorded] / count for suffix, total in tally.total.items()}
    ended = bool(whole[steps])
    matrix_means = tally.matrix_total / np.where(tally.matrix_count > 0, tally.matrix_count, np.nan)
    starts, numbers = runs(recorded, steps, MATRIX_BINS)
    return Digest(
        curves={suffix: binned(recorded, average, steps, bins) for suffix, average in averages.items()},
        last={suffix: float(average[-1]) if ended else np.nan for suffix, average in averages.items()},
        matrices=pd.DataFrame(
            [(name, *shape) for name, shape in tally.shapes.items()], columns=["name", "rows", "cols"]
        ).assign(last=tally.last if ended else np.nan),
        ended=ended,
        matrix_means=matrix_means[:, numbers],
        matrix_steps=np.stack([recorded[starts], recorded[np.append(starts[1:], len(recorded)) - 1]], axis=1),
        steps=len(recorded),
        missing=int((~whole[every::every]).sum()),
        rows=tally.rows,
        certified=tally.certified,
        nonfinite=tally.nonfinite,
    )


class _Tally:
    """Sums over the rows seen so far: by step for the curves, by matrix and run of steps for the heat maps."""

    def __init__(self, suffixes: Sequence[str], steps: int) -> None:
        self.steps = steps
        self.total = {suffix: np.zeros(steps + 1) for suffix in suffixes}
        self.count = np.zeros(steps + 1)
        self.shapes: dict[str, tuple[int, int]] = {}
        self.matrix_total = np.zeros((0, MATRIX_BINS))
        self.matrix_count = np.zeros((0, MATRIX_BINS))
        self.last = np.zeros(0)
        self.rows = self.certified = self.nonfinite = 0

    def add(self, part: pa.Table) -> None:
        if not part.num_rows:
            return
        step = part["step"].to_numpy()
        low, high = int(step.min()), int(step.max())
        if high > self.steps:
            raise HistoryError(f"it reaches step {high:,}, and the trial had {self.steps:,} steps")
        self.rows += len(step)
        self.count[low : high + 1] += np.bincount(step - low)
        certified = np.ones(len(step), dtype=bool)
        for suffix, total in self.total.items():
            lower, upper = bounds(part, suffix)
            # A matrix without a rank makes the mean of its step NaN: a mean over the others would be another quantity.
            total[low : high + 1] += np.bincount(step - low, weights=(lower + upper) / 2)
            certified &= lower == upper  # NaN, a row without a rank, equals nothing
        self.certified += int(certified.sum())
        self._add_matrices(part, step, ranks(part, next(iter(self.total))))

    def _add_matrices(self, part: pa.Table, step: IntArray, rank: FloatArray) -> None:
        matrix, finite = self._matrices(part), np.isfinite(rank)
        self.nonfinite += int((~finite).sum())
        self.last[matrix] = rank  # of several rows of a matrix the last one stays
        place = matrix * MATRIX_BINS + bin_of(step, self.steps, MATRIX_BINS)
        size, shape = self.matrix_total.size, self.matrix_total.shape
        self.matrix_total += np.bincount(place, np.where(finite, rank, 0.0), minlength=size).reshape(shape)
        self.matrix_count += np.bincount(place, finite, minlength=size).reshape(shape)

    def _matrices(self, part: pa.Table) -> IntArray:
        """The number of every row's matrix; matrices are numbered in the order in which they first appear."""
        column = part["name"].combine_chunks()
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes, words = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        if not self.shapes.keys() >= set(words):
            for row in np.sort(np.unique(codes, return_index=True)[1]).tolist():
                shape = part["rows"][row].as_py(), part["cols"][row].as_py()
                self.shapes.setdefault(words[codes[row]], shape)
        order = {name: number for number, name in enumerate(self.shapes)}
        more = len(self.shapes) - len(self.last)
        if more:
            self.last = np.append(self.last, np.full(more, np.nan))
            self.matrix_total = np.vstack([self.matrix_total, np.zeros((more, MATRIX_BINS))])
            self.matrix_count = np.vstack([self.matrix_count, np.zeros((more, MATRIX_BINS))])
        numbers: IntArray = np.array([order.get(word, -1) for word in words])[codes]
        return numbers


def bin_of(step: IntArray, steps: int, bins: int) -> IntArray:
    """The bin that each step lies in: which of `bins` equal parts of the steps 1 to `steps`."""
    return np.maximum(step - 1, 0) * bins // max(steps, 1)


def runs(recorded: IntArray, steps: int, bins: int) -> tuple[IntArray, IntArray]:
    """Divide the steps in `recorded` (increasing) into runs: where in it each run begins, and the number of its bin."""
    numbers, starts = np.unique(bin_of(recorded, steps, bins), return_index=True)
    return starts, numbers


def binned(recorded: IntArray, values: FloatArray, steps: int, bins: int = BINS) -> pd.DataFrame:
    """A row for each run of steps, with lowest, mean and highest of `values`; NaN where all values of a run are.

    Args:
        recorded: (n,), increasing steps.
        values: (n,), a value for each of them.
        steps: how many steps the trial has in all.
        bins: how many bins there are; one in which no step was recorded has no row.
    """
    starts, numbers = runs(recorded, steps, bins)
    finite = np.isfinite(values)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    count = np.add.reduceat(finite.astype(np.float64), starts)
    return pd.DataFrame(
        {
            "bin": numbers,
            "step_first": recorded[starts],
            "step_last": recorded[np.append(starts[1:], len(recorded)) - 1],
            "low": np.fmin.reduceat(values, starts),
            "mean": np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
            "high": np.fmax.reduceat(values, starts),
        }
    )
