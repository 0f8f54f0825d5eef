"""Power: one product of each Gram with a vector, a step of power iteration for lambda_1 = sigma_1^2.

    y = G x / trace        G (r, r), x and y (r,), FP64

The first x is the first singular vector that a sketch has found (`sketch.lift`); then y takes the place of x, a few
times. A sketch alone knows sigma_1 only as well as last step's basis fits this step's matrix. What its vector is off
by, because the step has changed W, lies in directions of smaller singular values, and is gone after a few products.
Where there is a Gram, each product reads it once, which is little beside making and factoring it. A decided matrix has
no Gram, and its programs return.

One program makes BLOCK elements of one y. Bytes: 8 r^2 a product, from L2 where it fits. Flops: 2 r^2. Times are not
measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..variant import Variant
from .table import FIELDS, OFFSET, ORDER

BLOCK = 64
"""Rows of a Gram that one program multiplies."""


@triton.jit(do_not_specialize=["WIDTH"])
def power_kernel(p_table, p_places, p_decided, p_trace, p_gram, p_from, p_to, WIDTH, BLOCK: tl.constexpr):
    """BLOCK elements of y of one matrix; its vectors are rows `p_places[i_matrix]` of `p_from` and `p_to`."""
    i_matrix = tl.program_id(0)
    p_row = p_table + i_matrix * FIELDS
    order = tl.load(p_row + ORDER)
    o_row = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if (tl.load(p_decided + i_matrix) != 0) | (tl.program_id(1) * BLOCK >= order):
        return
    m_row = o_row < order
    p_gram += tl.load(p_row + OFFSET)
    at = tl.load(p_places + i_matrix).to(tl.int64) * WIDTH
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, order, BLOCK):
        o = i + tl.arange(0, BLOCK).to(tl.int64)
        m = o < order
        g = tl.load(p_gram + (o_row[:, None] * order + o[None, :]), mask=m_row[:, None] & m[None, :], other=0.0)
        total += tl.sum(g * tl.load(p_from + at + o, mask=m, other=0.0)[None, :], 1)
    trace = tl.load(p_trace + i_matrix)
    tl.store(p_to + at + o_row, total / tl.where(trace > 0, trace, 1.0), mask=m_row)


def power_(
    to: Tensor, source: Tensor, places: Tensor, table: Tensor, decided: Tensor, trace: Tensor, gram: Tensor
) -> None:
    """Writes y = G x / trace of each matrix of a table into its row of `to`; x is its row of `source`.

    Args:
        to, source: `(all matrices, width)` FP64, width at least the order of every Gram.
        places: `(b,)` int32, the row of `to` and of `source` that belongs to each matrix of the table.
        table: `(b, FIELDS)` int64, see `count.table`.
        decided: `(b,)` int32; where it is not 0 the matrix is skipped, and its row of `to` keeps its values.
        trace: `(b,)` FP64, of the Grams.
        gram: FP64 workspace with whole Grams, both triangles.
    """
    width = to.shape[1]
    power_kernel[len(table), -(-width // BLOCK)](
        table, places, decided, trace, gram, source, to, width, **POWER.constexprs, **POWER.options
    )


def power_cost(orders: list[int]) -> tuple[int, int]:
    """Bytes and flops of one product with each Gram of these `orders`: the Gram is read once."""
    return sum(8 * r * r for r in orders), sum(2 * r * r for r in orders)


POWER = Variant(
    kernel=power_kernel,
    signature={
        "p_table": "*i64:16", "p_places": "*i32:16", "p_decided": "*i32:16", "p_trace": "*fp64:16",
        "p_gram": "*fp64:16", "p_from": "*fp64:16", "p_to": "*fp64:16", "WIDTH": "i32",
    },
    constexprs={"BLOCK": BLOCK},
    num_warps=8,
    num_stages=2,
)  # fmt: skip


def variants() -> Iterator[Variant]:
    yield POWER
