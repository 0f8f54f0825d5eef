"""Matrices that are cut over ranks in every way: their pieces, their plan, and what a rank has of them."""

from __future__ import annotations

from itertools import pairwise

import torch

from fastrank.sharing import Holding, Span, make_plan
from fastrank.weights import Source
from fastrank.weights.pieces import Piece, _rows_of


def layouts(rows, cols, seed):
    """Pieces of four ranks, by name: cut at random places in every way that there is."""
    random = torch.Generator().manual_seed(seed)

    def cuts(size, count):
        inner = torch.randint(0, size + 1, (count - 1,), generator=random).sort().values.tolist()
        ends = [0, *inner, size]
        return list(pairwise(ends))

    (a, b), (c, d) = cuts(rows, 2), cuts(cols, 2)
    grid = [(Span(*x, *y),) for x in (a, b) for y in (c, d)]
    return {
        "rows": [(Span(*x, 0, cols),) for x in cuts(rows, 4)],
        "columns": [(Span(0, rows, *x),) for x in cuts(cols, 4)],
        "grid": grid,
        "flat": [_rows_of(*x, cols) if x[0] < x[1] else () for x in cuts(rows * cols, 4)],
        "replicas": [(Span(*x, 0, cols),) for x in (a, b, a, b)],
        "grid, flat": [(), *grid[2:], (grid[0] + grid[1])],
    }


def planned(matrices, pieces):
    """The plan for matrices of this name, shape and dtype that all are cut alike, so many ranks as there are pieces."""
    return make_plan(
        [[Holding(name, x.shape, str(x.dtype)[6:], own) for name, x in matrices.items()] for own in pieces]
    )


def source(matrix, spans):
    """What a rank has of a matrix."""
    flat = [matrix[s.top : s.bottom, s.left : s.right].flatten() for s in spans]
    local = torch.cat([matrix.new_empty(0), *flat])
    return Source(local, local, piece=Piece(tuple(matrix.shape), spans))
