"""Strips: what every program does that multiplies a strip of rows of W with a basis, whether it reads W or steps it.

A program has a strip of `BLOCK` rows and a chunk of columns of one matrix. `place` says which, `extent` where they are,
`tile_of` where a tile of them stands in memory, and `multiply` or `multiply_slices` adds the tile's product with the
basis to what the program has; `store_product` writes that. The loop over the tiles is the kernel's own: `sketch.sketch`
reads each tile, `step.sgd_sketch` makes it by a step of SGD.

A thread takes 16 bytes at once where the matrix allows it (`in_vectors`): that is a property of its addresses, and a
matrix that does not have it goes through the same code element by element. What tells the compiler so is `multiple`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..slices import NOT_FINITE, bytes_of, fixed_point, magnitude, power_of_two, slice_of, top_of
from .table import BASIS, CHUNK, CHUNKS, COLUMNS, FIELDS, FIRST_NORM, PARTIAL, ROWS, TILE_FIELDS


@triton.jit
def place(p_table, p_tiles, p_step, i_program, MATRICES):
    """Matrix, strip, chunk or tile, table row and side of a program; matrix -1: nothing to do."""
    side = tl.load(p_step) & 1
    p_tile = p_tiles + (side * tl.num_programs(0) + i_program) * TILE_FIELDS
    i_matrix, i_strip, i_chunk = tl.load(p_tile + 0), tl.load(p_tile + 1), tl.load(p_tile + 2)
    p_row = p_table + (side * MATRICES + tl.maximum(i_matrix, 0)) * FIELDS
    return i_matrix, i_strip.to(tl.int64), i_chunk.to(tl.int64), p_row, side


@triton.jit
def extent(p_row, p_bases, i_strip, i_chunk, BLOCK: tl.constexpr):
    """Number of rows of the matrix, the strip's own rows, first and last column of the chunk, and the basis."""
    rows, columns, chunk = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS), tl.load(p_row + CHUNK)
    o_row = i_strip * BLOCK + tl.arange(0, BLOCK)
    begin = i_chunk * chunk
    p_basis = p_bases + multiple(tl.load(p_row + BASIS), 16)  # bases are (n, k), and k is a multiple of 16
    return rows, o_row, begin, tl.minimum(begin + chunk, columns), p_basis


@triton.jit
def multiple(x, N: tl.constexpr):
    """x, a multiple of N, as the compiler then knows."""
    return x // N * N


@triton.jit
def in_vectors(addresses, stride_row, stride_column, rows, columns, N: tl.constexpr):
    """Whether a matrix has N elements, 16 bytes, at a time: where it has neighbours, and its lines begin and end.

    addresses: those of its first element, of all that goes with it, joined by "or".
    """
    along, across = tl.where(stride_column == 1, columns, rows), tl.where(stride_column == 1, stride_row, stride_column)
    dense = (stride_column == 1) | (stride_row == 1)
    return dense & (addresses % 16 == 0) & (along % N == 0) & (across % N == 0)


@triton.jit
def start_of(address, DTYPE: tl.constexpr, N: tl.constexpr):
    """Pointer to what is at an address; where N > 1, to a multiple of 16 bytes."""
    p = address.to(tl.pointer_type(DTYPE))
    return tl.multiple_of(p, 16) if N > 1 else p


@triton.jit
def lines(rows, stride_row, stride_column, begin, end, UNIT: tl.constexpr, N: tl.constexpr):
    """The same numbers, those of them multiples of N that `in_vectors` has found to be, along `UNIT`."""
    if UNIT == "row":
        rows, stride_column = multiple(rows, N), multiple(stride_column, N)
    else:
        stride_row, begin, end = multiple(stride_row, N), multiple(begin, N), multiple(end, N)
    return rows, stride_row, stride_column, begin, end


@triton.jit
def tile_of(o_row, o_column, stride_row, stride_column, m_row, end, UNIT: tl.constexpr):
    """Offsets and mask of a tile of W, the other way round where UNIT is "row": a warp's accesses are neighbours.

    UNIT: "column" where elements of neighbouring columns are neighbours, "row" where those of rows are, else "none".
    """
    m_column = o_column < end
    if UNIT == "row":
        offsets = o_column[:, None] * stride_column + o_row[None, :]
        mask = m_column[:, None] & m_row[None, :]
    else:
        step = 1 if UNIT == "column" else stride_column
        offsets = o_row[:, None] * stride_row + o_column[None, :] * step
        mask = m_row[:, None] & m_column[None, :]
    return offsets, mask


