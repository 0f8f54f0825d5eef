"""Values that a buffer gets after it was timed: known, and not what was there."""

from __future__ import annotations

import fresh
import pytest
import torch
from networks import Network
from operations import OPERATIONS
from workloads import TOLERANCE, Workload

from fastrank import testing

SHAPES = ((24, 40), (40, 24), (24, 40), (200, 300), (7, 5), (1, 3))


@pytest.fixture(params=[torch.float32, torch.float64])
def problem(request):
    return Workload("small", Network(SHAPES, ()), "full").make(request.param, torch.device("cpu"))


def test_their_singular_values_are_known(problem):
    made = fresh.other(problem)
    for old, matrix, sigma in zip(problem.matrices, made.matrices, made.sigma, strict=True):
        assert (matrix.shape, matrix.dtype) == (old.shape, old.dtype)
        assert (testing.true_singular_values(matrix) - sigma).abs().max() <= made.slack * sigma[0]


def test_no_answer_stays_what_it_was(problem):
    """Every matrix by itself: a call that forgets only one of many is seen."""
    made = fresh.other(problem)
    for i, (old, new) in enumerate(zip(problem.sigma, made.sigma, strict=True)):
        assert abs(old[0] - new[0]) > 0.1 * old[0]
        if len(old) > 2:  # one singular value of one has nowhere to go
            assert torch.count_nonzero(new) < torch.count_nonzero(old), i
    answers = {
        "rank": [(s > TOLERANCE.value * s.norm()).sum() for s in problem.sigma],
        "spectrum": problem.sigma,
        "norm": [s[0] for s in problem.sigma],
    }
    for name, answer in answers.items():
        operation = OPERATIONS[name]
        assert operation.error(problem, answer) <= operation.limit
        assert operation.error(made, answer) > operation.limit


def test_they_are_the_same_every_time(problem):
    first, second = fresh.other(problem), fresh.other(problem)
    assert all(torch.equal(a, b) for a, b in zip(first.matrices, second.matrices, strict=True))
