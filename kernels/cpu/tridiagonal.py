"""Tridiagonal: the largest eigenvalue of a small tridiagonal matrix T, and its eigenvector.

T has `alpha` on its diagonal and `beta` next to it. By the law of inertia x is above all eigenvalues if all pivots of
x I - T are positive: an interval is cut into WAYS + 1 parts at a time, until it has the width of a rounding error. The
eigenvector is one of a twisted factorisation: pivots from above down to row k and from below up to it, where k is the
row that makes the last pivot smallest (Dhillon & Parlett 2004, Orthogonal eigenvectors and relative gaps).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .tiles import OPTIONS

WAYS = 16


@njit(**OPTIONS)
def top_of(alpha, beta, order, scratch):
    """The largest eigenvalue, from above. scratch: 2 WAYS numbers."""
    low, high = alpha[0], alpha[0]
    for i in range(order):
        reach = (beta[i - 1] if i > 0 else 0.0) + (beta[i] if i + 1 < order else 0.0)
        low, high = max(low, alpha[i]), max(high, alpha[i] + reach)
    pivots, least = scratch[:WAYS], scratch[WAYS : 2 * WAYS]
    for _ in range(20):
        step = (high - low) / (WAYS + 1)
        if not step > 2.0**-54 * high:
            break
        for i in range(WAYS):
            pivots[i] = low + (i + 1) * step - alpha[0]
            least[i] = pivots[i]
        for j in range(1, order):
            square, own = beta[j - 1] * beta[j - 1], alpha[j]
            for i in range(WAYS):
                pivots[i] = (low + (i + 1) * step - own) - square / pivots[i]
                least[i] = min(least[i], pivots[i])
        first = 0
        while first < WAYS and not least[first] > 0:
            first += 1
        high = low + (first + 1) * step if first < WAYS else high
        low += first * step
    return high


@njit(**OPTIONS)
def is_alone(alpha, beta, order, value):
    """Whether no more than one eigenvalue is above `value`."""
    above, pivot = 0, 1.0
    for i in range(order):
        square = beta[i - 1] * beta[i - 1] if i > 0 else 0.0
        pivot = (alpha[i] - value) - square / pivot
        above += pivot > 0
    return above <= 1


@njit(**OPTIONS)
def vector_of(alpha, beta, order, value, scratch):
    """The unit eigenvector of an eigenvalue, written to the start of `scratch`; returns the size of its last element.

    scratch: 3 times `order` numbers.
    """
    z, down, up = scratch[:order], scratch[order : 2 * order], scratch[2 * order : 3 * order]
    tiny = 2.0**-1000
    down[0] = alpha[0] - value
    for i in range(1, order):
        down[i] = alpha[i] - value - beta[i - 1] * beta[i - 1] / (down[i - 1] if down[i - 1] != 0 else tiny)
    up[order - 1] = alpha[order - 1] - value
    for i in range(order - 2, -1, -1):
        up[i] = alpha[i] - value - beta[i] * beta[i] / (up[i + 1] if up[i + 1] != 0 else tiny)
    twist, least = 0, np.inf
    for i in range(order):
        last = abs(down[i] + up[i] - (alpha[i] - value))
        if last < least:
            twist, least = i, last
    z[twist] = 1.0
    for i in range(twist - 1, -1, -1):
        z[i] = -beta[i] * z[i + 1] / (down[i] if down[i] != 0 else tiny)
    for i in range(twist, order - 1):
        z[i + 1] = -beta[i] * z[i] / (up[i + 1] if up[i + 1] != 0 else tiny)
    total = 0.0
    for i in range(order):
        total += z[i] * z[i]
    length = np.sqrt(total)
    for i in range(order):
        z[i] /= length
    return abs(z[order - 1])
