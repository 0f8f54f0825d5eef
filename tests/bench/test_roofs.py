"""Roofs: what is measured, and the floor of an operation under them."""

from __future__ import annotations

import pytest
import results
import roofs
import timing
import torch
from costs import Cost
from roofs import Roofs

CPU = torch.device("cpu")
FP64 = torch.float64
UNDER = Roofs(copies=((1e3, 1.0), (1e5, 4.0), (1e6, 400.0)), flops_per_ms={FP64: 1e9})


def test_the_floor_is_the_longer_of_the_two():
    assert UNDER.floor(Cost(1e3, 1e8), FP64) == ("bandwidth", 1.0)
    assert UNDER.floor(Cost(1e3, 4e9), FP64) == ("float64 product", 4.0)


def test_flops_count_only_in_an_arithmetic_that_was_measured():
    """Whoever proves nothing may be right by any means; and integer products have no roof yet."""
    for products in (None, torch.int8):
        assert UNDER.floor(Cost(1e3, 4e9), products) == ("bandwidth", 1.0)


def test_a_size_has_a_time_of_its_own():
    assert [UNDER.moving(size) for size in (1e3, 1e5, 1e6)] == [1.0, 4.0, 400.0]
    assert UNDER.moving(1e4) == pytest.approx(2.0)  # half of the way in logarithms
    assert UNDER.moving(10) == 1.0
    assert UNDER.moving(1e7) == pytest.approx(4000.0)


def test_up_to_the_next_size_the_rate_of_the_smaller_one_is_possible():
    """Moving 1e6 bytes is ten times slower a byte than 1e5: the cache may end anywhere between."""
    assert UNDER.moving(3e5) == pytest.approx(12.0)
    assert UNDER.moving(9.9e5) == pytest.approx(39.6)


def row(workload, median, fastest, **amount):
    return {"operation": "roof", "workload": workload, "wall_ms": median, "wall_p20_ms": fastest} | amount


def test_the_fastest_counts():
    rows = [row("copy-1KiB", 3.0, 1.0, bytes=1024.0), row("copy-4KiB", 9.0, 2.0, bytes=4096.0)]
    rows.append(row("gemm-fp64", 10.0, 5.0, flops=1e9))
    of = Roofs.of([*rows, {"operation": "rank", "workload": "copy-1KiB"}])
    assert of == (((1024.0, 1.0), (4096.0, 2.0)), {FP64: 2e8})
    # A larger copy that was faster has moved the smaller one's bytes, too.
    assert Roofs.of([rows[0] | {"wall_p20_ms": 7.0}, rows[1]]).copies == ((1024.0, 2.0), (4096.0, 2.0))
    slower = Roofs(((1024.0, 5.0), (4096.0, 1.5)), {FP64: 3e8})
    assert of.faster(slower) == (((1024.0, 1.0), (4096.0, 1.5)), {FP64: 3e8})


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(roofs.SIZES, "cpu", (2**12, 2**16, 2**20))
    monkeypatch.setitem(roofs.SIDE, "cpu", 256)
    monkeypatch.setattr(roofs, "COPYING", 0.002)
    monkeypatch.setattr(roofs, "MULTIPLYING", 0.002)


def test_what_is_measured_can_be_read_again(tmp_path, small):
    path = tmp_path / "device.csv"
    old = {"operation": "roof", "workload": "scale", "provider": "torch", "dtype": "float32", "status": "ok"}
    results.save(path, [old])
    results.save(path, roofs.measure(CPU), all_of="roof")
    rows = results.load(path)
    assert [row["workload"] for row in rows] == ["copy-1MiB", "copy-4KiB", "copy-64KiB", "gemm-fp32", "gemm-fp64"]
    measured = Roofs.of(rows)
    assert [size for size, _ in measured.copies] == pytest.approx([2**12, 2**16, 2**20], rel=1e-3)
    # Between a slow disk and any cache or processor there is.
    assert all(1e3 < size / time < 1e12 for size, time in measured.copies)
    assert all(1e3 < rate < 1e14 for rate in measured.flops_per_ms.values())


def test_each_way_moves_its_bytes_in_as_many_buffers_as_an_operation_has(monkeypatch):
    """Whatever moves less than it says, or stays in a cache for want of buffers, lowers the floor of every row."""
    monkeypatch.setattr(timing, "CACHE", 2**14)
    monkeypatch.setattr(timing, "MOST_BUFFERS", 8)
    pool = torch.ones(2**14 // 4)
    ways = roofs._ways(pool, 2**12)
    assert {way: len(calls) for way, calls in ways.items()} == {"copied": 4, "scaled in place": 8, "summed": 4}
    moved = {
        "copied": lambda call: call.args[0].nbytes + call.func.__self__.nbytes,
        "scaled in place": lambda call: 2 * call.func.__self__.nbytes,
        "summed": lambda call: call.args[0].nbytes,
    }
    for way, calls in ways.items():
        assert {moved[way](call) for call in calls} == {2**12}
        for call in calls:
            call()
    assert ways["summed"][0]().item() == 2**10


@pytest.mark.parametrize(("size", "label"), [(512, "512B"), (2**16, "64KiB"), (2**28, "256MiB"), (2**32, "4GiB")])
def test_labels(size, label):
    assert roofs._label(size) == label
