"""Roofs: measured rates, and the floor of an operation under them."""

import pytest
import results
import roofs
import torch
from costs import Cost
from roofs import Roofs


def test_the_floor_is_the_longer_of_the_two():
    under = Roofs(bytes_per_ms=1e6, flops_per_ms={torch.float64: 1e9, torch.float32: 4e9})
    assert under.floor(Cost(1e6, 1e6, torch.float64)) == ("bandwidth", 1.0)
    assert under.floor(Cost(1e6, 4e9, torch.float64)) == ("float64 product", 4.0)
    assert under.floor(Cost(1e6, 4e9, torch.float32)) == ("bandwidth", 1.0)


def test_rates_are_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(roofs.COPIED, "cpu", 2**24)
    monkeypatch.setitem(roofs.SIDE, "cpu", 256)
    path = tmp_path / "device.csv"
    results.save(path, roofs.measure(torch.device("cpu"), budget=0.02))
    rows = results.load(path)
    assert [row["workload"] for row in rows] == ["copy", "gemm-fp32", "gemm-fp64", "scale"]
    measured = Roofs.of(rows)
    fastest = min(float(row["wall_ms"]) for row in rows if row["workload"] in ("copy", "scale"))
    assert measured.bytes_per_ms == pytest.approx(2 * 2**24 / fastest, rel=1e-3)
    # Between a slow disk and any memory or processor there is.
    assert 1e4 < measured.bytes_per_ms < 1e11
    assert all(1e3 < rate < 1e14 for rate in measured.flops_per_ms.values())
