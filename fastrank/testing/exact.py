"""The exact numerical rank of a matrix as it is stored, and enclosures of its singular values, which no rounding makes
wrong: all else that counts ranks here is tested against these. The rank of a matrix of 64 rows takes up to half a
second. Needs python-flint, which comes with `pip install 'fastrank[dev]'`.

Floating-point numbers are whole numbers times a power of two, so that the Gram G = W W^T of the smaller side is exact
in whole numbers, and tau^2 is a fraction. The numerical rank is the number of eigenvalues of G above it. It is proven
by the inertia of G - tau^2 I in ball arithmetic (FLINT) at rising precision. Where an eigenvalue is tau^2 itself, no
precision tells it. Then the rank of G - tau^2 I, a matrix of fractions, says how many are, and counts at either side of
tau^2 that there are no others between. A tau that is relative to sigma_1 is the root of a fraction only by chance:
equality is then decided by the greatest common divisor of two characteristic polynomials.
"""

from __future__ import annotations

from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import Tolerance
from ..reference import widened
from .inertia import positive_eigenvalues, precision, roots_above, squarefree

if TYPE_CHECKING:
    from flint import arb, fmpq, fmpq_poly, fmpz_mat

NEAR = 40
"""Bits to which sigma_1^2 is enclosed at first, for a tolerance that is relative to it."""
BITS = 128
"""Precision of the first attempt at a count."""


