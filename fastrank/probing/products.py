"""Products: whether PyTorch's products of matrices keep the bounds that are proven of sums of products.

    |fl(A B) - A B| <= k u |A| |B|   element by element,   A (m, k), B (k, n)

holds for any order of the sums, with fused multiplications or without. What it does not hold for is caught by matrices
of integers, of which the exact product is known, with rows and columns scaled by powers of two:

    full        numbers of 53 bits and few terms: products that lose a bit
    integers    sums that are exact: TF32, BF16, FP32
    graded      A = D A' E and B = E^-1 B' F for integer A', B' and diagonal D, E, F of powers of two from 1e-90 to
                1e90: Strassen's algorithm, whose error is relative to the largest elements, and fixed-point numbers
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..reference import UNIT, full_precision
from .exact import Integers, exponents, integers, share_of_bound
from .finding import NATIVE, Finding

SHAPES = [(1, 1, 1), (3, 5, 4), (8, 8, 8), (64, 64, 64), (65, 65, 65), (1, 100, 64), (64, 100, 1), (130, 512, 257)]
"""m, k, n that BLAS multiplies in different ways: by a vector, in one block, a little more than that, in many."""
LARGE = [(1024, 512, 1024), (2048, 1024, 512)]
"""On CUDA also these, at which an emulation may begin to be worth its while."""
ROWS = 48
"""Rows of a large product that are compared with the exact ones."""
SMALL = (9, 16, 7)
"""What `fastrank.probing.required` multiplies before the first certificate."""


class Case(NamedTuple):
    """Integer matrices, and exponents of two by which their rows and columns are scaled: A = 2^d A' 2^e."""

    a: Integers
    b: Integers
    d: Integers
    e: Integers
    f: Integers

    @classmethod
    def of(cls, shape: tuple[int, int, int], bits: int, grade: int, batch: tuple[int, ...] = ()) -> Case:
        m, k, n = shape
        scales = (exponents(x, grade, 3 + i) for i, x in enumerate((m, k, n)))
        return cls(integers((*batch, m, k), bits, 1), integers((*batch, k, n), bits, 2), *scales)

    def tensors(self, device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """A and B. Every integer and every scaled one is a number of the `dtype`."""
        a = np.ldexp(self.a.astype(np.float64), self.d[:, None] + self.e)
        b = np.ldexp(self.b.astype(np.float64), self.f - self.e[:, None])
        first, second = (torch.from_numpy(x).to(device, dtype) for x in (a, b))
        return first, second

    def share(self, product: Tensor, unit: float = UNIT, rows: slice = slice(None)) -> float:
        """The largest error of a product, over its bound."""
        found = np.array(product[..., rows, :].double().tolist())  # in `torch.func.grad` a tensor has no data for NumPy
        with np.errstate(over="ignore"):  # what is not A B may be anything
            found = np.ldexp(found, -(self.d[rows, None] + self.f))
        return share_of_bound(found, self.a[..., rows, :], self.b, self.a.shape[-1], unit)


def findings(device: torch.device) -> list[Finding]:
    """Products in FP64, and on a CPU in FP32 as well, which `svd_lowrank` relies on there."""
    found = [_full(device), _whole(device), _graded(device), _any_order(device)]
    return [*found, _narrow(device)] if device.type == "cpu" else found


def small(device: torch.device) -> Finding:
    """The least of these tests, which is to take no time."""
    case = Case.of(SMALL, 26, 300)
    share = case.share(torch.matmul(*case.tensors(device)))
    return _judged(GRADED, share, "a product of 9 x 16 and 16 x 7")


FULL = "FP64 products of PyTorch keep all 53 bits"
GRADED = "FP64 products of PyTorch keep their bound element by element, with rows from 1e-90 to 1e90"


def _judged(name: str, share: float, of: str, cure: str = NATIVE) -> Finding:
    passed = share <= 1
    return Finding(name, passed, f"the largest error in {of} is {share:.2g} of its bound", "" if passed else cure)


def _full(device: torch.device) -> Finding:
    cases = [Case.of(shape, 53, 0) for shape in ((65, 1, 65), (40, 2, 66), (33, 3, 20))]
    cases += [Case.of((8, 2, 9), 53, 0, (5,))]
    worst = max(case.share(torch.matmul(*case.tensors(device))) for case in cases)
    return _judged(FULL, worst, f"{len(cases)} products of few terms")


def _whole(device: torch.device) -> Finding:
    """Products of up to 20 bits: the sums of 512 of them are exact."""
    name = "FP64 products of PyTorch are exact where their sums are"
    wrong = [
        case.a.shape
        for case in (Case.of(shape, 20, 0) for shape in SHAPES)
        if not np.array_equal(torch.matmul(*case.tensors(device)).cpu().numpy(), (case.a @ case.b).astype(np.float64))
    ]
    if wrong:
        return Finding(name, False, f"{len(wrong)} of {len(SHAPES)} are wrong, the first of {wrong[0]}", NATIVE)
    return Finding(name, True, f"{len(SHAPES)} products of integers are")


def _ways(case: Case, device: torch.device) -> Iterator[Tensor]:
    """The product, of operands that lie in memory in either order."""
    a, b = case.tensors(device)
    for first in (a, a.mT.contiguous().mT):
        for second in (b, b.mT.contiguous().mT):
            yield torch.matmul(first, second)


def _graded(device: torch.device) -> Finding:
    shapes = SHAPES[:-1]
    worst, number = 0.0, 0
    for case in [*(Case.of(s, 26, 300) for s in shapes), Case.of((20, 33, 35), 26, 300, (4,))]:
        for product in _ways(case, device):
            worst, number = max(worst, case.share(product)), number + 1
    for shape in [SHAPES[-1], *(LARGE if device.type == "cuda" else [])]:
        case, some = Case.of(shape, 26, 300), slice(0, None, max(1, shape[0] // ROWS))
        worst, number = max(worst, case.share(torch.matmul(*case.tensors(device)), rows=some)), number + 1
    return _judged(GRADED, worst, f"{number} products")


def _any_order(device: torch.device) -> Finding:
    """The same product with its terms in other orders, and again."""
    name = "the order of a sum matters no more than its bound says"
    case = Case.of((40, 300, 24), 26, 300)
    worst, equal = 0.0, True
    for key in range(4):
        order = np.argsort(integers((300,), 26, key))
        moved = case._replace(a=case.a[:, order], b=case.b[order], e=case.e[order])
        first, again = (torch.matmul(*moved.tensors(device)) for _ in range(2))
        worst, equal = max(worst, case.share(first)), equal and torch.equal(first, again)
    found = _judged(name, worst, "four orders")
    return found._replace(seen=f"{found.seen}; a second run gave {'the same' if equal else 'other'} bits")


def _narrow(device: torch.device) -> Finding:
    """FP32 products where `svd_lowrank` makes them; PyTorch may be told to round them to BF16 or TF32."""
    name = "FP32 products of PyTorch are FP32, where svd_lowrank relies on them"
    if not full_precision():
        return Finding(name, True, "PyTorch is told to lower them, and svd_lowrank multiplies in FP64 instead")
    worst = 0.0
    for shape, batch in [((40, 4, 50), ()), ((64, 8, 64), ()), ((33, 16, 8), (3,)), ((200, 8, 300), (1,))]:
        case = Case.of(shape, 12, 8, batch)
        a, b = case.tensors(device, torch.float32)
        worst = max(worst, case.share(torch.matmul(a, b), 2.0**-24))
    cure = "unset ONEDNN_DEFAULT_FPMATH_MODE, which has oneDNN multiply FP32 matrices in BF16 or TF32"
    return _judged(name, worst, "products of FP32 matrices", cure)
