"""Costs: for how long each way keeps the ranks busy that have a part of a matrix, at nominal rates.

The rates are those of no machine in particular. What matters is how the bytes of one way compare with the work of
another, and that all ranks come to the same numbers: these are integers, so that no order of summation changes them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .holdings import ITEMSIZE, Declared, Spans
from .traffic import Flow, Integers, Placement, Way, exchanged, flows, sketch_flow

FLOPS = 30 * 10**12
"""FP64 operations a second of a rank. Only half of a Gram is made, in r^2 n operations; a count takes 2/3 r^3."""
BYTES = 50 * 10**9
"""Bytes a second of what a rank sends and receives together."""
PICOSECONDS = 10**12
"""A second, in the unit of all costs."""


class Cost(NamedTuple):
    """What one way costs for a matrix, in picoseconds.

    Attributes:
        contributing, owning: `(pieces,)`, for how long a rank with each piece is busy if another rank is the owner,
            and if it is the owner itself.
        busiest, total: of the busiest rank, and of all together, if there is no other matrix.
    """

    contributing: Integers
    owning: Integers
    busiest: int
    total: int


def costs_of(matrix: Declared) -> dict[Way, Cost]:
    """The cost of each way that a matrix can go."""
    sizes, order = matrix.cut.sizes, min(matrix.shape)
    own, count = order * sizes, 2 * order**3 // 3
    if len(sizes) == 1:
        return {"local": _cost("local", matrix, np.zeros_like(sizes), own + count)}
    costs: dict[Way, Cost] = {
        "whole": _cost("whole", matrix, np.zeros_like(sizes), np.full_like(sizes, own.sum() + count))
    }
    if can_go_as_gram(matrix.shape, matrix.dtype, matrix.cut.pieces):
        costs["gram"] = _cost("gram", matrix, own, own + count)
    return costs


def can_go_as_gram(shape: tuple[int, int], dtype: str, pieces: tuple[Spans, ...]) -> bool:
    """Whether the Gram of a matrix is the sum of those of its pieces: each is one span that covers the short side.

    Of a square matrix either side may be covered, the same one by all pieces. An FP64 matrix never goes as a Gram.
    """
    rows, cols = shape
    if dtype == "float64" or any(len(piece) != 1 for piece in pieces):
        return False
    columns = all(span.top == 0 and span.bottom == rows for (span,) in pieces)
    return (rows <= cols and columns) or (
        rows >= cols and all(span.left == 0 and span.right == cols for (span,) in pieces)
    )


def sketch_pays(matrix: Placement, columns: int) -> bool:
    """Whether a sketch with k `columns` costs all ranks together less than it does to have the matrix travel.

    A sketch takes 2 k operations for each element, and about 6 k^2 for each row of the product and 40 k^3 besides for
    the proof and the next basis. It is of either side by turns.
    """
    elements, order = matrix.shape[0] * matrix.shape[1], matrix.order
    travelling = _time(order * elements + 2 * order**3 // 3, flows([matrix])[0])
    operations = 2 * columns * elements + 3 * columns**2 * sum(matrix.shape) + 40 * columns**3
    sketching = [_time(operations, sketch_flow(matrix, columns, side)) for side in (0, 1)]
    return sum(sketching) < 2 * travelling


def _time(operations: int, flow: Flow) -> int:
    """In picoseconds, of all ranks together."""
    return operations // (FLOPS // PICOSECONDS) + int((flow.sent + flow.received).sum()) * (PICOSECONDS // BYTES)


def _cost(way: Way, matrix: Declared, contributing: Integers, owning: Integers) -> Cost:
    """From the operations of a contributor and of an owner, `(pieces,)` each. A cost is never 0."""
    moved = exchanged(way, matrix.cut.sizes, min(matrix.shape), ITEMSIZE[matrix.dtype])
    times = [
        operations // (FLOPS // PICOSECONDS) + (sent + received) * (PICOSECONDS // BYTES) + 1
        for operations, (sent, received) in zip((contributing, owning), moved, strict=True)
    ]
    alone, owner = times[0].copy(), int(times[1].argmin())
    alone[owner] = times[1][owner]
    return Cost(times[0], times[1], int(alone.max()), int(alone.sum()))
