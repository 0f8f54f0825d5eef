"""Matrices that are hard to cut into slices, and in whole numbers of any length what `fastrank.reference.slices` makes
of them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from fastrank.reference import slices
from fastrank.reference.noise import normal

HALF = (torch.bfloat16, torch.float16)
BITS = 200
"""Everything here is a whole number of 2^-BITS: FP32 ends at 2^-149, the slices of such numbers at 2^-179."""


def floats(bits):
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def noise(r, n, seed=0):
    return normal(seed, r, n, 0, 0).float()


def beside(largest, r=3, n=10):
    """Rows of noise with one entry each that is by far the largest."""
    matrix = noise(r, n, 3)
    matrix[torch.arange(r), torch.arange(r)] = largest
    return matrix


def every_binade(n=254):
    """Rows with numbers from 2^-126 to 2^127, of both signs."""
    exponents = torch.arange(n).double() - 126
    row = torch.exp2(exponents).float() * (1.0 + torch.arange(n).float() / 2**9)
    return torch.stack([row, -row.flip(0), row * (-1.0) ** torch.arange(n)])


EDGE = [
    127 << 23 | (sign << 31) | mantissa for mantissa in (0x7EFEFE, 0x7EFEFF, 0x7F7F7F, 0x7FFFFF, 0) for sign in (0, 1)
]
"""Significands 0xFEFEFE and 0xFEFEFF, at the second of which `top` is one more, and others at the ends."""
CASES = {
    "noise": noise(6, 40),
    "every binade": every_binade(),
    "subnormal": floats([[1, 2, 3, 1 << 31 | 1], [0x7FFFFF, 0x400000, 5, 0], [1, 0, 0, 0], [0x7EFEFF, 0x7EFEFE, 9, 1]]),
    "subnormal among others": floats([[1, 0x800000, 0x7FFFFF], [0x3F800000, 1, 0x807FFFFF]]),
    "one large": beside(2.0**30),
    "large by two bytes": beside(2.0**16),
    "one in a row, and nothing else": torch.eye(4, 9) * 3.0,
    "edge": floats([EDGE, [bits - (1 << 23) for bits in EDGE], [0x7F7EFEFF] * len(EDGE)]),
    "powers of two": torch.exp2(-torch.arange(48).reshape(2, 24).float()),
    "largest": floats([[0x7F7FFFFF, 0xFF7FFFFF, 0x7F7FFFFF], [0xFF7FFFFF, 1, 0x7F7FFFFE], [0x7F7FFFFF, 0, 0x7F000000]]),
    "zero": torch.zeros(3, 5),
    "a zero row": torch.cat([noise(2, 7), torch.zeros(1, 7)]),
    "one element": torch.tensor([[-0.3]]),
    "rows of all scales": noise(8, 20) * torch.exp2(torch.tensor([-140.0, -120, -60, -1, 0, 50, 110, 124]))[:, None],
    "small third slices": (noise(4, 30, 5) * 2**12).round() + torch.eye(4, 30) * 2**20,
}  # fmt: skip
CASES |= {f"{name}, {dtype}": CASES[name].clamp(-6e4, 6e4).to(dtype) for dtype in HALF
          for name in ("noise", "every binade", "one large", "rows of all scales", "zero")}  # fmt: skip
CASES["least, BF16"] = torch.tensor([[1, 2, 0x7F, 0x80], [1, 0, 0, 0x7F]], dtype=torch.int16).view(torch.bfloat16)
CASES["least, FP16"] = torch.tensor([[1, 2, 0x3FF, 0x400], [1, 0, 0, 0x7BFF]], dtype=torch.int16).view(torch.float16)


def whole(matrix):
    """The numbers of a matrix in units of 2^-BITS."""
    exact = [[Fraction(x) * 2**BITS for x in row] for row in matrix.double().tolist()]
    assert all(x.denominator == 1 for row in exact for x in row)
    return np.array([[int(x) for x in row] for row in exact], dtype=object)


class Exact:
    """What `cut` has made of one matrix, in Python's integers. unit: of each slice and row, in units of 2^-BITS."""

    def __init__(self, matrix):
        self.cut = slices.cut(matrix[None])
        self.matrix, top = whole(matrix), self.cut.top[0].tolist()
        self.parts = [part.numpy().astype(object) for part in self.cut.parts[0]]
        unit = [np.array([[2 ** (t - 125 - 8 * p + BITS)] for t in top]) for p in range(1, len(self.parts) + 1)]
        self.values = [part * one for part, one in zip(self.parts, unit, strict=True)]
        self.lost = self.matrix - sum(self.values)
        self.last = unit[-1]

    def gram(self, products):
        """Of all products but those that are left out."""
        last, values = slices.LAST[products], dict(enumerate(self.values, 1))
        return sum(values[i] @ values[j].T for i in values for j in values if i + j <= last)

    def error(self, products):
        return self.matrix @ self.matrix.T - self.gram(products)


def root(square, bits):
    """The root of a whole number of 2^-(2 bits), as a float."""
    return float(Fraction(math.isqrt(square << 200), 1 << (100 + bits)))


def squares(x):
    return int((x * x).sum())