@triton.jit
def no_squares(UNIT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Zeros of the shape of a tile, as `tile_of` has it: each thread adds up its own squares until the last tile."""
    return tl.zeros((BLOCK_K, BLOCK) if UNIT == "row" else (BLOCK, BLOCK_K), tl.float64)


@triton.jit
def multiply(tile, p_basis, o_column, end, total, squares, UNIT: tl.constexpr, HALF: tl.constexpr, K: tl.constexpr):
    """`total` (BLOCK, K) and `squares` as of `no_squares`, FP64, with those of one more tile of W.

    tile: FP32, as `tile_of` has it. HALF: it has been 16 bits wide.
    """
    if HALF:
        # A sum of one: Triton 3.6 fails to feed an FP64 product from 16 bits, and does not look through this.
        tile = tl.sum(tile[:, :, None], 2)
    b_wide = tile.to(tl.float64)
    squares += b_wide * b_wide  # exact: a product and a sum are as good as one FMA
    b_wide = tl.trans(b_wide) if UNIT == "row" else b_wide
    o_basis = o_column[:, None] * K + tl.arange(0, K)[None, :]
    b_basis = tl.load(p_basis + o_basis, mask=(o_column < end)[:, None], other=0.0)
    return tl.dot(b_wide, b_basis.to(tl.float64), total, out_dtype=tl.float64), squares


@triton.jit
def units_of(basis):
    """An FP32 basis V in units of 2^-22, int32: cut to [-1, 1] and rounded to nearest, ties to even. V is finite.

    1.5 * 2^23 makes it a sum between 2^23 and 2^24, where the unit of FP32 numbers is 1, and whose bits count it.
    """
    inside = tl.minimum(tl.maximum(basis, -1.0), 1.0)
    return (inside * 4194304.0 + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def multiply_slices(tile, p_basis, o_column, end, total, squares, UNIT: tl.constexpr, K: tl.constexpr):
    """What `multiply` does, with W' V' in place of W V, by INT8 slices: four of each element of W', in units that a row
    of the tile shares, and three of V', see `units_of`. Of W' V' nothing is left out; an INT64 holds the sum over a
    tile of 32 columns, which is rounded once on its way to FP64. In a row that is not finite `total` is NaN.
    """
    ROW: tl.constexpr = 0 if UNIT == "row" else 1  # the axis along which a row of W is
    wide = tile.to(tl.float64)
    squares = tl.fma(wide, wide, squares)
    largest = tl.max(magnitude(tile), ROW)
    top = top_of(largest)
    b_w = bytes_of(fixed_point(tile, tl.expand_dims(top, ROW), 4), 4)
    b_w = tl.trans(b_w) if UNIT == "row" else b_w
    o_basis = o_column[:, None] * K + tl.arange(0, K)[None, :]
    b_v = bytes_of(units_of(tl.load(p_basis + o_basis, mask=(o_column < end)[:, None], other=0.0)), 3)
    value = tl.zeros(total.shape, tl.int64)
    for pair in tl.static_range(3):
        # The products of slices p of W and q of V with one p + q share a unit. Two such groups fit into an INT32.
        part = tl.zeros(total.shape, tl.int32)
        for group in tl.static_range(2 + 2 * pair, 4 + 2 * pair):
            part = part * 256
            for p in tl.static_range(max(1, group - 3), min(4, group - 1) + 1):
                part = tl.dot(slice_of(b_w, p, 4), slice_of(b_v, group - p, 3), part, out_dtype=tl.int32)
        value = value * 65536 + part
    # A unit of the sum is 2^(top - 157) times 2^-22.
    unit = tl.where(largest < NOT_FINITE, power_of_two(top - 179), float("nan"))
    return tl.fma(value.to(tl.float64), tl.broadcast_to(unit[:, None], total.shape), total), squares


@triton.jit
def store_product(p_row, p_partial, p_norms, i_strip, i_chunk, rows, o_row, total, norm, K: tl.constexpr):
    """Writes what a program has: its part of Y, of its chunk alone, and of ||W||_F^2."""
    p_out = p_partial + tl.load(p_row + PARTIAL) + i_chunk * rows * K
    tl.store(p_out + o_row[:, None] * K + tl.arange(0, K)[None, :], total, mask=(o_row < rows)[:, None])
    tl.store(p_norms + tl.load(p_row + FIRST_NORM) + i_strip * tl.load(p_row + CHUNKS) + i_chunk, norm)
