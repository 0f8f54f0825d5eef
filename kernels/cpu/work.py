"""Work: what is done to a batch of matrices, in phases of tasks that any number of threads may take.

    GRAMS     the Gram of each matrix, whole or in bands of columns
    TRACES    ||W||_F^2, and which Grams are to be made again; one task
    TOPS      lambda_1 of each, where it is asked for
    COUNTS    eigenvalues above each shift: of all matrices first those that bound ranks from below
    ROWS      what the counts say together

A phase needs all of the one before. Its tasks do not touch each other's results, so that it does not matter who takes
which, nor how many do: a thread takes the next one from a counter. The table of the matrices lies in memory, a row of
`FIELDS` numbers each; everything that is found is written to arrays with a row for each matrix.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, njit

from . import gram as of_gram
from . import ldl as of_ldl
from . import top as of_top
from .gram import CAREFUL, FP32, gram, trace_of
from .keep import kept
from .memory import pointer, take
from .openmp import in_team
from .shifts import UNPROVEN, proven_count, shifts_of
from .tiles import OPTIONS, SIDE, panel, panels, size
from .top import top

FIELDS = 8
ADDRESS, KIND, ORDER, INNER, ROW_STRIDE, COLUMN_STRIDE, GRAM, VECTOR = range(FIELDS)
"""Columns of the table, int64: where W is, and the `KIND` of its elements; r and n, r <= n; strides in elements;
where its Gram and its vector begin."""
TRACE, THETA, LOW, HIGH = range(4)
"""Columns of what is found of each matrix, FP64: ||W||_F^2, and of lambda_1 an approximation and bounds."""
GRAMS, TRACES, TOPS, COUNTS, ROWS, PHASES = range(6)
TIGHT = 1 + 1e-6
"""Largest ratio of the bounds of lambda_1 with which sigma_1 is taken as proven."""
OK, NONFINITE, FALLBACK = range(3)
"""As `fastrank.Status`."""


def scratch_size(order: int, inner: int) -> int:
    """FP64 numbers that a thread works in, for matrices of at most this order and sums of at most this length."""
    return max(of_gram.chunk_size(order, inner), of_top.scratch_size(order), size(order) + of_ldl.scratch_size(order))


@njit(**OPTIONS)
def _count(i, table, found, tolerances, given, counts, grams, scratch):
    """Task i of `COUNTS`: one shift of one matrix."""
    matrices = len(table)
    upper = i // matrices >= len(tolerances)
    matrix, tolerance = i % matrices, i // matrices % len(tolerances)
    order, inner, at = table[matrix, ORDER], table[matrix, INNER], table[matrix, GRAM]
    trace = found[matrix, TRACE]
    if not 0 < trace < np.inf:
        counts[matrix, tolerance, 1 if upper else 0] = 0
    elif upper and counts[matrix, tolerance, 0] == order:
        counts[matrix, tolerance, 1] = order
    else:
        kind, square = tolerances[tolerance]
        bounds = found[matrix, LOW : HIGH + 1]
        under, over, limit = shifts_of(kind, square, given[matrix, tolerance], bounds, trace, order, inner)
        end = panel(panels(order))
        factors, own = scratch[:end], scratch[end:]
        shift = under if upper else over
        count = proven_count(grams, at, order, shift, limit, not upper, trace, factors, own)
        counts[matrix, tolerance, 1 if upper else 0] = count


@njit(**OPTIONS)
def _row(matrix, table, found, scale, counts, bounds, status, values):
    """Bounds and status of each tolerance, as `fastrank.counting.bounds.judge` says it, and the row of the history, as
    `fastrank.measuring.row.row_of` does. Returns whether all is proven and closed."""
    trace, order, tolerances = found[matrix, TRACE], table[matrix, ORDER], counts.shape[1]
    worst, closed = OK, True
    for i in range(tolerances):
        lower, upper, own = counts[matrix, i, 0], counts[matrix, i, 1], OK
        if not trace < np.inf:
            lower, upper, own = -1, -1, NONFINITE
        elif lower != order and (lower == UNPROVEN or upper == UNPROVEN):
            lower, upper, own = 0, order, FALLBACK
        bounds[matrix, i, 0], bounds[matrix, i, 1], status[matrix, i] = lower, upper, own
        values[matrix, 2 * i], values[matrix, 2 * i + 1] = lower, upper
        worst = max(worst, own)
        closed &= lower == upper
    theta, at = found[matrix, THETA], 2 * tolerances
    known = trace < np.inf and found[matrix, HIGH] <= TIGHT * found[matrix, LOW]
    frobenius, top = np.sqrt(trace), np.sqrt(theta)
    values[matrix, at] = ((frobenius / top) ** 2 if theta > 0 else 0.0) if known else np.nan
    values[matrix, at + 1] = top * scale[matrix] if known else np.nan
    values[matrix, at + 2] = frobenius * scale[matrix] if trace < np.inf else np.nan
    values[matrix, at + 3] = worst
    return closed and (known or not trace < np.inf)


@njit(**OPTIONS)
def run(first, last, exact, tickets, bands, table, found, scale, tolerances, given, counts, bounds, status, values,
        grams, vectors, scratch):  # fmt: skip
    """The tasks of the phases from `first` up to `last` that nobody else has taken. Returns how many matrices are
    not done with: by `TRACES` those whose Grams are to be made again, by `ROWS` those without bounds that are closed or
    without a proven sigma_1.

    Args:
        exact: error at which the search for lambda_1 ends, see `top`.
        tickets: `(PHASES,)` int64, zeros at first: how many tasks of each phase are taken.
        bands: `(t, 3)` int64: matrix, first and last column of tiles of each task of `GRAMS`.
        table: `(b, FIELDS)` int64. found: `(b, 4)` FP64. scale: `(b,)` FP64, by which W was divided.
        tolerances: `(T, 2)` FP64, kind and square of the value, see `shifts`. given: `(b, T, 2)` FP64, bounds of
            tau^2 where the kind is `GIVEN`.
        counts: `(b, T, 2)` int64, lower and upper. bounds: the same, judged; status: `(b, T)` int8.
        values: `(b, 2 T + 4 or more)` FP64, rows of the history as far as counts tell them.
        grams, vectors: where the Grams and the first eigenvectors are, FP64.
        scratch: of `scratch_size`, this thread's own.
    """
    left = 0
    for phase in range(first, last):
        if phase == GRAMS:
            tasks = len(bands)
        elif phase == TRACES:
            tasks = 1
        elif phase == COUNTS:
            tasks = 2 * len(table) * len(tolerances)
        else:
            tasks = len(table)
        while True:
            i = take(tickets, phase, 1)
            if i >= tasks:
                break
            if phase == GRAMS:
                row = table[bands[i, 0]]
                gram(row[ADDRESS], row[KIND], row[ORDER], row[INNER], row[ROW_STRIDE], row[COLUMN_STRIDE],
                     bands[i, 1], bands[i, 2], grams, row[GRAM], scratch)  # fmt: skip
            elif phase == TRACES:
                left += traces_of(table, found, grams)
            elif phase == TOPS:
                row = table[i]
                trace = found[i, TRACE]
                if 0 < trace < np.inf:
                    x = vectors[row[VECTOR] : row[VECTOR] + SIDE * panels(row[ORDER])]
                    theta, low, high = top(grams, row[GRAM], row[ORDER], row[INNER], trace, x, exact, scratch)
                    found[i, THETA], found[i, LOW], found[i, HIGH] = theta, low, high
                else:
                    found[i, THETA], found[i, LOW], found[i, HIGH] = trace, trace, trace
            elif phase == COUNTS:
                _count(i, table, found, tolerances, given, counts, grams, scratch)
            else:
                left += not _row(i, table, found, scale, counts, bounds, status, values)
    return left


@njit(**OPTIONS)
def traces_of(table, found, grams):
    """||W||_F^2 of each matrix, from its Gram; returns how many Grams are to be made again. Those are of FP32 matrices
    so small that subnormal numbers matter: in the table they become `CAREFUL`."""
    again = 0
    for i in range(len(table)):
        found[i, TRACE] = trace_of(grams, table[i, GRAM], table[i, ORDER])
        # In larger matrices all subnormal numbers together are 2^-72 of the norm, which every error bound allows for.
        if table[i, KIND] == FP32 and found[i, TRACE] < 2.0**-108 * table[i, ORDER] * table[i, INNER]:
            table[i, KIND] = CAREFUL
            again += 1
    return again


COUNTERS = PHASES + 2
"""Of tasks taken in each phase; then of threads that have come, and of matrices that are not done with."""
TASK = np.dtype(
    [("exact", np.float64)]
    + [
        (name, np.int64)
        for name in (
            "first",
            "last",
            "bands",
            "matrices",
            "tolerances",
            "columns",
            "grams",
            "vectors",
            "threads",
            "share",
        )
    ]
    + [(f"at_{name}", np.int64) for name in ("counters", "bands", "table", "found", "scale", "kinds", "given")]
    + [(f"at_{name}", np.int64) for name in ("counts", "bounds", "status", "values", "grams", "vectors", "scratch")]
)
"""What `run` is told: sizes and addresses of its arrays. `threads`: how many may take part; `share`: how much
scratch each has."""


@cache
def _works() -> Any:
    """`run` as a function of C. Numba keeps it on disk, and finds it there by its own bytes and the values in it:
    `sources` is one, so that it is compiled anew when any file of this room has changed."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    sources = int.from_bytes(hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()[:7])

    @kept
    def works(address):
        t = carray(address, (1,), TASK)[0]
        b, tolerances = t.matrices, t.tolerances
        counters = carray(pointer(t.at_counters), (COUNTERS,), np.int64)
        thread = take(counters, PHASES, 1)
        if thread >= t.threads:
            return
        left = run(
            t.first if sources else 0,
            t.last,
            t.exact,
            counters,
            carray(pointer(t.at_bands), (t.bands, 3), np.int64),
            carray(pointer(t.at_table), (b, FIELDS), np.int64),
            carray(pointer(t.at_found), (b, 4), np.float64),
            carray(pointer(t.at_scale), (b,), np.float64),
            carray(pointer(t.at_kinds), (tolerances, 2), np.float64),
            carray(pointer(t.at_given), (b, tolerances, 2), np.float64),
            carray(pointer(t.at_counts), (b, tolerances, 2), np.int64),
            carray(pointer(t.at_bounds), (b, tolerances, 2), np.int64),
            carray(pointer(t.at_status), (b, tolerances), np.int8),
            carray(pointer(t.at_values), (b, t.columns), np.float64),
            carray(pointer(t.at_grams), (t.grams,), np.float64),
            carray(pointer(t.at_vectors), (t.vectors,), np.float64),
            carray(pointer(t.at_scratch + 8 * t.share * thread), (t.share,), np.float64),
        )
        take(counters, PHASES + 1, left)

    return works


