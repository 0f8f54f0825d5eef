"""The matrices of `make truth`, in batches of one family, shape, dtype and tolerance, and their true ranks."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import truth_spectra
import truth_structures
from torch import Tensor
from truth_draw import Draw

from fastrank import Tolerance, backend, testing

FAMILIES = truth_spectra.FAMILIES | truth_structures.FAMILIES
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHIFTS = {torch.float16: (0,), torch.bfloat16: (0, 100), torch.float32: (0, -100, 100), torch.float64: (0, -900, 900)}
"""Powers of two by which the matrices of a batch are scaled, and an absolute tolerance with them, from a largest
element between 1 and 2."""
VALUES = (1e-3, 0.04, 0.01, 0.05)
BATCH, ELEMENTS = 64, 2**19
"""Matrices of a batch at most, and their elements, unless it is one matrix."""
COMMON, TAIL = 96, 0.02
"""The largest side of most batches, and the share of those whose sides go up to the largest of all."""
ROOM = 1000.0
"""A rank is what FP64 singular values say where none of them is within this many times their own error of tau."""
EXACT_UP_TO = 64
"""The largest r of matrices whose rank is found in whole numbers where FP64 leaves it open. It takes 2 to 400 ms."""


class Specification(NamedTuple):
    """What a batch is made of: the same matrices each time."""

    number: int
    seed: int
    family: str
    rows: int
    cols: int
    size: int
    dtype: torch.dtype
    tolerance: Tolerance


class Made(NamedTuple):
    """A batch `(b, m, n)`, what it is to be measured with, and the true ranks `(b,)`."""

    specification: Specification
    matrices: Tensor
    tolerance: Tolerance
    truth: testing.TrueRank


def specifications(
    count: int, largest: int, seed: int, *, most: int = BATCH, tail: float = TAIL
) -> Iterator[Specification]:
    """Batches of as many matrices together, or a few more, as the last batch is whole.

    Args:
        largest: of all sides, whose logarithms are uniform.
        most: matrices of a batch.
        tail: share of the batches whose sides go up to `largest`, not only to `COMMON`.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    names, made, number = list(FAMILIES), 0, 0
    while made < count:
        limit = largest if generator.random() < tail else min(largest, COMMON)
        rows, cols = (round(limit ** generator.uniform()) for _ in range(2))
        dtype = DTYPES[int(generator.integers(len(DTYPES)))]
        kind = str(generator.choice(["frobenius", "spectral", "absolute"]))
        usual, other = float(generator.choice(VALUES)), float(10.0 ** generator.uniform(-6, -0.3))
        tolerance = Tolerance(usual if generator.random() < 0.5 else other, kind)  # type: ignore[arg-type]
        size = max(1, min(most, ELEMENTS // (rows * cols)))
        yield Specification(number, seed, names[number % len(names)], rows, cols, size, dtype, tolerance)
        number, made = number + 1, made + size


def matrices_of(specification: Specification) -> tuple[Tensor, Tolerance]:
    """The batch, and its tolerance, which may be of the family's own choice."""
    key = np.array([specification.seed, specification.number], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    s = specification
    draw = Draw(generator, s.size, s.rows, s.cols, s.tolerance)
    exact = FAMILIES[s.family](draw)
    shift = _shift(exact, s.dtype, draw)
    tolerance = draw.tolerance
    if tolerance.relative_to == "absolute":
        with np.errstate(over="ignore"):
            tolerance = Tolerance(min(float(np.ldexp(tolerance.value, shift)), sys.float_info.max), "absolute")
    scaled = torch.from_numpy(np.ldexp(exact.numpy(), shift))
    return scaled.to(s.dtype), tolerance


def _shift(exact: Tensor, dtype: torch.dtype, draw: Draw) -> int:
    """The power of two that brings the largest element of a batch to where it is to be."""
    peak, info = math.frexp(float(exact.abs().max()))[1] - 1, torch.finfo(dtype)
    least = math.frexp(info.tiny)[1] + math.frexp(info.eps)[1] - 2
    to = {
        "usual": int(draw.random.choice(SHIFTS[dtype])),
        "least": least + int(draw.random.integers(1, 16)),
        "largest": math.frexp(info.max)[1] - 2,
    }[draw.peak]
    return to - peak


def make(specification: Specification) -> Made:
    matrices, tolerance = matrices_of(specification)
    return Made(specification, matrices, tolerance, truth_of(matrices, tolerance))


def truth_of(matrices: Tensor, tolerance: Tolerance) -> testing.TrueRank:
    """The rank of each matrix: by FP64 singular values where that is beyond doubt, in whole numbers where it is not.

    An SVD of LAPACK is exact for a matrix within a small multiple of 2^-53 ||W||_2 of W, and so is each singular value.
    The multiple that is proven is a polynomial of the sides, and what is seen is less than their root; `ROOM` times the
    sides is beyond either. The same holds for tau, which is the sum of squares of FP64 numbers in long double, or a
    multiple of sigma_1. What remains ambiguous, with a singular value within that, is too large for whole numbers, or
    python-flint is not installed, as on the machines that have a GPU.
    """
    truth = testing.true_rank(matrices, tolerance, room=ROOM)
    if min(matrices.shape[-2:]) <= EXACT_UP_TO and backend.installed("flint"):
        for i in truth.ambiguous.nonzero().flatten().tolist():
            rank = testing.ExactMatrix(matrices[i]).rank(tolerance)
            assert truth.lower[i] <= rank <= truth.upper[i], "FP64 singular values are off by more than a thousandfold"
            truth.lower[i] = truth.upper[i] = rank
    return truth


def distances(matrices: Tensor, tolerance: Tolerance) -> Tensor:
    """How near the nearest singular value of each matrix is to tau `(b,)`, as a share of tau, by FP64: about 1e-15 at
    best. Inf where tau is 0 or there is none."""
    wide = matrices.double()
    wide = wide / wide.abs().amax((-2, -1), keepdim=True).clamp(min=2.0**-1000)
    sigma = torch.linalg.svdvals(wide)
    of = {"frobenius": torch.linalg.matrix_norm(wide), "spectral": sigma[:, 0]}
    if tolerance.relative_to == "absolute":
        tau = tolerance.value / matrices.double().abs().amax((-2, -1)).clamp(min=2.0**-1000)
    else:
        tau = tolerance.value * of[tolerance.relative_to]
    shares = ((sigma - tau[:, None]) / tau[:, None]).abs().amin(-1)
    return torch.where((tau > 0) & shares.isfinite(), shares, torch.inf)
