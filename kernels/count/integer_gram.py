"""Integer Gram: the Gram of every matrix of a ragged batch from INT8 slices, in one launch.

    I = sum over i + j <= LAST of 256^(LAST - i - j) A_i A_j^T    A_i (r, n) INT8, slice i of W; I (r, r) INT64, exact
    W W^T = 2^(top_a + top_b - 250 - 8 LAST) I + E                `count.cut` makes slices and tops

Four slices have 16 products. LAST = 5 leaves out six of them, LAST = 6 three. What that and the cut have changed, E, is
measured by `count.cut`. `count.finish` adds up the chunks of I, still exactly, and turns the sum into FP64, which
rounds once.

Tiles, chunks and the list of work are as those of `count.gram`. The slices are in memory, row by row, padded with zeros
so that no load has a mask but that of the last rows: cut in registers, as tiles are used, each element would be cut
r / BLOCK times, and by their number the instructions for it would take longer than the products.

INT32 has room for 4 products of 2^14 in each of 2^15 columns less one; a chunk has at most `LONGEST`. INT64 has room
for I of up to `MOST` columns.

Bytes: 4 r n at least once from memory, and once for each of the r / BLOCK tiles of a row of I, from L2 where they fit;
4 r^2 a chunk. Operations: r^2 n for each of 10 or 13 products; whole tiles on the diagonal make that (1 + BLOCK / r) as
many. The main loop has 170 instructions for 80 of the tensor cores on sm_89 (LAST = 5). By latencies alone a program
for 512 x 4608 takes 9.8 us there, where one of `count.gram` takes 43. Times are not measured.

Tried, by what the compiler makes of it:
    4 warps, 3 stages, BLOCK_K 32    at most 232 registers, no spill: two programs a multiprocessor. 64: up to 56 bytes
                                     spilled on sm_80 and sm_89
    8 warps                          tiles of 128 rows are made of 64, every product twice: Triton puts all warps of
                                     products that share a factor below each other
    without `tl.assume`              up to 136 bytes spilled, around a branch for an empty loop
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..inertia.table import CHUNK, COLUMNS, FIELDS, ORDER, SLICES, WIDTH, Shape
from ..launch import launch
from ..variant import Variant
from .gram import TILE_FIELDS
from .product import start_of_chunk

LONGEST = 2**14
"""Most columns of a chunk."""
LAST = {10: 5, 13: 6}
"""The largest i + j, by how many products there are."""
MOST = {10: 2**23, 13: 2**16}
"""Most columns of a matrix, by the same."""


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    num_warps: int
    num_stages: int


def config(capability: tuple[int, int]) -> Config:
    return Config(64, 4, 3)


@triton.jit
def integer_gram_kernel(p_table, p_tiles, p_decided, p_slices, p_gram, p_partial, LAST: tl.constexpr,
                        BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """One tile of one Gram, over one chunk of W's columns."""
    p_tile = p_tiles + tl.program_id(0) * TILE_FIELDS
    i_matrix, i_row, i_column, i_chunk = (tl.load(p_tile + 0), tl.load(p_tile + 1), tl.load(p_tile + 2),
                                          tl.load(p_tile + 3))  # fmt: skip
    if tl.load(p_decided + i_matrix) != 0:
        return
    p_row = p_table + i_matrix * FIELDS
    order, chunk = tl.load(p_row + ORDER).to(tl.int32) // 32 * 32, tl.load(p_row + CHUNK) // BLOCK_K * BLOCK_K
    width = (tl.cdiv(tl.load(p_row + COLUMNS), WIDTH) * WIDTH).to(tl.int32)
    size = order.to(tl.int64) * width
    begin = i_chunk * chunk
    end = tl.minimum(begin + chunk, width)
    # 64-bit for where a tile begins, 32-bit within it: a matrix may have more than 2^31 elements, and threads have few
    # registers to spare.
    first_a, first_b = i_row.to(tl.int64) * BLOCK, i_column.to(tl.int64) * BLOCK
    p = p_slices + tl.load(p_row + SLICES) // WIDTH * WIDTH
    o, o_k = tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    o_tile = o[:, None] * width + o_k[None, :]
    p_a, p_b = p + first_a * width + o_tile, p + first_b * width + o_tile
    m_a, m_b = (o < order - first_a)[:, None], (o < order - first_b)[:, None]

    tl.assume(begin < end)
    two = tl.zeros((BLOCK, BLOCK), tl.int32)
    three = tl.zeros((BLOCK, BLOCK), tl.int32)
    four = tl.zeros((BLOCK, BLOCK), tl.int32)
    five = tl.zeros((BLOCK, BLOCK), tl.int32)
    six = tl.zeros((BLOCK, BLOCK), tl.int32)
    for i_k in range(begin, end, BLOCK_K):
        a_1 = tl.load(p_a + i_k, mask=m_a, other=0)
        a_2 = tl.load(p_a + (size + i_k), mask=m_a, other=0)
        a_3 = tl.load(p_a + (2 * size + i_k), mask=m_a, other=0)
        a_4 = tl.load(p_a + (3 * size + i_k), mask=m_a, other=0)
        b_1 = tl.trans(tl.load(p_b + i_k, mask=m_b, other=0))
        two = tl.dot(a_1, b_1, two, out_dtype=tl.int32)
        three = tl.dot(a_2, b_1, three, out_dtype=tl.int32)
        four = tl.dot(a_3, b_1, four, out_dtype=tl.int32)
        five = tl.dot(a_4, b_1, five, out_dtype=tl.int32)
        b_2 = tl.trans(tl.load(p_b + (size + i_k), mask=m_b, other=0))
        three = tl.dot(a_1, b_2, three, out_dtype=tl.int32)
        four = tl.dot(a_2, b_2, four, out_dtype=tl.int32)
        five = tl.dot(a_3, b_2, five, out_dtype=tl.int32)
        b_3 = tl.trans(tl.load(p_b + (2 * size + i_k), mask=m_b, other=0))
        four = tl.dot(a_1, b_3, four, out_dtype=tl.int32)
        five = tl.dot(a_2, b_3, five, out_dtype=tl.int32)
        b_4 = tl.trans(tl.load(p_b + (3 * size + i_k), mask=m_b, other=0))
        five = tl.dot(a_1, b_4, five, out_dtype=tl.int32)
        if LAST == 6:
            six = tl.dot(a_4, b_2, six, out_dtype=tl.int32)
            six = tl.dot(a_3, b_3, six, out_dtype=tl.int32)
            six = tl.dot(a_2, b_4, six, out_dtype=tl.int32)
    total = ((two.to(tl.int64) * 256 + three) * 256 + four) * 256 + five
    if LAST == 6:
        total = total * 256 + six

    p_out = start_of_chunk(p_row, i_chunk, order.to(tl.int64), p_gram, p_partial) + (first_a * order + first_b)
    tl.store(p_out + (o[:, None] * order + o[None, :]), total, mask=m_a & (o < order - first_b)[None, :])


