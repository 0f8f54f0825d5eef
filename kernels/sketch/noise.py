"""Noise: standard normal numbers from a counter, made where they are used and never stored.

Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011) keyed by a seed, with the counter (row, column, matrix, step), gives
two uniform numbers and, by Box & Muller, one normal number. The twin is `fastrank.reference.noise`. There is no state:
a number depends on its key and counter alone, and not on what else is in the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal(seed, row, column, matrix, step):
    """Normal numbers, FP32, of the shape that `row` and `column` broadcast to.

    seed has 64 bits; row, column, matrix and step, of which 32 bits are used each, are the counter.
    """
    zero = (row * 0 + column * 0).to(tl.uint32)
    a, b, _, _ = tl.philox(seed, zero + row.to(tl.uint32), zero + column.to(tl.uint32), zero + matrix.to(tl.uint32),
                           zero + step.to(tl.uint32))  # fmt: skip
    # u is in (0, 1], so that its logarithm is finite.
    u = ((a >> 8).to(tl.float32) + 1.0) * (2.0**-24)
    angle = (b >> 8).to(tl.float32) * (2.0**-24 * 6.283185307179586)
    return tl.sqrt(-2.0 * tl.log(u)) * tl.cos(angle)
