"""Bases: numbers of columns that change with the ranks, and bases that come along."""

from __future__ import annotations

import pytest
import torch

from fastrank import RankTracker, testing
from fastrank.measuring.bases import Bases
from fastrank.weights import Source

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served", "fresh_bases")

TOLERANCES = torch.tensor([[0.0, 1e-6]], dtype=torch.float64)
"""1e-3 of the Frobenius norm."""


def proven(bases, matrix):
    """Bounds of the rank after one more step, and whether it is decided."""
    assert bases.prepare([Source(matrix, matrix)])
    bases.multiply()
    bases.sketches.conclude()
    bases.sketches.rotate()
    bases.step += 1
    return (*bases.sketches.proof[0, 3:].tolist(), bases.sketches.decided.item())


def test_columns_follow_the_rank_and_keep_what_they_know(device):
    """The first step knows nothing; with more columns, the same or fewer, the next one knows all that the last did."""
    sigma = torch.cat([torch.ones(6), torch.zeros(58)]).double()
    matrix = testing.planted(sigma, 64, 66, seed=0).to(device)
    bases = Bases(TOLERANCES, device)

    def step():
        return proven(bases, matrix)

    assert step() == (0, 64, 0)
    assert step() == (6, 6, 1)
    for rank, k in ((20, 32), (21, 32), (6, 16)):
        bases.adapt([rank])
        assert bases.columns == [k]
        if rank != 21:
            assert step() == (6, 6, 1)
    # Negative control: columns without what was known.
    bases.adapt([20])
    bases.sketches.restart()
    assert step() == (0, 64, 0)


def test_matrices_of_one_parameter_stay_together(device):
    """A step of the optimizer is fused for all of a parameter or none of it: they have the most columns of any."""
    stack = torch.zeros(2, 64, 64, device=device)
    other = torch.zeros(64, 70, device=device)
    bases = Bases(TOLERANCES, device)
    bases.prepare([*(Source(matrix, stack) for matrix in stack), Source(other, other)])
    assert bases.columns == [16, 16, 16]
    bases.adapt([0, 20, 3])
    assert bases.columns == [32, 32, 16]


def test_a_change_of_shape_starts_afresh(device):
    bases = Bases(TOLERANCES, device)
    for size, known in (((20, 30), 0), ((20, 30), 1), ((24, 30), 0)):
        matrix = testing.make("low_rank", *size, seed=0).matrix.to(device)
        assert proven(bases, matrix)[-1] == known


def test_a_step_is_skipped_only_where_it_says_so(device, monkeypatch):
    """Whatever the replays of a graph have written meanwhile."""
    bases = Bases(TOLERANCES, device)
    bases.set_skip(torch.ones((), device=device))
    assert bases.skip.item() == 1
    bases.set_skip(None)
    assert bases.skip.item() == 0
    monkeypatch.setattr(bases, "_captured", True)
    bases.skip.fill_(1)  # a replay of a step that overflowed
    bases.set_skip(None)
    assert bases.skip.item() == 0


def test_sigma_1_is_found_again_after_a_matrix_was_zero(device):
    """The sketch of a zero matrix has found no vector to go on from."""
    layer = torch.nn.Linear(20, 20, bias=False, device=device)
    tracker = RankTracker(layer)
    for scale in (0.0, 1.0, 1.0):
        with torch.no_grad():
            layer.weight.copy_(scale * torch.eye(20))
        tracker.step()
    assert tracker.latest()["weight"]["spectral_norm"] == pytest.approx(1.0, rel=1e-4)
