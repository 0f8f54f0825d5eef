"""Plans: what is remembered between calls changes no answer, and keeps nothing large."""

from __future__ import annotations

import weakref

import pytest
import torch

from fastrank import RankBounds, Tolerance, backend
from fastrank.linalg import plans, rank_bounds, spectral_norm

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason="the kernels for CPUs need Numba")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_that_is_used_again_answers_as_a_new_one(dtype):
    """For other matrices and tolerances; and what it answered before stays."""
    small = [torch.randn(9, 7, dtype=dtype), 1e-3 * torch.randn(5, 30, dtype=dtype), torch.zeros(4, 4, dtype=dtype)]
    large = [1e3 * torch.randn_like(matrix) for matrix in small[:2]] + [torch.full_like(small[2], torch.nan)]
    calls = [lambda x, t=t: rank_bounds(x, t) for t in (Tolerance(0.1), Tolerance(0.3), Tolerance(0.2, "spectral"))]
    calls += [lambda x: rank_bounds(x, Tolerance(0.5, "absolute")), lambda x: RankBounds(*[spectral_norm(x)] * 3)]

    def answers(fresh):
        found = []
        for matrices in (small, large, small):
            for call in calls:
                if fresh:
                    plans._here.batches.clear()
                found.append(call(matrices))
        return found

    expected, seen = answers(True), answers(False)
    for ours, theirs in zip(seen, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) if a.is_floating_point() else torch.equal(a, b)


def test_a_batch_keeps_no_matrix_and_only_few_bytes():
    plans._here.batches.clear()
    matrix = torch.randn(30, 40)
    seen = weakref.ref(matrix)
    rank_bounds([matrix])
    del matrix
    assert seen() is None
    rank_bounds(torch.randn(600, 700))
    assert len(plans._here.batches) == 1
    for n in range(1, 2 * plans.BATCHES):
        rank_bounds(torch.randn(n, n))
    kept = plans._here.batches.values()
    assert len(kept) == plans.BATCHES
    assert all(batch.nbytes <= plans.SMALL for batch in kept)
