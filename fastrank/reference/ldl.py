"""Inertia: the number of positive eigenvalues of symmetric matrices, without their eigenvalues.

By Sylvester's law A = L D L^T has as many positive eigenvalues as D, so one factorisation (r^3/3 flops) counts the
eigenvalues of G above tau^2 when it is given A = G - tau^2 I.

The computed factors are exact for a matrix A + E. Nothing is assumed of how LAPACK makes them: the residual bounds E,

    ||E||_2 <= ||A - X L^T||_F + 3 u growth,      X = L D as computed,      growth = sum_j |D|_j ||L_j||^2

where growth bounds || |L| |D| |L^T| ||_2, by the triangle inequality. The product X L^T costs 2 r^3 flops more. Of
factors that kernels make, the growth alone bounds E, by `terms` u growth. So that both kinds of factors are judged in
the same way, `inertia` divides its bound of ||E||_2 by `residual_terms` u and returns that as the growth
(`fastrank.counting.growth.residual`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .residual import UNIT, product_residual

BLOCK = 32
"""Columns that `unpivoted_inertia` eliminates one by one."""


def residual_terms(order: float) -> float:
    """The `terms` of `inertia`: it returns as growth its bound of ||E||_2 divided by this many u."""
    return order + 64.0


def inertia(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Number of positive eigenvalues of symmetric FP64 `matrices` `(b, r, r)`, and growth that allows for the error.

    LAPACK's Bunch-Kaufman factors are used, on the host: those of matrices on another device are copied there.

    Returns:
        count `(b,)` int64; growth `(b,)` FP64: the count is that of A + E for some ||E||_2 <= `residual_terms` u
        growth. It is infinite where the factors cannot be trusted at all.
    """
    here = matrices.cpu()
    factors, pivots, _ = torch.linalg.ldl_factor_ex(here)
    lower, diagonal, coupling = unpacked_ldl(factors, pivots)
    count, growth = count_ldl(lower, diagonal, coupling)
    scaled = lower * diagonal[:, None, :]
    scaled[..., :-1] += lower[..., 1:] * coupling[:, None, :]
    scaled[..., 1:] += lower[..., :-1] * coupling[:, None, :]
    error = product_residual(here, scaled, lower.mT) + 3 * UNIT * growth
    error = error / (UNIT * residual_terms(float(matrices.shape[-1]))) * (1 + 8 * UNIT)
    return count.to(matrices.device), error.nan_to_num(torch.inf, torch.inf).to(matrices.device)


