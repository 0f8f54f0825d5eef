"""Finish: a Gram after its products (`count.gram`): chunks added up, tiles mirrored and squared, the trace.

    G = sum of chunks        in place, in a fixed order, so that two runs give the same bits
    G = 2^(top_a + top_b - 250 - 8 LAST) I        where chunks are integers (`count.integer_gram`): their sum I is
                                                  exact, and G rounds once; NaN in the rows that are not finite
    G above the diagonal = (G below)^T
    squares[tile] = sum g_ij^2        twice that for a tile off the diagonal: the sum over the tiles is ||G||_F^2

The last two are made where whole Grams are asked for (`mirror`). Bytes: 8 r^2 / 2 for each chunk read and 8 r^2
written, from L2 where it fits. Flops: r^2 for each chunk and for the squares. Measured on an H200:
11 us for ResNet-18.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..inertia.table import CHUNK, COLUMNS, FIELDS, OFFSET, ORDER, PARTIAL, TOPS
from ..launch import launch
from ..slices import NOT_FINITE, power_of_two
from ..variant import Variant
from .gram import TILE_FIELDS, Config, config
from .integer_gram import LAST

SMALLEST = tl.constexpr(1024)
"""Elements of the smallest tile that a Gram is cut into, 32 x 32. The squares of the tiles of a matrix begin at
OFFSET / SMALLEST of `squares`, and tile (i, j) of a Gram of c x c tiles stands at i c + j from there."""


@triton.jit
def _scale_of(p_tops, o, order, LAST: tl.constexpr):
    """2^(top - 125 - 4 LAST) of rows, FP64; NaN where a row is not finite."""
    top = tl.load(p_tops + o, mask=o < order, other=0)
    return tl.where(top == NOT_FINITE, float("nan"), power_of_two(tl.minimum(top, 255) - (125 + 4 * LAST)))


@triton.jit
def finish_kernel(p_table, p_tiles, p_decided, p_tops, p_gram, p_partial, p_squares, LAST: tl.constexpr,
                  MIRROR: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Adds up the chunks of one tile, in place. MIRROR: writes the tile above the diagonal and the squares too."""
    p_tile = p_tiles + tl.program_id(0) * TILE_FIELDS
    i_matrix, i_row, i_column = tl.load(p_tile + 0), tl.load(p_tile + 1), tl.load(p_tile + 2)
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    order = tl.multiple_of(tl.load(p_row + ORDER), 32)
    chunks = tl.cdiv(tl.load(p_row + COLUMNS), tl.load(p_row + CHUNK))
    o_a, o_b = i_row.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), i_column.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    offsets = o_a[:, None] * order + o_b[None, :]
    m_tile = (o_a < order)[:, None] & (o_b < order)[None, :]
    offset = tl.multiple_of(tl.load(p_row + OFFSET), 32)
    p_out = p_gram + offset
    p_more = p_partial + tl.multiple_of(tl.load(p_row + PARTIAL), 32)

    total = tl.load(p_out + offsets, mask=m_tile, other=0.0)
    if LAST:
        whole = total.to(tl.int64, bitcast=True)
        for i_chunk in range(1, chunks):
            more = tl.load(p_more + (i_chunk - 1) * order * order + offsets, mask=m_tile, other=0.0)
            whole += more.to(tl.int64, bitcast=True)
        p_tops += tl.load(p_row + TOPS)
        of_a, of_b = _scale_of(p_tops, o_a, order, LAST), _scale_of(p_tops, o_b, order, LAST)
        total = whole.to(tl.float64) * of_a[:, None] * of_b[None, :]
    else:
        for i_chunk in range(1, chunks):
            total += tl.load(p_more + (i_chunk - 1) * order * order + offsets, mask=m_tile, other=0.0)

    tl.store(p_out + offsets, total, mask=m_tile)
    if MIRROR:
        square = tl.sum(total * total)
        if i_row != i_column:
            square *= 2
            tl.store(p_out + (o_b[:, None] * order + o_a[None, :]), tl.trans(total), mask=tl.trans(m_tile))
        tl.store(p_squares + (offset // SMALLEST + i_row * tl.cdiv(order, BLOCK) + i_column), square)


@triton.jit
def trace_of(p_gram, order, BLOCK: tl.constexpr):
    """Trace of the finished Gram that begins at `p_gram`."""
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, order, BLOCK):
        o = i + tl.arange(0, BLOCK)
        total += tl.load(p_gram + o * (order + 1), mask=o < order, other=0.0)
    return tl.sum(total)


@triton.jit
def trace_kernel(p_table, p_ids, p_decided, p_gram, p_trace, BLOCK: tl.constexpr):
    """Trace of one finished Gram."""
    i_matrix = tl.load(p_ids + tl.program_id(0))
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    trace = trace_of(p_gram + tl.load(p_row + OFFSET), tl.load(p_row + ORDER), BLOCK)
    tl.store(p_trace + i_matrix, trace)


def finish_(
    gram: Tensor, partial: Tensor, table: Tensor, tiles: Tensor, decided: Tensor, squares: Tensor | None,
    tops: Tensor | None = None, products: int = 0,
) -> None:  # fmt: skip
    """Adds the further chunks in `partial` to the first in `gram`, in place, for matrices that have several.

    Args:
        gram, partial, table, decided: as of `gram_`. tiles: too, but with every tile once, as chunk 0.
        squares: FP64, elements of `gram` / SMALLEST, written, and with it the tiles above the diagonal. Matrices with
            one chunk need that as well. None: neither is asked for.
        tops, products: as of `cut_` and `integer_gram_`, where the sums are integers; matrices with one chunk then need
            this kernel too. None and 0 (default): the sums are FP64.
    """
    mirror = squares is not None
    given = {"p_table": table, "p_tiles": tiles, "p_decided": decided, "p_gram": gram, "p_partial": partial}
    variant = finish_variant(mirror, products, config(capability(gram.device)))
    more = {"p_squares": squares if mirror else gram, "p_tops": decided if tops is None else tops}
    launch(variant, (len(tiles),), given | more)


def trace_(trace: Tensor, table: Tensor, ids: Tensor, decided: Tensor, gram: Tensor) -> None:
    """Writes the traces of the finished Grams of the matrices `ids` `(n,)` int32 into `trace` `(b,)` FP64."""
    given = {"p_table": table, "p_ids": ids, "p_decided": decided, "p_gram": gram, "p_trace": trace}
    launch(TRACE, (len(ids),), given)


def finish_cost(orders: list[int], chunks: list[int]) -> tuple[int, int]:
    """Bytes and flops, `mirror` included, for Grams of these orders and numbers of chunks."""
    pairs = list(zip(orders, chunks, strict=True))
    return sum(4 * r * r * (c + 2) for r, c in pairs), sum(r * r * (c + 1) // 2 for r, c in pairs)


def finish_variant(mirror: bool, products: int, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    return Variant(
        kernel=finish_kernel,
        signature={
            "p_table": "*i64:16", "p_tiles": "*i32:16", "p_decided": "*i32:16", "p_tops": "*i32:16",
            "p_gram": "*fp64:16", "p_partial": "*fp64:16", "p_squares": "*fp64:16",
        },
        constexprs={"LAST": LAST[products] if products else 0, "MIRROR": mirror, "BLOCK": c.block},
        num_warps=8,
        architectures=architectures,
    )  # fmt: skip


TRACE = Variant(
    kernel=trace_kernel,
    signature={
        "p_table": "*i64:16",
        "p_ids": "*i32:16",
        "p_decided": "*i32:16",
        "p_gram": "*fp64:16",
        "p_trace": "*fp64:16",
    },
    constexprs={"BLOCK": 256},
)


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        for products in (0, *LAST):
            yield from (finish_variant(mirror, products, c, architectures) for mirror in (False, True))
    yield TRACE
