"""Power: the largest eigenvalue of a Gram by warm-started block power iteration, with a proof.

    Y = G V;  V = orth(Y);  x = V s, where s is the first eigenvector of V^T G V;  theta = x^T G x / x^T x <= lambda_1
    theta (1 + SLACK / 2) I - G = L L^T + R  with  ||R|| <= theta SLACK / 2     =>   lambda_1 <= theta (1 + SLACK)

A basis V (b, r, k) carried from step to step is nearly right already, because one optimizer step moves W little: then
one or two iterations are enough (Halko, Martinsson & Tropp 2011, algorithm 4.4, with last step's basis for the sketch).
L L^T has no negative eigenvalue, whatever L is, and R is bounded by `product_residual`: so nothing is assumed of the
Cholesky factorisation, nor of the eigensolver. Cost: (iterations + 1) * 2 k r^2 + (2 + 1/3) r^3 flops.

theta is computed with an error of at most (4 r + 64) u tr G: a product with G and three sums of r numbers, of which
|x|^T |G| |x| <= tr G for |x| = 1, as G is positive semidefinite. Whoever needs a bound of lambda_1 allows for that, and
for the rounding of G itself (`fastrank.counting.bounds.tau_error`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lowrank import gaussian
from .residual import UNIT, product_residual

SLACK = 1e-5
"""Relative width of the certified interval of lambda_1: sigma_1 is known to 5e-6."""
TIGHT = 1e-9
"""The same, from an eigenvector that is nearly exact: for a tolerance that is relative to sigma_1."""
COLUMNS = 8
"""Columns of the basis. The error falls by (lambda_9 / lambda_1)^2 an iteration."""
SQUARINGS = 22
"""Of V^T G V, on CUDA, where the host would have to wait for an eigensolver."""


class TopEigenvalue(NamedTuple):
    """What is known of the largest eigenvalue lambda_1 of each matrix."""

    value: Tensor
    """(b,) lower bound of lambda_1 but for rounding: a Rayleigh quotient."""
    certified: Tensor
    """(b,) bool: lambda_1 <= value * (1 + slack) is proven, but for rounding, for the `slack` that was asked for."""
    basis: Tensor
    """(b, r, k) orthonormal: the warm start of the next step."""


def power_iteration(matrices: Tensor, basis: Tensor, iterations: int = 2, slack: float = SLACK) -> TopEigenvalue:
    """Largest eigenvalue of positive semidefinite FP64 `matrices` `(b, r, r)`; warm start: `basis` `(b, r, k)`."""
    for _ in range(iterations):
        basis = torch.linalg.qr(matrices @ basis).Q
    small = basis.mT @ (matrices @ basis)
    vector = basis @ (top_by_squaring if small.is_cuda else _top)(small)[..., None]
    product = matrices @ vector
    length = vector.square().sum((-2, -1))
    value = torch.where(length > 0, (vector * product).sum((-2, -1)) / length, 0.0).clamp(min=0)
    # A zero matrix has lambda_1 = 0 exactly; the shift of 1 only gives Cholesky something to factor.
    zero = matrices.diagonal(dim1=-2, dim2=-1).amax(-1) == 0
    shift = torch.where(zero, 1.0, value * (1 + slack / 2))
    shifted = torch.diag_embed(shift[:, None].expand(matrices.shape[:-1])) - matrices
    factors = torch.linalg.cholesky_ex(shifted).L
    # The shift is rounded once more where it is subtracted.
    error = product_residual(shifted, factors, factors.mT) + 2 * UNIT * shift
    # The basis is put into one memory order, whichever the QR left: products round differently in another order, and a
    # reloaded basis must give the same bits.
    certified = zero | (shift + error <= value * (1 + slack))
    return TopEigenvalue(torch.where(zero, 0.0, value), certified, basis.contiguous())


def exact_start(matrices: Tensor, columns: int = COLUMNS, slack: float = SLACK) -> TopEigenvalue:
    """The same by a full eigendecomposition, for the first step and wherever a warm start could not be certified."""
    vectors = torch.linalg.eigh(matrices).eigenvectors
    return power_iteration(matrices, vectors[..., -min(columns, matrices.shape[-1]) :], iterations=0, slack=slack)


def top_interval(matrices: Tensor, slack: float = SLACK) -> tuple[Tensor, Tensor]:
    """Lower and upper bound `(b,)` of lambda_1 without a warm start, proven but for the rounding that `tau_error`
    allows for. The upper bound is the trace where a smaller one is not proven. May wait for the device."""
    b, r = matrices.shape[:2]
    if slack < SLACK:
        top = exact_start(matrices, slack=slack)
    else:
        start = gaussian(0, range(1), r, min(COLUMNS, r)).to(matrices.device).expand(b, -1, -1)
        top = power_iteration(matrices, start, iterations=12, slack=slack)
        missed = (~top.certified).nonzero().flatten()
        if len(missed):
            again = exact_start(matrices[missed], slack=slack)
            top = TopEigenvalue(*(x.index_copy(0, missed, y) for x, y in zip(top, again, strict=True)))
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return top.value, torch.where(top.certified, top.value * (1 + slack), trace)


def kato_bound(theta: Tensor, rho: Tensor, square: Tensor, error: Tensor, order: Tensor | float) -> Tensor:
    """Upper bound of lambda_1 without a factorisation, Inf where there is none, by Temple and Kato.

    Let x be a unit vector, theta = x^T G x and rho = ||G x - theta x||. Some eigenvalue lambda is at least theta - rho
    (Weinstein). The squares of all others sum to ||G||_F^2 - lambda^2 <= ||G||_F^2 - (theta - rho)^2 = beta^2. If
    beta < theta - rho, each of them is at most beta and less than lambda, which is lambda_1 therefore. Then all
    eigenvalues of (G - lambda_1) (G - beta) are 0 or more, and x^T (G - lambda_1) (G - beta) x >= 0 is

        rho^2 + (theta - lambda_1) (theta - beta) >= 0,    so    lambda_1 <= theta + rho^2 / (theta - beta)

    (Kato 1949, On the upper and lower bounds of eigenvalues). It claims something only where lambda_1^2 is more than
    half of ||G||_F^2, and never where the largest eigenvalues are clustered.

    Here `theta`, `rho` and `square` are computed with a computed G. `error` bounds, in units of the result, what
    rounding has changed in theta, in rho, and in ||G||_F by way of G. That theta is no longer the Rayleigh quotient
    itself does no harm: with the quotient rho is least. What rounding does in these lines has an allowance of its own.

    Args:
        theta, rho, error: `(b,)` FP64. square: `(b,)` FP64, the sum of the squares of the elements of G.
        order: r of each matrix, for the rounding of that sum.
    """
    far = rho + error
    near = theta - far
    norm = (square * (1 + UNIT * (order * order + 64))).sqrt() + error
    beta = (norm.square() * (1 + 16 * UNIT) - near.square()).clamp(min=0).sqrt() * (1 + 4 * UNIT)
    low = theta - error
    bound = (theta + error + far.square() / (low - beta)) * (1 + 16 * UNIT)
    return torch.where((beta < near) & (beta < low), bound, torch.inf)


def _top(small: Tensor) -> Tensor:
    """The first eigenvector `(b, k)`."""
    vectors: Tensor = torch.linalg.eigh(small).eigenvectors
    return vectors[..., -1]


def top_by_squaring(small: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """The first eigenvector `(b, k)` of H = `small` `(b, k, k)`, nearly, of any length; zero for a zero matrix.

    It is the column of P = H^N, N = 2^squarings, that has the largest element of the diagonal. Its Rayleigh quotient is
    short of lambda_1 by at most lambda_1 k^2 / (2 e N), as long as H is positive semidefinite: with the eigenvectors
    q_i, the column P e_j has the quotient sum lambda_i^(2N+1) q_ij^2 / sum lambda_i^2N q_ij^2, in which lambda_1 -
    lambda_i times lambda_i^2N is at most lambda_1^(2N+1) / (2 e N), and the denominator is at least P_jj^2, by Cauchy
    and Schwarz, of which P_jj is at least tr P / k.
    """
    power = small
    for _ in range(squarings):
        power = power / torch.linalg.matrix_norm(power, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
        power = power @ power
    column = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return power.gather(-1, column[:, None, None].expand(-1, power.shape[-2], 1))[..., 0]
