"""Shifts: those of `fastrank.counting.bounds`, and a second count where `fastrank.reference.again` has one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from panels import callable_, inertia_of, to_panels

from fastrank import Tolerance
from fastrank.counting import TRACE, Affine, shifts_around
from fastrank.counting.bounds import shifts
from fastrank.counting.growth import blocked_terms, recounted
from fastrank.reference import Moments, again

ORDERS = [1, 7, 64, 512, 513, 1000, 4096]


def one(*values):
    return [torch.tensor([v], dtype=torch.float64) for v in values]


def moments_of(order, inner, trace):
    trace_, order_, inner_ = one(trace, order, inner)
    return Moments(trace_, torch.ones_like(trace_), torch.tensor([True]), order_, inner_)


def numbers(of, trace):
    return [x.at(torch.tensor([trace], dtype=torch.float64)).item() for x in (of.upper, of.lower, of.limit)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("trace", [1e-80, 1.0, 1e60])
def test_as_the_twin_has_them(order, trace):
    from fastrank.kernels.cpu import shifts as kernels

    inner = 3 * order + 1
    moments = moments_of(order, blocked_terms(inner), trace)
    top = trace / order * 1.5, trace / order * 1.6
    for value in (1e-3, 0.04, 1.0):
        for kind, name in ((kernels.FROBENIUS, "frobenius"), (kernels.SPECTRAL, "spectral")):
            made = callable_(kernels.shifts_of)(kind, value**2, np.zeros(2), np.array(top), trace, order, inner)
            tolerance = Tolerance(value, name)
            twin = numbers(shifts(moments, tolerance, recounted(moments.order), tuple(one(*top))), trace)
            assert made == pytest.approx(twin, rel=1e-15, abs=0)
        low, high = one(value * trace, 1.1 * value * trace)
        made = callable_(kernels.shifts_of)(
            kernels.GIVEN, 0.0, np.array([low.item(), high.item()]), np.zeros(2), trace, order, inner
        )
        around = Affine(0.0, low), Affine(0.0, high)
        twin = numbers(shifts_around(moments, *around, TRACE * 0.0, recounted(moments.order)), trace)
        assert made == pytest.approx(twin, rel=1e-15, abs=0)


@pytest.mark.parametrize("upwards", [True, False])
def test_a_second_count_is_where_the_twin_has_it(upwards):
    """Of [[1, 2], [2, 1 + e]] at 1: the first pivot is zero, and the count is made again some way from there."""
    from fastrank.kernels.cpu import ldl, tiles
    from fastrank.kernels.cpu import shifts as kernels

    dense = np.array([[1.0, 2.0], [2.0, 1.0]])
    found = []
    for limit in (1e-3, 100.0, 1e14, 1e40):
        factors, scratch = np.full(tiles.size(2), np.nan), np.full(ldl.scratch_size(2), np.nan)
        found.append(
            callable_(kernels.proven_count)(to_panels(dense), 0, 2, 1.0, limit, upwards, 2.0, factors, scratch)
        )
        counts, growth = inertia_of(dense, 1.0)
        shift, limits = torch.ones(1, 2).double(), torch.full((1, 2), limit, dtype=torch.float64)
        given = torch.full((1, 2), counts), torch.full((1, 2), growth, dtype=torch.float64)
        moved, wider = again(moments_of(2, 2, 2.0), shift, limits, *given, 1, recounted(2.0 * torch.ones(1)).terms)
        side = 1 if upwards else 0
        if growth <= limit:
            assert found[-1] == counts
        else:
            count, grown = inertia_of(dense, moved[0, side].item())
            assert found[-1] == (count if grown <= wider[0, side] else kernels.UNPROVEN)
    assert kernels.UNPROVEN in found  # negative control: both happen
    assert 1 in found


def test_what_is_not_finite_is_unproven():
    from fastrank.kernels.cpu import ldl, tiles
    from fastrank.kernels.cpu import shifts as kernels

    for order in (1, 9):
        factors, scratch = np.zeros(tiles.size(order)), np.zeros(ldl.scratch_size(order))
        g = np.full(tiles.size(order), np.nan)
        assert callable_(kernels.proven_count)(g, 0, order, 1.0, 1e9, True, 1.0, factors, scratch) == kernels.UNPROVEN
