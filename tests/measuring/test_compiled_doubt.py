"""Compiled measurer: what is recorded where the kernels for CPUs leave a rank open, or sigma_1 without a proof."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker, Status, Tolerance, backend
from fastrank.counting import CompiledBatch
from fastrank.measuring import compiled_measurer

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())

TOLERANCES = [Tolerance(), Tolerance(0.1, "spectral"), Tolerance(0.5, "absolute")]


def test_what_the_kernels_leave_open_is_settled_by_decompositions_that_are_verified(monkeypatch):
    """Kernels that prove nothing, of ranks and of sigma_1: the rows are the same, but for the status. Where the
    decomposition is wrong as well, sigma_1 is null, and the rank stays open."""
    stock = CompiledBatch.measure

    def proves_nothing(batch, **options):
        stock(batch, **options)
        batch.bounds[..., 0], batch.bounds[..., 1] = 0, batch._orders[:, None]
        batch.status[:], batch.found[:, 3] = Status.FALLBACK, batch.found[:, 0]
        batch.unsettled = len(batch.found)

    model = nn.ParameterList([nn.Parameter(torch.diag(torch.tensor([3.0, 2.0, 1e-5])) @ torch.ones(3, 4).triu())])
    tracker = RankTracker(model, select="all", tolerance=TOLERANCES)
    tracker.step()
    (wanted,) = tracker.to_arrow().to_pylist()
    monkeypatch.setattr(CompiledBatch, "measure", proves_nothing)
    tracker = RankTracker(model, select="all", tolerance=TOLERANCES)
    tracker.step()
    (row,) = tracker.to_arrow().to_pylist()
    assert row.pop("status") != wanted.pop("status")
    assert {name: row[name] for name in row if "rank_" in name} == {n: wanted[n] for n in wanted if "rank_" in n}
    assert row["spectral_norm"] == pytest.approx(wanted["spectral_norm"], rel=1e-9)
    assert row["stable_rank"] == pytest.approx(wanted["stable_rank"], rel=1e-9)
    svd, start = torch.linalg.svd, compiled_measurer.exact_start
    unsure = torch.zeros(1, dtype=torch.bool)
    monkeypatch.setattr(torch.linalg, "svd", lambda a, **options: svd(a.flip(-1), **options))
    monkeypatch.setattr(compiled_measurer, "exact_start", lambda g, slack: start(g)._replace(certified=unsure))
    tracker = RankTracker(model, select="all", tolerance=TOLERANCES)
    tracker.step()
    (row,) = tracker.to_arrow().to_pylist()
    assert row["spectral_norm"] is row["stable_rank"] is None
    assert row["frobenius_norm"] == wanted["frobenius_norm"]
    assert (row["rank_lower"], row["rank_upper"]) == (0, 3)
