"""Rotate: the next basis of every matrix, V' = orth(Y), from its product Y (r, k) and the factor of C = Y^T Y.

    C = L D L^T,   Q L^T = Y,   V' = Q D^-1/2        computed in FP64; V' (r, k) is stored in FP32, Q in place of Y

Columns that are not kept (`sketch.conclude`) get normal noise / sqrt(r) instead. This is Cholesky-QR with its Gram in
FP64, sound up to a condition number of 1e5 of Y: columns below that share are replaced by noise anyway. The twin is
`fastrank.reference.sketch.next_basis`.

One program takes `BLOCK_ROW` rows, and solves for Q block column by block column from left to right, as `inertia.ldl`
does. Bytes: 16 r k read and written, 4 r k written. Flops: r k^2. Measured on an H200: 13 us
for ResNet-18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import triton
import triton.language as tl
from torch import Tensor

from ..inertia import divide
from ..launch import launch
from ..variant import Variant, arguments
from .noise import normal
from .proof import LEAST
from .strip import place
from .table import BLOCK_ROW, COMPLETE, KEY, NEXT, PRODUCT, ROWS, SMALL, WIDEST, WIDTH

B = 16
"""Order of a diagonal block here. `inertia` stores the inverses of L's diagonal blocks of 16 or of 32. Where they are
of 32, blocks of 16 find theirs in them: the inverse of a triangle has on its diagonal the inverses of the triangles on
the diagonal."""


@triton.jit(do_not_specialize=["MATRICES", "seed"])
def rotate_kernel(p_table, p_blocks, p_step, p_skip, p_product, p_small, p_kept, p_bases, seed: tl.int64, MATRICES,
                  BLOCK: tl.constexpr, B: tl.constexpr):  # fmt: skip
    i_matrix, i_block, _none, p_row, _side = place(p_table, p_blocks, p_step, tl.program_id(0), MATRICES)
    if (i_matrix < 0) | (tl.load(p_skip) != 0) | (tl.load(p_row + COMPLETE) != 0):
        return
    rows, key, step = tl.load(p_row + ROWS), tl.load(p_row + KEY), tl.load(p_step)
    k = tl.multiple_of(tl.load(p_row + WIDTH), 16)
    order = tl.multiple_of(tl.maximum(k, LEAST), 16)
    p_y, p_v = p_product + tl.load(p_row + PRODUCT), p_bases + tl.load(p_row + NEXT)
    p_factor, p_keep = p_small + tl.load(p_row + SMALL), p_kept + i_matrix.to(tl.int64) * WIDEST
    o = tl.arange(0, B)
    below = o[:, None] > o[None, :]
    identity = tl.where(o[:, None] == o[None, :], 1.0, 0.0).to(tl.float64)
    noise_size = 1.0 / tl.sqrt(rows.to(tl.float32))
    o_row = i_block * BLOCK + tl.arange(0, BLOCK)
    m_row = (o_row < rows)[:, None]
    for i_column in range(0, k, B):
        o_column = i_column + o
        t = tl.load(p_y + (o_row[:, None] * k + o_column[None, :]), mask=m_row, other=0.0)
        block = tl.load(p_factor + (o_column[:, None] * order + o_column[None, :]))
        d, kept = tl.load(p_factor + o_column * (order + 1)), tl.load(p_keep + o_column) != 0
        for i_before in range(0, i_column, B):
            o_before = i_before + o
            q = tl.load(p_y + (o_row[:, None] * k + o_before[None, :]), mask=m_row, other=0.0)
            lower = tl.load(p_factor + (o_column[:, None] * order + o_before[None, :]))
            t -= tl.dot(q, tl.trans(lower), out_dtype=tl.float64)
        q = divide(t, tl.where(below, block, identity), tl.where(below, tl.trans(block), identity))
        tl.store(p_y + (o_row[:, None] * k + o_column[None, :]), q, mask=m_row)
        v = (q / tl.sqrt(tl.where(kept, d, 1.0))[None, :]).to(tl.float32)
        fresh = normal(seed, o_row[:, None], o_column[None, :], key, step) * noise_size
        v = tl.where(kept[None, :], v, fresh)
        tl.store(p_v + (o_row[:, None] * k + o_column[None, :]), v, mask=m_row)
        # For the next block columns, threads load what other threads of the program have stored for this one.
        tl.debug_barrier()


def rotate_(scratch: Mapping[str, Tensor], seed: int) -> None:
    """Writes the bases that are made from this step's products into `bases`, and Q in place of `product`.

    Complete bases stay as they are, and where `skip` is not 0 all of them do.

    Args:
        scratch: every tensor that the kernel takes, by its name without `p_`, see `Sketches.tensors`.
        seed: key of the noise.
    """
    given = arguments(rotate_kernel, scratch)
    grid = (scratch["blocks"].shape[1],)
    launch(ROTATE, grid, {**given, "seed": seed, "MATRICES": scratch["table"].shape[1]})


def rotate_cost(shapes: list[tuple[int, int]], k: int) -> tuple[int, int]:
    """Bytes and flops for products of `shapes` (r, n): Y read and Q written, V' written; r k^2 for the triangle."""
    return sum(20 * r * k for r, _ in shapes), sum(r * k * k for r, _ in shapes)


ROTATE = Variant(
    kernel=rotate_kernel,
    signature={
        "p_table": "*i64:16", "p_blocks": "*i32:16", "p_step": "*i64:16", "p_skip": "*fp32:16",
        "p_product": "*fp64:16", "p_small": "*fp64:16", "p_kept": "*i32:16", "p_bases": "*fp32:16",
        "seed": "i64", "MATRICES": "i32",
    },
    constexprs={"BLOCK": BLOCK_ROW, "B": B},
    num_warps=4,
    num_stages=1,
    maxnreg=224,
)  # fmt: skip


def variants() -> Iterator[Variant]:
    yield ROTATE
