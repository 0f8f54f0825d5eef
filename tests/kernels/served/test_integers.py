"""The library with products of INT8 slices: what they leave open is counted in FP64, and trackers bracket the truth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastrank
from fastrank import Status, Tolerance, backend, linalg, testing
from fastrank.counting.ragged import RaggedBatch
from fastrank.linalg import functions
from fastrank.measuring import bases

pytest.importorskip("triton")
pytestmark = [pytest.mark.usefixtures("served"), pytest.mark.int8]
TAU = 1e-3


@pytest.fixture
def _integers(monkeypatch):
    monkeypatch.setenv(backend.PRODUCTS, "integers")


def near_tau(rows, columns, offset, seed):
    """FP32, of norm 1 to 1e-6: a third of its singular values far above tau, one next to it, the others far below."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, rows, dtype=torch.float64, generator=generator)).Q for n in (rows, columns))
    sigma = torch.full((rows,), 1e-5, dtype=torch.float64)
    sigma[: rows // 3] = (rows // 3) ** -0.5
    sigma[rows // 3] = TAU * (1 + offset)
    return ((u * sigma) @ v.mT).float()


@pytest.mark.usefixtures("_integers")
def test_what_integers_leave_open_fp64_decides(device, monkeypatch):
    matrices = [near_tau(40, 50, offset, i) for i, offset in enumerate((5e-4, -5e-4, 0.3, -0.3))]
    truth = [testing.true_rank(matrix, Tolerance(TAU)) for matrix in matrices]
    monkeypatch.setattr(functions, "resolve_bounds", lambda counted, *_: counted)  # no singular values
    monkeypatch.setattr(backend, "products_for", lambda tolerances: backend.COARSE)
    there = [matrix.to(device) for matrix in matrices]
    alone = linalg.rank_bounds(there, Tolerance(TAU), resolve=False)
    found = linalg.rank_bounds(there, Tolerance(TAU))
    assert (alone.lower < alone.upper).tolist() == [True, True, False, False]
    assert found.status.tolist() == [Status.OK] * 4
    for i, true in enumerate(truth):
        assert alone.lower[i] <= true.lower == true.upper <= alone.upper[i]
        assert found.lower[i] == found.upper[i] == true.lower
    monkeypatch.setenv(backend.PRODUCTS, "fp64")
    assert linalg.rank_bounds(there, Tolerance(TAU), resolve=False).certified.all()


def test_thirteen_products_see_finer_than_ten(device):
    tolerance, opened = [Tolerance(TAU)], {}
    matrices = [near_tau(40, 50, offset, 7).to(device) for offset in (5e-4, 5e-3)]
    for products in (0, 10, 13):
        bounds = RaggedBatch(matrices, products=products).bounds(tolerance)[0]
        opened[products] = (bounds.lower < bounds.upper).tolist()
    assert opened == {0: [False, False], 10: [True, False], 13: [False, False]}


@pytest.mark.usefixtures("_integers", "short_strips")
def test_a_tracker_brackets_the_truth(device, monkeypatch):
    monkeypatch.setattr(bases, "WARM_UP", 1)  # little to interpret
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(34, 20, bias=False), nn.Conv2d(4, 8, 3)).to(device)
    model[0].weight.data = near_tau(20, 34, 0.1, 3).to(device)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    tolerances = {"": Tolerance(0.05), "@0.05-spectral": Tolerance(0.05, "spectral")}
    with fastrank.RankTracker(model, optimizer, tolerance=list(tolerances.values())) as tracker:
        for _ in range(2):
            optimizer.zero_grad()
            model[0](torch.randn(16, 34, device=device)).square().mean().backward()
            optimizer.step()
            for name, row in tracker.latest().items():
                matrix = model.get_parameter(name).detach().cpu().flatten(1)
                for suffix, tolerance in tolerances.items():
                    true = testing.true_rank(matrix, tolerance)
                    assert row[f"rank_lower{suffix}"] <= true.lower
                    assert row[f"rank_upper{suffix}"] >= true.upper
                assert row["frobenius_norm"] == pytest.approx(float(matrix.double().norm()), rel=1e-8)


@pytest.mark.usefixtures("_integers")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_no_rank(bad, device):
    matrices = [near_tau(33, 40, 0.3, i) for i in range(3)]
    before = linalg.rank_bounds([matrix.to(device) for matrix in matrices], resolve=False)
    matrices[1][3, 4] = bad
    after = linalg.rank_bounds([matrix.to(device) for matrix in matrices], resolve=False)
    assert after.status.tolist() == [Status.OK, Status.NONFINITE, Status.OK]
    assert after.lower.tolist() == [before.lower[0], -1, before.lower[2]]
