"""`together`: ranks that measure together as threads of one process, with what they exchange, and how many bytes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

from fastrank.sharing import Holding, Span, make_plan
from fastrank.weights import Source
from fastrank.weights.pieces import Piece, _rows_of


class Simulated:
    """Stands for `fastrank.sharing.Ranks`."""

    def __init__(self, rank, size, boxes, barrier):
        self.rank, self.size = rank, size
        self.moved = 0
        self._boxes, self._barrier = boxes, barrier

    def exchange(self, sent, sizes_sent, sizes_received):
        assert len(sent) == sum(sizes_sent)
        self._boxes[self.rank] = torch.split(sent, sizes_sent)
        self._barrier.wait(30)
        came = [self._boxes[other][self.rank].clone() for other in range(self.size)]
        self._barrier.wait(30)
        assert [len(x) for x in came] == list(sizes_received)
        self.moved += sent.element_size() * (len(sent) - sizes_sent[self.rank])
        return torch.cat(came)


def together(size, function):
    """What `function(ranks)` returns on each of so many ranks; the first error is raised."""
    boxes, barrier = [()] * size, threading.Barrier(size)

    def guarded(rank):
        try:
            return function(Simulated(rank, size, boxes, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        done = [pool.submit(guarded, rank) for rank in range(size)]
    errors = [future.exception() for future in done if future.exception() is not None]
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return [future.result() for future in done]


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
