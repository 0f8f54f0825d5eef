"""Boxes: where a matrix is in the weight that it is cut from."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """A matrix in a weight: a range of each axis, one of which has the rows, and some the columns. Others have one
    index."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    rows: int
    """The axis of the rows."""
    columns: tuple[int, ...]
    """The axes of the columns, in order: the last one runs fastest."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the matrix."""
        sizes = self.sizes
        return sizes[self.rows], prod(sizes[axis] for axis in self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length along each axis."""
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    def cut_from(self, weight: Tensor) -> Tensor:
        """The matrix, which shares the weight's memory where strides allow. Several axes of columns are taken in the
        order of memory."""
        piece = weight
        for axis, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            if size != piece.shape[axis]:
                piece = piece.narrow(axis, start, size)
        columns = self.columns
        if len(columns) > 1:
            columns = tuple(sorted(columns, key=lambda axis: (-piece.stride()[axis], axis)))
        return self.flattened(piece, columns)

    def flattened(self, piece: Tensor, columns: tuple[int, ...]) -> Tensor:
        """A part of the weight as a matrix with these axes as columns."""
        single = [axis for axis in range(piece.ndim) if axis != self.rows and axis not in columns]
        if not single and columns == (1,):
            return piece[()]
        return piece.permute(*single, self.rows, *columns).flatten(len(single) + 1)[(0,) * len(single)]
