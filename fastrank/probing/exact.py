"""Exact arithmetic in integers, which no rounding mode touches, and matrices whose products and spectra are known."""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference import UNIT

Integers = NDArray[Any]
"""int64, or Python's integers where they may be larger."""


def integers(shape: tuple[int, ...], bits: int, key: int) -> Integers:
    """Random integers of a magnitude of at most 2^bits: int64 for up to 26 bits, whose products int64 can add up."""
    found: Integers = np.random.Generator(np.random.Philox(key=key)).integers(-(2**bits), 2**bits + 1, shape)
    return found if bits <= 26 else found.astype(object)


def exponents(count: int, most: int, key: int) -> Integers:
    """Random integers from -most to most, both of which are among them where there are two."""
    found = integers((count,), 10, key) % (2 * most + 1) - most
    found[:2] = (-most, most)[:count]
    return found


def share_of_bound(found: NDArray[np.float64], a: Integers, b: Integers, terms: int, unit: float = UNIT) -> float:
    """The largest error of a product of integer matrices, over its bound `terms * unit * |a| |b|`, element by element.

    Args:
        found: `(..., m, n)`, what came out. a, b: `(..., m, k)` and `(..., k, n)`.

    Returns:
        At most 1 if the bound holds; Inf where something is not finite, or wrong where it has to be exact.
    """
    limit = 2.0**62 if a.dtype != object else np.inf
    if not (np.abs(found) < limit).all():
        return np.inf
    whole = np.trunc(found).astype(np.int64) if a.dtype != object else _as_integers(found)
    error = np.abs(whole - a @ b).astype(np.float64)
    bound = terms * unit * (np.abs(a) @ np.abs(b)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(error / bound, nan=0.0, posinf=np.inf).max(initial=0.0))


def _as_integers(found: NDArray[np.float64]) -> Integers:
    whole = np.empty(found.shape, object)
    whole.ravel()[:] = [int(x) for x in found.ravel().tolist()]
    return whole


def hadamard(order: int) -> Integers:
    """Sylvester's matrix of ones and minus ones, with H H^T = order I. order: a power of two."""
    h = np.ones((1, 1), np.int64)
    while len(h) < order:
        h = np.block([[h, h], [h, -h]])
    return h


def known(order: int, copies: int, key: int) -> tuple[Integers, Integers]:
    """An integer matrix `(order, copies * order)`, of numbers up to 100, and its singular values, which are integers.

    W = [H D, H D, ...] with a Hadamard matrix H and D = diag(d): W W^T = copies H D^2 H^T, so that the singular values
    are sqrt(order * copies) d. Some d are equal, and some are 0.

    Args:
        order: a power of 4. copies: a square.

    Returns:
        The matrix, and its singular values `(order,)`, descending.
    """
    d = np.abs(integers((order,), 7, key)) % 101
    d[: order // 8] = 0
    d[order // 8 : order // 4] = 7
    return np.tile(hadamard(order) * d, (1, copies)), np.sort(d)[::-1] * isqrt(order * copies)