class ExactMatrix:
    """The exact answers about one finite matrix.

    Args:
        A: `(m, n)`, of any floating dtype, on any device. It is read as it is stored.

    Raises:
        ImportError: python-flint is not installed. ValueError: `A` is not 2-D, or not finite.
    """

    def __init__(self, A: Tensor) -> None:
        if A.ndim != 2:
            raise ValueError(f"A: expected a matrix, not a tensor of shape {tuple(A.shape)}")
        if not A.isfinite().all():
            raise ValueError("A: holds NaN or Inf, and so has no rank")
        _flint()
        wide = A.detach().mT if A.shape[0] > A.shape[1] else A.detach()
        self._matrix, self._exponent = _whole_numbers(wide)
        self._unit = _power(2 * self._exponent)  # of the Gram: its eigenvalues times this are sigma^2

    @property
    def order(self) -> int:
        """The number of singular values, min(m, n)."""
        return int(self._matrix.nrows())

    @cached_property
    def frobenius_squared(self) -> fmpq:
        """||W||_F^2, a fraction."""
        return self._trace * self._unit

    def rank(self, tolerance: Tolerance | None = None) -> int:
        """The number of singular values strictly above tau, which no rounding has touched (default `Tolerance()`)."""
        tolerance = tolerance or Tolerance()
        square = _fraction(tolerance.value) ** 2
        if tolerance.relative_to == "absolute":
            return self._above(square / self._unit)
        if square >= 1 or self._trace == 0:  # no singular value is above sigma_1, or ||W||_F
            return 0
        if tolerance.relative_to == "frobenius":
            return self._above(square * self._trace)
        return self._above_share_of_top(square) if square > 0 else int(self._matrix.rank())

    def singular_values(self, bits: int = BITS) -> list[arb]:
        """Balls `(r,)` around the singular values, descending, with a relative error of about 2^-bits."""
        with precision(bits):
            return [(x * _flint().arb(self._unit)).sqrt() for x in self._eigenvalues(bits)]

    def stable_rank(self, bits: int = BITS) -> arb:
        """A ball around ||W||_F^2 / sigma_1^2; 0 for a zero matrix."""
        with precision(bits):
            arb = _flint().arb
            return arb(self._trace) / self._eigenvalues(bits)[0] if self._trace else arb(0)

    @cached_property
    def _gram(self) -> fmpz_mat:
        return self._matrix * self._matrix.transpose()

    @cached_property
    def _trace(self) -> fmpq:
        return _flint().fmpq(sum(x * x for x in self._matrix.entries()))

    @cached_property
    def _polynomial(self) -> fmpq_poly:
        """The characteristic polynomial of the Gram."""
        return _flint().fmpq_poly(self._gram.charpoly())

    def _eigenvalues(self, bits: int) -> list[arb]:
        """Balls around the eigenvalues of the Gram, descending. All are real, and at least 0."""
        with precision(bits):
            roots = [(x.real, times) for x, times in self._gram.charpoly().complex_roots()]
            roots.sort(key=lambda root: root[0].mid(), reverse=True)
            return [x.nonnegative_part() for x, times in roots for _ in range(times)]

    def _above(self, shift: fmpq) -> int:
        """How many eigenvalues of the Gram are above a shift, at least 0."""
        if shift == 0:
            return int(self._matrix.rank())
        for bits in (BITS, 2 * BITS):
            if (found := self._count(shift, bits)) is not None:
                return found
        equal = self.order - int(self._shifted(shift).rank())
        for bits in (BITS * 2**i for i in count(2)):
            if not equal:
                if (found := self._count(shift, bits)) is not None:
                    return found
                continue
            step = _power(-bits // 4)
            low, high = (self._count(shift * (1 + off), bits) for off in (-step, step))
            if low is not None and high is not None and low - high == equal:
                return high
        raise AssertionError("a count of infinitely many attempts has ended")

    def _shifted(self, shift: fmpq) -> fmpz_mat:
        """q G - p I of whole numbers, for a shift p / q."""
        flint, r = _flint(), self.order
        diagonal = flint.fmpz_mat([[shift.p if i == j else 0 for j in range(r)] for i in range(r)])
        return self._gram * shift.q - diagonal

    def _count(self, shift: fmpq, bits: int) -> int | None:
        with precision(bits):
            return positive_eigenvalues(_flint().arb_mat(self._shifted(shift)))

    def _above_share_of_top(self, share: fmpq) -> int:
        """How many eigenvalues of the Gram are above a share, more than 0 and less than 1, of the largest one."""
        low, high = self._around_top()
        for bits in (BITS * 2**i for i in count()):
            least, most = self._above(share * high), self._above(share * low)
            if least == most or self._all_equal(share, low, high, most - least):
                return least
            top = self._eigenvalues(bits)[0]
            middle, radius = top.mid().fmpq(), top.rad().fmpq()
            low, high = (middle - radius) * (1 - _power(-bits)), middle + radius
        raise AssertionError("an enclosure of infinitely many attempts has ended")

    def _around_top(self) -> tuple[fmpq, fmpq]:
        """Fractions below the largest eigenvalue of the Gram and at least that, near to each other."""
        largest = max(abs(int(x)) for x in self._gram.entries())
        bits = max(largest.bit_length() - 60, 0)
        middle = np.array([[float(int(x) >> bits) for x in row] for row in self._gram.tolist()])
        top = _fraction(float(np.linalg.eigvalsh(middle)[-1])) * _power(bits)
        for off in (_power(i) for i in count(-NEAR)):
            low, high = top * (1 - off), top * (1 + off)
            if self._above(low) >= 1 and self._above(high) == 0:
                return low, high
        raise AssertionError("an enclosure of infinitely many attempts has ended")

    def _all_equal(self, share: fmpq, low: fmpq, high: fmpq, between: int) -> bool:
        """Whether the eigenvalues between the shares of `low` and of `high`, so many, are the share of the largest."""
        flint = _flint()
        own = squarefree(self._polynomial)
        scaled = own(flint.fmpq_poly([0, share]))  # whose roots are the eigenvalues over the share
        inside = [roots_above(p, low) - roots_above(p, high) for p in (own, scaled, own.gcd(scaled))]
        return between > 0 and inside == [1, 1, 1]


def exact_residual_squared(A: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> Any:
    """||A - U diag(S) Vh||_F^2, a fraction (`flint.fmpq`), without any rounding.

    A: `(m, n)`. U, S, Vh: `(m, k)`, `(k,)` and `(k, n)`, as they are stored. All finite.
    """
    flint = _flint()
    (a, e_a), (u, e_u), (s, e_s), (v, e_v) = (_whole_numbers(x.detach()) for x in (A, U, S[None], Vh))
    sizes = s.entries()
    scaled = flint.fmpz_mat([[x * size for x, size in zip(row, sizes, strict=True)] for row in u.tolist()])
    product, e_p = scaled * v, e_u + e_s + e_v
    least = min(e_a, e_p)
    residual = a * 2 ** (e_a - least) - product * 2 ** (e_p - least)
    return flint.fmpq(sum(x * x for x in residual.entries())) * _power(2 * least)


def _whole_numbers(A: Tensor) -> tuple[fmpz_mat, int]:
    """Whole numbers `(m, n)` and an exponent e, such that A is these times 2^e. Read from the bits of FP64, which no
    thread that flushes subnormal numbers changes."""
    bits = widened(A.cpu()).contiguous().view(torch.int64).numpy()
    field = bits >> 52 & 0x7FF
    mantissa = (bits & 2**52 - 1) | np.where(field > 0, 2**52, 0)
    zeros = np.where(mantissa == 0, 0, np.frexp((mantissa & -mantissa).astype(np.float64))[1] - 1)
    exponent = np.maximum(field, 1) - 1075 + zeros
    mantissa = np.where(bits < 0, -1, 1) * (mantissa >> zeros)
    least = int(exponent[mantissa != 0].min()) if mantissa.any() else 0
    flat = zip(mantissa.ravel().tolist(), exponent.ravel().tolist(), strict=True)
    numbers = [m << e - least if m else 0 for m, e in flat]
    return _flint().fmpz_mat(*A.shape, numbers), least


def _fraction(value: float) -> fmpq:
    return _flint().fmpq(*value.as_integer_ratio())


def _power(exponent: int) -> fmpq:
    fmpq = _flint().fmpq
    return fmpq(2**exponent) if exponent >= 0 else fmpq(1, 2**-exponent)


def _flint() -> Any:
    try:
        import flint
    except ImportError as error:
        raise ImportError("exact answers need python-flint: pip install 'fastrank[dev]'") from error
    return flint
