"""Proof of exactness: hundreds of matrices of every family of `make truth`, and no false bound from the kernels."""

from __future__ import annotations

import pytest
import truth

from fastrank import linalg, testing

pytest.importorskip("triton")
from fastrank.kernels.inertia import factors

pytestmark = pytest.mark.usefixtures("served")


@pytest.mark.heavy
@pytest.mark.int8
def test_no_false_bound_in_hundreds_of_matrices(device):
    """Open by the count alone: singular values within FP64's own noise of tau^2, and few others."""
    largest = 512 if device.type == "cuda" else 64  # the interpreter takes seconds for one of 512
    tallies = truth.tally(170, largest, device, seed=2)
    assert sum(t.matrices for t in tallies.values()) >= 170
    assert sum(t.wrong for t in tallies.values()) == 0
    near = ("clustered", "one at tau", "hadamard", "pythagorean", "saddle at tau", "leading", "integers", "geometric")
    others = [t for family, t in tallies.items() if not family.startswith(near)]
    assert sum(t.open for t in others) <= 0.1 * sum(t.matrices for t in others)
    assert sum(t.last for t in others) <= 3


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
