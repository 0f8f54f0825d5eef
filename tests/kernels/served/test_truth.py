"""Proof of exactness: hundreds of matrices of every family and size up to 512, and no false bound from the kernels."""

from __future__ import annotations

import pytest
import truth

from fastrank import linalg, testing

pytest.importorskip("triton")
from fastrank.kernels.inertia import factors

pytestmark = pytest.mark.usefixtures("served")


@pytest.mark.heavy
def test_no_false_bound_in_five_hundred_matrices(device):
    """Open by the count alone: singular values within FP64's own noise of tau^2, and few others."""
    largest = 512 if device.type == "cuda" else 96  # the interpreter takes seconds for one of 512
    tallies = truth.tally(500, largest, device, seed=2)
    assert sum(t.matrices for t in tallies.values()) == 500
    assert sum(t.wrong for t in tallies.values()) == 0
    for family, t in tallies.items():
        assert t.open <= (0.5 if family == "clustered 1e-07" else 0.15) * t.matrices, (family, t)
    assert sum(t.unresolved for t in tallies.values()) <= 10


@pytest.mark.heavy
@pytest.mark.parametrize("way", ["one", "many", "cuda"])
def test_no_false_bound_at_512(way, request, device, monkeypatch):
    """Every way of factoring: by one program in Triton, by many, and in CUDA C++."""
    monkeypatch.setattr(factors, "ONE_PROGRAM_UP_TO", 0 if way == "many" else 512)
    request.getfixturevalue("cuda_cpp" if way == "cuda" else "triton_alone")
    case = testing.make("clustered", 512, 512)
    bounds = linalg.rank_bounds(case.matrix[None].to(device), case.tolerance, resolve=False)
    assert bounds.certified.all()
    assert testing.count_errors(bounds, testing.true_rank(case.matrix[None], case.tolerance)).wrong == 0
