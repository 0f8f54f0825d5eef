"""Product: one tile of W W^T, summed in FP64, for W of any dtype and strides, and where a tile's sums are stored. For
`count.gram`, `count.integer_gram` and `count.tiny`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..inertia.table import OFFSET, PARTIAL

TRITON_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
"""Triton's name of each dtype of a matrix."""


@triton.jit
def wide_tile(p, o_row, o_column, stride_row, stride_column, m_row, end, UNIT: tl.constexpr):
    """Tile (BLOCK, BLOCK_K) of W; FP32 for half precision, else in W's dtype.

    UNIT names the stride that is 1, "row", "column" or "none": along it the threads of a warp load neighbours.
    """
    m_column = o_column < end
    if UNIT == "row":
        offsets = o_column[:, None] * stride_column + o_row[None, :]
        tile = tl.trans(tl.load(p + offsets, mask=m_column[:, None] & m_row[None, :], other=0.0))
    else:
        step = 1 if UNIT == "column" else stride_column
        offsets = o_row[:, None] * stride_row + o_column[None, :] * step
        tile = tl.load(p + offsets, mask=m_row[:, None] & m_column[None, :], other=0.0)
    if tile.dtype.primitive_bitwidth == 16:
        # A sum over one element. Triton 3.6 fails on FP64 products of what it sees to come from 16 bits, and does not
        # look through a sum.
        tile = tl.sum(tile.to(tl.float32)[:, :, None], 2)
    return tile


@triton.jit
def start_of_chunk(p_row, i_chunk, order, p_gram, p_partial):
    """Where the sums of a chunk of columns are stored: in the Gram those of the first, beside it those of others.

    order: of the Gram, int64.
    """
    if i_chunk == 0:
        p_out = p_gram + tl.multiple_of(tl.load(p_row + OFFSET), 32)
    else:
        p_out = p_partial + tl.multiple_of(tl.load(p_row + PARTIAL) + (i_chunk - 1) * order * order, 32)
    return p_out


@triton.jit
def _sum_with(p, o_a, o_b, stride_row, stride_column, rows, begin, end, factor, UNIT: tl.constexpr,
              BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """What `sum_products` returns, where UNIT names the stride that is 1."""
    total = tl.zeros((BLOCK, BLOCK), tl.float64)
    for i_k in range(begin, end, BLOCK_K):
        o_k = i_k + tl.arange(0, BLOCK_K).to(tl.int64)
        b_a = wide_tile(p, o_a, o_k, stride_row, stride_column, o_a < rows, end, UNIT).to(tl.float64) * factor
        b_b = wide_tile(p, o_b, o_k, stride_row, stride_column, o_b < rows, end, UNIT).to(tl.float64) * factor
        total = tl.dot(b_a, tl.trans(b_b), total, out_dtype=tl.float64)
    return total


@triton.jit
def sum_products(p, o_a, o_b, stride_row, stride_column, rows, begin, end, factor,
                 BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Tile (BLOCK, BLOCK) of the Gram of factor * W, FP64: rows `o_a` by rows `o_b`, over columns begin : end of W."""
    if stride_column == 1:
        total = _sum_with(p, o_a, o_b, stride_row, 1, rows, begin, end, factor, "column", BLOCK, BLOCK_K)
    elif stride_row == 1:
        total = _sum_with(p, o_a, o_b, 1, stride_column, rows, begin, end, factor, "row", BLOCK, BLOCK_K)
    else:
        total = _sum_with(p, o_a, o_b, stride_row, stride_column, rows, begin, end, factor, "none", BLOCK, BLOCK_K)
    return total
