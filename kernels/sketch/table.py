"""Table of sketches: one row of 64-bit integers a matrix and side, `(2, b, FIELDS)` on the device.

Side 0 multiplies W (m, n) with a basis of n rows, side 1 multiplies W^T with one of m. Row and column, r and n are
those of the product: side 1 has a matrix's strides exchanged. The basis of one side is made from the product of the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

(OFFSET, ROWS, COLUMNS, STRIDE_ROW, STRIDE_COLUMN, BASIS, NEXT, CHUNK, CHUNKS, PARTIAL, PRODUCT, FIRST_NORM, NORMS,
 FIRST_STRIP, STRIPS, KEY, COMPLETE) = map(tl.constexpr, range(17))  # fmt: skip
"""OFFSET: of the matrix from the start of its parameter, in elements. BASIS, NEXT: offsets of this side's basis
`(n, k)` and of the one made from its product, `(r, k)`. CHUNK: columns that one program multiplies; PARTIAL, PRODUCT:
offsets of what each chunk gives, and of their sum. The norms and strips of a matrix are those of consecutive programs:
FIRST and how many. KEY: of the matrix' noise. COMPLETE: 1 where the basis spans all of the smaller side, see `tables`.
"""
FIELDS = tl.constexpr(17)
TILE_FIELDS = tl.constexpr(3)
"""Of a list of work: matrix (-1: none), strip, chunk."""
STRIP = 256
"""Rows whose share of a Gram one program sums."""


class View(NamedTuple):
    """A tracked matrix: how it stands in its parameter's memory."""

    offset: int
    rows: int
    columns: int
    stride_row: int
    stride_column: int
    key: int
    """Of its noise: its place in the whole batch."""

    @property
    def transposed(self) -> View:
        return self._replace(
            rows=self.columns, columns=self.rows, stride_row=self.stride_column, stride_column=self.stride_row
        )


class Tables(NamedTuple):
    """What the launches of one k need, on the CPU, and the sizes of what they write."""

    rows: Tensor
    """(2, b, FIELDS) int64"""
    tiles: Tensor
    """(2, programs, TILE_FIELDS) int32: work of the sketch; the shorter side is filled up with nothing"""
    strips: Tensor
    """(2, programs, TILE_FIELDS) int32: work on the product and on the basis made from it; chunk 0"""
    places: list[tuple[int, int]]
    """Offsets of each matrix' bases (n, k) and (m, k)"""
    bases: int
    partial: int
    product: int
    norms: int
    grams: int
    """Elements of what the sketch and its Grams write."""


def is_complete(view: View, k: int) -> bool:
    """Whether k columns span all of the matrix' smaller side."""
    return min(view.rows, view.columns) <= k


def chunk_of(view: View, block: int) -> int:
    """Columns that one program multiplies: at least 512, and so many that a matrix has 264 programs if it can.

    A chunk costs a write and a read of 8 k bytes a row, 1 % of the 20 bytes of each of 512 columns at k = 16 and, where
    nothing is updated, a tenth.
    """
    chunks = max(1, 264 // -(-view.rows // block))
    return max(512, -(-view.columns // (chunks * 64)) * 64)


def tables(views: Sequence[View], k: int, block: int) -> Tables:
    """For sketches of `k` columns whose programs take strips of `block` rows.

    A matrix with r <= k needs no basis that follows it: its smaller side has a complete one, which stays. Both of its
    sides are that side, and what a sketch proves of it is exact.
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
    longest = max(map(len, lists))
    both = torch.full((2, longest, TILE_FIELDS.value), -1, dtype=torch.int32)
    for side, each in enumerate(lists):
        if each:
            both[side, : len(each)] = torch.tensor(each, dtype=torch.int32)
    return both
