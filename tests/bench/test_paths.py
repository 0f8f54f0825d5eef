"""From which products a figure comes: what a row says of it, and what is asked of Grams from INT8 slices."""

from __future__ import annotations

import grams
import pytest
import results
import tables
import timing
import torch
from harness import Budget, Harness
from networks import Network
from operations import OPERATIONS, Rank
from providers import Provider, of
from roofs import Roofs
from workloads import TOLERANCE, Workload

from fastrank import Tolerance, backend
from fastrank.reference import slices

CPU, FP32, FP64 = torch.device("cpu"), torch.float32, torch.float64


class SmallRank(Rank):
    workloads = {"small": Workload("small", Network(((20, 30), (20, 30)), ()))}  # noqa: RUF012


def ranks(matrices):
    sigma = [torch.linalg.svdvals(m.double()) for m in matrices]
    return [(s > TOLERANCE.value * s.norm()).sum() for s in sigma]


def clock(call, setup, rounds, calls):
    timing.wall_times(call, setup, rounds, calls)
    return [1e-3] * rounds


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(backend, "kernels_serve", lambda device: True)
    return monkeypatch


@pytest.mark.parametrize(("told", "status"), [("integers", "ok"), ("fp64", "wrong")])
def test_a_row_says_its_products_and_integers_have_no_floor_of_fp64(served, told, status):
    served.setenv(backend.PRODUCTS, told)
    slow = Roofs(copies=((1.0, 1e-9),), flops_per_ms={FP64: 1e3})
    harness = Harness(CPU, FP32, Budget(seconds=0.01, longest=1.0), slow)
    row = harness.row(SmallRank(), "small", Provider("counts", of(ranks), products=FP64, kernels=TOLERANCE), clock)
    assert (row["products"], row["status"]) == (told, status)


def test_a_path_is_the_device_rule_unless_a_provider_has_its_own(served):
    served.setattr(backend, "integer_products", lambda device, tolerances: 10 * (tolerances[0].value == 1e-3))
    chosen, fine = (Provider("", of(ranks), kernels=tolerance) for tolerance in (TOLERANCE, Tolerance(1e-4)))
    assert [chosen.path(CPU, dtype) for dtype in (FP32, torch.bfloat16, FP64)] == ["integers", "integers", "fp64"]
    assert fine.path(CPU, FP32) == "fp64"
    assert Provider("", of(ranks), kernels="integers").path(CPU, FP32) == "integers"
    assert Provider("a rival", of(ranks), products=FP64).path(CPU, FP32) == ""
    served.setattr(backend, "kernels_serve", lambda device: False)
    assert chosen.path(CPU, FP32) == ""


def test_all_of_ours_that_multiply_on_a_gpu_say_by_what():
    silent = {p.name for o in OPERATIONS.values() for p in o.providers if p.ours and p.kernels is None}
    assert silent == {"fastrank.svdvals", "fastrank gram", "fastrank.SGD"}
    forced = {p.name for o in OPERATIONS.values() for p in o.providers if p.kernels == "integers"}
    assert forced == {"fastrank integer gram kernel", "fastrank.rank_bounds unresolved, integers"}
    assert not any(p.products for o in OPERATIONS.values() for p in o.providers if p.name in forced)


def test_grams_from_slices_are_right_within_what_they_say(monkeypatch):
    made = torch.randn(30, 70, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -6, 30)[:, None]
    gram = slices.integer_gram(made[None])
    off, limit = grams.relative_error, OPERATIONS["gram"].limit
    answer = grams.Sliced([gram.matrix[0]], gram.error)
    assert off([made], answer) <= limit
    assert off([made], [gram.matrix[0]]) > limit  # which needs to say so
    assert off([made], answer._replace(error=gram.error / 1e3)) > limit
    wrong = gram.matrix[0] + 1e-6 * gram.matrix[0].trace()
    assert off([made], answer._replace(grams=[wrong])) > limit
    assert off([made], grams.Sliced([wrong], gram.error + 1e9)) > limit  # whatever it says
    assert off([made], grams.Sliced([wrong * torch.nan], gram.error)) == torch.inf


def test_older_rows_have_no_products_and_newer_ones_are_marked(tmp_path):
    row = {"operation": "rank", "workload": "w", "provider": "fastrank.rank_bounds", "dtype": "float32", "cuda": "13"}
    row |= {"device": "a GPU", "torch": "2", "threads": "1", "commit": "c", "dirty": "no"}
    row |= {"status": "ok", "wall_ms": 2.0}
    path = tmp_path / "gpu.csv"
    results.save(path, [row])
    path.write_text(path.read_text().replace("products,", "").replace("float32,,ok", "float32,ok"))
    (old,) = results.load(path)
    assert "products" not in old
    assert old["status"] == "ok"
    text = tables.section(tmp_path)
    assert "| w | 2 ms |" in text
    assert tables.FP64 in text
    results.save(path, [row | {"workload": "v", "products": "integers"}])
    text = tables.section(tmp_path)
    assert "| w | 2 ms |" in text
    assert "| v | 2 ms, by integers |" in text
    assert tables.FP64 not in text
    assert [r["products"] for r in results.load(path)] == ["integers", ""]
