"""Lift: the first singular vector that a sketch has found, as a vector of the side of W that has the Gram.

    V x (n,)  or  V' top (r,)        V (n, k) the step's basis, V' (r, k) the one made from its product, both FP32

x and top (k,), FP64, say where the vector is among the columns of V and of V' (`sketch.compare`, `sketch.conclude`).
The one with the length of the Gram's side is made: W's smaller side, and the side of its rows where W is square. A
sketch knows sigma_1 only as well as last step's basis fits this step's matrix. Where the ranks are not decided and a
Gram is made all the same, `count.power` goes on from this vector.

One program makes BLOCK elements of one vector. Bytes: 4 k r, and 8 r written. Flops: 2 k r. Times are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import triton
import triton.language as tl
from torch import Tensor

from ..limits import KS
from ..variant import Variant, arguments
from .table import BASIS, COLUMNS, COMPLETE, FIELDS, NEXT, ROWS

BLOCK = 64
"""Rows of a basis that one program multiplies."""


@triton.jit(do_not_specialize=["MATRICES", "WIDTH"])
def lift_kernel(p_table, p_step, p_bases, p_x, p_top, p_places, p_vectors, MATRICES, WIDTH, BLOCK: tl.constexpr,
                K: tl.constexpr):  # fmt: skip
    i_matrix = tl.program_id(0)
    side = tl.load(p_step) & 1
    p_row = p_table + (side * MATRICES + i_matrix) * FIELDS
    rows, columns = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS)
    # The Gram is that of W's smaller side or, if W is square, of its rows; on side 1, W's rows are the table's columns.
    of_rows = (rows < columns + 1 - side) & (tl.load(p_row + COMPLETE) == 0)
    size = tl.where(of_rows, rows, columns)
    p_basis = p_bases + tl.load(p_row + tl.where(of_rows, NEXT, BASIS))
    o_row = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o = tl.arange(0, K)
    m_row = o_row < size
    v = tl.load(p_basis + (o_row[:, None] * K + o[None, :]), mask=m_row[:, None], other=0.0).to(tl.float64)
    ours, theirs = tl.load(p_top + i_matrix * K + o), tl.load(p_x + i_matrix * K + o)
    vector = tl.sum(v * tl.where(of_rows, ours, theirs)[None, :], 1)
    tl.store(p_vectors + tl.load(p_places + i_matrix).to(tl.int64) * WIDTH + o_row, vector, mask=m_row)


def lift_(vectors: Tensor, places: Tensor, scratch: Mapping[str, Tensor], matrices: int, k: int) -> None:
    """Writes the first singular vector that the sketch of each matrix has found, on the Gram's side, into `vectors`.

    Args:
        vectors: `(all matrices, width)` FP64, width at least the order of every Gram.
        places: `(b,)` int32, the row of `vectors` that belongs to each matrix of the sketches.
        scratch: see `Sketches.tensors`, after `conclude`. matrices: b.
    """
    given = arguments(lift_kernel, {**scratch, "vectors": vectors, "places": places})
    variant = lift_variant(k)
    grid = (matrices, -(-vectors.shape[1] // BLOCK))
    lift_kernel[grid](**given, MATRICES=matrices, WIDTH=vectors.shape[1], **variant.constexprs, **variant.options)


def lift_variant(k: int) -> Variant:
    return Variant(
        kernel=lift_kernel,
        signature={
            "p_table": "*i64:16", "p_step": "*i64:16", "p_bases": "*fp32:16", "p_x": "*fp64:16", "p_top": "*fp64:16",
            "p_places": "*i32:16", "p_vectors": "*fp64:16", "MATRICES": "i32", "WIDTH": "i32",
        },
        constexprs={"BLOCK": BLOCK, "K": k},
        num_warps=min(8, k // 8),
        num_stages=1,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    yield from map(lift_variant, KS)
