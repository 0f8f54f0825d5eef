"""Shifts: where eigenvalues are counted, what a count proves, and where to count again. All about one matrix.

The formulas are those of `fastrank.counting.bounds.shifts_around`, `fastrank.counting.growth.recounted` and
`fastrank.reference.again`, which have the reasons.
"""

from __future__ import annotations

from numba import njit

from .ldl import UNIT, inertia
from .tiles import OPTIONS, SUM

FROBENIUS, SPECTRAL, GIVEN = range(3)
"""What tau^2 is made of: a share of the trace, a share of lambda_1, or bounds that are given."""
LARGEST = 1e200
"""Of tau^2; as `fastrank.counting.LARGEST_TAU`."""
GROWTH, LEAST_WIDENING, WIDENING, OWN_TERMS = 1.0625, 5e-10, 2e-8, 4.0
"""As in `fastrank.counting.growth.recounted`."""
SPARE, MARGIN, MOST = 1 + 2.0**-20, 4.0, 64.0
"""As in `fastrank.reference.again`."""
UNPROVEN = -1
"""In place of a count whose factors have grown too much."""


@njit(inline="always")
def blocked(count):
    """Most operations that one product in a sum of this many goes through."""
    return min(count, SUM + count / SUM)


@njit(inline="always")
def terms_of(order):
    """The same in the LDL^T of a matrix of this order."""
    return blocked(order) + 6.0


@njit(**OPTIONS)
def around(low, high, error, trace, order, inner):
    """tau^2 - delta, tau^2 + delta and the limit of growth, for a tau^2 between `low` and `high`."""
    terms = terms_of(order)
    size = trace + high * order
    widening = max(WIDENING * (order / 512) ** 2.5, LEAST_WIDENING)
    limit = size * GROWTH + low * (widening / UNIT / terms)
    delta = trace * (UNIT * (blocked(inner) + 4.0)) + (size * OWN_TERMS + limit * terms) * UNIT + error
    delta *= SPARE
    return low - delta, high + delta, limit


@njit(**OPTIONS)
def shifts_of(kind, square, given, bounds, trace, order, inner):
    """The same for one tolerance.

    Args:
        square: of its value, for a share. given: lower and upper bound of tau^2, for `GIVEN`.
        bounds: lower and upper bound of lambda_1, for `SPECTRAL`.
    """
    wrong = trace * (square * 4 * UNIT * (blocked(inner) + 8 * (order + 10)))
    if kind == FROBENIUS:
        return around(square * trace, square * trace, wrong, trace, order, inner)
    if kind == SPECTRAL:
        return around(square * bounds[0], square * bounds[1], wrong, trace, order, inner)
    return around(min(given[0], LARGEST), min(given[1], LARGEST), 0.0, trace, order, inner)


@njit(**OPTIONS)
def proven_count(g, i_g, order, shift, limit, upwards, trace, factors, scratch):
    """Eigenvalues above a shift, or `UNPROVEN`. Where factors have grown too much there is a second count, with the
    shift moved by what this asks for: up for a lower bound (`upwards`), down for an upper one."""
    count, growth = inertia(g, i_g, order, shift, trace, factors, scratch)
    if growth <= limit:
        return count
    wider = min(MARGIN * growth, MOST * limit)
    if not wider > limit:  # NaN
        return UNPROVEN
    moved = (wider - limit) * (UNIT * SPARE * terms_of(order))
    count, growth = inertia(g, i_g, order, shift + moved if upwards else shift - moved, trace, factors, scratch)
    return count if growth <= wider else UNPROVEN
