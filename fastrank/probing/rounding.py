"""Rounding: whether sums, products and quotients of a device are those of IEEE 754, rounded to nearest.

Of roots no proof needs more than that they are one of the two FP64 numbers around the exact one. PyTorch's on a CPU are
not always the nearer one of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import inf, isqrt, ldexp, nextafter
from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import UNIT
from .exact import integers
from .finding import REPORTED, TO_NEAREST, Finding

HALF, NEXT = 2.0**-53, 1 + 2.0**-52
"""Half of the distance from 1 to the next FP64 number, and that number."""


def rounded(x: Fraction) -> float:
    """The FP64 number nearest to `x`, ties to even, for numbers that are not subnormal."""
    if x == 0:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length() - 53
    while abs(x) >= Fraction(2) ** (exponent + 53):
        exponent += 1
    return ldexp(round(x / Fraction(2) ** exponent), exponent)  # an integer of at most 2^53: nothing is rounded


def root(x: float) -> float:
    """The FP64 number nearest to the root of a positive `x`. No root of an FP64 number is a tie."""
    scaled = Fraction(x) * 4**200
    assert scaled.denominator == 1
    below = isqrt(scaled.numerator)
    return rounded(Fraction(2 * below + (below * below != scaled.numerator), 2 * 2**200))


class Operation(NamedTuple):
    """One operation, on tensors and exactly."""

    name: str
    compute: Callable[[Tensor, Tensor], Tensor]
    right: Callable[[Fraction, Fraction], float]
    pairs: Sequence[tuple[float, float]]


def findings(device: torch.device) -> list[Finding]:
    """Rounding of single operations, of fused ones and of sums."""
    return [_rounding(device), _roots(device), _exact_products(device), _fused(device), _sums(device)]


def _rounding(device: torch.device) -> Finding:
    number = 0
    for operation in _operations():
        x, y = torch.tensor(operation.pairs, dtype=torch.float64, device=device).unbind(1)
        for (a, b), found in zip(operation.pairs, operation.compute(x, y).tolist(), strict=True):
            right = operation.right(Fraction(a), Fraction(b))
            if found != right:
                text = f"{operation.name} of {a.hex()} and {b.hex()} gave {found.hex()}, and {right.hex()} is right"
                return Finding(NEAREST, False, text, TO_NEAREST if device.type == "cpu" else REPORTED)
            number += 1
    return Finding(NEAREST, True, f"{number} sums, products and quotients are rounded as they have to be")


NEAREST = "FP64 operations are rounded to nearest, ties to even"


def _operations() -> Iterator[Operation]:
    def exactly(of: Callable[[Fraction, Fraction], Fraction]) -> Callable[[Fraction, Fraction], float]:
        return lambda x, y: rounded(of(x, y))

    # Ties that go down and up; numbers a little beyond a tie, which 64 bits of a sum would hide; powers of two.
    ends = [(1.0, HALF), (NEXT, HALF), (1.0, HALF + 2.0**-80), (1.0, HALF - 2.0**-80), (NEXT, -HALF), (1.0, -HALF / 2)]
    ends += [(1.0, -HALF / 2 - 2.0**-90), (2.0**53, 1.0), (2.0**53, 3.0), (2.0**600, 2.0**547), (1.0, 2.0**-1000)]
    numbers = _numbers(120, 1)
    mixed = list(zip(numbers[::2], numbers[1::2], strict=True))
    near = [(x, -x * NEXT) for x in numbers[:20]]
    sums = [*ends, *((-x, -y) for x, y in ends), *mixed, *near]
    yield Operation("the sum", torch.add, exactly(operator.add), sums)
    yield Operation("the difference", torch.sub, exactly(operator.sub), sums)
    ties = [(1 + 2.0**-27, 1 + 2.0**-26), (1 + 3 * 2.0**-27, 1 + 2.0**-26), (NEXT, NEXT), (-NEXT, 1 - HALF)]
    yield Operation("the product", torch.mul, exactly(operator.mul), [*ties, *mixed])
    yield Operation("the quotient", torch.div, exactly(operator.truediv), [(1.0, 3.0), (-1.0, 3.0), *_hard(40), *mixed])


def _roots(device: torch.device) -> Finding:
    name = "roots are off by less than the distance of two FP64 numbers"
    # The root of 1 + (2 j + 1) 2^-52 is a little below the middle between two numbers.
    numbers = [1 + (2 * j + 1) * 2.0**-52 for j in range(20)] + [1 - HALF, 2.0, 3.0, *map(abs, _numbers(120, 1))]
    off = 0
    for x, found in zip(
        numbers, torch.tensor(numbers, dtype=torch.float64, device=device).sqrt().tolist(), strict=True
    ):
        below, above = (Fraction(nextafter(found, end)) for end in (0.0, inf))
        if not below**2 < Fraction(x) < above**2:
            return Finding(name, False, f"that of {x.hex()} came out as {found.hex()}", REPORTED)
        off += found != root(x)
    return Finding(name, True, f"{off} of {len(numbers)} are not the nearest number, and none is further off")


def _numbers(count: int, key: int) -> list[float]:
    """FP64 numbers from 2^-30 to 2^30 of either sign, with all their 53 bits."""
    signed = [int(x) for x in integers((count,), 52, key)]
    moved = [int(x) for x in integers((count,), 4, key + 1)]
    return [ldexp(x + (2**52 if x >= 0 else -(2**52)), e - 52) for x, e in zip(signed, moved, strict=True)]


def _hard(count: int) -> list[tuple[float, float]]:
    """Quotients that differ from the middle between two FP64 numbers by 2^-53 of their distance or so.

    With an odd b and an odd m of 54 bits such that b m = +-1 mod 2^54, a = (b m +- 1) / 2^54 is an integer, and
    a / b = (m +- 1 / b) / 2^54. m is in the middle between two numbers of 53 bits.
    """
    found = []
    for i, x in enumerate(integers((4 * count,), 51, 5)):
        b, sign = 2**52 + abs(int(x)) * 2 + 1, 1 - 2 * (i % 2)
        m = -sign * pow(b, -1, 2**54) % 2**54
        if m >= 2**53:
            found.append((float((b * m + sign) >> 54), float(b)))
    return found[:count]


def _exact_products(device: torch.device) -> Finding:
    """Products of two numbers of 24 bits have 48: a Gram of FP32 matrices is rounded in its sums only."""
    name = "products of two FP32 numbers are exact in FP64"
    x, y = (torch.from_numpy(integers((2, 500), 24, 7)).double() * 2.0**-30).to(device).float().unbind()
    found = (x.double() * y.double()).tolist()
    for a, b, c in zip(x.tolist(), y.tolist(), found, strict=True):
        if Fraction(a) * Fraction(b) != Fraction(c):
            return Finding(name, False, f"the product of {a.hex()} and {b.hex()} gave {c.hex()}", REPORTED)
    return Finding(name, True, f"{len(found)} of {len(found)} are")


def remainders(count: int) -> list[tuple[float, float, float, float]]:
    """Numbers a, b and c = -fl(a b), and a b + c exactly: what an FMA gives. Rounded twice, a b + c is 0."""
    numbers = _numbers(2 * count, 11)
    pairs = [(1 + 2.0**-30, 1 - 2.0**-30), *zip(numbers[::2], numbers[1::2], strict=True)]
    products = [(a, b, Fraction(a) * Fraction(b)) for a, b in pairs]
    return [(a, b, -rounded(p), float(p - Fraction(rounded(p)))) for a, b, p in products]


FUSED = "a product and a sum are rounded one by one, or once by an FMA"


def judge_fused(found: Sequence[float], whose: str) -> Finding:
    """What came out where `remainders` has its numbers."""
    known = remainders(len(found) - 1)
    fused = 0
    for (a, b, c, exact), got in zip(known, found, strict=True):
        if got not in (0.0, exact):
            text = f"{whose}: {a.hex()} * {b.hex()} + {c.hex()} gave {got.hex()}, which is neither 0 nor {exact.hex()}"
            return Finding(FUSED, False, text, REPORTED)
        fused += got == exact != 0.0
    way = "rounded once by an FMA" if fused else "rounded one by one"
    return Finding(FUSED, True, f"{whose}: they are {way}")


def _fused(device: torch.device) -> Finding:
    """[1, a] times [c, b], for BLAS to multiply; the first term comes first in most sums."""
    known = torch.tensor(remainders(30), dtype=torch.float64, device=device)
    ones = torch.ones_like(known[:, 0])
    rows, columns = torch.stack([ones, known[:, 0]], -1), torch.stack([known[:, 2], known[:, 1]])
    return judge_fused(torch.matmul(rows, columns).diagonal().tolist(), "products by PyTorch")


def _sums(device: torch.device) -> Finding:
    """Sums of numbers of very different sizes and both signs, along either axis."""
    name, worst = "a sum of n numbers is off by n 2^-53 of the sum of their magnitudes at most", 0.0
    numbers = _numbers(2000, 13)
    for rows in (1, 4, 50):
        table = torch.tensor(numbers, dtype=torch.float64, device=device).view(rows, -1)
        for way in (table, table.mT.contiguous().mT):
            for found, of in zip(way.sum(-1).tolist(), table.tolist(), strict=True):
                exact, size = sum(map(Fraction, of)), sum(abs(Fraction(x)) for x in of)
                worst = max(worst, float(abs(Fraction(found) - exact) / (size * len(of) * Fraction(UNIT))))
    cure = "" if worst <= 1 else REPORTED
    return Finding(name, worst <= 1, f"the largest error is {worst:.2g} of that", cure)
