"""Table of sketches: where a matrix, its bases and its products are; one row of int64 a side and matrix, on the device.

    table (2, b, FIELDS) int64

The matrices of a device share one table and all launches but those that multiply them: each has a number of columns k
of its own, and a dtype. Those that one launch multiplies are a `Pass`.

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

from ..limits import KS

(OFFSET, ROWS, COLUMNS, STRIDE_ROW, STRIDE_COLUMN, BASIS, NEXT, CHUNK, CHUNKS, PARTIAL, PRODUCT, FIRST_NORM, NORMS,
 GRAM, SPAN, STRIPS, SMALL, WIDTH, KEY, COMPLETE) = map(tl.constexpr, range(20))  # fmt: skip
"""Fields of a row; offsets are in elements of the tensor named:

    OFFSET                      of the matrix from the start of its parameter
    ROWS, COLUMNS               r and n
    STRIDE_ROW, STRIDE_COLUMN   from one row, and one column, to the next, in elements
    BASIS, NEXT                 offsets in `bases` of this side's basis (n, k), and of the one made from Y (r, k)
    CHUNK, CHUNKS               columns that one program multiplies, and how many such chunks there are
    PARTIAL                     offset in `partial` of the product over chunk 0, (r, k); those of further chunks follow
    PRODUCT                     offset in `product` of their sum Y (r, k)
    FIRST_NORM, NORMS           which elements of `norms` sum to ||W||_F^2: the first, and how many
    GRAM                        offset in `grams` of the first of the (k, k) matrices that sum to Y^T Y
    SPAN, STRIPS                rows of Y that each of them is the Gram of, and how many there are
    SMALL                       offset in `small` of the first of the matrix' small matrices, see `sketch.proof`
    WIDTH                       k
    KEY                         of the matrix' noise, see `sketch.noise`
    COMPLETE                    1 where the basis spans the whole smaller side, see `tables`
"""
FIELDS = tl.constexpr(20)
"""Number of fields of a row."""
TILE_FIELDS = tl.constexpr(3)
"""Fields of an entry of a list of work: matrix (-1: nothing to do), strip of rows, and chunk of columns or tile."""
WIDEST = tl.constexpr(KS[-1])
"""Elements from a matrix' k numbers to the next matrix' in `kept`, `top` and `x`."""
TILE, ACROSS = tl.constexpr(32), tl.constexpr(4)
"""Order of a tile of a Gram, and how many of them are side by side in the largest: tile i, j has number 4 i + j."""
BLOCK_ROW = 32
"""Rows of a basis that one program makes."""

Work = list[tuple[int, int, int]]
"""List of work: the fields of each program."""


def strip_of(k: int) -> int:
    """Rows of Y whose share of a Gram one program sums: the shares have a quarter of the bytes of Y.

    One program reads all shares of a matrix (`sketch.compare`). At k = 16 more of them are fewer rows one after the
    other; at k = 128 they are what it has to read most of.
    """
    return 4 * k


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


class Pass(NamedTuple):
    """Matrices that one launch multiplies: those of one dtype and one k."""

    dtype: torch.dtype
    k: int
    indices: list[int]
    """Of the matrices, in the table."""
    tiles: Tensor
    """(2, programs, TILE_FIELDS) int32, the launch's work on either side."""


class Tables(NamedTuple):
    """What the launches for b matrices read, on the CPU, and the sizes of what they write.

    Lists of work are (2, programs, TILE_FIELDS) int32: one a side, the shorter filled up with -1.
    """

    rows: Tensor
    """(2, b, FIELDS) int64, the table; SMALL is left at 0."""
    tiles: list[Tensor]
    """Of each group, the work of its sketch: strips and chunks."""
    strips: Tensor
    """Work on the Grams of the products and of the bases made from them: strips and tiles."""
    blocks: Tensor
    """Work on the bases: blocks of `BLOCK_ROW` rows; third fields are 0."""
    places: list[tuple[int, int]]
    """Offsets in `bases` of the bases (n, k) and (m, k) of each matrix."""
    bases: int
    """Elements of all bases."""
    partial: int
    """Elements of the products over single chunks, of one side at a time."""
    product: int
    """Elements of the products, of one side at a time."""
    norms: int
    """Shares of ||W||_F^2: one a program of the sketches, of one side at a time."""
    grams: int
    """Elements of all shares of the Grams, of one side at a time."""


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


