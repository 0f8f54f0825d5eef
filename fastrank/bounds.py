"""Proven bounds of the numerical rank, from a Gram or from singular values.

The count of eigenvalues of G above a shift s, as computed, is exact for some G + E with ||E||_2 <= delta, so by Weyl
it lies between the true counts at s + delta and at s - delta. Counting at tau^2 + delta and at tau^2 - delta therefore
brackets the numerical rank: equal counts are a certificate, unequal ones the honest interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastrank.metrics import RankBounds, Status, Tolerance
from fastrank.reference.gram import Gram, normalized

UNIT = 2.0**-53
"""Unit roundoff u of FP64."""
GROWTH_LIMIT = 8.0
"""Growth of the LDL^T factors that delta allows for; about 1 is what is seen. Beyond it the count is not believed."""

Inertia = Callable[[Tensor], tuple[Tensor, Tensor]]


def tau_squared(gram: Gram, tolerance: Tolerance, top: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Lower and upper bound `(b,)` of tau^2 in the Gram's scale; `top` bounds lambda_1, for "spectral" only."""
    square = _factor(tolerance) ** 2
    if tolerance.relative_to == "absolute":
        # Twice the Frobenius norm is as far above every singular value as anything, and its square does not overflow.
        tau = torch.minimum((tolerance.value / gram.scale).square(), 4 * gram.trace)
        return tau, tau
    if tolerance.relative_to == "frobenius":
        return square * gram.trace, square * gram.trace
    assert top is not None, "a tolerance relative to sigma_1 needs bounds of lambda_1"
    return square * top[0], square * top[1]


def inertia_bounds(
    gram: Gram,
    tolerances: Sequence[Tolerance],
    inertia: Inertia,
    top: tuple[Tensor, Tensor] | None = None,
) -> list[RankBounds]:
    """Bounds for each tolerance by the law of inertia: two factorisations each, one Gram for all.

    A matrix whose factors grew beyond `GROWTH_LIMIT` gets the trivial bounds [0, r] and status `FALLBACK`.
    `top` `(lower, upper)` `(b,)` bounds lambda_1 and is needed for tolerances relative to it.
    """
    r = gram.matrix.shape[-1]
    answers = []
    for tolerance in tolerances:
        # Any tau gives a zero matrix rank 0; one that is not 0 itself spares an unpivoted LU the division 0 / 0.
        low, high = (torch.where(gram.trace == 0, 1.0, t) for t in tau_squared(gram, tolerance, top))
        size = gram.trace + r * high
        delta = backward_error(gram, size) + tau_error(gram, tolerance)
        upper, growth_low = inertia(_shifted(gram.matrix, low - delta))
        lower, growth_high = inertia(_shifted(gram.matrix, high + delta))
        sound = torch.maximum(growth_low, growth_high) <= GROWTH_LIMIT * size
        answers.append(_answer(gram.finite, sound, lower, upper, r))
    return answers


def backward_error(gram: Gram, size: Tensor) -> Tensor:
    """delta: rounding of the Gram's sums, of the shift and of the factors of a matrix of norm at most `size` `(b,)`."""
    r = gram.matrix.shape[-1]
    return UNIT * ((gram.inner + 4) * gram.trace + (1 + GROWTH_LIMIT) * (r + 10) * size)


def tau_error(gram: Gram, tolerance: Tolerance) -> Tensor:
    """Error `(b,)` of a computed tau^2: value^2 times that of the trace, or of lambda_1 and its Rayleigh quotient."""
    if tolerance.relative_to == "absolute":
        return torch.zeros_like(gram.trace)
    return _factor(tolerance) ** 2 * 4 * eigenvalue_error(gram)


