"""Table: where the matrices of a ragged batch are and what shape they have, one row of int64 a matrix, on the device.

    table (b, FIELDS) int64

Every matrix is described as a wide one, with r rows and n columns, r <= n: a tall one enters as its transpose, rows and
columns and their strides exchanged. Nothing is copied: the table points at the caller's memory, which the caller keeps
alive.

The Gram of a matrix and its factors, r x r, are stored with an order that is r rounded up to a multiple of `PAD`, so
that no kernel masks a column and every row is aligned. The padding of a Gram is zero.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

PAD = 32
"""Orders of Grams and factors are multiples of this, the width of the widest block column of LDL^T."""

POINTER, ROWS, COLUMNS, STRIDE_ROW, STRIDE_COLUMN, ORDER, OFFSET, CHUNK, PARTIAL, TOPS, SLICES = map(
    tl.constexpr, range(11)
)
"""Fields of a row:

    POINTER                     address of the matrix' first element
    ROWS, COLUMNS               r and n
    STRIDE_ROW, STRIDE_COLUMN   from one row, and one column, to the next, in elements
    ORDER                       r rounded up to a multiple of PAD
    OFFSET                      where its Gram begins in the workspace of Grams, in elements; that of factor s of S
                                begins at S * OFFSET + s * ORDER^2 in the workspace of factors
    CHUNK                       columns of the matrix that one program of `count.gram` sums
    PARTIAL                     where the sums of its second chunk begin in the workspace of partial sums, in elements;
                                those of further chunks follow
    TOPS                        where its rows begin among those of all matrices that are cut into slices (`count.cut`),
                                each with ORDER of them
    SLICES                      where its slices begin among those of all, in bytes; each has ORDER rows of COLUMNS
                                rounded up to a multiple of WIDTH
"""
FIELDS = tl.constexpr(11)
"""Number of fields of a row."""
SLICES_EACH = 4
"""Slices of a matrix that is cut into any."""
WIDTH = tl.constexpr(64)
"""Lengths of the rows of a slice are multiples of this, so that every row is aligned and no product masks a column. The
padding is zero."""


class Shape(NamedTuple):
    """Shape and strides of a matrix taken as a wide one: rows <= columns."""

    rows: int
    columns: int
    stride_row: int
    stride_column: int

    @property
    def order(self) -> int:
        """Order that its Gram is stored with: `rows` rounded up to a multiple of `PAD`."""
        return order_of(self.rows)

    @classmethod
    def of(cls, matrix: Tensor) -> Shape:
        """Shape of a 2-D tensor of any strides, or of its transpose if the tensor is tall."""
        (m, n), (i, j) = matrix.shape, matrix.stride()
        return cls(m, n, i, j) if m <= n else cls(n, m, j, i)


def order_of(rows: int) -> int:
    """Order that the Gram of a matrix with so many rows is stored with."""
    return -(-rows // PAD) * PAD


def slices_size(shape: Shape) -> int:
    """Bytes of all slices of a matrix."""
    width = int(WIDTH.value)
    return SLICES_EACH * shape.order * -(-shape.columns // width) * width


def rows_of(
    pointers: Sequence[int],
    shapes: Sequence[Shape],
    chunks: Sequence[int],
    stored: Collection[int],
    sliced: Collection[int] = (),
) -> tuple[Tensor, int, int]:
    """The table, and the sizes of the workspaces that it has offsets into.

    Args:
        pointers, shapes: address and shape of each matrix.
        chunks: of each matrix, the columns that one program sums.
        stored: indices of the matrices whose Grams are stored. The workspaces have no place for others, and their
            offsets mean nothing.
        sliced: indices of the matrices that are cut into slices (default: none is).

    Returns:
        The table `(b, FIELDS)` int64 on the CPU, the size of all Grams and the size of all partial sums, in elements.
    """
    stored, cut = set(stored), set(sliced)
    offset = partial = tops = slices = 0
    rows = []
    for i, (pointer, shape, chunk) in enumerate(zip(pointers, shapes, chunks, strict=True)):
        rows.append((pointer, *shape, shape.order, offset, chunk, partial, tops, slices))
        if i in cut:
            tops += shape.order
            slices += slices_size(shape)
        if i in stored:
            offset += shape.order**2
            partial += (-(-shape.columns // chunk) - 1) * shape.order**2
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), FIELDS.value), offset, partial
