"""Conclude: bounds of ranks and of sigma_1 from the counts of a sketch, and which columns the next basis keeps.

    rank_lower, rank_upper   counts of problems 2 + 2 t and 3 + 2 t where they can be believed, else 0 and min(r, n)
    kept                     columns of the next basis that are made from Y; noise takes the place of the others
    top = D^1/2 L^T x        where the first singular vector is in the next basis; C = L D L^T, x of `sketch.compare`

`sketch.proof` says what the problems are, and `fastrank.reference.sketch`, the twin, why the bounds hold. A column of Y
is kept unless its pivot in C is among the k / 8 smallest, or so small that the column holds rounding only.

One program a matrix. Bytes: 8 k^2 of factors read, from L2. Flops: 3 k^2. Bound by latency, a few us. Times are not
measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import triton
import triton.language as tl
from torch import Tensor

from ..variant import Variant
from .proof import (
    FIRST,
    FROBENIUS,
    GROWTH_LIMIT,
    HIGH,
    LEAST,
    LEFT,
    LOW,
    NORM,
    NUMBERS,
    ORTHONORMAL,
    SPARE,
    SPECTRAL,
    launch_all,
    variant_of,
)
from .table import COLUMNS, COMPLETE, FIELDS, ROWS, SMALL, WIDEST, WIDTH

DEAD = tl.constexpr(2.0**-36)
"""Share of the largest pivot below which a column holds rounding only; as in `fastrank.reference.sketch`."""
BLOCK = tl.constexpr(16)
"""Rows of the factor of C that a program looks at at a time."""


@triton.jit(do_not_specialize=["MATRICES", "TOLERANCES"])
def conclude_kernel(p_table, p_step, p_skip, p_counts, p_growth, p_small, p_x, p_numbers, p_tolerances, p_kept, p_top,
                    p_proof, p_decided, MATRICES, TOLERANCES):  # fmt: skip
    if tl.load(p_skip) != 0:
        return
    i_matrix = tl.program_id(0).to(tl.int64)
    p_row = p_table + ((tl.load(p_step) & 1) * MATRICES + i_matrix) * FIELDS
    most = tl.minimum(tl.load(p_row + ROWS), tl.load(p_row + COLUMNS)).to(tl.float64)
    k = tl.load(p_row + WIDTH)
    limit = GROWTH_LIMIT + k
    problems = FIRST + 2 * TOLERANCES
    p_number = p_numbers + i_matrix * NUMBERS
    norm, spare, left = tl.load(p_number + NORM), tl.load(p_number + SPARE), tl.load(p_number + LEFT)
    low, high = tl.load(p_number + LOW), tl.load(p_number + HIGH)
    orthonormal = tl.load(p_number + ORTHONORMAL) != 0
    finite = tl.abs(norm) < float("inf")
    p_count, p_grown = p_counts + i_matrix * problems, p_growth + i_matrix * problems

    certified = orthonormal & (tl.load(p_count + 1) == 0) & (tl.load(p_grown + 1) <= limit * norm)
    p_out = p_proof + i_matrix * (3 + 2 * TOLERANCES)
    tl.store(p_out + 0, norm)
    tl.store(p_out + 1, tl.where(orthonormal, low, 0.0))
    tl.store(p_out + 2, tl.where(certified, high, norm + spare))
    decided = tl.full((), 1, tl.int32)
    for i in range(0, TOLERANCES):
        p = FIRST + 2 * i
        kind, square = tl.load(p_tolerances + 2 * i), tl.load(p_tolerances + 2 * i + 1)
        known = orthonormal & ((kind != SPECTRAL) | certified)
        sound = known & (tl.load(p_grown + p) <= limit * norm)
        lower = tl.where(sound, tl.load(p_count + p).to(tl.float64), 0.0)
        least = tl.where(kind == FROBENIUS, square * norm, tl.where(kind == SPECTRAL, square * low, square))
        sound = known & (tl.load(p_grown + p + 1) <= limit * norm) & (least - left - spare > 0)
        upper = tl.where(sound, tl.load(p_count + p + 1).to(tl.float64), most)
        upper = tl.where(norm == 0, 0.0, upper)
        lower = tl.where(norm == 0, 0.0, lower)
        tl.store(p_out + 3 + 2 * i, tl.where(finite, lower, -1.0))
        tl.store(p_out + 4 + 2 * i, tl.where(finite, upper, -1.0))
        decided = tl.where(finite & (lower != upper), 0, decided)
    tl.store(p_decided + i_matrix, decided)

    p_first, order = p_small + tl.load(p_row + SMALL), tl.maximum(k, LEAST)
    o = tl.arange(0, WIDEST)
    m = o < k
    d = tl.load(p_first + o * (order + 1), mask=m, other=0.0)
    x = tl.load(p_x + i_matrix * WIDEST + o, mask=m, other=0.0)
    moved = x
    smaller = tl.zeros((WIDEST,), tl.int32)
    for i in range(0, k, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        of_rows = tl.load(p_first + o_row * (order + 1))
        lower_rows = tl.load(p_first + (o_row[:, None] * order + o[None, :]), mask=m[None, :], other=0.0)
        x_rows = tl.load(p_x + i_matrix * WIDEST + o_row)
        before = (of_rows[:, None] < d[None, :]) | ((of_rows[:, None] == d[None, :]) & (o_row[:, None] < o[None, :]))
        smaller += tl.sum(before.to(tl.int32), 0)
        moved += tl.sum(tl.where(o_row[:, None] > o[None, :], lower_rows * x_rows[:, None], 0.0), 0)
    alive = (d > DEAD * tl.max(d)) & (d > 0) & (smaller >= k // 8)
    kept = tl.where(finite & (norm > 0), alive, False)
    top = tl.where(kept, tl.sqrt(tl.maximum(d, 0.0)) * moved, 0.0)
    if tl.load(p_row + COMPLETE) != 0:
        # A complete basis does not change: the vector stays where `sketch.compare` has found it.
        kept = tl.load(p_kept + i_matrix * WIDEST + o, mask=m, other=0) != 0
        top = tl.where(finite, x, 0.0)
    tl.store(p_kept + i_matrix * WIDEST + o, kept.to(tl.int32), mask=m)
    tl.store(p_top + i_matrix * WIDEST + o, top, mask=m)


def conclude_(scratch: Mapping[str, Tensor]) -> None:
    """Writes what a step has proven of each matrix, and what the next basis is made of; nothing where `skip` is not 0.

    scratch: see `Sketches.tensors`, in which these are written:
        `proof` `(b, 3 + 2 tolerances)` FP64: ||W||_F^2, lower and upper bound of sigma_1^2, lower and upper bound
        of each rank, -1 where W is not finite; `decided` `(b,)` int32: 1 where the bounds of every rank are equal,
        or W is not finite; `kept` `(b, 128)` int32 and `top` `(b, 128)` FP64, of the next basis, k of a row.
    """
    launch_all(CONCLUDE, scratch)


CONCLUDE = variant_of(conclude_kernel, 4, 224)


def variants() -> Iterator[Variant]:
    yield CONCLUDE