def eigenvalue_bounds(gram: Gram, eigenvalues: Tensor, tolerance: Tolerance) -> RankBounds:
    """Bounds from all eigenvalues `(b, r)`, ascending: the count of those beyond their own backward error of tau^2."""
    r = gram.matrix.shape[-1]
    delta = eigenvalue_error(gram)
    top = eigenvalues[:, -1] if r else gram.trace
    low, high = tau_squared(gram, tolerance, ((top - delta).clamp(min=0), top + delta))
    delta = delta + tau_error(gram, tolerance)
    lower = (eigenvalues - delta[:, None] > high[:, None]).sum(-1)
    upper = (eigenvalues + delta[:, None] > low[:, None]).sum(-1)
    return _answer(gram.finite, None, lower, upper, r)


def eigenvalue_error(gram: Gram) -> Tensor:
    """Bound `(b,)` on the error of each computed eigenvalue: rounding of the Gram's sums and of the solver."""
    return UNIT * (gram.inner + 8 * (gram.matrix.shape[-1] + 10)) * gram.trace


def singular_value_bounds(stack: Tensor, tolerance: Tolerance) -> RankBounds:
    """Bounds from FP64 singular values of finite matrices `(b, m, n)`: the slow path, for any tau."""
    wide, scale = normalized(stack.double())
    sigma = torch.linalg.svdvals(wide)
    m, n = stack.shape[-2:]
    delta = UNIT * 8 * (max(m, n) + 10) * sigma[:, 0]
    # tau inherits the errors of the singular values: of the first one, or of all in the root of a sum of squares.
    if tolerance.relative_to == "absolute":
        tau = tolerance.value / scale
    elif tolerance.relative_to == "frobenius":
        tau = _factor(tolerance) * torch.linalg.vector_norm(sigma, dim=-1)
        delta = delta * (1 + _factor(tolerance) * min(m, n) ** 0.5)
    else:
        tau = _factor(tolerance) * sigma[:, 0]
        delta = delta * (1 + _factor(tolerance))
    lower = (sigma > (tau + delta)[:, None]).sum(-1)
    upper = (sigma > (tau - delta)[:, None]).sum(-1)
    status = torch.full_like(lower, Status.FALLBACK, dtype=torch.int8)
    return RankBounds(lower, upper, status)


def resolve_bounds(bounds: RankBounds, stack: Tensor, tolerance: Tolerance) -> RankBounds:
    """`bounds` with every open one of a finite matrix replaced by the slow path's. Waits for the device."""
    open_ = (bounds.lower != bounds.upper) | (bounds.status == Status.FALLBACK)
    if not open_.any():
        return bounds
    slow = singular_value_bounds(stack[open_], tolerance)
    # Both paths are proofs, so their intersection is one too.
    lower, upper, status = (x.clone() for x in bounds)
    lower[open_] = torch.maximum(lower[open_], slow.lower)
    upper[open_] = torch.minimum(upper[open_], slow.upper)
    status[open_] = slow.status
    return RankBounds(lower, upper, status)


def _factor(tolerance: Tolerance) -> float:
    """`value` of a relative tolerance. Above 1 every rank is 0, and 2 says so with a square that cannot overflow."""
    return min(tolerance.value, 2.0)


def _shifted(matrices: Tensor, shift: Tensor) -> Tensor:
    shifted = matrices.clone()
    shifted.diagonal(dim1=-2, dim2=-1).sub_(shift[:, None])
    return shifted


def _answer(finite: Tensor, sound: Tensor | None, lower: Tensor, upper: Tensor, r: int) -> RankBounds:
    """Counts as bounds: [0, r] where they are not `sound` (None: all are), none where the matrix is not `finite`."""
    status = torch.zeros_like(lower, dtype=torch.int8)  # Status.OK
    if sound is not None:
        lower = lower.masked_fill(~sound, 0)
        upper = upper.masked_fill(~sound, r)
        status.masked_fill_(~sound, Status.FALLBACK)
    bad = ~finite
    return RankBounds(
        lower.masked_fill(bad, -1), upper.masked_fill(bad, -1), status.masked_fill_(bad, Status.NONFINITE)
    )
