"""Table of sketches: where a matrix, its bases and its products are; one row of int64 a side and matrix, on the device.

    table (2, b, FIELDS) int64

Steps alternate between two sides. On side 0 the product is Y = W V, with a basis V of n rows; on side 1 it is W^T V,
with a basis of m rows, for W (m, n). In a row of the table "rows" r and "columns" n are those of the factor that the
basis is multiplied with, W or W^T, so that a product is always (r, k) = (r, n) (n, k): side 1 has W's sizes and strides
exchanged. The basis of either side is made from the product of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

(OFFSET, ROWS, COLUMNS, STRIDE_ROW, STRIDE_COLUMN, BASIS, NEXT, CHUNK, CHUNKS, PARTIAL, PRODUCT, FIRST_NORM, NORMS,
 FIRST_STRIP, STRIPS, KEY, COMPLETE) = map(tl.constexpr, range(17))  # fmt: skip
"""Fields of a row; offsets are in elements of the tensor named:

    OFFSET                      of the matrix from the start of its parameter
    ROWS, COLUMNS               r and n
    STRIDE_ROW, STRIDE_COLUMN   from one row, and one column, to the next, in elements
    BASIS, NEXT                 offsets in `bases` of this side's basis (n, k), and of the one made from Y (r, k)
    CHUNK, CHUNKS               columns that one program multiplies, and how many such chunks there are
    PARTIAL                     offset in `partial` of the product over chunk 0, (r, k); those of further chunks follow
    PRODUCT                     offset in `product` of their sum Y (r, k)
    FIRST_NORM, NORMS           which elements of `norms` sum to ||W||_F^2: the first, and how many
    FIRST_STRIP, STRIPS         which k x k matrices of `grams` sum to Y^T Y: the first, and how many
    KEY                         of the matrix' noise, see `sketch.noise`
    COMPLETE                    1 where the basis spans the whole smaller side, see `tables`
"""
FIELDS = tl.constexpr(17)
"""Number of fields of a row."""
TILE_FIELDS = tl.constexpr(3)
"""Fields of an entry of a list of work: matrix (-1: nothing to do), strip of rows, chunk of columns."""
STRIP = 256
"""Rows of a strip of Y: one program sums their share of a Gram."""


class View(NamedTuple):
    """A tracked matrix (m, n): how it stands in its parameter's memory. Offset and strides are in elements."""

    offset: int
    """From the start of the parameter."""
    rows: int
    columns: int
    stride_row: int
    stride_column: int
    key: int
    """Of its noise (`sketch.noise`): its place in the whole batch."""

    @property
    def transposed(self) -> View:
        return self._replace(
            rows=self.columns, columns=self.rows, stride_row=self.stride_column, stride_column=self.stride_row
        )


class Tables(NamedTuple):
    """What the launches for b matrices and one k read, on the CPU, and the sizes of what they write."""

    rows: Tensor
    """(2, b, FIELDS) int64, the table."""
    tiles: Tensor
    """(2, programs, TILE_FIELDS) int32, work of the sketch on either side; the shorter side is filled up with -1."""
    strips: Tensor
    """(2, programs, TILE_FIELDS) int32, work on the products and on the bases made from them; all chunks are 0."""
    places: list[tuple[int, int]]
    """Offsets in `bases` of the bases (n, k) and (m, k) of each matrix."""
    bases: int
    """Elements of all bases."""
    partial: int
    """Elements of the products over single chunks, of one side at a time."""
    product: int
    """Elements of the products, of one side at a time."""
    norms: int
    """Shares of ||W||_F^2: one a program of the sketch."""
    grams: int
    """Shares (k, k) of the Grams: one a strip of `STRIP` rows."""


def is_complete(view: View, k: int) -> bool:
    """Whether k columns span all of the matrix' smaller side."""
    return min(view.rows, view.columns) <= k


def chunk_of(view: View, block: int) -> int:
    """Columns that one program multiplies: a multiple of 64, at least 512, and as few as give up to 264 programs.

    A further chunk costs a write and a read of 8 k bytes a row. At k = 16 and 512 columns that is 1 % of the traffic of
    a fused step, 20 bytes a column, and a tenth where nothing is updated.
    """
    chunks = max(1, 264 // -(-view.rows // block))
    return max(512, -(-view.columns // (chunks * 64)) * 64)


def tables(views: Sequence[View], k: int, block: int) -> Tables:
    """Tables for sketches of `k` columns, by programs that multiply strips of `block` rows.

    A matrix whose smaller side has at most k elements gets a complete basis of that side, which never changes. Both of
    its rows in the table then multiply from that side, whatever the step, and what a sketch proves of it is exact.
    """
    rows = torch.zeros(2, len(views), FIELDS.value, dtype=torch.int64)
    work: tuple[list[tuple[int, int, int]], ...] = ([], [])
    strips: tuple[list[tuple[int, int, int]], ...] = ([], [])
    offsets = [0]
    for view in views:
        offsets += [offsets[-1] + view.columns * k, offsets[-1] + (view.columns + view.rows) * k]
    partial, product = [0, 0], [0, 0]
    for side in (0, 1):
        for i, given in enumerate(views):
            complete = is_complete(given, k)
            view = given.transposed if (given.rows <= given.columns if complete else side == 1) else given
            chunk = chunk_of(view, block)
            across, chunks = -(-view.rows // block), -(-view.columns // chunk)
            down = -(-view.rows // STRIP)
            bases = offsets[2 * i + side], offsets[2 * i + 1 - side]
            if complete:
                bases = (offsets[2 * i + (given.rows <= given.columns)],) * 2
            places = (partial[side], product[side], len(work[side]), across * chunks, len(strips[side]), down)
            rows[side, i] = torch.tensor([*view[:-1], *bases, chunk, chunks, *places, view.key, complete])
            work[side].extend((i, s, c) for s in range(across) for c in range(chunks))
            strips[side].extend((i, s, 0) for s in range(down))
            partial[side] += chunks * view.rows * k
            product[side] += view.rows * k
    longest = (max(map(len, lists)) for lists in (work, strips))
    blocks = list(zip(offsets[:-1:2], offsets[1::2], strict=True))
    return Tables(rows, _both(work), _both(strips), blocks, offsets[-1], max(partial), max(product), *longest)


def _both(lists: tuple[list[tuple[int, int, int]], ...]) -> Tensor:
    """The lists of work of both sides as one tensor, the shorter filled up with -1."""
    longest = max(map(len, lists))
    both = torch.full((2, longest, TILE_FIELDS.value), -1, dtype=torch.int32)
    for side, each in enumerate(lists):
        if each:
            both[side, : len(each)] = torch.tensor(each, dtype=torch.int32)
    return both
