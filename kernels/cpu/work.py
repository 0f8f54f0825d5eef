"""Work: what is done to a batch of matrices, in phases of tasks that any number of threads may take.

    GRAMS     the Gram of each matrix, whole or in bands of columns
    TRACES    ||W||_F^2 of each, and which Grams are to be made again
    AGAIN, TRACES_AGAIN     those are
    TOPS      lambda_1 of each, where it is asked for
    COUNTS    eigenvalues above each shift: of all matrices first those that bound ranks from below
    ROWS      what the counts say together

A phase needs all of the one before. Its tasks do not touch each other's results, so that it does not matter who takes
which, nor how many do: a thread takes the next one from a counter, and waits for others where they have a task only,
and not for one that has come to none yet because it has no core. The table of the matrices lies in memory, a row of
`FIELDS` numbers each; everything that is found is written to arrays with a row for each matrix.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from . import gram as of_gram
from . import ldl as of_ldl
from . import top as of_top
from .gram import CAREFUL, FP32, MARKED, gram, trace_of
from .memory import fetch_add
from .shifts import UNPROVEN, proven_count, shifts_of
from .tiles import OPTIONS, SIDE, panel, panels, size
from .top import top

FIELDS = 8
ADDRESS, KIND, ORDER, INNER, ROW_STRIDE, COLUMN_STRIDE, GRAM, VECTOR = range(FIELDS)
"""Columns of the table, int64: where W is, and the `KIND` of its elements; r and n, r <= n; strides in elements;
where its Gram and its vector begin."""
TRACE, THETA, LOW, HIGH = range(4)
"""Columns of what is found of each matrix, FP64: ||W||_F^2, and of lambda_1 an approximation and bounds."""
GRAMS, TRACES, AGAIN, TRACES_AGAIN, TOPS, COUNTS, ROWS, PHASES = range(8)
TIGHT = 1 + 1e-6
"""Largest ratio of the bounds of lambda_1 with which sigma_1 is taken as proven."""
OK, NONFINITE, FALLBACK = range(3)
"""As `fastrank.Status`."""
_let_others = types.ExternalFunction("sched_yield", types.int32())


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
        elif lower == order:
            upper = order  # nothing else is left, whatever became of the other count
        elif lower == UNPROVEN or upper == UNPROVEN:
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
def _gram(bands, i, table, grams, scratch):
    """Task i of `GRAMS` and of `AGAIN`."""
    row = table[bands[i, 0]]
    kind = CAREFUL if row[KIND] == MARKED else row[KIND]
    gram(row[ADDRESS], kind, row[ORDER], row[INNER], row[ROW_STRIDE], row[COLUMN_STRIDE], bands[i, 1], bands[i, 2],
         grams, row[GRAM], scratch)  # fmt: skip


@njit(**OPTIONS)
def _trace(i, table, found, grams):
    """Task i of `TRACES` and of `TRACES_AGAIN`. The first marks FP32 matrices so small that subnormal numbers matter:
    their Grams are made again. In larger ones all subnormal numbers together are 2^-72 of the norm, which every error
    bound allows for."""
    row = table[i]
    found[i, TRACE] = trace_of(grams, row[GRAM], row[ORDER])
    if row[KIND] == MARKED:
        row[KIND] = CAREFUL
    elif row[KIND] == FP32 and found[i, TRACE] < 2.0**-108 * row[ORDER] * row[INNER]:
        row[KIND] = MARKED


@njit(**OPTIONS)
def _top(i, exact, table, found, grams, vectors, scratch):
    """Task i of `TOPS`."""
    row, trace = table[i], found[i, TRACE]
    theta, low, high = trace, trace, trace
    if 0 < trace < np.inf:
        x = vectors[row[VECTOR] : row[VECTOR] + SIDE * panels(row[ORDER])]
        theta, low, high = top(grams, row[GRAM], row[ORDER], row[INNER], trace, x, exact, scratch)
    found[i, THETA], found[i, LOW], found[i, HIGH] = theta, low, high


@njit(**OPTIONS)
def run(first, last, exact, counters, bands, table, found, scale, tolerances, given, counts, bounds, status, values,
        grams, vectors, scratch):  # fmt: skip
    """The tasks of the phases from `first` up to `last` that nobody else has taken. Returns how many matrices it has
    found in `ROWS` to have open bounds, or no proven sigma_1.

    Args:
        exact: error at which the search for lambda_1 ends, see `top`.
        counters: `(2 PHASES or more,)` int64, zeros at first: how many tasks of each phase are taken, and are done.
        bands: `(t, 3)` int64: matrix, first and last column of tiles of each task of `GRAMS`.
        table: `(b, FIELDS)` int64. found: `(b, 4)` FP64. scale: `(b,)` FP64, by which W was divided.
        tolerances: `(T, 2)` FP64, kind and square of the value, see `shifts`. given: `(b, T, 2)` FP64, bounds of
            tau^2 where the kind is `GIVEN`.
        counts: `(b, T, 2)` int64, lower and upper. bounds: the same, judged; status: `(b, T)` int8.
        values: `(b, 2 T + 4 or more)` FP64, rows of the history as far as counts tell them.
        grams, vectors: where the Grams and the first eigenvectors are, FP64.
        scratch: of `scratch_size`, this thread's own.
    """
    open_ = 0
    for phase in range(first, last):
        tasks = len(table)
        if phase in (GRAMS, AGAIN):
            tasks = len(bands)
        elif phase == COUNTS:
            tasks = 2 * len(table) * len(tolerances)
        while True:
            i = fetch_add(counters, phase, 1)
            if i >= tasks:
                break
            if phase == GRAMS or (phase == AGAIN and table[bands[i, 0], KIND] == MARKED):
                _gram(bands, i, table, grams, scratch)
            elif phase == TRACES or (phase == TRACES_AGAIN and table[i, KIND] == MARKED):
                _trace(i, table, found, grams)
            elif phase == TOPS:
                _top(i, exact, table, found, grams, vectors, scratch)
            elif phase == COUNTS:
                _count(i, table, found, tolerances, given, counts, grams, scratch)
            elif phase == ROWS:
                open_ += not _row(i, table, found, scale, counts, bounds, status, values)
            fetch_add(counters, PHASES + phase, 1)
        while fetch_add(counters, PHASES + phase, 0) < tasks:
            _let_others()
    return open_
