"""Bases: numbers of columns that change with the ranks, and bases that come along."""

from __future__ import annotations

import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.measuring.bases import Bases
from fastrank.weights import Source

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served", "fresh_bases")


def test_columns_follow_the_rank_and_keep_what_they_know(device):
    """The first step knows nothing; with more columns, the same or fewer, the next one knows all that the last did."""
    sigma = torch.cat([torch.ones(6), torch.zeros(58)]).double()
    matrix = testing.planted(sigma, 64, 66, seed=0).to(device)
    sketches = Bases([Tolerance()], device)

    def step():
        sketches.prepare([Source(matrix, matrix)])
        proof, decided = sketches.prove(None)
        sketches.count_step()
        return (*proof[0, 3:].tolist(), decided.item())

    assert step() == (0, 64, 0)
    assert step() == (6, 6, 1)
    for rank, k in ((20, 32), (21, 32), (6, 16)):
        sketches.adapt([rank])
        assert sketches.columns == [k]
        if rank != 21:
            assert step() == (6, 6, 1)
    # Negative control: columns without what was known.
    sketches.adapt([20])
    sketches._groups[0].sketches.restart()
    assert step() == (0, 64, 0)


def test_matrices_of_one_parameter_stay_together(device):
    """A step of the optimizer is fused for all of a parameter or none of it: they have the most columns of any."""
    stack = torch.zeros(2, 64, 64, device=device)
    other = torch.zeros(64, 70, device=device)
    sketches = Bases([Tolerance()], device)
    sketches.prepare([*(Source(matrix, stack) for matrix in stack), Source(other, other)])
    assert sketches.columns == [16, 16, 16]
    sketches.adapt([0, 20, 3])
    assert sketches.columns == [32, 32, 16]


def test_a_change_of_shape_starts_afresh(device):
    sketches = Bases([Tolerance()], device)
    for size, known in (((20, 30), 0), ((20, 30), 1), ((24, 30), 0)):
        matrix = testing.make("low_rank", *size, seed=0).matrix.to(device)
        sketches.prepare([Source(matrix, matrix)])
        _, decided = sketches.prove(None)
        sketches.count_step()
        assert decided.item() == known
