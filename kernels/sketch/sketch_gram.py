"""Sketch Gram: adds up the chunks of each product Y, and forms the Grams of products and of bases, strip by strip.

    Y = sum over chunks (r, k)           FP64, written
    C[strip] = Y[strip]^T Y[strip]       (k, k) FP64: `product_grams_`
    B[strip] = V[strip]^T V[strip]       (k, k) FP64, of the basis V (r, k) FP32 that was made from Y: `basis_grams_`

The kernels that read them, `sketch.compare` and `lowrank.unit_gram`, sum them over all strips to C and B. B is the Gram
of V as it is stored, rounded to FP32.

One program takes a strip of `STRIP` rows and one tile of the Gram, on or below the diagonal, and writes the tile's
mirror image too. Bytes: 8 r k a chunk read, 8 r k written, 8 k^2 a strip. Flops: r k^2 (1 + TILE / k).

Tried, by what the compiler makes of it:
    sm_86, sm_89     BLOCK 16 spills 8 bytes at k = 16 under Triton 3.6, with 4 warps as with 2; BLOCK 32: none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial as partial_
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..limits import KS
from ..variant import Variant
from .strip import place
from .table import CHUNKS, COLUMNS, COMPLETE, FIRST_STRIP, NEXT, PARTIAL, PRODUCT, ROWS, STRIP


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    """Rows that a program multiplies at a time."""
    tile: int
    """Order of a tile of the Gram."""
    num_warps: int


def config(k: int, capability: tuple[int, int]) -> Config:
    block = 32 if k == 16 and capability in ((8, 6), (8, 9)) else 16
    return Config(block, 16 if k <= 32 else 32, 4)


@triton.jit
def _rows_of(p, o_row, m_row, o_column, rows, chunks, K: tl.constexpr):
    """Rows `o_row`, columns `o_column` of the sum of all chunks, FP64."""
    offsets = o_row[:, None] * K + o_column[None, :]
    total = tl.load(p + offsets, mask=m_row[:, None], other=0.0).to(tl.float64)
    for i_chunk in range(1, chunks):
        total += tl.load(p + i_chunk * rows * K + offsets, mask=m_row[:, None], other=0.0).to(tl.float64)
    return total


@triton.jit(do_not_specialize=["MATRICES"])
def sketch_gram_kernel(p_table, p_strips, p_step, p_skip, p_from, p_product, p_grams, MATRICES, PRODUCTS: tl.constexpr,
                       SPAN: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """One tile of one strip's Gram. PRODUCTS: of Y, whose chunks are summed and stored; else of the basis from Y."""
    i_matrix, i_strip, _chunk, p_row, _side = place(p_table, p_strips, p_step, tl.program_id(0), MATRICES)
    i_tile = tl.program_id(1)
    i_a, i_b = i_tile // (K // TILE), i_tile % (K // TILE)
    if (i_matrix < 0) | (i_b > i_a) | (tl.load(p_skip) != 0):
        return
    rows = tl.load(p_row + ROWS)
    if not PRODUCTS:
        rows = tl.where(tl.load(p_row + COMPLETE) != 0, tl.load(p_row + COLUMNS), rows)
    chunks = tl.load(p_row + CHUNKS) if PRODUCTS else 1
    p = p_from + tl.load(p_row + (PARTIAL if PRODUCTS else NEXT))
    p_to = p_product + tl.load(p_row + PRODUCT)
    o_a, o_b = i_a * TILE + tl.arange(0, TILE), i_b * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), tl.float64)
    for i in range(0, SPAN, BLOCK):
        o_row = i_strip * SPAN + i + tl.arange(0, BLOCK)
        m_row = o_row < rows
        a = _rows_of(p, o_row, m_row, o_a, rows, chunks, K)
        b = _rows_of(p, o_row, m_row, o_b, rows, chunks, K)
        if PRODUCTS:  # noqa: SIM102 - one is known when compiling, the other is not
            if i_a == i_b:
                tl.store(p_to + (o_row[:, None] * K + o_a[None, :]), a, mask=m_row[:, None])
        total = tl.dot(tl.trans(a), b, total, out_dtype=tl.float64)
    p_gram = p_grams + (tl.load(p_row + FIRST_STRIP) + i_strip) * K * K
    tl.store(p_gram + (o_a[:, None] * K + o_b[None, :]), total)
    if i_a != i_b:
        tl.store(p_gram + (o_b[:, None] * K + o_a[None, :]), tl.trans(total))


def product_grams_(scratch: Mapping[str, Tensor], matrices: int, k: int) -> None:
    """Writes `product`, the sums of the chunks in `partial`, and their `grams` `(strips, k, k)` FP64, one a strip.

    scratch: see `Sketches.tensors`; nothing is written where `skip` is not 0. matrices: b.
    """
    _launch(scratch, scratch["partial"], scratch["grams"], True, matrices, k)


def basis_grams_(scratch: Mapping[str, Tensor], matrices: int, k: int) -> None:
    """Writes `basis_grams` `(strips, k, k)` FP64, one a strip, of the `bases` that this step has made. As above."""
    _launch(scratch, scratch["bases"], scratch["basis_grams"], False, matrices, k)


def _launch(
    scratch: Mapping[str, Tensor], source: Tensor, grams: Tensor, products: bool, matrices: int, k: int
) -> None:
    strips = scratch["strips"]
    c = config(k, capability(strips.device))
    variant = sketch_gram_variant(products, k, c)
    sketch_gram_kernel[strips.shape[1], (k // c.tile) ** 2](
        scratch["table"], strips, scratch["step"], scratch["skip"], source, scratch["product"], grams, matrices,
        **variant.constexprs, **variant.options,
    )  # fmt: skip


def sketch_gram_cost(shapes: list[tuple[int, int]], k: int) -> tuple[int, int]:
    """Bytes and flops for products of `shapes` (r, n): Y read and written once; half the products of a full Gram."""
    return sum(16 * r * k for r, _ in shapes), sum(r * k * k for r, _ in shapes)


def sketch_gram_variant(products: bool, k: int, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    return Variant(
        kernel=sketch_gram_kernel,
        signature={
            "p_table": "*i64:16", "p_strips": "*i32:16", "p_step": "*i64:16", "p_skip": "*fp32:16",
            "p_from": "*fp64:16" if products else "*fp32:16", "p_product": "*fp64:16", "p_grams": "*fp64:16",
            "MATRICES": "i32",
        },
        constexprs={"PRODUCTS": products, "SPAN": STRIP, "BLOCK": c.block, "TILE": c.tile, "K": k},
        num_warps=c.num_warps,
        num_stages=1,
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for k in KS:
        for c, architectures in chosen(partial_(config, k)).items():
            yield from (sketch_gram_variant(products, k, c, architectures) for products in (True, False))
