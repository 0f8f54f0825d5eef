"""Small random matrices of every family of `make truth`, with a tolerance that is anywhere, or at a singular value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from truth_made import DTYPES, FAMILIES, Specification, matrices_of

from fastrank import Tolerance
from fastrank.testing import ExactMatrix

LARGEST = 12


class Case(NamedTuple):
    name: str
    matrix: Tensor
    tolerance: Tolerance
    exact: ExactMatrix


def cases(count: int, seed: int, dtypes: tuple[torch.dtype, ...] = DTYPES, least: int = 0) -> Iterator[Case]:
    """So many, with sides from `least` to `LARGEST`; those without elements have no family."""
    random = np.random.default_rng(seed)
    names = list(FAMILIES)
    for i in range(count):
        rows, cols = (int(x) for x in random.integers(least, LARGEST + 1, 2))
        dtype, kind = dtypes[i % len(dtypes)], str(random.choice(["frobenius", "spectral", "absolute"]))
        tolerance = Tolerance(float(random.choice([1e-3, 0.04, 10.0 ** random.uniform(-8, 0)])), kind)
        family = names[int(random.integers(len(names)))]
        if rows * cols == 0:
            matrix = torch.zeros(rows, cols, dtype=dtype)
        else:
            matrices, tolerance = matrices_of(Specification(i, seed, family, rows, cols, 1, dtype, tolerance))
            matrix = matrices[0]
            if random.random() < 0.3:
                tolerance = _at_a_singular_value(matrix, kind, random)
        yield Case(
            f"{i} of {seed}: {family} {rows} x {cols} {dtype} {tolerance}", matrix, tolerance, ExactMatrix(matrix)
        )


def _at_a_singular_value(matrix: Tensor, kind: str, random: np.random.Generator) -> Tolerance:
    """tau is a singular value, as FP64 has it, or next to that."""
    wide = matrix.double() / max(float(matrix.abs().max()), 1e-300)
    sigma = torch.linalg.svdvals(wide)
    of = {"frobenius": float(sigma.norm()), "spectral": float(sigma[0]), "absolute": 1.0}[kind]
    value = float(sigma[int(random.integers(len(sigma)))]) / (of or 1.0)
    if kind == "absolute":
        value = min(value * float(matrix.abs().max()), 1e308)
    return Tolerance(float(np.nextafter(value, random.choice([0.0, value, np.inf]))), kind)  # type: ignore[arg-type]


def inside(low: float, ball: object, high: float) -> bool:
    """Whether a number in a ball may be between the two: false only where that is certain."""
    return not (ball < low or ball > high)  # type: ignore[operator]
