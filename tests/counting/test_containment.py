"""Containment: random matrices of every kind, and the exact answer lies in all bounds that are proven of it."""

from __future__ import annotations

import pytest
from exact_cases import cases, inside

from fastrank import Status, Tolerance, backend, linalg
from fastrank.counting import CompiledBatch

COUNT = 160


def test_the_exact_rank_is_in_the_bounds(counting):
    """Open bounds are few: singular values that are tau, or that FP64 does not tell from it."""
    left = 0
    for case in cases(COUNT, len(counting)):
        rank = case.exact.rank(case.tolerance)
        for resolve in (False, True):
            bounds = linalg.rank_bounds(case.matrix, case.tolerance, resolve=resolve)
            assert bounds.lower <= rank <= bounds.upper, (case.name, resolve, rank, bounds)
            assert 0 <= bounds.lower <= bounds.upper <= min(case.matrix.shape), case.name
            assert bounds.status != Status.NONFINITE
        left += int(bounds.lower < bounds.upper)
    assert left < 0.4 * COUNT


def test_the_exact_rank_is_in_the_bounds_of_a_ragged_call(counting):
    """One tolerance for matrices of all shapes and dtypes at once."""
    made = list(cases(COUNT // 5, 3))
    for tolerance in {case.tolerance for case in made[:8]}:
        bounds = linalg.rank_bounds([case.matrix for case in made], tolerance)
        for case, low, high, _ in zip(made, *(x.tolist() for x in bounds), strict=True):
            assert low <= case.exact.rank(tolerance) <= high, (case.name, tolerance)


def test_nothing_has_no_bounds(counting):
    for kind in ("frobenius", "spectral", "absolute"):
        assert [len(x) for x in linalg.rank_bounds([], Tolerance(0.1, kind))] == [0, 0, 0]


def test_a_bound_that_is_off_by_one_is_found():
    """Negative control: of bounds that are certified, either neighbour is false."""
    certified = 0
    for case in cases(40, 4):
        bounds = linalg.rank_bounds(case.matrix, case.tolerance)
        rank = case.exact.rank(case.tolerance)
        certified += int(bounds.lower == bounds.upper == rank)
        assert not bounds.lower + 1 <= rank <= bounds.upper - 1 or bounds.lower < bounds.upper
    assert certified > 20


@pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())
@pytest.mark.parametrize("exact", [1e-13, 1e-8])
def test_lambda_1_is_in_the_bounds_of_the_compiled_search(exact):
    """Both bounds, and the approximation is between them but for its own rounding."""
    for case in cases(COUNT, 5, least=1):
        if not case.matrix.any():
            continue
        batch = CompiledBatch(case.matrix[None], exact=exact)
        batch.measure(tops=True)
        trace, theta, low, high = batch.found[0].tolist()
        scale = float(batch.scale[0])
        top = case.exact.singular_values()[0] / scale
        assert inside(low, top * top, high), (case.name, low, high)
        assert low <= theta <= high * (1 + 1e-12)
        assert high <= trace * (1 + 1e-12)
