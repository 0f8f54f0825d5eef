"""Rotate: the next basis of every matrix, V' = orth(Y), from its product Y (r, k) and the factors of C = Y^T Y.

    C = L D L^T,   Q L^T = Y,   V' = Q D^-1/2   in FP64, stored in FP32;   noise / sqrt(r) in columns that are not kept

Cholesky-QR with its Gram in FP64, sound to a condition number of 1e5 of Y; below that share columns are noise anyway.
The triangle is solved block column by block column in place of Y, as `count.ldl` does. The twin is
`fastrank.reference.sketch.next_basis`.

Bytes: 16 r k read and written, 4 r k written. Flops: r k^2. Times are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial as partial_
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..count import divide
from ..device import capability, chosen
from ..limits import KS
from ..variant import Variant, arguments
from .noise import normal
from .proof import order_of
from .sketch import place
from .table import COMPLETE, KEY, NEXT, PRODUCT, ROWS, STRIP

B = 16
"""Order of a diagonal block: that of the factors' blocks, or half of it, which is as good: the inverse of a triangle
has on its diagonal the inverses of the triangles there."""


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    """Rows a step."""
    num_warps: int


def config(k: int, capability: tuple[int, int]) -> Config:
    return Config(32, 4)


@triton.jit(do_not_specialize=["MATRICES", "PROBLEMS", "seed"])
def rotate_kernel(p_table, p_strips, p_step, p_skip, p_product, p_small, p_kept, p_bases, seed: tl.int64, MATRICES,
                  PROBLEMS, SPAN: tl.constexpr, BLOCK: tl.constexpr, B: tl.constexpr, K: tl.constexpr,
                  ORDER: tl.constexpr):  # fmt: skip
    i_matrix, i_strip, _chunk, p_row, _side = place(p_table, p_strips, p_step, tl.program_id(0), MATRICES)
    if (i_matrix < 0) | (tl.load(p_skip) != 0) | (tl.load(p_row + COMPLETE) != 0):
        return
    rows, key, step = tl.load(p_row + ROWS), tl.load(p_row + KEY), tl.load(p_step)
    p_y, p_v = p_product + tl.load(p_row + PRODUCT), p_bases + tl.load(p_row + NEXT)
    p_factor = p_small + i_matrix.to(tl.int64) * PROBLEMS * ORDER * ORDER
    o = tl.arange(0, B)
    below = o[:, None] > o[None, :]
    identity = tl.where(o[:, None] == o[None, :], 1.0, 0.0).to(tl.float64)
    noise_size = 1.0 / tl.sqrt(rows.to(tl.float32))
    for i in range(0, SPAN, BLOCK):
        o_row = i_strip * SPAN + i + tl.arange(0, BLOCK)
        m_row = (o_row < rows)[:, None]
        for i_column in range(0, K, B):
            o_column = i_column + o
            t = tl.load(p_y + (o_row[:, None] * K + o_column[None, :]), mask=m_row, other=0.0)
            for i_before in range(0, i_column, B):
                o_before = i_before + o
                q = tl.load(p_y + (o_row[:, None] * K + o_before[None, :]), mask=m_row, other=0.0)
                lower = tl.load(p_factor + (o_column[:, None] * ORDER + o_before[None, :]))
                t -= tl.dot(q, tl.trans(lower), out_dtype=tl.float64)
            block = tl.load(p_factor + (o_column[:, None] * ORDER + o_column[None, :]))
            q = divide(t, tl.where(below, block, identity), tl.where(below, tl.trans(block), identity))
            tl.store(p_y + (o_row[:, None] * K + o_column[None, :]), q, mask=m_row)
            d = tl.load(p_factor + o_column * (ORDER + 1))
            kept = tl.load(p_kept + i_matrix * K + o_column) != 0
            v = (q / tl.sqrt(tl.where(kept, d, 1.0))[None, :]).to(tl.float32)
            fresh = normal(seed, o_row[:, None], o_column[None, :], key, step) * noise_size
            v = tl.where(kept[None, :], v, fresh)
            tl.store(p_v + (o_row[:, None] * K + o_column[None, :]), v, mask=m_row)
            # What this block column has stored, other threads of the program load in the next one, and below.
            tl.debug_barrier()


def rotate_(scratch: Mapping[str, Tensor], matrices: int, problems: int, k: int, seed: int) -> None:
    """Writes the bases of the other side into `bases`.

    `scratch` has every tensor of the kernel by its name without `p_`; `problems`: small matrices there are for each.
    """
    strips = scratch["strips"]
    variant = rotate_variant(k, config(k, capability(strips.device)))
    tensors = arguments(rotate_kernel, scratch)
    rotate_kernel[strips.shape[1],](
        **tensors, seed=seed, MATRICES=matrices, PROBLEMS=problems, **variant.constexprs, **variant.options
    )


def rotate_cost(shapes: list[tuple[int, int]], k: int) -> tuple[int, int]:
    """Bytes and flops: Y read and written, V' written; half of the products of a square."""
    return sum(20 * r * k for r, _ in shapes), sum(r * k * k for r, _ in shapes)


def rotate_variant(k: int, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    return Variant(
        kernel=rotate_kernel,
        signature={
            "p_table": "*i64:16", "p_strips": "*i32:16", "p_step": "*i64:16", "p_skip": "*fp32:16",
            "p_product": "*fp64:16", "p_small": "*fp64:16", "p_kept": "*i32:16", "p_bases": "*fp32:16",
            "seed": "i64", "MATRICES": "i32", "PROBLEMS": "i32",
        },
        constexprs={"SPAN": STRIP, "BLOCK": c.block, "B": B, "K": k, "ORDER": order_of(k)},
        num_warps=c.num_warps,
        num_stages=1,
        maxnreg=224,  # the compiler aims for fewer, and spills 4 bytes
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for k in KS:
        for c, architectures in chosen(partial_(config, k)).items():
            yield rotate_variant(k, c, architectures)
