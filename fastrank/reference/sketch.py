"""Sketch: prove bounds on ranks and on sigma_1 of W from its product with a few orthonormal columns V, which are
carried from step to step.

    Y = W V,   C = Y^T Y,   B = V^T V,   t^2 = ||W||_F^2 - (2 tr C - <B, C>)        all FP64, W and V FP32 or narrower

With P the projection on the columns of V and theta_i the eigenvalues of (C, B), which are those of P W^T W P:

    theta_i <= sigma_i^2 <= theta_i + t^2,   sigma_i^2 <= t^2 for i > k

because ||W P||_F^2 = tr(B^-1 C) >= 2 tr C - <B, C>: B^-1 >= 2 I - B for every positive definite B, with an error of
second order in B - I. (Halko, Martinsson & Tropp 2011 bound the error of a sketch in expectation; these bounds hold for
the sketch at hand.) Neither the theta_i nor their vectors are needed: the number of theta_i above s is the inertia of
C - s B, a k x k factorisation. FP64 products of FP32 numbers are exact, so the allowance for rounding,

    A = u k (4 n + r + 16 k + 128) ||W||_F^2,   u = 2^-53,   for W (r, n)

is 1e-10 ||W||_F^2 at most in practice, where a tolerance of 1e-3 needs 1e-6 ||W||_F^2.

The next basis is orth(Y), on the other side of W: the next step multiplies W^T with it. Two steps together are one step
of subspace iteration. W may move a little in between, because no proof assumes that it did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..metrics import Tolerance
from .grams import widened
from .ldl import inertia
from .power import SLACK
from .residual import UNIT

DEAD = 2.0**-36
"""Share of the largest pivot below which a column of a sketch holds nothing but rounding: noise takes its place."""
GROWTH_LIMIT = 8.0
"""A count is believed if the growth of the factors of C - s B is at most this, in units of ||W||_F^2, beyond the k that
s B alone may have."""
POWERS = 4
"""Products with C in each step in search of theta_1. They go on from the vector where the last step's ended."""
SQUARINGS = 12
"""Squarings of C, which make the power C^4096, before those products: flat spectra need many powers, and a step brings
new vectors."""
SQUARED = 64
"""Largest k for which C is squared."""
TOGETHER = 6
"""Squarings before the power is scaled anew: from a trace of 1, where an eigenvalue is at least 1 / k, the trace falls
to k^-64 at worst, which is 1e-116."""


def noise_columns(k: int) -> int:
    """How many of k columns are fresh noise each step, so that a new direction of W is found."""
    return k // 8


class Basis(NamedTuple):
    """Columns V of a stack of matrices."""

    columns: Tensor
    """(b, n, k) FP32: orthonormal where `kept`, else standard normal numbers over sqrt(n)."""
    kept: Tensor
    """(b, k) bool: columns that are orthonormal up to rounding. The others explore, and prove nothing yet."""
    top: Tensor
    """(b, k) FP64: the first singular vector as last seen, by its coordinates in these columns, of any length; zero if
    it is not known."""


class Sketched(NamedTuple):
    """The product of a stack with a basis, and what is summed with it."""

    product: Tensor
    """Y (b, r, k) FP64."""
    gram: Tensor
    """C (b, k, k) FP64."""
    norm: Tensor
    """||W||_F^2 (b,) FP64; not finite where W is not."""
    cut: float = 0.0
    """Share of ||W||_F^2 that is spare because the product is not that of W itself, see `integer_sketch`."""


class Proof(NamedTuple):
    """Proven bounds of sigma_1^2 `(b,)`, and of the ranks `(b, tolerances)`."""

    top_low: Tensor
    """Lower bound of sigma_1^2, FP64."""
    top_high: Tensor
    """Upper bound of sigma_1^2, FP64."""
    top: Tensor
    """The first singular vector `(b, k)`, by its coordinates: see `Basis`."""
    rank_lower: Tensor
    """int64."""
    rank_upper: Tensor
    """int64."""


def start(noise: Tensor) -> Basis:
    """A basis made of `noise` `(b, n, k)` only, FP32 and standard normal, for when nothing is known yet."""
    columns = noise / noise.shape[-2] ** 0.5
    nothing = torch.zeros_like(columns[:, 0], dtype=torch.float64)
    return Basis(columns, nothing.bool(), nothing)


