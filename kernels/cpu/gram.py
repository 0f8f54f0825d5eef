"""Gram: G = W W^T of one matrix on its smaller side, in FP64, as a lower triangle of tiles (see `tiles`).

    G(p, K) += W(p, chunk) W(K, chunk)^T            for chunks of columns of W, in order

W (r, n) with r <= n, FP32 or FP64, with any strides. A chunk is widened to FP64 and packed (see `pack`). How a
sum is made depends on r and n alone: an element has the same bits whichever tiles are computed together, by how many
threads.
Flops: r^2 n. Bytes: W, and for each chunk 4 r^2 of G and 8 r CHUNK of the packed columns, which are to stay in L2.

Twin: `fastrank.reference.grams`.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from .memory import pointer
from .pack import pack
from .tiles import OPTIONS, SIDE, TILE, panel, panels, update

CHUNK = 256
"""Most columns of W that are packed at a time."""
LARGE = 512
"""r of the largest matrices of which so many are; of larger ones, half as many."""
TOGETHER = 4
"""Columns of tiles for which a panel is read once."""


FP32, FP64, CAREFUL, MARKED = range(4)
"""How the elements of W are read. `CAREFUL` is FP32 of which subnormal numbers are read as integers, because a CPU may
be told to take them for zeros; `MARKED` is what will be read so."""


def chunk_size(order: int, inner: int) -> int:
    """FP64 numbers of the packed columns."""
    return min(CHUNK, inner) * SIDE * -(-order // SIDE)


@njit(**OPTIONS)
def gram(address, kind, order, inner, row_stride, column_stride, first, last, g, i_g, packed):
    """The columns of tiles from `first` up to `last` of G, which begins at `i_g` in `g`.

    Args:
        address: of the first element of W. kind: of its elements.
        order, inner: r and n. Strides are in elements.
        packed: scratch of `chunk_size`.
    """
    count = panels(order)
    for p in range(first, count):
        begin = i_g + panel(p)
        g[begin + TILE * first : begin + TILE * min(last, p + 1)] = 0.0
    step = CHUNK if order <= LARGE else CHUNK // 2
    for start in range(0, inner, step):
        end = min(start + step, inner)
        width = SIDE * (end - start)
        if kind == FP64:
            w64 = carray(pointer(address), (1,), np.float64)
            pack(w64, order, row_stride, column_stride, start, end, first, packed)
        elif kind == FP32:
            w32 = carray(pointer(address), (1,), np.float32)
            pack(w32, order, row_stride, column_stride, start, end, first, packed)
        else:
            bits = carray(pointer(address), (1,), np.int32)
            pack(bits, order, row_stride, column_stride, start, end, first, packed)
        for i in range(first, last, TOGETHER):
            update(g, i_g, g, i_g, packed, 0, width, packed, i * width, width, i, min(i + TOGETHER, last), count,
                   end - start)  # fmt: skip


@njit(**OPTIONS)
def trace_of(g, i_g, order):
    """||W||_F^2, the sum of G's diagonal."""
    total = 0.0
    for i in range(order):
        total += g[i_g + panel(i // SIDE) + TILE * (i // SIDE) + (SIDE + 1) * (i % SIDE)]
    return total
