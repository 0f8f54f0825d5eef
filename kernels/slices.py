"""Slices: numbers cut into signed 8-bit integers, whose products the INT8 units of tensor cores add up exactly.

    w = X 2^(top - 125 - 8 S) + dw        X an integer of 8 S bits, top of all numbers of a line together
    X = d_1 256^(S-1) + ... + d_S         d_p from -128 to 127: slice p of w

A line is whatever shares a power of two: a row of W for a Gram, a row of a tile for a sketch. `top` is the exponent, as
FP32 stores it, of the largest magnitude of the line, or one more where X would not fit otherwise: X is at most
0x7F7F7F7F in magnitude for S = 4, and the slices are the bytes of X + 0x808080, less 128 but for the first. A number
within 2^-7 of the largest has all its 24 bits in four slices. What is cut off, dw, is at most half a unit of X, and at
most 1.005 2^(1 - 8 S) times the largest magnitude.

(Ootomo, Ozaki & Yokota 2024, DGEMM on integer matrix multiplication unit; Uchino, Ozaki & Imamura 2025, arXiv
2504.08009. Those cut 7 bits at a time.) All of it is done with the bits of FP32 numbers, as integers: nothing is
rounded but X, subnormal numbers are like others, and the twin, `fastrank.reference.slices`, has the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

NOT_FINITE = tl.constexpr(0x7F800000)
"""What `magnitude` is of an Inf; of a NaN it is more."""


@triton.jit
def magnitude(w):
    """Bits of |w|, FP32, as int32: they are ordered as the magnitudes are."""
    return w.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def top_of(largest):
    """`top` of lines whose largest `magnitude` is this; of subnormal numbers it is down to -22, and 1 of zero."""
    normal = largest.to(tl.float32).to(tl.int32, bitcast=True) - (149 << 23)
    return tl.where(largest == 0, 1, (tl.where(largest < 0x800000, normal, largest) + 0x10101) >> 23)


@triton.jit
def _parts(w, top, S: tl.constexpr):
    """Of FP32 numbers: magnitude of the significand, and by how many bits X has it further down; up if negative."""
    bits = magnitude(w)
    field = tl.maximum(bits >> 23, 1)
    return bits - ((field - 1) << 23), top - field + (25 - 8 * S)


@triton.jit
def fixed_point(w, top, S: tl.constexpr):
    """X, int32, of FP32 numbers; half a unit is rounded away from zero. S: 3 or 4."""
    significand, down = _parts(w, top, S)
    by = tl.minimum(tl.maximum(down, 1), 25)
    lower = (significand + (1 << (by - 1))) >> by
    x = tl.where(down <= 0, significand << tl.maximum(-down, 0), lower)
    return tl.where(w.to(tl.int32, bitcast=True) < 0, -x, x)


@triton.jit
def cut_off(w, x, top, S: tl.constexpr):
    """|dw| in units of X, FP32, exact; or, below 2^-37, at least that and at most 2^-36."""
    significand, down = _parts(w, top, S)
    by = tl.minimum(tl.maximum(down, 0), 60)
    # Of what is further down than 25 bits X has nothing.
    rest = tl.where(by > 25, significand, significand - (tl.abs(x) << tl.minimum(by, 25)))
    rest = tl.where(down <= 0, 0, rest)
    return tl.abs(rest).to(tl.float32) * ((127 - by) << 23).to(tl.float32, bitcast=True)


@triton.jit
def bytes_of(x, S: tl.constexpr):
    """X with the slices as its bytes, the first at the top, each as an INT8 stores it."""
    BIAS: tl.constexpr = 0x808080 if S == 4 else 0x8080
    return (x + BIAS) ^ BIAS


@triton.jit
def slice_of(packed, p: tl.constexpr, S: tl.constexpr):
    """Slice p of S, from 1, of what `bytes_of` returns: INT8."""
    return (packed >> (8 * (S - p))).to(tl.int8)


@triton.jit
def power_of_two(exponent):
    """2^exponent, FP64, for int32 from -1022 to 1023."""
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
