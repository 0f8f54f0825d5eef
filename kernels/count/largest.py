"""Largest: the largest magnitude of every FP64 matrix of a ragged batch, in one launch, to scale it by.

Squares of FP64 numbers leave the range; those of narrower dtypes cannot, and need none of this. Bound by its bytes:
r n of W, once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..variant import Variant
from .table import COLUMNS, FIELDS, POINTER, ROWS, STRIDE_COLUMN, STRIDE_ROW

_PARTS = 32
"""Programs a matrix."""


@triton.jit
def largest_kernel(p_table, p_ids, p_largest, BLOCK: tl.constexpr):
    """Largest magnitude of an FP64 matrix: its bits, which as an integer order as the number does, NaN above all."""
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
    # The greatest of integers does not depend on the order: two runs give the same bits.
    tl.atomic_max(p_largest + i_matrix, tl.max(largest))


def largest_(largest: Tensor, table: Tensor, ids: Tensor) -> None:
    """Largest magnitudes `(b,)` FP64 of the FP64 matrices `ids` `(n,)` int32, into zeros; NaN or Inf
    where a matrix has one."""
    grid = (len(ids), _PARTS)  # of the first there may be 2^31 - 1, of the second 65535
    largest_kernel[grid](table, ids, largest.view(torch.int64), **LARGEST.constexprs, **LARGEST.options)


LARGEST = Variant(
    kernel=largest_kernel,
    signature={"p_table": "*i64:16", "p_ids": "*i32:16", "p_largest": "*i64:16"},
    constexprs={"BLOCK": 1024},
)


def variants() -> Iterator[Variant]:
    yield LARGEST
