"""Ragged batches, as far as it takes no kernel to tell: what is counted, what is remembered, what is refused."""

import pytest
import torch

from fastrank import Tolerance
from fastrank.counting.ragged import RaggedBatch
from fastrank.reference import UNIT
from fastrank.reference.grams import Moments

pytest.importorskip("triton")
from fastrank.kernels.count.launches import Launches


def moments(chunk, trace=1.0):
    ones = torch.ones_like(chunk.order)
    return Moments(ones * trace, ones, ones.bool(), chunk.order, chunk.inner)


def test_lines_made_in_a_capture_are_not_remembered(captured):
    """They hold nothing before the graph is replayed; a count outside it would read whatever memory held."""
    batch = RaggedBatch([torch.empty(5, 7)], 2)
    (chunk,) = batch.chunks
    known = batch.shift_pair(chunk, moments(chunk), Tolerance())
    with captured():
        assert batch.shift_pair(chunk, moments(chunk), Tolerance()) is known
        of_the_graph = batch.shift_pair(chunk, moments(chunk), Tolerance(0.04))
        of_the_graph.coefficients.fill_(torch.nan)
    fresh = batch.shift_pair(chunk, moments(chunk), Tolerance(0.04))
    assert fresh.coefficients.isfinite().all()
    assert batch.shift_pair(chunk, moments(chunk), Tolerance(0.04)) is fresh


@pytest.mark.parametrize("tolerance", [Tolerance(1e-3, r) for r in ("frobenius", "spectral", "absolute")], ids=str)
def test_each_matrix_may_grow_by_what_its_own_order_makes_likely(tolerance):
    batch = RaggedBatch([torch.empty(1).expand(r, r) for r in (40, 256, 512, 4096)])
    (chunk,) = batch.chunks
    trace = 3.0
    of = moments(chunk, trace)
    pair = batch.shift_pair(chunk, of, tolerance, (of.trace, of.trace))
    limit = (pair.limits[..., 0] * trace + pair.limits[..., 1]) / trace
    assert (limit[:, 0] == limit[:, 1]).all()
    share = torch.tensor([1e-8, 1.25e-6, 1e-5, 4e-5], dtype=torch.float64) * tolerance.value**2
    terms = torch.tensor([104.0, 320.0, 576.0, 672.0], dtype=torch.float64)
    expected = torch.tensor([32.0, 32.0, 32.0, 8.0], dtype=torch.float64) + share / UNIT / terms
    if tolerance.relative_to == "absolute":
        expected = expected - share * (1 - 1 / trace) / UNIT / terms
    torch.testing.assert_close(limit[:, 0], expected, rtol=0.01, atol=0)
    # Both shifts are further from each other than what factors within the limit may be off by, twice.
    upper, lower = (pair.coefficients[..., 0] * trace + pair.coefficients[..., 1]).unbind(-1)
    assert (lower - upper >= 2 * UNIT * terms * trace * (1 + expected)).all()


def test_more_tolerances_than_there_is_a_place_for_are_refused(monkeypatch):
    monkeypatch.setattr(Launches, "sum_grams", lambda *arguments: None)
    batch = RaggedBatch([torch.empty(70, 90)], 2)
    with pytest.raises(ValueError, match="tolerances: 3, but this batch was made for 2 at a time"):
        batch.bounds([Tolerance(), Tolerance(0.1), Tolerance(0.2)])