class Work:
    """Work on a chunk of matrices, in at most so many threads. The arrays are those of `run`, by name, contiguous.

    scratch: for all threads.
    """

    def __init__(self, threads: int, exact: float, scratch: np.ndarray, **arrays: np.ndarray) -> None:
        self._counters = np.zeros(COUNTERS, np.int64)
        self._arrays = {"counters": self._counters, "scratch": scratch, **arrays}  # which have to stay where they are
        self._task = np.zeros(1, TASK)
        task = self._task[0]
        for name, array in self._arrays.items():
            task[f"at_{name}"] = array.ctypes.data
        task["exact"], task["threads"], task["share"] = exact, threads, len(scratch) // threads
        task["matrices"], task["columns"] = arrays["values"].shape
        task["tolerances"], task["grams"], task["vectors"] = (len(arrays[x]) for x in ("kinds", "grams", "vectors"))
        self._address = self._task.ctypes.data

    def run(self, first: int, last: int, bands: np.ndarray, team: int) -> int:
        """See the function `run`.

        Args:
            bands: the tasks of `GRAMS`.
            team: how many threads there are, more of which may be called than take part.
        """
        task, counters = self._task[0], self._counters
        task["at_bands"], task["bands"] = bands.ctypes.data, len(bands)
        counters[:] = 0
        alone = task["threads"] == 1
        for begin, end in [(first, last)] if alone else [(phase, phase + 1) for phase in range(first, last)]:
            task["first"], task["last"], counters[PHASES] = begin, end, 0
            in_team(_works().ctypes, self._address, 1 if alone or begin in (TRACES, ROWS) else team)
        return int(counters[PHASES + 1])
