"""Top: lambda_1 of a Gram by Lanczos' iteration, and a proof that no eigenvalue is larger.

    T = V^T G V tridiagonal, V orthonormal from powers of G;  theta = y^T G y / y^T y,  y = V s,  T s = theta' s

theta is a lower bound whatever V is, so V is not orthogonalised anew. What proves an upper bound is, in this order,

    Temple's and Kato's inequality, from rho = ||G y - theta y|| and ||G||_F (twin: `fastrank.reference.kato_bound`)
    no eigenvalue above theta (1 + SLACK) + delta by the law of inertia (see `ldl`): lambda_1 <= that + delta

Where neither does, y has not converged: it is the next start. Source: Lanczos 1950; Parlett, The Symmetric Eigenvalue
Problem, chapter 13. Flops: 2 r^2 a step, and r^3 / 3 for the second proof. Bytes: 4 r^2 a step.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .ldl import UNIT, inertia
from .ldl import scratch_size as of_inertia
from .shifts import OWN_TERMS, SPARE, blocked, terms_of
from .tiles import OPTIONS, SIDE, TILE, multiply, panel, panels, size
from .tridiagonal import is_alone, top_of, vector_of

SLACK = 1e-8
"""Relative width of the interval of lambda_1 that is proven, apart from rounding."""
STEPS, ROUNDS, PATIENCE = 48, 8, 3
"""Most steps from one start, and most starts; and after how many the proof is tried though the search has not ended."""
STIRRED = 1e-3
"""How much noise a start has on top of the last round's vector."""