def sketch(stack: Tensor, basis: Basis) -> Sketched:
    """Multiply `stack` `(b, r, n)` with a basis of its column side. Squares are added up row by row, so that none goes
    through more than n + r additions."""
    wide = widened(stack)
    product = wide @ basis.columns.double()
    return Sketched(product, product.mT @ product, wide.square().sum(-1).sum(-1))


def factor(c: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """L `(b, k, k)` and d `(b, k)` of C = L diag(d) L^T, without pivoting; pivots are moved to at least `floor` `(b,)`
    in magnitude."""
    s, k = c.clone(), c.shape[-1]
    lower = torch.eye(k, dtype=c.dtype).repeat(len(c), 1, 1)
    d = torch.zeros_like(c[..., 0])
    for j in range(k):
        pivot = s[:, j, j]
        d[:, j] = torch.where(pivot.abs() < floor, torch.where(pivot < 0, -floor, floor), pivot)
        lower[:, j + 1 :, j] = s[:, j + 1 :, j] / d[:, j, None]
        s = s - lower[:, :, j, None] * s[:, None, j, :]
    return lower, d


def next_basis(sketched: Sketched, top: Tensor, noise: Tensor) -> Basis:
    """The next basis, orth(Y) `(b, r, k)`, by Cholesky of C in FP64: good up to a condition number of 1e5 of Y.

    `noise` `(b, r, k)` replaces columns that are `DEAD` by their pivots, and the `noise_columns` ones with the smallest
    pivots: these hold the least of W that other columns do not hold. A matrix that is not finite, or zero, starts
    afresh. `top`: as in `Proof`.
    """
    finite = sketched.norm.isfinite()
    c = torch.where(finite[:, None, None], sketched.gram, 0.0)
    y = torch.where(finite[:, None, None], sketched.product, 0.0)
    tiny = torch.finfo(c.dtype).tiny
    lower, d = factor(c, UNIT * torch.where(finite, sketched.norm, 0.0) + tiny)
    kept = survivors(d) & (finite & (sketched.norm > 0))[:, None]
    q = torch.linalg.solve_triangular(lower, y.mT, upper=False, unitriangular=True).mT
    q = q / d.clamp(min=tiny).sqrt()[:, None, :]
    fresh = start(noise).columns
    # Y x = Q (D^1/2 L^T x): the same vector by its coordinates in the new columns.
    moved = d.clamp(min=0).sqrt() * (lower.mT @ top[..., None])[..., 0]
    return Basis(torch.where(kept[:, None, :], q.float(), fresh), kept, torch.where(kept, moved, 0.0))


def survivors(d: Tensor) -> Tensor:
    """Which columns `(b, k)` are kept, judged by their pivots `d` `(b, k)`."""
    k = d.shape[-1]
    order = torch.arange(k)
    smaller = (d[:, None, :] < d[:, :, None]) | ((d[:, None, :] == d[:, :, None]) & (order[None, :] < order[:, None]))
    return (smaller.sum(-1) >= noise_columns(k)) & (d > DEAD * d.amax(-1, keepdim=True)) & (d > 0)


def allowance(norm: Tensor, r: int, n: int, k: int) -> Tensor:
    """A `(b,)`: a quarter of what bounds the effect of rounding on C, s B, t^2 and, through factors that grew
    (8 + k)-fold, a count (docs/proof.md, "Sketch")."""
    return UNIT * k * (4 * n + r + 16 * k + 128) * norm


def prove(sketched: Sketched, basis: Basis, tolerances: Sequence[Tolerance]) -> Proof:
    """Bounds for each tolerance; [0, min(r, n)] where nothing can be proven, for example because W is not finite: then
    sigma_1^2 has the bounds 0 and Inf."""
    finite = sketched.norm.isfinite()
    norm, c, b, slack, orthonormal, left = seen(sketched, basis)
    r, n = sketched.product.shape[1], basis.columns.shape[1]

    def count_above(s: Tensor) -> tuple[Tensor, Tensor]:
        count, sound = above(c, b, basis.kept, norm, s)
        return count, finite & sound

    theta, top = _rayleigh(c, b, basis.top, norm)
    certified = theta * (1 + SLACK) + slack
    over, sound = count_above(certified)
    known = orthonormal & sound & (over == 0)
    low = torch.where(orthonormal, (theta - slack).clamp(min=0), 0.0)
    high = torch.where(finite, norm + slack, torch.inf)
    high = torch.where(known, torch.minimum(certified + left + slack, high), high)
    lower, upper = [], []
    for tolerance in tolerances:
        square = min(tolerance.value, 2.0) ** 2
        sure = orthonormal
        if tolerance.relative_to == "spectral":
            least, most, sure = square * low, square * high, known
        elif tolerance.relative_to == "frobenius":
            least = most = square * norm
        else:
            least = most = torch.full_like(norm, min(tolerance.value, 1e150) ** 2)
        count, sound = count_above(most + slack)
        lower.append(torch.where(sure & sound, count, 0))
        rest = least - left - slack
        count, sound = count_above(rest)
        upper.append(torch.where(sure & sound & (rest > 0), count, min(r, n)))
    zero = (sketched.norm == 0)[:, None]
    ranks = (torch.stack(x, -1).masked_fill(zero, 0) for x in (lower, upper))
    return Proof(low, high, top, *ranks)


def above(c: Tensor, b: Tensor, kept: Tensor, norm: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """How many theta_i are above s `(b,)`, and whether that count is to be believed, for what `seen` returns."""
    k = c.shape[-1]
    rest = torch.diag_embed(torch.where(kept, 0.0, -1 / k) * norm[:, None])
    count, growth = inertia(c - s[:, None, None] * b + rest)
    return count, growth <= (GROWTH_LIMIT + k) * norm


def seen(sketched: Sketched, basis: Basis) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """||W||_F^2 `(b,)`, or 0 where W is not finite; C and B `(b, k, k)`, zero outside the columns that are kept; what
    rounding may do to an eigenvalue; whether B is near enough to I; and t^2, with that rounding, `(b,)` each."""
    finite = sketched.norm.isfinite()
    norm = sketched.norm.where(finite, 0.0)
    (_, r, k), n = sketched.product.shape, basis.columns.shape[1]
    both = basis.kept[:, :, None] & basis.kept[:, None, :]
    v = basis.columns.double()
    c = torch.where(both & finite[:, None, None], sketched.gram, 0.0)
    b = torch.where(both, v.mT @ v, 0.0)
    slack = 4 * allowance(norm, r, n, k) + sketched.cut * norm
    orthonormal = torch.linalg.matrix_norm(b - torch.diag_embed(basis.kept.double())) <= 0.5
    left = (norm - (c * (2 * torch.eye(k, dtype=c.dtype) - b)).sum((-2, -1))).clamp(min=0) + slack
    return norm, c, b, slack, orthonormal, left


def _rayleigh(c: Tensor, b: Tensor, top: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """A Rayleigh quotient `(b,)`, which is at most theta_1, and its vector `(b, k)`: the result of `POWERS` products
    with C, and of a power of C before them for small k, started from `top`."""
    largest = torch.nn.functional.one_hot(c.diagonal(dim1=-2, dim2=-1).argmax(-1), c.shape[-1]).double()
    x = torch.where((top == 0).all(-1, keepdim=True), largest, top)
    if c.shape[-1] <= SQUARED:
        power = c
        for i in range(SQUARINGS):
            power = power if i % TOGETHER else _of_trace_one(power)
            power = power @ power
        x = _scaled((power @ x[..., None])[..., 0])
    for _ in range(POWERS):
        x = (c @ x[..., None])[..., 0] / norm[:, None].clamp(min=1e-300)
    x = _scaled(x)
    return quotient(c, b, x), x


def quotient(c: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """x^T C x / x^T B x `(b,)`, 0 where there is none."""
    over, below = ((x * (m @ x[..., None])[..., 0]).sum(-1) for m in (c, b))
    return torch.where(below > 0, over / below, 0.0)


def _of_trace_one(m: Tensor) -> Tensor:
    return m / m.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].clamp(min=1e-300)


def _scaled(x: Tensor) -> Tensor:
    """x `(b, k)` with a largest element of 1 in magnitude: squares of tiny elements, as a norm needs them, may be 0."""
    return x / x.abs().amax(-1, keepdim=True).clamp(min=1e-300)
