"""Proven bounds of the numerical rank, from counts of the eigenvalues of a Gram matrix G. (`singular` has those from
singular values; docs/proof.md has the proof, in section 2.)

The count of eigenvalues of G above a shift s, as computed, is exact for some G + E with ||E||_2 <= delta. By Weyl's
inequality it therefore lies between the true counts at s + delta and at s - delta. So counting at tau^2 + delta and at
tau^2 - delta brackets the numerical rank: equal counts are a certificate, unequal ones the honest interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..metrics import RankBounds, Status, Tolerance
from ..reference import SPARE, UNIT, Gram, Moments, divided
from .growth import Assumed, Number, residual

LARGEST_TAU = 1e100
"""No singular value in the scale of a Gram matrix comes near this, and the factors of delta do not make its square
overflow."""

Inertia = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Affine:
    """A threshold for eigenvalues, `slope * ||W||_F^2 + intercept`. Every threshold has this form, so that it can be
    made before the norm is known."""

    slope: Number
    intercept: Number

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.slope + other.slope, self.intercept + other.intercept)

    def __sub__(self, other: Affine) -> Affine:
        return self + other * -1.0

    def __mul__(self, factor: Number) -> Affine:
        return Affine(self.slope * factor, self.intercept * factor)

    def at(self, trace: Tensor) -> Tensor:
        """The threshold for matrices with `||W||_F^2 = trace` `(b,)`."""
        return self.slope * trace + self.intercept


TRACE = Affine(1.0, 0.0)
"""||W||_F^2 itself, which is the trace of the Gram matrix."""


class Shifts(NamedTuple):
    """For one tolerance, the two shifts above which eigenvalues are counted, and when a count is not to be believed."""

    upper: Affine
    """tau^2 - delta: the count above it bounds the rank from above."""
    lower: Affine
    """tau^2 + delta: the count above it bounds the rank from below."""
    limit: Affine
    """Largest growth of the factors for which delta covers their errors."""


def tau_squared(
    moments: Moments, tolerance: Tolerance, top: tuple[Tensor, Tensor] | None = None
) -> tuple[Affine, Affine]:
    """Lower and upper bound of tau^2, in the Gram matrix's scale. `top`: lower and upper bound `(b,)` of lambda_1, used
    for "spectral" only."""
    square = factor(tolerance) ** 2
    if tolerance.relative_to == "absolute":
        tau = Affine(0.0, absolute_tau(tolerance, moments.scale).clamp(max=LARGEST_TAU).square())
        return tau, tau
    if tolerance.relative_to == "frobenius":
        return Affine(square, 0.0), Affine(square, 0.0)
    assert top is not None, "a tolerance relative to sigma_1 needs bounds of lambda_1"
    return Affine(0.0, square * top[0]), Affine(0.0, square * top[1])


def absolute_tau(tolerance: Tolerance, scale: Tensor) -> Tensor:
    """tau `(b,)` of a tolerance that is absolute, for matrices that are divided by `scale` `(b,)`."""
    if scale.is_cpu and tolerance.value < 2.0**-900:  # it may be subnormal
        return divided(scale.new_tensor(tolerance.value), scale)
    return tolerance.value / scale


def shifts(moments: Moments, tolerance: Tolerance, of: Assumed, top: tuple[Tensor, Tensor] | None = None) -> Shifts:
    """Shifts for one tolerance; `of` as in `shifts_around`, `top` as in `tau_squared`."""
    return shifts_around(moments, *tau_squared(moments, tolerance, top), tau_error(moments, tolerance), of)


def shifts_around(moments: Moments, low: Affine, high: Affine, error: Affine, of: Assumed) -> Shifts:
    """Shifts for a tau^2 between `low` and `high`, each of which was computed with an error of at most `error`.

    delta covers that error, those of the Gram matrix (rounding of its sums, and slices), the rounding of the shift, and
    the errors of factors whose growth is within the limit.

    of: the factors, see `fastrank.counting.growth`.
    """
    size = TRACE + high * moments.order  # at least ||G - tau^2 I||_F
    limit = size * of.growth + low * (of.widening / UNIT / of.terms)
    delta = TRACE * (UNIT * (moments.inner + 4.0)) + size * (UNIT * of.own) + limit * (UNIT * of.terms)
    delta = (delta + error + Affine(0.0, moments.error)) * SPARE
    return Shifts(low - delta, high + delta, limit)


def inertia_bounds(
    gram: Gram,
    tolerances: Sequence[Tolerance],
    inertia: Inertia,
    top: tuple[Tensor, Tensor] | None = None,
) -> list[RankBounds]:
    """Bounds for each tolerance by the law of inertia, in PyTorch: one Gram matrix for all, two factorisations each.

    inertia: a function like `fastrank.reference.inertia`.
    top: lower and upper bound `(b,)` of lambda_1, needed for tolerances relative to sigma_1.
    """
    of = residual(gram.matrix.shape[-1])
    return counted(gram, [shifts(gram.moments, t, of, top) for t in tolerances], inertia)


def counted(gram: Gram, shifts: Sequence[Shifts], inertia: Inertia) -> list[RankBounds]:
    """Bounds from counts above some pairs of shifts, see `inertia_bounds`."""
    diagonal = gram.matrix.diagonal(dim1=-2, dim2=-1)
    shifted = gram.matrix.clone()  # one for all shifts: only its diagonal changes

    def count(shift: Affine) -> tuple[Tensor, Tensor]:
        # A zero matrix has rank 0 with any shift; with one that is not 0, the factorisation does not divide 0 by 0.
        at = torch.where(gram.trace == 0, 1.0, shift.at(gram.trace))
        torch.sub(diagonal, at[:, None], out=shifted.diagonal(dim1=-2, dim2=-1))
        return inertia(shifted)

    answers = []
    for s in shifts:
        lower = count(s.lower)
        full = bool((lower[0] == gram.matrix.shape[-1]).all())  # then no rank can be larger
        limits = s.limit.at(gram.trace)[:, None]
        answers.append(judge(gram.moments, limits, lower if full else count(s.upper), lower))
    return answers


def judge(moments: Moments, limits: Tensor, upper: tuple[Tensor, Tensor], lower: tuple[Tensor, Tensor]) -> RankBounds:
    """Bounds from the counts. Where a growth exceeds its limit, they are [0, r] with status `FALLBACK`; -1 where the
    matrix is not finite.

    A lower bound of r is all that there is to know: the other count is not read, and need not have been made.

    Args:
        limits: `(b, 2)`, or `(b, 1)` where they are equal: the largest growth that is believed at either shift.
        upper, lower: count and growth `(b,)` at either shift.
    """
    sound = (torch.stack([upper[1], lower[1]], -1) <= limits) | (moments.trace == 0)[:, None]
    full = sound[:, 1] & (lower[0] == moments.order)
    unsound, bad = ~(full | sound.all(-1)), ~moments.finite
    order = moments.order.long() if isinstance(moments.order, Tensor) else int(moments.order)
    status = torch.zeros_like(lower[0], dtype=torch.int8)  # Status.OK
    return RankBounds(
        lower[0].masked_fill(unsound, 0).masked_fill(bad, -1),
        torch.where(full | unsound, order, upper[0]).masked_fill(bad, -1),
        status.masked_fill_(unsound, Status.FALLBACK).masked_fill_(bad, Status.NONFINITE),
    )


def tau_error(moments: Moments, tolerance: Tolerance) -> Affine:
    """Error of a computed tau^2: value^2 times four times that of the trace, or of lambda_1."""
    if tolerance.relative_to == "absolute":
        return TRACE * 0.0
    return top_error(moments) * (4 * factor(tolerance) ** 2)


def top_error(moments: Moments) -> Affine:
    """More than the error of the trace, (n + r + 1) u ||W||_F^2, and of what `fastrank.reference.power` says of
    lambda_1: (n + 1) u ||W||_F^2 by the Gram, and (4 r + 64) u ||W||_F^2 by its Rayleigh quotient; and the error of a
    Gram made from slices."""
    return TRACE * (UNIT * (moments.inner + 8.0 * (moments.order + 10.0))) + Affine(0.0, moments.error)


def factor(tolerance: Tolerance) -> float:
    """`value` of a relative tolerance, 2 at most: above 1 every rank is 0, and the square of 2 cannot overflow."""
    return min(tolerance.value, 2.0)
