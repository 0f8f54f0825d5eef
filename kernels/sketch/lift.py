"""Lift: the first singular vector that a sketch has found, as a vector of the side of W that has the Gram.

    V x (n,)  or  V' top (r,)        V (n, k) the step's basis, V' (r, k) the one made from its product, both FP32

x and top (k,), FP64, say where the vector is among the columns of V and of V' (`sketch.compare`, `sketch.conclude`).
The one with the length of the Gram's side is made: W's smaller side, and the side of its rows where W is square. A
sketch knows sigma_1 only as well as last step's basis fits this step's matrix. Where the ranks are not decided and a
Gram is made all the same, `count.power` goes on from this vector.

One program makes BLOCK elements of one vector. Bytes: 4 k r, and 8 r written. Flops: 2 k r. Measured on an
H200: 4 us for ResNet-18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch
from ..variant import Variant, arguments
from .table import BASIS, COLUMNS, COMPLETE, FIELDS, NEXT, ROWS, WIDEST, WIDTH

BLOCK = 64
"""Rows of a basis that one program multiplies."""


@triton.jit(do_not_specialize=["MATRICES", "LENGTH"])
def lift_kernel(p_table, p_step, p_bases, p_x, p_top, p_vectors, MATRICES, LENGTH, BLOCK: tl.constexpr,
                B: tl.constexpr):  # fmt: skip
    i_matrix = tl.program_id(0).to(tl.int64)
    side = tl.load(p_step) & 1
    p_row = p_table + (side * MATRICES + i_matrix) * FIELDS
    rows, columns, k = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS), tl.load(p_row + WIDTH)
    # The Gram is that of W's smaller side or, if W is square, of its rows; on side 1, W's rows are the table's columns.
    of_rows = (rows < columns + 1 - side) & (tl.load(p_row + COMPLETE) == 0)
    size = tl.where(of_rows, rows, columns)
    p_basis = p_bases + tl.load(p_row + tl.where(of_rows, NEXT, BASIS))
    o_row = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_row < size
    total = tl.zeros((BLOCK, B), tl.float64)
    size_of_x = tl.full((), 0.0, tl.float64)
    for i in range(0, k, B):
        o = i + tl.arange(0, B)
        v = tl.load(p_basis + (o_row[:, None] * k + o[None, :]), mask=m_row[:, None], other=0.0).to(tl.float64)
        ours, theirs = tl.load(p_top + i_matrix * WIDEST + o), tl.load(p_x + i_matrix * WIDEST + o)
        x = tl.where(of_rows, ours, theirs)
        size_of_x += tl.sum(tl.abs(x))
        total += v * x[None, :]
    known = tl.where((size_of_x > 0) & (size_of_x < float("inf")), size, 0)
    tl.store(p_vectors + i_matrix * LENGTH + o_row, tl.sum(total, 1), mask=o_row < known)


def lift_(vectors: Tensor, scratch: Mapping[str, Tensor]) -> None:
    """Writes the first singular vector that the sketch of each matrix has found, on the Gram's side, into `vectors`.

    Of a matrix that was zero or not finite it has found none: the vector stays what it was.

    Args:
        vectors: `(b, length)` FP64, length at least the order of every Gram.
        scratch: see `Sketches.tensors`, after `conclude` and `rotate`.
    """
    matrices, length = scratch["table"].shape[1], vectors.shape[1]
    given = arguments(lift_kernel, {**scratch, "vectors": vectors})
    launch(LIFT, (matrices, -(-length // BLOCK)), {**given, "MATRICES": matrices, "LENGTH": length})


LIFT = Variant(
    kernel=lift_kernel,
    signature={
        "p_table": "*i64:16", "p_step": "*i64:16", "p_bases": "*fp32:16", "p_x": "*fp64:16", "p_top": "*fp64:16",
        "p_vectors": "*fp64:16", "MATRICES": "i32", "LENGTH": "i32",
    },
    constexprs={"BLOCK": BLOCK, "B": 16},
    num_warps=4,
    num_stages=1,
)  # fmt: skip


def variants() -> Iterator[Variant]:
    yield LIFT
