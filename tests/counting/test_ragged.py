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
    expected = torch.tensor([32.0, 32.0, 32.0, 2048.0], dtype=torch.float64)
    limit = pair.shifts.limit.at(of.trace) / trace
    assert (limit >= expected).all()
    assert (limit <= 2 * expected).all()
    # Both shifts are further from each other than what factors within the limit may be off by, twice.
    upper, lower = (line.slope * of.trace + line.intercept for line in (pair.shifts.upper, pair.shifts.lower))
    assert (lower - upper >= 2 * UNIT * (chunk.order + 64) * trace * (1 + expected)).all()


def test_more_tolerances_than_there_is_a_place_for_are_refused(monkeypatch):
    monkeypatch.setattr(Launches, "sum_grams", lambda *arguments: None)
    batch = RaggedBatch([torch.empty(70, 90)], 2)
    with pytest.raises(ValueError, match="tolerances: 3, but this batch was made for 2 at a time"):
        batch.bounds([Tolerance(), Tolerance(0.1), Tolerance(0.2)])