def scratch_size(order: int) -> int:
    """FP64 numbers that `top` works in."""
    padded = SIDE * -(-order // SIDE)
    return (STEPS + 3) * padded + TILE + 6 * (STEPS + 1) + size(order) + of_inertia(order)


@njit(**OPTIONS)
def _times(g, i_g, order, x, y, dots):
    """y = G x, for vectors of as many numbers as the panels have rows."""
    count = panels(order)
    y[:] = 0.0
    for j in range(count):
        own = i_g + panel(j) + TILE * j
        multiply(g, own, x, 0, y, 0, x, SIDE * j, dots, 0, j, j + 1)  # whole, so that its dots are not needed
        multiply(g, i_g + panel(j + 1) + TILE * j, x, 0, y, 0, x, SIDE * j, dots, 0, j + 1, count)
        for k in range(SIDE):
            total = 0.0
            for i in range(SIDE):
                total += dots[SIDE * k + i]
            y[SIDE * j + k] += total


# Sums in several parts, which a compiler may only make of them where it is told so. Numba's code is the same in every
# batch and thread, and so are their bits.
@njit(fastmath={"reassoc"}, **OPTIONS)
def _dot(x, y):
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@njit(**OPTIONS)
def _square(g, i_g, order):
    """||G||_F^2."""
    total = 0.0
    for p in range(panels(order)):
        end = i_g + panel(p) + TILE * p
        below, own = g[i_g + panel(p) : end], g[end : end + TILE]
        total += 2 * _dot(below, below) + _dot(own, own)
    return total


@njit(**OPTIONS)
def _lanczos(g, i_g, order, x, exact, basis, w, dots, small):
    """Put a better approximation of the first eigenvector in the place of the unit vector `x`; returns whether it is as
    good as `exact` asks for."""
    padded = len(x)
    alpha, beta = small[:STEPS], small[STEPS : 2 * STEPS]
    for i in range(padded):
        basis[i] = x[i]
    steps, converged = 0, False
    for j in range(STEPS):
        v = basis[padded * j : padded * (j + 1)]
        _times(g, i_g, order, v, w, dots)
        if j > 0:
            before = basis[padded * (j - 1) : padded * j]
            for i in range(padded):
                w[i] -= beta[j - 1] * before[i]
        alpha[j] = _dot(v, w)
        for i in range(padded):
            w[i] -= alpha[j] * v[i]
        beta[j] = np.sqrt(_dot(w, w))
        steps = j + 1
        done = not beta[j] > UNIT * abs(alpha[0])
        if done or steps % 4 == 0:
            theta = top_of(alpha, beta, steps, small[2 * STEPS :])
            last = vector_of(alpha, beta, steps, theta, small[2 * STEPS :])
            rho = beta[j] * last
            far = rho * rho / (exact * theta)
            converged = done or rho <= exact * theta or (far < theta and is_alone(alpha, beta, steps, theta - far))
            if converged or steps == STEPS:
                break
        following = basis[padded * (j + 1) : padded * (j + 2)]
        for i in range(padded):
            following[i] = w[i] / beta[j]
    x[:] = 0.0
    for j in range(steps):
        part = small[2 * STEPS + j]
        for i in range(padded):
            x[i] += part * basis[padded * j + i]
    return converged


@njit(**OPTIONS)
def _stir(x, order, amount):
    """Add noise to a vector: as much to each of its elements as `amount` of a unit vector has."""
    state = np.uint64(1)
    for i in range(order):  # xorshift64*, of which the upper 53 bits are taken
        state ^= state >> np.uint64(12)
        state ^= state << np.uint64(25)
        state ^= state >> np.uint64(27)
        uniform = np.float64((state * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(11)) * 2.0**-52 - 1.0
        x[i] += uniform * amount / np.sqrt(order / 3)


@njit(**OPTIONS)
def _normalise(x, order):
    """A vector over its length. It is noise if that is zero or not finite, and zero beyond the matrix."""
    x[order:] = 0.0
    length = np.sqrt(_dot(x, x))
    if not 0 < length < np.inf:
        x[:order] = 0.0
        _stir(x, order, 1.0)
        length = np.sqrt(_dot(x, x))
    for i in range(order):
        x[i] /= length


@njit(**OPTIONS)
def _kato_bound(theta, rho, square, error, order):
    """Upper bound of lambda_1, infinite where there is none; see `fastrank.reference.kato_bound`."""
    far = rho + error
    near = theta - far
    norm = np.sqrt(square * (1 + UNIT * (order * order + 64))) + error
    beta = np.sqrt(max(norm * norm * (1 + 16 * UNIT) - near * near, 0.0)) * (1 + 4 * UNIT)
    if not (beta < near and beta < theta - error):
        return np.inf
    return (theta + error + far * far / (theta - error - beta)) * (1 + 16 * UNIT)


@njit(**OPTIONS)
def top(g, i_g, order, inner, trace, x, exact, scratch):
    """theta, and a lower and an upper bound of lambda_1, of a Gram that is not zero.

    The upper bound is the trace where no smaller one is proven.

    Args:
        g: the lower triangle that begins at `i_g`. inner: length of the sums that it is made of.
        exact: error of theta, relative, at which the search ends. It is not proven: rho^2 over the distance to the next
            eigenvalue is what remains (Temple), and that distance is taken from T.
        x: where to start, of as many numbers as the panels have rows; overwritten by the eigenvector, of length 1.
        scratch: of `scratch_size`.
    """
    padded = len(x)
    basis, rest = scratch[: (STEPS + 1) * padded], scratch[(STEPS + 1) * padded :]
    w, dots, small = rest[:padded], rest[padded : padded + TILE], rest[padded + TILE :]
    rest = small[6 * (STEPS + 1) :]
    factors, own = rest[: panel(padded // SIDE)], rest[panel(padded // SIDE) :]
    error = UNIT * (blocked(inner) + 4 * order + 64) * trace
    high = trace * (1 + UNIT * (inner + order + 64))
    square = _square(g, i_g, order)
    theta, refuted = 0.0, False
    for i in range(ROUNDS):
        if refuted:
            # x may be the eigenvector of another eigenvalue, and stay that: all steps are made, whatever T says.
            _stir(x, order, STIRRED)
        _normalise(x, order)
        converged = _lanczos(g, i_g, order, x, 0.0 if refuted else exact, basis, w, dots, small)
        _normalise(x, order)
        if not converged and i + 1 < PATIENCE:
            continue
        _times(g, i_g, order, x, w, dots)
        theta = _dot(x, w)
        rho = 0.0
        for j in range(order):
            rho += (w[j] - theta * x[j]) ** 2
        bound = _kato_bound(theta, np.sqrt(rho), square, error, order)
        if bound <= theta * (1 + SLACK) + 2 * error:
            return theta, max(theta - error, 0.0), min(bound, high)
        # Of a negative definite matrix growth is its trace: there is no need to allow for more than twice as much.
        far = theta * (1 + SLACK)
        size_ = trace + far * order
        delta = SPARE * UNIT * (trace * (blocked(inner) + 4.0) + 2 * size_ * (terms_of(order) + OWN_TERMS))
        above, growth = inertia(g, i_g, order, far + delta, trace, factors, own)
        if above == 0 and growth <= 2 * size_:
            return theta, max(theta - error, 0.0), min((far + 2 * delta) * (1 + 4 * UNIT), high)
        refuted = True
    return theta, max(theta - error, 0.0), high
