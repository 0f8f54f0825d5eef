"""Table: what kernels need to know of a ragged batch of matrices, one row of 64-bit integers a matrix, on the device.

A matrix is taken wide: r rows and n columns, r <= n, whichever of its sides is which; a tall one enters with its
strides exchanged. Nothing is copied: the table points at the caller's memory, and whoever launches keeps it alive.

Grams and factors of r x r are kept with an order that is r rounded up to `PAD`, so that no kernel masks a column and
every row is aligned. Padding is zero in a Gram.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

PAD = 32
"""Orders are multiples of this, the width of a block of LDL^T."""

POINTER, ROWS, COLUMNS, STRIDE_ROW, STRIDE_COLUMN, ORDER, OFFSET, CHUNK, PARTIAL = map(tl.constexpr, range(9))
"""Fields of a row. OFFSET: of the Gram in the workspace, in elements. CHUNK: columns that one program of the Gram sums;
PARTIAL: offset of the sums of the second chunk and on."""
FIELDS = tl.constexpr(9)


class Shape(NamedTuple):
    """A wide matrix, as the table and the heuristics see it."""

    rows: int
    columns: int
    stride_row: int
    stride_column: int

    @property
    def order(self) -> int:
        return -(-self.rows // PAD) * PAD

    @classmethod
    def of(cls, matrix: Tensor) -> Shape:
        """Of a 2-D tensor of any strides."""
        (m, n), (i, j) = matrix.shape, matrix.stride()
        return cls(m, n, i, j) if m <= n else cls(n, m, j, i)


def rows_of(
    pointers: Sequence[int], shapes: Sequence[Shape], chunks: Sequence[int], stored: Collection[int]
) -> tuple[Tensor, int, int]:
    """The table `(b, FIELDS)` int64 on the CPU, and the sizes of all Grams and of all partial sums, in elements.

    chunks: columns of each matrix that one program sums. Those that are not among the `stored` get no place.
    """
    stored = set(stored)
    offset = partial = 0
    rows = []
    for i, (pointer, shape, chunk) in enumerate(zip(pointers, shapes, chunks, strict=True)):
        rows.append((pointer, *shape, shape.order, offset, chunk, partial))
        if i in stored:
            offset += shape.order**2
            partial += (-(-shape.columns // chunk) - 1) * shape.order**2
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), FIELDS.value), offset, partial
