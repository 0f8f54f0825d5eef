"""Thin products: the ranks' shares are the product of the whole matrix, and no byte travels that is not on paper."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cut_matrices import layouts, planned, source
from thread_ranks import in_threads

from fastrank.reference.sketch import Basis, sketch
from fastrank.sharing.sketching import share_of
from fastrank.sharing.thin import Share, ThinMoves, bytes_sent, rounds_of_sketches
from fastrank.sharing.traffic import Sketch, reach, sketch_flow

CPU = torch.device("cpu")
NAMES = list(layouts(2, 2, 0))
K = 16


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(matrix, basis, side):
    view = matrix.mT if side else matrix
    return sketch(view[None], Basis(basis[None], torch.ones(1, K, dtype=bool), torch.zeros(1, K)))


def share(matrix, piece, basis, side):
    start, end = reach(piece, 1 - side)
    own = source(matrix, piece)
    return share_of(own.piece.views(own.matrix), piece, side, basis[start:end])


def same(found, matrix, basis, side):
    """Whether a sum is the product and the norm up to the rounding of FP64."""
    expected = whole(matrix, basis, side)
    size = expected.norm.sqrt().item() * torch.linalg.matrix_norm(basis.double()).item()
    off = torch.linalg.matrix_norm(found.product - expected.product[0]).item()
    return off <= 1e-15 * size and abs(found.norm.item() / expected.norm.item() - 1) <= 1e-15


def carried(ranks, matrix, plan, basis, side):
    """The sum, where this rank is the owner, and the bytes that it has sent. The next basis is checked on the way."""
    parts = dict(plan.matrices[0].parts)
    moves = ThinMoves(plan, ranks, [Sketch(0, K, side)], CPU)
    assert list(moves.pieces.values()) == ([parts[ranks.rank]] if ranks.rank in parts else [])
    sums = moves.to_owners({i: share(matrix, own, basis, side) for i, own in moves.pieces.items()})
    next_basis = random(matrix.shape[side], K, seed=7)
    back = moves.from_owners({0: next_basis} if sums else {})
    assert back.keys() == moves.pieces.keys()
    assert all(torch.equal(x, next_basis[slice(*reach(moves.pieces[0], side))]) for x in back.values())
    return sums.get(0), ranks.moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_shares_add_up_to_the_product_of_the_whole_matrix(name, dtype):
    for seed in range(8):
        rows, cols = torch.randint(1, 40, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        matrix = random(rows, cols, seed=seed, dtype=dtype)
        plan = planned({"x": matrix}, layouts(rows, cols, seed)[name])
        for side in (0, 1):
            basis = random((cols, rows)[side], K, seed=seed + 100)
            given = {"matrix": matrix, "plan": plan, "basis": basis, "side": side}
            found = in_threads(4, partial(carried, **given))
            (owner,) = [rank for rank, (total, _) in enumerate(found) if total is not None]
            assert owner == plan.matrices[0].owner
            assert same(found[owner][0], matrix, basis, side)
            sent = dict(zip(*(x.tolist() for x in sketch_flow(plan.matrices[0], K, side)[:2]), strict=True))
            assert [moved for _, moved in found] == [sent.get(rank, 0) for rank in range(4)]


def test_a_replica_that_adds_its_part_too_is_noticed():
    """Negative control of the test above: each rank has half of the rows, and two of four contribute."""
    matrix, basis = random(30, 20), random(20, K, seed=1)
    pieces = layouts(30, 20, 0)["replicas"]
    parts = planned({"x": matrix}, pieces).matrices[0].parts
    assert len(parts) == 2

    def added(pieces):
        total = Share(torch.zeros(30, K, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
        for piece in pieces:
            own, (start, end) = share(matrix, piece, basis, 0), reach(piece, 0)
            total.product[start:end] += own.product
            total.norm.add_(own.norm)
        return total

    assert same(added([piece for _, piece in parts]), matrix, basis, 0)
    assert not same(added(pieces[:3]), matrix, basis, 0)


def test_subnormal_numbers_are_read_as_they_are():
    matrix = random(12, 20) * 2.0**-135
    basis, piece = random(20, K, seed=1), layouts(12, 20, 3)["grid"][0]
    assert torch.set_flush_denormal(True)
    try:
        flushed = share(matrix, piece, basis, 0)
    finally:
        torch.set_flush_denormal(False)
    exact = share(matrix, piece, basis, 0)
    assert exact.norm > 0
    assert all(map(torch.equal, flushed, exact))


def test_bytes_of_a_step_on_paper():
    """Of 300 x 200 by rows: FP64 products and FP32 bases; and another matrix that travels as it is."""
    matrices = {"x": random(300, 200), "y": random(300, 200)}
    plan = planned(matrices, layouts(300, 200, 1)["rows"])
    assert [matrix.way for matrix in plan.matrices] == ["whole", "whole"]
    assert bytes_sent(plan, [], 4).tolist() == [plan.sent(rank) for rank in range(4)]
    x, y = plan.matrices
    heights = {rank: reach(piece, 0)[1] - reach(piece, 0)[0] for rank, piece in x.parts}
    for side, rows in ((0, heights), (1, dict.fromkeys(heights, 200))):
        expected = [0] * 4
        for rank in heights:
            if rank != x.owner:
                expected[rank] += 8 * (16 * rows[rank] + 1)
                expected[x.owner] += 4 * 16 * rows[rank]
            expected[rank] += 4 * 200 * heights[rank] if rank != y.owner else 0
        assert bytes_sent(plan, [Sketch(0, 16, side)], 4).tolist() == expected


def test_what_has_no_room_at_one_time_travels_later(monkeypatch):
    from fastrank.sharing import plan as planning

    matrices = {str(i): random(300, 200) for i in range(5)}
    plan = planned(matrices, layouts(300, 200, 1)["columns"])
    sketches = [Sketch(i, 16, i % 2) for i in range(5)]
    assert rounds_of_sketches(plan, sketches, 4) == [sketches]
    monkeypatch.setattr(planning, "BUDGET", 1)
    rounds = rounds_of_sketches(plan, sketches, 4)
    assert len(rounds) > 1
    assert sorted(sketch for own in rounds for sketch in own) == sketches
