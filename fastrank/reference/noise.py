"""Noise: standard normal numbers from a counter, by Philox 4x32-10 and Box & Muller.

Each number is a function of a seed and of the counter (row, column, matrix, step), so that no generator has a state and
a matrix draws the same numbers whatever else is in the batch (Salmon, Moraes, Dror & Shaw 2011).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 2**32 - 1


def normal(seed: int, rows: int, columns: int, matrix: int, step: int) -> Tensor:
    """Standard normal numbers `(rows, columns)`, FP32, on the CPU. `seed` has 64 bits, `matrix` and `step` have 32."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    a, b = _philox(seed, row, column, torch.full_like(row, matrix & _WORD), torch.full_like(row, step & _WORD))
    u = ((a >> 8).float() + 1.0) * 2.0**-24
    angle = (b >> 8).float() * (2.0**-24 * 2 * math.pi)
    return torch.sqrt(-2.0 * torch.log(u)) * torch.cos(angle)


def _philox(seed: int, *counter: Tensor) -> tuple[Tensor, Tensor]:
    """The first two of the four 32-bit words that Philox 4x32-10 makes of a counter of four words, as int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        high_a, low_a = _product(0xD2511F53, c0)
        high_b, low_b = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of the product of two 32-bit words, computed within int64."""
    low = a * (b & 0xFFFF)
    middle = a * (b >> 16) + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF
