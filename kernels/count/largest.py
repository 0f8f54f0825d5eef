"""Largest: the largest magnitude in every FP64 matrix of a ragged batch, in one launch.

    largest = max |w_ij|        W (r, n) FP64, any strides

`count.gram` and `count.tiny` divide an FP64 matrix by the power of two next to it, because squares of FP64 numbers may
leave the range of FP64. Squares of narrower dtypes cannot, and need no scale.

Each matrix is shared by `_PARTS` programs. Bytes: 8 r n, W once; that is what bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..inertia.table import COLUMNS, FIELDS, POINTER, ROWS, STRIDE_COLUMN, STRIDE_ROW
from ..launch import launch
from ..variant import Variant

_PARTS = 32
"""Programs that share a matrix."""


@triton.jit
def largest_kernel(p_table, p_ids, p_largest, BLOCK: tl.constexpr):
    """Maximum over the bits of |w|, taken as integers: they are ordered as the numbers are, and NaN is above all."""
    i_matrix = tl.load(p_ids + tl.program_id(0))
    p_row = p_table + i_matrix * FIELDS
    rows, columns = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS)
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    p = tl.load(p_row + POINTER).to(tl.pointer_type(tl.float64))
    largest = tl.zeros((BLOCK,), tl.int64)
    for i in range(tl.program_id(1).to(tl.int64) * BLOCK, rows * columns, tl.num_programs(1).to(tl.int64) * BLOCK):
        o = i + tl.arange(0, BLOCK)
        b = tl.load(p + o // columns * stride_row + o % columns * stride_column, mask=o < rows * columns, other=0.0)
        largest = tl.maximum(largest, tl.abs(b).to(tl.int64, bitcast=True))
    # A maximum does not depend on the order in which the programs come: two runs give the same bits.
    tl.atomic_max(p_largest + i_matrix, tl.max(largest))


def largest_(largest: Tensor, table: Tensor, ids: Tensor) -> None:
    """Writes the largest magnitude of each of the FP64 matrices `ids`; NaN or Inf where a matrix has one.

    Args:
        largest: `(b,)` FP64, all zero before; written in place.
        table: `(b, FIELDS)` int64, see `inertia.table`. ids: `(n,)` int32.
    """
    grid = (len(ids), _PARTS)  # CUDA allows 2^31 - 1 programs in the first dimension, and 65535 in the second
    launch(LARGEST, grid, {"p_table": table, "p_ids": ids, "p_largest": largest.view(torch.int64)})


LARGEST = Variant(
    kernel=largest_kernel,
    signature={"p_table": "*i64:16", "p_ids": "*i32:16", "p_largest": "*i64:16"},
    constexprs={"BLOCK": 1024},
)


def variants() -> Iterator[Variant]:
    yield LARGEST
