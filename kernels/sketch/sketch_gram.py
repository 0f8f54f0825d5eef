"""Sketch Gram: adds up the chunks of each product Y, and forms the Grams of products and of bases, strip by strip.

    Y = sum over chunks (r, k)           FP64, written
    C[strip] = Y[strip]^T Y[strip]       (k, k) FP64: `product_grams_`
    B[strip] = V[strip]^T V[strip]       (k, k) FP64, of the basis V (r, k) FP32 that was made from Y: `basis_grams_`;
                                         INTEGERS: of V as products by integers round it, see `strip.units_of`

The kernels that read them, `sketch.compare` and `lowrank.unit_gram`, sum them over all strips to C and B. B is the Gram
of V as it is stored, rounded to FP32.

One program takes a strip of rows and one tile of the Gram, on or below the diagonal, and writes the tile's mirror image
too. Bytes: 8 r k a chunk read, 8 r k written, 8 k^2 a strip. Flops: r k^2 (1 + TILE / k).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..launch import launch
from ..variant import Variant, arguments
from .strip import place, units_of
from .table import (
    ACROSS,
    CHUNKS,
    COLUMNS,
    COMPLETE,
    GRAM,
    NEXT,
    PARTIAL,
    PRODUCT,
    ROWS,
    SPAN,
    TILE,
    WIDTH,
)


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    """Rows that a program multiplies at a time."""
    num_warps: int


def config(capability: tuple[int, int]) -> Config:
    return Config(32, 4)


@triton.jit
def _rows_of(p, o_row, end, o_column, k, rows, chunks, PRODUCTS: tl.constexpr, INTEGERS: tl.constexpr):
    """Rows `o_row` below `end`, columns `o_column` of the sum of all chunks, FP64. Four at a time are on their way."""
    p_tile = p + (o_row[:, None] * k + o_column[None, :])
    m_column = (o_column < k)[None, :]
    mask = (o_row < end)[:, None] & m_column
    first = tl.load(p_tile, mask=mask, other=0.0)
    total = units_of(first).to(tl.float64) * 2.0**-22 if INTEGERS else first.to(tl.float64)
    if PRODUCTS:
        size = rows * k
        for i in range(1, chunks, 4):
            p_chunk = p_tile + i * size
            a = tl.load(p_chunk, mask=mask, other=0.0)
            m_b = (o_row < tl.where(i + 1 < chunks, end, 0))[:, None] & m_column
            m_c = (o_row < tl.where(i + 2 < chunks, end, 0))[:, None] & m_column
            m_d = (o_row < tl.where(i + 3 < chunks, end, 0))[:, None] & m_column
            b = tl.load(p_chunk + size, mask=m_b, other=0.0)
            c = tl.load(p_chunk + 2 * size, mask=m_c, other=0.0)
            d = tl.load(p_chunk + 3 * size, mask=m_d, other=0.0)
            total = (((total + a) + b) + c) + d
    return total


@triton.jit(do_not_specialize=["MATRICES"])
def sketch_gram_kernel(p_table, p_strips, p_step, p_skip, p_from, p_product, p_grams, MATRICES, PRODUCTS: tl.constexpr,
                       INTEGERS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One tile of one strip's Gram. PRODUCTS: of Y, whose chunks are summed and stored; else of the basis from Y."""
    i_matrix, i_strip, i_tile, p_row, _side = place(p_table, p_strips, p_step, tl.program_id(0), MATRICES)
    if (i_matrix < 0) | (tl.load(p_skip) != 0):
        return
    i_a, i_b = i_tile // ACROSS, i_tile % ACROSS
    rows, span = tl.load(p_row + ROWS), tl.load(p_row + SPAN)
    k = tl.multiple_of(tl.load(p_row + WIDTH), 16)
    if not PRODUCTS:
        rows = tl.where(tl.load(p_row + COMPLETE) != 0, tl.load(p_row + COLUMNS), rows)
    chunks = tl.load(p_row + CHUNKS) if PRODUCTS else 1
    p = p_from + tl.load(p_row + (PARTIAL if PRODUCTS else NEXT))
    p_to = p_product + tl.load(p_row + PRODUCT)
    p_gram = p_grams + tl.load(p_row + GRAM) + i_strip * k * k
    o_a, o_b = i_a * TILE + tl.arange(0, TILE), i_b * TILE + tl.arange(0, TILE)
    m_a, m_b = o_a < k, o_b < k
    total = tl.zeros((TILE, TILE), tl.float64)
    end = tl.minimum((i_strip + 1) * span, rows)
    for i in range(i_strip * span, end, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        a = _rows_of(p, o_row, end, o_a, k, rows, chunks, PRODUCTS, INTEGERS)
        b = a
        if i_a != i_b:
            b = _rows_of(p, o_row, end, o_b, k, rows, chunks, PRODUCTS, INTEGERS)
        elif PRODUCTS:
            tl.store(p_to + (o_row[:, None] * k + o_a[None, :]), a, mask=(o_row < end)[:, None] & m_a[None, :])
        total = tl.dot(tl.trans(a), b, total, out_dtype=tl.float64)
    tl.store(p_gram + (o_a[:, None] * k + o_b[None, :]), total, mask=m_a[:, None] & m_b[None, :])
    if i_a != i_b:
        tl.store(p_gram + (o_b[:, None] * k + o_a[None, :]), tl.trans(total), mask=m_b[:, None] & m_a[None, :])


def product_grams_(scratch: Mapping[str, Tensor]) -> None:
    """Writes `product`, the sums of the chunks in `partial`, and their `grams`, FP64: (k, k) one a strip.

    scratch: see `Sketches.tensors`; nothing is written where `skip` is not 0.
    """
    _launch(scratch, scratch["partial"], scratch["grams"], True)


def basis_grams_(scratch: Mapping[str, Tensor], integers: bool = False) -> None:
    """Writes `basis_grams`, FP64: (k, k) one a strip of the `bases` that this step has made. As above.

    integers: whether these bases are multiplied by integers.
    """
    _launch(scratch, scratch["bases"], scratch["basis_grams"], False, integers)


def _launch(
    scratch: Mapping[str, Tensor], source: Tensor, grams: Tensor, products: bool, integers: bool = False
) -> None:
    strips = scratch["strips"]
    variant = sketch_gram_variant(products, config(capability(strips.device)), integers)
    given = arguments(sketch_gram_kernel, {**scratch, "from": source, "grams": grams})
    launch(variant, (strips.shape[1],), {**given, "MATRICES": scratch["table"].shape[1]})


def sketch_gram_cost(shapes: list[tuple[int, int]], k: int) -> tuple[int, int]:
    """Bytes and flops for products of `shapes` (r, n): Y read and written once; half the products of a full Gram."""
    return sum(16 * r * k for r, _ in shapes), sum(r * k * k for r, _ in shapes)


def sketch_gram_variant(
    products: bool, c: Config, integers: bool = False, architectures: tuple[str, ...] = ()
) -> Variant:
    return Variant(
        kernel=sketch_gram_kernel,
        signature={
            "p_table": "*i64:16", "p_strips": "*i32:16", "p_step": "*i64:16", "p_skip": "*fp32:16",
            "p_from": "*fp64:16" if products else "*fp32:16", "p_product": "*fp64:16", "p_grams": "*fp64:16",
            "MATRICES": "i32",
        },
        constexprs={"PRODUCTS": products, "INTEGERS": integers, "BLOCK": c.block},
        num_warps=c.num_warps,
        num_stages=1,
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        for products, integers in ((True, False), (False, False), (False, True)):
            yield sketch_gram_variant(products, c, integers, architectures)