def unpacked_ldl(factors: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P L `(b, r, r)` of A = (P L) D (P L)^T, D's diagonal `(b, r)`, and what is beside it `(b, r - 1)`, of LAPACK's.

    Step j swaps two rows of what is left, and LAPACK leaves the columns of L before it alone. So column j of P L has
    its elements where all swaps up to j, in reverse, put them. D has 2 x 2 blocks where pivots are negative, and the
    element beside their diagonal stands where L's subdiagonal would.

    P L is a permutation of the rows of a unit triangle, and so not singular, if each step swaps rows that are left.
    Where it does not, D is NaN.
    """
    b, r = pivots.shape
    d = factors.diagonal(dim1=-2, dim2=-1).clone()
    given = np.array(pivots.tolist(), np.int64).reshape(b, r)  # in `torch.func.grad` a tensor has no data for NumPy
    paired = given < 0
    first = paired & (paired.cumsum(-1) % 2 == 1)
    # A pair of columns swaps its second row, at the first of them.
    rows = np.arange(r) + first
    others = np.where(paired & ~first, rows, np.abs(given) - 1)
    possible = ((rows <= others) & (others < r)).all(axis=1)
    d[torch.from_numpy(~possible)] = torch.nan
    rows, others = (np.where(possible[:, None], x, np.arange(r)) for x in (rows, others))
    beside = torch.from_numpy(first[:, :-1])
    coupling = torch.where(beside, factors.diagonal(-1, -2, -1), 0.0)
    unit = factors.tril(-1)
    unit.diagonal(-1, -2, -1).masked_fill_(beside, 0.0)
    unit.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    if (rows == others).all():
        return unit, d, coupling
    places = torch.from_numpy(_places(rows, others))
    return torch.zeros_like(unit.mT).scatter_(-1, places, unit.mT).mT, d, coupling


def _places(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the elements of each column are to be, `(b, r, r)`, a row for a column, if step j swaps row `rows[:, j]`
    with `others[:, j]`."""
    b, r = rows.shape
    every = np.arange(b)
    places = np.empty((b, r, r), np.int64)
    now = np.tile(np.arange(r), (b, 1))
    swapped = (rows != others).any(axis=0).tolist()
    for j in range(r):
        if swapped[j]:
            one, other = rows[:, j], others[:, j]
            now[every, one], now[every, other] = now[every, other], now[every, one]
        places[:, j] = now
    return places


def count_ldl(lower: Tensor, diagonal: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
    """Number of positive eigenvalues `(b,)` of D, and growth, of factors as `unpacked_ldl` gives them.

    A 2 x 2 block is counted as one positive and one negative eigenvalue, which is so where its determinant is negative.
    Bunch and Kaufman's method takes only blocks of which it is, by far more than rounding; that is checked, and growth
    is infinite where it does not hold.
    """
    squares, beside = _squares(lower), coupling.abs()
    size = diagonal.abs()
    size[..., :-1] += beside
    size[..., 1:] += beside
    first = torch.nn.functional.pad(coupling != 0, (0, 1))
    second = torch.nn.functional.pad(coupling != 0, (1, 0))
    indefinite = diagonal[..., :-1] * diagonal[..., 1:] < 0.9 * coupling.square()
    trusted = (indefinite | (coupling == 0)).all(-1)
    count = ((diagonal > 0) & ~first & ~second).sum(-1) + second.sum(-1)
    return _answer(count, torch.where(trusted, (size * squares).sum(-1), torch.inf))


def unpivoted_inertia(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """What `inertia` returns, from factors that are made without pivoting, as the kernels make theirs.

    It is what they are measured against where the growth itself matters: without pivoting it is larger, and differs
    from shift to shift. A pivot of less than `UNIT` sum_j |a_jj| becomes that, as in `fastrank.kernels.count`.
    """
    a = matrices.clone()
    d = torch.zeros(matrices.shape[:-1], dtype=matrices.dtype, device=matrices.device)
    _factor_(a, d, UNIT * a.diagonal(dim1=-2, dim2=-1).abs().sum(-1))
    return _answer((d > 0).sum(-1), (d.abs() * (_squares(a.tril(-1)) + 1)).sum(-1))


def _factor_(a: Tensor, d: Tensor, floor: Tensor) -> None:
    """L of `a` `(b, r, r)`, written below its diagonal, and D, written to `d` `(b, r)`: halves, down to few columns."""
    r = a.shape[-1]
    if r <= BLOCK:
        for j in range(r):
            pivot = a[:, j, j]
            d[:, j] = torch.where(pivot.abs() < floor, torch.where(pivot < 0, -floor, floor), pivot)
            column = a[:, j + 1 :, j].clone()
            a[:, j + 1 :, j] /= d[:, j, None]
            a[:, j + 1 :, j + 1 :] -= a[:, j + 1 :, j, None] * column[:, None, :]
        return
    half = -(-r // (2 * BLOCK)) * BLOCK
    first, below, rest = a[:, :half, :half], a[:, half:, :half], a[:, half:, half:]
    _factor_(first, d[:, :half], floor)
    scaled = torch.linalg.solve_triangular(first.mT, below, upper=True, left=False, unitriangular=True)
    below.copy_(scaled / d[:, None, :half])
    rest.baddbmm_(scaled, below.mT, alpha=-1)
    _factor_(rest, d[:, half:], floor)


def _squares(lower: Tensor) -> Tensor:
    """Sums of squares of the columns of `lower`, without a copy as large as `lower`."""
    norms: Tensor = torch.linalg.vector_norm(lower, dim=-2)
    return norms.square()


def _answer(count: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
    return count, growth.nan_to_num(torch.inf, torch.inf)