def chunk_of(chunk: int) -> int:
    """Columns that one program sums, a multiple of WIDTH, where `gram.chunk_of` says about this many."""
    width = int(WIDTH.value)
    return min(-(-chunk // width) * width, LONGEST)


def integer_gram_(
    gram: Tensor, partial: Tensor, table: Tensor, tiles: Tensor, decided: Tensor, slices: Tensor, products: int
) -> None:
    """Writes the tiles on and below the diagonal of the integers I.

    Args:
        gram, partial: INT64, as the FP64 ones of `gram.gram_`. table, tiles, decided: as there.
        slices: INT8, of `cut.cut_`. products: 10 or 13.
    """
    variant = integer_gram_variant(products, config(capability(gram.device)))
    given = {"p_table": table, "p_tiles": tiles, "p_decided": decided, "p_slices": slices, "p_gram": gram}
    launch(variant, (len(tiles),), {**given, "p_partial": partial})


def integer_gram_cost(shapes: Sequence[Shape], products: int) -> tuple[int, int]:
    """Bytes and operations: slices read once, the lower triangle of I written once; half of each product."""
    moved = sum(4 * s.rows * s.columns + 4 * s.order**2 for s in shapes)
    return moved, products * sum(s.rows**2 * s.columns for s in shapes)


def integer_gram_variant(products: int, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    return Variant(
        kernel=integer_gram_kernel,
        signature={
            "p_table": "*i64:16", "p_tiles": "*i32:16", "p_decided": "*i32:16", "p_slices": "*i8:16",
            "p_gram": "*i64:16", "p_partial": "*i64:16",
        },
        constexprs={"LAST": LAST[products], "BLOCK": c.block, "BLOCK_K": 32},
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        yield from (integer_gram_variant(products, c, architectures) for products in LAST)
