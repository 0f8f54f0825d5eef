"""Matrices with known spectra, of several families and on any scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import Tolerance
from .truth import true_singular_values

Family = Callable[[int, np.random.Generator], NDArray[np.float64]]


def _quarter(r: int, above: float, below: float) -> NDArray[np.float64]:
    return np.where(np.arange(r) < math.ceil(r / 4), above, below)


SPECTRA: dict[str, Family] = {
    "zero": lambda r, rng: np.zeros(r),
    "identity": lambda r, rng: np.ones(r),
    "one_large": lambda r, rng: np.where(np.arange(r) == 0, 1.0, 1e-4),
    "one_small": lambda r, rng: np.where(np.arange(r) == r - 1, 1e-5, 1.0),
    "geometric": lambda r, rng: np.geomspace(1.0, 1e-6, r),
    "arithmetic": lambda r, rng: 1.0 - np.arange(r) / max(r, 1),
    "log_uniform": lambda r, rng: 10.0 ** rng.uniform(-8, 0, r),
    "low_rank": lambda r, rng: _quarter(r, 1.0, 0.0) * rng.uniform(0.5, 1.0, r),
    "noisy_low_rank": lambda r, rng: _quarter(r, 1.0, 1e-4) * rng.uniform(0.5, 1.0, r),
}
"""Families of r singular values, all at most 1, by name:

    zero             all 0
    identity         all 1
    one_large        the first 1, the others 1e-4
    one_small        the last 1e-5, the others 1
    geometric        from 1 to 1e-6 by a constant factor
    arithmetic       from 1 to 1/r in equal steps
    log_uniform      random over eight decades
    low_rank         a quarter in [0.5, 1], the others exactly 0
    noisy_low_rank   a quarter in [0.5, 1], the others in [0.5e-4, 1e-4]
"""

FAMILIES = (*SPECTRA, "clustered", "hilbert", "kahan")
"""All families that `make` knows: `SPECTRA`; `clustered`, with most of the spectrum close to tau; and two matrices of
the textbooks that are barely of full rank: `hilbert`, 1 / (i + j + 1), and `kahan`, an upper triangle that looks well
conditioned."""


def spectrum(family: str, r: int, *, seed: int = 0) -> Tensor:
    """`r` singular values of one of `SPECTRA`, FP64, descending.

    Raises:
        ValueError: no such family.
    """
    if family not in SPECTRA:
        raise ValueError(f"family: {family!r} is none of {', '.join(SPECTRA)}")
    return torch.from_numpy(np.sort(SPECTRA[family](r, _generator(seed, 0)))[::-1].copy())


def clustered(r: int, tolerance: Tolerance, distance: float) -> tuple[Tensor, int]:
    """A spectrum `(r,)`, FP64, descending, most of which lies next to tau, and the number of values above tau.

    A quarter are 1, half of the others `tau * (1 + distance)`, the rest `tau * (1 - distance)`, where tau is the
    threshold that the tolerance gives for this very spectrum.

    Raises:
        ValueError: r or the tolerance is so large that there is no such spectrum with sigma_1 = 1.
    """
    top = math.ceil(r / 4)
    upper, lower = (r - top + 1) // 2, (r - top) // 2
    tau = tolerance.value
    if tolerance.relative_to == "frobenius":
        # tau^2 = value^2 (top + cluster * tau^2), solved for tau.
        cluster = upper * (1 + distance) ** 2 + lower * (1 - distance) ** 2
        share = tau**2 * cluster
        tau = tau * math.sqrt(top / (1 - share)) if share < 1 else math.inf
    if tau * (1 + distance) > 1:
        raise ValueError(f"tolerance: {tolerance} is too large for {r} singular values of which the first is 1")
    values = [1.0] * top + [tau * (1 + distance)] * upper + [tau * (1 - distance)] * lower
    return torch.tensor(values, dtype=torch.float64), top + upper


def planted(sigma: Tensor, rows: int, cols: int, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """`U diag(sigma) V^T` `(rows, cols)` with Haar-distributed orthogonal factors, formed in FP64, rounded to `dtype`.

    Rounding moves the singular values of the answer by about sqrt(max(rows, cols)) eps sigma_1 at most.

    Args:
        sigma: `(min(rows, cols),)` singular values, in any order and on any scale that `dtype` can hold.
        rows, cols: the shape.
        seed: key of the Philox generator of both factors, at least 0.
        dtype: floating dtype of the answer (default float32).

    Raises:
        ValueError: sigma has another shape.
    """
    if sigma.shape != (r := min(rows, cols),):
        raise ValueError(f"sigma: {rows} x {cols} has {r} singular values; this has shape {tuple(sigma.shape)}")
    left, right = _haar(rows, r, _generator(seed, 1)), _haar(cols, r, _generator(seed, 2))
    return ((left * sigma.double()) @ right.mT).to(dtype)


@dataclass(frozen=True)
class Case:
    """A matrix, and what is known about it."""

    family: str
    matrix: Tensor
    """(rows, cols), rounded to its dtype."""
    sigma: Tensor
    """(r,) FP64 singular values, descending, as planted: before rounding. Computed, for `hilbert` and `kahan`."""
    tolerance: Tolerance
    """The tolerance to measure the matrix with; the spectrum of `clustered` lies around its tau."""


def make(
    family: str,
    rows: int,
    cols: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    tolerance: Tolerance | None = None,
    distance: float = 1e-3,
) -> Case:
    """A matrix of one of `FAMILIES`.

    Args:
        family, rows, cols, seed, dtype: see `FAMILIES` and `planted`.
        scale: number by which the whole matrix, and an absolute tolerance, are multiplied (default 1).
        tolerance: default `Tolerance()`, see `clustered`.
        distance: relative distance of the cluster from tau (default 1e-3). Rounding to `dtype` moves singular values
            by about eps sigma_1: if the cluster is closer than that, count it afresh, with `true_rank`.

    Raises:
        ValueError: no such family, or `clustered` has no such spectrum.
    """
    tolerance = tolerance or Tolerance()
    i, j = torch.arange(rows)[:, None].double(), torch.arange(cols).double()
    if family == "hilbert":
        sigma = true_singular_values(exact := 1 / (i + j + 1))
    elif family == "kahan":
        sigma = true_singular_values(exact := math.sin(1.2) ** i * ((i == j).double() - math.cos(1.2) * (i < j)))
    else:
        r = min(rows, cols)
        sigma = clustered(r, tolerance, distance)[0] if family == "clustered" else spectrum(family, r, seed=seed)
        exact = planted(sigma, rows, cols, seed=seed, dtype=torch.float64)
    if tolerance.relative_to == "absolute":
        tolerance = Tolerance(tolerance.value * scale, "absolute")
    return Case(family, (exact * scale).to(dtype), sigma * scale, tolerance)


def cases(
    rows: int,
    cols: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scales: Sequence[float] = (1.0, 1e-30, 1e30),
    tolerance: Tolerance | None = None,
) -> Iterator[Case]:
    """A case of each of `FAMILIES` on each of `scales`, every one with a seed of its own; see `make`."""
    for i, family in enumerate(FAMILIES):
        for j, scale in enumerate(scales):
            key = (seed * len(FAMILIES) + i) * len(scales) + j
            yield make(family, rows, cols, seed=key, dtype=dtype, scale=scale, tolerance=tolerance)


def _haar(rows: int, columns: int, generator: np.random.Generator) -> Tensor:
    q, r = np.linalg.qr(generator.standard_normal((rows, columns)))
    # A QR factorisation is Haar distributed only once R's diagonal is positive.
    return torch.from_numpy(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, stream]))
