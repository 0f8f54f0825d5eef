"""Plans for matrices that are cut in any way: every element counts once, every matrix goes once, all ranks agree."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest

from fastrank.sharing import Holding, Span, make_plan
from fastrank.sharing import plan as planning
from fastrank.sharing.traffic import flows


def plan_of(*matrices):
    """A plan for matrices that are given as the holdings of all ranks."""
    return make_plan(list(zip(*matrices, strict=True)))


def split(random, size, count):
    return [0, *sorted(random.integers(0, size + 1, count - 1).tolist()), size]


def random_holdings(random, name, shape, ranks):
    """A grid of uneven parts, some of them empty, or a flattened matrix in slices; some parts on several ranks."""
    rows, cols = shape
    if random.integers(3):
        down = int(random.integers(1, ranks + 1))
        tops, lefts = split(random, rows, down), split(random, cols, int(random.integers(1, ranks // down + 1)))
        pairs = [list(pairwise(ends)) for ends in (tops, lefts)]
        pieces = [(Span(*r, *c),) for r in pairs[0] for c in pairs[1]]
    else:
        ends = split(random, rows * cols, int(random.integers(1, ranks + 1)))
        pieces = [flat_piece(a, b, cols) for a, b in pairwise(ends)]
    pieces = [tuple(span for span in piece if span.numel) for piece in pieces]
    on = [*pieces, *(pieces[int(random.integers(len(pieces)))] for _ in range(ranks - len(pieces)))]
    dtype = ["float16", "float32", "float64"][int(random.integers(3))]
    return [Holding(name, shape, dtype, on[rank]) for rank in random.permutation(ranks)]


def flat_piece(start, end, cols):
    """The elements from `start` up to `end`, row after row."""
    spans = []
    while start < end:
        row, col = divmod(start, cols)
        bottom = end // cols if col == 0 and end - start >= cols else row + 1
        stop = bottom * cols if col == 0 and bottom * cols <= end else min(end, (row + 1) * cols)
        spans.append(Span(row, bottom, col, cols if stop % cols == 0 else stop % cols))
        start = stop
    return tuple(spans)


@pytest.mark.parametrize("seed", range(30))
def test_random_cuts(seed, monkeypatch):
    monkeypatch.setattr(planning, "BUDGET", 3000)
    random = np.random.default_rng(seed)
    ranks = int(random.integers(1, 9))
    shapes = [tuple(random.integers(1, 2 + 60 ** int(random.integers(1, 3)) // 10, 2).tolist()) for _ in range(12)]
    holdings = [random_holdings(random, f"x{i}", shape, ranks) for i, shape in enumerate(shapes)]
    plan = plan_of(*holdings)
    for matrix, declared, shape in zip(plan.matrices, holdings, shapes, strict=True):
        painted = np.zeros(shape, dtype=int)
        for rank, piece in matrix.parts:
            assert piece == declared[rank].spans
            for top, bottom, left, right in piece:
                painted[top:bottom, left:right] += 1
        assert (painted == 1).all()
        by = [rank for rank, _ in matrix.parts]
        assert by == sorted(by)
        assert matrix.owner in by
        assert (matrix.way == "local") == (len(by) == 1)
    travelling = [i for i, matrix in enumerate(plan.matrices) if matrix.way != "local"]
    assert sorted(i for indices in plan.rounds for i in indices) == travelling
    traffic = flows(plan.matrices)
    for indices in plan.rounds:
        for rank in range(ranks):
            sizes = [int(traffic[i].received[traffic[i].ranks == rank].sum()) for i in indices]
            assert sum(sizes) <= 3000 or sum(size > 0 for size in sizes) == 1
    assert sum(map(plan.sent, range(ranks))) == sum(map(plan.received, range(ranks))) == plan.total


def test_all_ranks_make_the_same_plan():
    """From what they have got from each other: equal, but not the same objects."""
    random = np.random.default_rng(5)
    declared = [random_holdings(random, f"x{i}", (8, 40), 6) for i in range(40)]
    plan = plan_of(*declared)
    assert plan_of(*pickle.loads(pickle.dumps(declared))) == plan
    assert plan_of(*([pickle.loads(pickle.dumps(h)) for h in own] for own in declared)) == plan