def tables(views: Sequence[View], ks: Sequence[int], blocks: Sequence[int], groups: Sequence[Sequence[int]]) -> Tables:
    """Tables for sketches of `ks` columns, by programs that multiply strips of `blocks` rows, both one a matrix.

    A matrix whose smaller side has at most k elements gets a complete basis of that side, which never changes. Both of
    its rows in the table then multiply from that side, whatever the step, and what a sketch proves of it is exact.

    groups: indices of the matrices that are multiplied together; each matrix is in one.
    """
    rows = torch.zeros(2, len(views), FIELDS.value, dtype=torch.int64)
    work: tuple[list[Work], ...] = ([], [])  # of each matrix
    strips: tuple[Work, ...] = ([], [])
    solved: tuple[Work, ...] = ([], [])
    offsets = [0]
    for view, k in zip(views, ks, strict=True):
        offsets += [offsets[-1] + view.columns * k, offsets[-1] + (view.columns + view.rows) * k]
    partial, product, norms, grams = ([0, 0] for _ in range(4))
    for side in (0, 1):
        for i, (given, k, block) in enumerate(zip(views, ks, blocks, strict=True)):
            complete = is_complete(given, k)
            view = given.transposed if (given.rows <= given.columns if complete else side == 1) else given
            chunk = chunk_of(view, block)
            across, chunks = -(-view.rows // block), -(-view.columns // chunk)
            span = strip_of(k)
            down = -(-view.rows // span)
            bases = offsets[2 * i + side], offsets[2 * i + 1 - side]
            if complete:
                bases = (offsets[2 * i + (given.rows <= given.columns)],) * 2
            sums = (partial[side], product[side], norms[side], across * chunks, grams[side], span, down)
            rows[side, i] = torch.tensor([*view[:-1], *bases, chunk, chunks, *sums, 0, k, view.key, complete])
            work[side].append([(i, s, c) for s in range(across) for c in range(chunks)])
            strips[side].extend(gram_work(i, view.rows, k))
            if not complete:
                solved[side].extend((i, s, 0) for s in range(-(-view.rows // BLOCK_ROW)))
            partial[side] += chunks * view.rows * k
            product[side] += view.rows * k
            norms[side] += across * chunks
            grams[side] += down * k * k
    tiles = [both_sides([[entry for i in group for entry in own[i]] for own in work]) for group in groups]
    places = list(zip(offsets[:-1:2], offsets[1::2], strict=True))
    sizes = map(max, (partial, product, norms, grams))
    return Tables(rows, tiles, both_sides(strips), both_sides(solved), places, offsets[-1], *sizes)


def gram_work(i: int, rows: int, k: int) -> Work:
    """Work on the Gram of matrix i's product (rows, k): each strip, and each tile on or below the diagonal."""
    across = -(-k // TILE.value)
    numbers = [ACROSS.value * a + b for a in range(across) for b in range(a + 1)]
    return [(i, s, tile) for s in range(-(-rows // strip_of(k))) for tile in numbers]


def both_sides(lists: Sequence[Work]) -> Tensor:
    """The lists of work of both sides as one tensor, the shorter filled up with -1."""
    longest = max(1, *map(len, lists))
    both = torch.full((2, longest, TILE_FIELDS.value), -1, dtype=torch.int32)
    for side, each in enumerate(lists):
        if each:
            both[side, : len(each)] = torch.tensor(each, dtype=torch.int32)
    return both
