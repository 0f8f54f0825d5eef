"""Cut: every matrix of a ragged batch into the INT8 slices that `count.integer_gram` multiplies, and what that loses.

    W = sum over p of 2^(top - 125 - 8 p) A_p + dW     A_p (r, n) INT8, slice p of four, row by row
    top (r,) int32                                     of each row, see `fastrank.kernels.slices`
    lost (4,) FP64 a program                           ||dW||_F^2, and ||A_p||_F^2 for p = 2, 3, 4, in units of W

    error >= ||E||_F, |tr E|                           E = W W^T less the Gram that the products of slices make:
        2 ||A|| ||dW|| + ||dW||^2  +  sum over i + j > LAST of ||A_i|| ||A_j||         in Frobenius norms, A = W - dW

dW is measured: where all elements of a row are within 2^-7 of the largest, or have few bits, it is zero. Its squares
are summed in FP32, whose relative error is below 2^-7.9, and the sum is taken 2^-7 larger. `count.shifts` and
`fastrank.counting.bounds` add the error to delta. A row that is not finite has the top `NOT_FINITE`, of which
`count.finish` makes NaN.

The error by the number of slices and products, in per cent of tau^2 = 1e-6 ||W||_F^2, of 256 x 1024 matrices: Gaussian;
Gaussian with one element of 1000 in the first row; Gaussian with one column 30 times as large; Cauchy:

    slices, products       FP32                            BF16
    3, 8                   31      208    237    330       0.24    30     11     274
    4, 10 (LAST = 5)       0.47    13     26     19        0.005   8      3.3    18
    4, 13 (LAST = 6)       0.02    0.87   0.57   1.3       1e-6    0.006  0.004  0.19

Three would do for most BF16 and FP16 matrices, in 8 products; but rows with outliers are what transformers have, and
one number of slices is one kernel. Two leave 1,100 %. `backend.integer_products` chooses between 10 and 13.

One program takes STRIP rows: a loop over their columns finds the tops, and a second one cuts. Bytes: W twice, the
second time from a cache, and 4 r n written. Instructions: 69 an element of FP32 on sm_89, 49 of them for the 32-bit
integer units: 0.6 times as long as W's bytes on an RTX 4090 (`bench/cards.py`). By latencies alone a program takes
24.5 us for 4608 columns. Times are not measured.

Tried, by what the compiler makes of it: 256 columns by 8 warps: 13.3 us by latencies, but 150 registers leave room for
one program a multiprocessor, and not for four. 512 by 16: 8.2 us, and 8 bytes spilled for BF16 on sm_120.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..inertia.table import (
    COLUMNS,
    FIELDS,
    OFFSET,
    ORDER,
    POINTER,
    ROWS,
    SLICES,
    STRIDE_COLUMN,
    STRIDE_ROW,
    TOPS,
    WIDTH,
    Shape,
)
from ..launch import launch
from ..limits import NARROW
from ..slices import NOT_FINITE, bytes_of, cut_off, fixed_point, magnitude, power_of_two, slice_of, top_of
from ..variant import Variant
from .finish import trace_of
from .integer_gram import LAST
from .product import TRITON_TYPES, wide_tile

STRIP = tl.constexpr(8)
"""Rows of a program; a divisor of `inertia.table.PAD`."""
LOST = tl.constexpr(4)
"""Numbers that a program writes: squares of norms of dW and of the slices 2, 3 and 4."""


@triton.jit
def _cut_with(p, p_top, p_slices, o_row, order, width, stride_row, stride_column, rows, columns,
              UNIT: tl.constexpr, STRIP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Cuts the rows `o_row`; returns four sums of squares, FP64, see `LOST`. UNIT: see `wide_tile`."""
    m_row = o_row < rows
    largest = tl.zeros((STRIP, BLOCK), tl.int32)
    for i in range(0, columns, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        w = wide_tile(p, o_row, o, stride_row, stride_column, m_row, columns, UNIT)
        largest = tl.maximum(largest, magnitude(w))
    largest = tl.max(largest, 1)
    top = top_of(largest)
    tl.store(p_top + o_row, tl.where(largest >= NOT_FINITE, NOT_FINITE, top))

    size = order * width
    cut = tl.zeros((STRIP, BLOCK), tl.float32)
    second = tl.zeros((STRIP, BLOCK), tl.int32)
    third = tl.zeros((STRIP, BLOCK), tl.int32)
    fourth = tl.zeros((STRIP, BLOCK), tl.int32)
    for i in range(0, width, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        w = wide_tile(p, o_row, o, stride_row, stride_column, m_row, columns, UNIT)
        x = fixed_point(w, top[:, None], 4)
        off = cut_off(w, x, top[:, None], 4)
        cut += off * off
        packed = bytes_of(x, 4)
        p_out, m_out = p_slices + (o_row[:, None] * width + o[None, :]), (o < width)[None, :]
        a_2, a_3, a_4 = slice_of(packed, 2, 4), slice_of(packed, 3, 4), slice_of(packed, 4, 4)
        tl.store(p_out, slice_of(packed, 1, 4), mask=m_out)
        tl.store(p_out + size, a_2, mask=m_out)
        tl.store(p_out + 2 * size, a_3, mask=m_out)
        tl.store(p_out + 3 * size, a_4, mask=m_out)
        second += a_2.to(tl.int32) * a_2
        third += a_3.to(tl.int32) * a_3
        fourth += a_4.to(tl.int32) * a_4
    # Squares of units: that of slice p is 2^(top - 125 - 8 p), and that of X is the last slice's.
    unit = power_of_two(2 * (top - 125))
    off = tl.sum(tl.sum(cut, 1).to(tl.float64) * (unit * 2.0**-64)) * (1 + 2.0**-7)
    return (off, _squares(second, unit * 2.0**-32), _squares(third, unit * 2.0**-48),
            _squares(fourth, unit * 2.0**-64))  # fmt: skip


@triton.jit
def _squares(sums, unit):
    """The sum of all of the INT32 `sums` `(STRIP, BLOCK)`, in units of their own for each row; FP64."""
    return tl.sum(tl.sum(sums.to(tl.int64), 1).to(tl.float64) * unit)


@triton.jit
def cut_kernel(p_table, p_strips, p_decided, p_tops, p_slices, p_lost, DTYPE: tl.constexpr,
               STRIP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One strip of rows of one matrix."""
    i_matrix, i_strip = tl.load(p_strips + 2 * tl.program_id(0)), tl.load(p_strips + 2 * tl.program_id(0) + 1)
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    rows, columns, order = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS), tl.load(p_row + ORDER)
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    p = tl.load(p_row + POINTER).to(tl.pointer_type(DTYPE))
    width = tl.cdiv(columns, WIDTH) * WIDTH
    first_row = tl.load(p_row + TOPS)
    p_top, p_slices = p_tops + first_row, p_slices + tl.load(p_row + SLICES) // WIDTH * WIDTH
    o_row = i_strip.to(tl.int64) * STRIP + tl.arange(0, STRIP)
    if stride_column == 1:
        cut, second, third, fourth = _cut_with(p, p_top, p_slices, o_row, order, width, stride_row, 1, rows, columns,
                                               "column", STRIP, BLOCK)  # fmt: skip
    elif stride_row == 1:
        cut, second, third, fourth = _cut_with(p, p_top, p_slices, o_row, order, width, 1, stride_column, rows, columns,
                                               "row", STRIP, BLOCK)  # fmt: skip
    else:
        cut, second, third, fourth = _cut_with(p, p_top, p_slices, o_row, order, width, stride_row, stride_column, rows,
                                               columns, "none", STRIP, BLOCK)  # fmt: skip
    p_out = p_lost + (first_row // STRIP + i_strip) * LOST
    tl.store(p_out + 0, cut)
    tl.store(p_out + 1, second)
    tl.store(p_out + 2, third)
    tl.store(p_out + 3, fourth)


@triton.jit
def _norm(p_lost, i: tl.constexpr, strips, BLOCK: tl.constexpr):
    """Frobenius norm of what the strips of a matrix have as their number i."""
    total = tl.zeros((BLOCK,), tl.float64)
    for i_strip in range(0, strips, BLOCK):
        o = i_strip + tl.arange(0, BLOCK)
        total += tl.load(p_lost + o * LOST + i, mask=o < strips, other=0.0)
    return tl.sqrt(tl.sum(total))


@triton.jit
def error_kernel(p_table, p_ids, p_decided, p_gram, p_lost, p_error, LAST: tl.constexpr, STRIP: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """The error of one finished Gram; the twin is `fastrank.reference.slices.error_of`."""
    i_matrix = tl.load(p_ids + tl.program_id(0))
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    order = tl.load(p_row + ORDER)
    trace = trace_of(p_gram + tl.load(p_row + OFFSET), order, BLOCK)
    p_own, strips = p_lost + tl.load(p_row + TOPS) // STRIP * LOST, order // STRIP
    cut, second = _norm(p_own, 0, strips, BLOCK), _norm(p_own, 1, strips, BLOCK)
    third, fourth = _norm(p_own, 2, strips, BLOCK), _norm(p_own, 3, strips, BLOCK)
    left_out = (2 * third + fourth) * fourth
    if LAST == 5:
        left_out += 2 * second * fourth + third * third
    norm = tl.sqrt(trace + left_out)
    # Of a few sums and roots of numbers that are not negative the rounding is less than 2^-20.
    error = (left_out + (2 * norm + cut) * cut) * (1 + 2.0**-20)
    tl.store(p_error + i_matrix, tl.where(tl.abs(trace) < float("inf"), error, 0.0))


def strips_of(shapes: Sequence[Shape], ids: Sequence[int]) -> Tensor:
    """List of work `(programs, 2)` int32 on the CPU: the strips of the matrices `ids`."""
    listed = [(i, strip) for i in ids for strip in range(shapes[i].order // STRIP.value)]
    return torch.tensor(listed, dtype=torch.int32).view(-1, 2)


def cut_(
    slices: Tensor, tops: Tensor, lost: Tensor, table: Tensor, strips: Tensor, decided: Tensor, dtype: torch.dtype
) -> None:
    """Writes slices and tops of matrices of one `dtype`, and norms of what products of them leave out.

    Args:
        slices: INT8, see `inertia.table.SLICES`. tops: int32, one for each row, see `TOPS`.
        lost: `(rows / STRIP, LOST)` FP64.
        table, decided: as of `gram.gram_`. strips: from `strips_of`.
    """
    given = {"p_table": table, "p_strips": strips, "p_decided": decided, "p_tops": tops, "p_slices": slices}
    launch(cut_variant(dtype), (len(strips),), {**given, "p_lost": lost})


def error_(
    error: Tensor, table: Tensor, ids: Tensor, decided: Tensor, gram: Tensor, lost: Tensor, products: int
) -> None:
    """Writes the errors of the finished Grams of the matrices `ids` `(n,)` int32 into `error` `(b,)` FP64."""
    given = {"p_table": table, "p_ids": ids, "p_decided": decided, "p_gram": gram, "p_lost": lost, "p_error": error}
    launch(error_variant(products), (len(ids),), given)


def cut_cost(shapes: Sequence[Shape], dtype: torch.dtype) -> tuple[int, int]:
    """Bytes and flops: W read once, its slices written once; no flops."""
    return sum(s.rows * s.columns * (dtype.itemsize + 4) for s in shapes), 0


def cut_variant(dtype: torch.dtype) -> Variant:
    return Variant(
        kernel=cut_kernel,
        signature={
            "p_table": "*i64:16", "p_strips": "*i32:16", "p_decided": "*i32:16", "p_tops": "*i32:16",
            "p_slices": "*i8:16", "p_lost": "*fp64:16",
        },
        constexprs={"DTYPE": TRITON_TYPES[dtype], "STRIP": STRIP.value, "BLOCK": 128},
        num_warps=4,
        num_stages=1,
        maxnreg=168,  # with no number given Triton 3.6 aims for 128, and spills up to 12 bytes
        label=str(dtype).removeprefix("torch."),
    )  # fmt: skip


def error_variant(products: int) -> Variant:
    return Variant(
        kernel=error_kernel,
        signature={
            "p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "p_gram": "*fp64:16",
            "p_lost": "*fp64:16", "p_error": "*fp64:16",
        },
        constexprs={"LAST": LAST[products], "STRIP": STRIP.value, "BLOCK": 256},
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    yield from map(cut_variant, NARROW)
    yield from map(error_variant, LAST)
