"""Containment: random matrices of every kind, and exact answers lie in what the kernels prove."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fastrank import linalg

pytest.importorskip("triton")
pytest.importorskip("flint")
import truth_ledger
from exact_cases import cases

from fastrank.testing import exact_residual_squared

pytestmark = pytest.mark.usefixtures("served")
WORST = Path(__file__).parents[2] / "counting" / "worst.npz"


def test_the_exact_rank_is_in_the_bounds(device):
    """One call for all that share a tolerance; tolerances of their own for the first few."""
    made = list(cases(20, 40, least=1))
    matrices = [case.matrix.to(device) for case in made]
    for tolerance in {case.tolerance for case in made[:4]}:
        for resolve in (False, True):
            bounds = linalg.rank_bounds(matrices, tolerance, resolve=resolve)
            for case, low, high in zip(made, bounds.lower.tolist(), bounds.upper.tolist(), strict=True):
                assert low <= case.exact.rank(tolerance) <= high, (case.name, tolerance, resolve)


def test_nearest_calls_are_right(device):
    """A few of those that tests/counting runs on CPUs, each with its own tolerance."""
    worst = [case for case in truth_ledger.kept(WORST) if max(case.matrix.shape) <= 16][::7]
    assert len(worst) >= 5
    for case in worst:
        for resolve in (False, True):
            bounds = linalg.rank_bounds(case.matrix[None].to(device), case.tolerance, resolve=resolve)
            assert bounds.lower <= case.rank[0] <= bounds.upper, (case.name, resolve)


def test_the_error_of_low_rank_factors(device):
    made = list(cases(6, 41, (torch.float32,), least=2))
    svd = linalg.svd_lowrank([case.matrix.to(device) for case in made], 2, oversample=0)
    for i, (case, error) in enumerate(zip(made, svd.error.tolist(), strict=True)):
        if math.isfinite(error):
            square = exact_residual_squared(case.matrix, *(x[i].cpu() for x in svd[:3]))
            numerator, denominator = error.as_integer_ratio()
            assert square * denominator**2 <= numerator**2, (case.name, error)
