"""Power: the largest eigenvalue of a Gram by warm-started block power iteration, with a proof.

    Y = G V;  V = orth(Y);  H = V^T G V;  theta = lambda_max(H)  <=  lambda_max(G)
    theta (1 + SLACK) I - G  has a Cholesky factor   =>   lambda_max(G) < theta (1 + SLACK)

A basis V (b, r, k) carried from step to step is nearly right already, because one optimizer step moves W little: then
one or two iterations are enough (Halko, Martinsson & Tropp 2011, algorithm 4.4, with last step's basis for the sketch).
The Cholesky factorisation is the proof, by the law of inertia again. Cost: (iterations + 1) * 2 k r^2 + r^3/3 flops.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lowrank import gaussian

UNIT = 2.0**-53
"""Unit roundoff u of FP64."""
SLACK = 1e-5
"""Relative width of the certified interval of lambda_1: sigma_1 is known to 5e-6."""
COLUMNS = 8
"""Columns of the basis. The error falls by (lambda_9 / lambda_1)^2 an iteration."""


class TopEigenvalue(NamedTuple):
    """What is known of the largest eigenvalue lambda_1 of each matrix."""

    value: Tensor
    """(b,) lower bound of lambda_1: a Rayleigh quotient."""
    certified: Tensor
    """(b,) bool: lambda_1 < value * (1 + SLACK) is proven."""
    basis: Tensor
    """(b, r, k) orthonormal: the warm start of the next step."""


def power_iteration(matrices: Tensor, basis: Tensor, iterations: int = 2) -> TopEigenvalue:
    """Largest eigenvalue of positive semidefinite FP64 `matrices` `(b, r, r)`; warm start: `basis` `(b, r, k)`."""
    for _ in range(iterations):
        basis = torch.linalg.qr(matrices @ basis).Q
    small = basis.mT @ (matrices @ basis)
    value = (largest_by_squaring if small.is_cuda else _largest)(small).clamp(min=0)
    # A zero matrix has lambda_1 = 0 exactly; the shift of 1 only gives Cholesky something to factor.
    zero = matrices.diagonal(dim1=-2, dim2=-1).amax(-1) == 0
    shifted = torch.diag_embed(torch.where(zero, 1.0, value * (1 + SLACK))[:, None].expand(matrices.shape[:-1]))
    info = torch.linalg.cholesky_ex(shifted - matrices).info
    # The basis is put into one memory order, whichever the QR left: products round differently in another order, and a
    # reloaded basis must give the same bits.
    return TopEigenvalue(torch.where(zero, 0.0, value), info == 0, basis.contiguous())


def exact_start(matrices: Tensor, columns: int = COLUMNS) -> TopEigenvalue:
    """The same by a full eigendecomposition, for the first step and wherever a warm start could not be certified."""
    eigenvalues, vectors = torch.linalg.eigh(matrices)
    columns = min(columns, matrices.shape[-1])
    certified = torch.ones(len(matrices), dtype=torch.bool, device=matrices.device)
    return TopEigenvalue(eigenvalues[:, -1].clamp(min=0), certified, vectors[..., -columns:].contiguous())


def top_interval(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Proven lower and upper bound `(b,)` of lambda_1 without a warm start. May wait for the device."""
    b, r = matrices.shape[:2]
    start = gaussian(0, range(1), r, min(COLUMNS, r)).to(matrices.device).expand(b, -1, -1)
    top = power_iteration(matrices, start, iterations=12)
    low, high = top.value, top.value * (1 + SLACK)
    missed = (~top.certified).nonzero().flatten()
    if len(missed):
        exact = torch.linalg.eigvalsh(matrices[missed])[:, -1]
        margin = 1e-12 * r * exact.abs()
        low, high = low.index_copy(0, missed, exact - margin), high.index_copy(0, missed, exact + margin)
    return low.clamp(min=0), high


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


def _largest(small: Tensor) -> Tensor:
    eigenvalues: Tensor = torch.linalg.eigvalsh(small)
    return eigenvalues[..., -1]


def largest_by_squaring(small: Tensor, squarings: int = 20) -> Tensor:
    """Largest eigenvalue of H = `small` `(b, k, k)` on CUDA, where the host would have to wait for an eigensolver.

    H^(2^20), normalised, is the projection on the top eigenvector. The Rayleigh quotient with it is a lower bound after
    any number of squarings; it is short of lambda_1 by at most lambda_1 k / (e 2^squarings), as long as H is positive
    semidefinite.
    """
    power = small
    for _ in range(squarings):
        power = power / torch.linalg.matrix_norm(power, keepdim=True).clamp(min=torch.finfo(power.dtype).tiny)
        power = power @ power
    trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.where(trace > 0, (power * small).sum((-2, -1)) / trace, 0.0)
