"""What proofs assume of arithmetic holds of the kernels, and is seen where it does not."""

from __future__ import annotations

import pytest

from fastrank.probing import counts, ways

pytest.importorskip("triton")
from fastrank.kernels.count import integer_gram, launches

pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture
def orders(device, monkeypatch):
    """Few matrices for the interpreter; none of subnormal numbers of BF16, which it takes for others."""
    if device.type == "cuda":
        return (1, 4, 16, 64, 256)
    monkeypatch.setattr(counts, "SHAPES", [(1, 40), (7, 9), (33, 20)])
    monkeypatch.setattr(counts, "NEAR", (51,))
    monkeypatch.setattr(counts, "FAINT", counts.FAINT[:1])
    return (4,)


def of_kernels(device):
    return next(way for way in ways.ways(device) if way.name == "kernels of the GPU")


def test_the_arithmetic_of_the_kernels_is_as_assumed(device, orders):
    found = [*counts.findings(of_kernels(device), device, orders), ways.factors(device, (1, 7, 70))]
    assert [finding for finding in found if not finding.passed] == []
    assert all(finding.seen.startswith("kernels of the GPU") for finding in found)


def test_what_loses_a_bit_is_caught(device, orders, monkeypatch):
    stock = launches.Launches.sum_grams

    def off(self, workspace, trace, scale):
        stock(self, workspace, trace, scale)
        workspace.mul_(1 + 2.0**-40)

    monkeypatch.setattr(launches.Launches, "sum_grams", off)
    assert not ways.factors(device, (40,)).passed
    assert not counts._rounded(of_kernels(device), device, [(7, 9)]).passed


@pytest.mark.int8
def test_integers_that_are_not_exact_are_caught(device, monkeypatch):
    shapes = [(7, 9), (40, 70)]
    assert ways.slices(device, shapes).passed
    monkeypatch.setitem(integer_gram.LAST, 10, 6)  # other products than are asked for
    assert not ways.slices(device, shapes).passed
