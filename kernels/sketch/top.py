"""Top: where the first singular vector of W is among the columns of a basis, by power iteration with C = Y^T Y.

    x = C^POWERS C^(2^SQUARINGS) x      x (k,), C (k, k) over the columns that are kept; up to a factor

It starts from where the vector was last step. Flat spectra need many powers, and a step brings new vectors: so C is
squared again and again where it is small. Up to `HELD` columns the threads of a program hold C; larger ones are read
from L1 for every product. C is symmetric to the bit, so that it may be read by rows or by columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

POWERS, SQUARINGS, TOGETHER, SQUARED = map(tl.constexpr, (4, 12, 6, 64))
"""Products of C with x in a step; squarings of C, for a product with C^4096 before those; how many of these follow one
another before C is scaled anew; the largest k that has it. All four are those of the twin."""
HELD = tl.constexpr(32)
"""Largest k for which threads hold C from one product with x to the next."""


@triton.jit
def whole(p_matrix, both, MOST: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr):
    """A matrix (K, K) in memory, over the kept columns; 0 where K is above MOST, and threads cannot hold it."""
    if K <= MOST:
        o = tl.arange(0, K)
        m = tl.where(both, tl.load(p_matrix + (o[:, None] * ORDER + o[None, :])), 0.0)
    else:
        m = 0.0
    return m


@triton.jit
def times(m, p_matrix, p_x, x, kept, K: tl.constexpr, BLOCK: tl.constexpr, ORDER: tl.constexpr):
    """M x (K,) over the kept columns, for a symmetric M: `m`, or what `p_matrix` points to. p_x: scratch, (K,)."""
    if K <= HELD:
        y = tl.sum(m * x[None, :], 1)
    else:
        o = tl.arange(0, K)
        tl.store(p_x + o, x)
        tl.debug_barrier()
        total = tl.zeros((BLOCK, K), tl.float64)
        for i in range(0, K, BLOCK):
            o_row = i + tl.arange(0, BLOCK)
            total += tl.load(p_matrix + (o_row[:, None] * ORDER + o[None, :])) * tl.load(p_x + o_row)[:, None]
        tl.debug_barrier()
        y = tl.where(kept, tl.sum(total, 0), 0.0)
    return y


@triton.jit
def _powered(m, K: tl.constexpr):
    """M^(2^SQUARINGS) (K, K) up to a factor, for a positive semidefinite M."""
    o = tl.arange(0, K)
    for _ in range(SQUARINGS // TOGETHER):
        m = m / tl.maximum(tl.sum(tl.where(o[:, None] == o[None, :], m, 0.0)), 1e-300)
        for _ in range(TOGETHER):
            m = tl.dot(m, m, out_dtype=tl.float64)
    return m


@triton.jit
def _scaled(x):
    """x with a largest element of 1 in magnitude."""
    return x / tl.maximum(tl.max(tl.abs(x)), 1e-300)


@triton.jit
def top(c, p_first, p_top, p_x, norm, kept, both, K: tl.constexpr, BLOCK: tl.constexpr, ORDER: tl.constexpr):
    """Where the first singular vector is, (K,), up to a factor, by power iteration with C.

    It starts from where the vector was last step or, if that is not known, at the longest column of Y.
    """
    o = tl.arange(0, K)
    x = tl.load(p_top + o)
    if tl.max(tl.abs(x)) == 0:
        diagonal = tl.where(kept, tl.load(p_first + o * (ORDER + 1)), -1.0)
        largest = tl.min(tl.where(diagonal == tl.max(diagonal), o, K))
        x = tl.where(o == largest, 1.0, 0.0).to(tl.float64)
    if K <= SQUARED:
        m = c if K <= HELD else whole(p_first, both, SQUARED, K, ORDER)
        x = _scaled(tl.sum(_powered(m, K) * x[None, :], 1))
    factor = 1.0 / tl.maximum(norm, 1e-300)
    for _ in range(POWERS):
        x = times(c, p_first, p_x, x, kept, K, BLOCK, ORDER) * factor
    return _scaled(x)
