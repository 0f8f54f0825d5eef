"""Definitions of what is measured: tolerances, status, bounds, and the metrics of a spectrum.

Every function here takes singular values `sigma` in descending order in the last dimension, `(..., r)`, or norms of
matrices, and returns one value per matrix, `(...)`. Every kind of rank is 0 for a zero (or empty) matrix, because
each is at most the number of non-zero singular values.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import IntEnum
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

RelativeTo = Literal["frobenius", "spectral", "absolute"]


class Status(IntEnum):
    """How the answer for a matrix was obtained."""

    OK = 0
    """The fast path answered."""
    NONFINITE = 1
    """The matrix holds NaN or Inf: it has no rank and no norm. Bounds are -1, metrics NaN (null in histories)."""
    FALLBACK = 2
    """The fast path could not answer for certain. Singular values were computed instead, which is slower, but nothing
    needs to be done. A tracker on CUDA and `resolve=False` do not wait for singular values: there the bounds are
    [0, r], or narrower as far as more is proven."""
    ABSENT = 3
    """There was no such matrix at this step: a parameter without a gradient, or no step of which there is an update.
    Only trackers that were asked for these have such rows, and their numbers are null as of a matrix not finite."""


@dataclass(frozen=True)
class Tolerance:
    """Threshold `tau` of the numerical rank, which is the number of singular values strictly above `tau`.

    Args:
        value: a finite number, at least 0 (default 1e-3, the paper's). A number of NumPy, or a tensor or array with no
            dimensions, stands for the float of its value.
        relative_to: `"frobenius"`: tau = value * ||W||_F (default, the paper's); `"spectral"`: tau = value * sigma_1;
            `"absolute"`: tau = value.

    Raises:
        ValueError: `value` is negative, NaN or infinite; `relative_to` is none of the three.
    """

    value: float = 1e-3
    relative_to: RelativeTo = "frobenius"

    def __post_init__(self) -> None:
        value: Any = self.value
        if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"Tolerance: value must be a number, not {self.value!r}")
        if not 0 <= value <= sys.float_info.max:  # type: ignore[operator]  # which `Real` does not declare for int
            raise ValueError(f"Tolerance: value must be finite and at least 0, not {self.value!r}")
        object.__setattr__(self, "value", float(value))
        if self.relative_to not in get_args(RelativeTo):
            names = ", ".join(map(repr, get_args(RelativeTo)))
            raise ValueError(f"Tolerance: relative_to must be one of {names}, not {self.relative_to!r}")

    @property
    def suffix(self) -> str:
        """Name of this tolerance in the history's column names, for example `"0.04"` or `"1e-05-absolute"`."""
        return repr(self.value).removesuffix(".0") + ("" if self.relative_to == "frobenius" else f"-{self.relative_to}")


class RankBounds(NamedTuple):
    """Proven bounds of the numerical rank: tensors of the batch's shape `(...)`, one value per matrix.

    Where `lower == upper`, the rank is certified: it is exactly that number.
    """

    lower: Tensor
    """int64; -1 where the matrix is not finite."""
    upper: Tensor
    """int64; -1 where the matrix is not finite."""
    status: Tensor
    """int8, the `Status` of each matrix."""

    @property
    def certified(self) -> Tensor:
        """bool: the bounds are equal and the matrix is finite."""
        return (self.lower == self.upper) & (self.lower >= 0)


def numerical_rank(sigma: Tensor, tau: Tensor | float) -> Tensor:
    """Number of singular values strictly above `tau` (broadcast against `(...)`), compared in FP64; int64."""
    return (sigma > torch.as_tensor(tau, dtype=torch.float64, device=sigma.device).unsqueeze(-1)).sum(-1)


def stable_rank(frobenius: Tensor, spectral: Tensor) -> Tensor:
    """`||W||_F^2 / sigma_1^2` from the two norms; 0 for a zero matrix."""
    return torch.where(spectral == 0, 0.0, (frobenius / spectral).square())


def effective_rank(sigma: Tensor) -> Tensor:
    """`exp(entropy(sigma / sum sigma))` (Roy & Vetterli 2007); 0 for a zero matrix."""
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    # Dividing by sigma_1 first keeps the sum inside the range of the dtype.
    top = sigma.amax(-1, keepdim=True)
    shares = sigma / top
    entropy = torch.special.entr(shares / shares.sum(-1, keepdim=True)).sum(-1)
    return torch.where(top.squeeze(-1) == 0, 0.0, entropy.exp())


def participation_ratio(sigma: Tensor) -> Tensor:
    """`(sum sigma^2)^2 / sum sigma^4`; 0 for a zero matrix."""
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    # Dividing by sigma_1 first keeps sigma^4 inside the range of the dtype.
    top = sigma.amax(-1, keepdim=True)
    squares = (sigma / top).square()
    return torch.where(top.squeeze(-1) == 0, 0.0, squares.sum(-1).square() / squares.square().sum(-1))


SAME_SHARE = 1e-12
"""Shares of `sum sigma^2` that differ by no more than this count as equal: less is rounding."""


def energy_rank(sigma: Tensor, energy: float) -> Tensor:
    """The smallest k such that the k largest sigma^2 hold at least `energy` of `sum sigma^2`; 0 for a zero matrix.

    Whole numbers in the dtype of `sigma`, which has NaN for a matrix without singular values. `energy` is above 0 and
    at most 1. Shares are compared up to `SAME_SHARE`, so that ten equal singular values have an energy rank of 9 at
    0.9, and an energy of 1 counts the singular values but for those that hold 1e-12 of the sum together.
    """
    if sigma.shape[-1] == 0:
        return sigma.sum(-1)
    # Dividing by sigma_1 first keeps sigma^2 inside the range of the dtype.
    top = sigma.amax(-1)
    squares = (sigma.double() / top.double().unsqueeze(-1)).square()
    # Summed from the smallest on: the share that is left out is small where `energy` is near 1.
    tails = squares.flip(-1).cumsum(-1)
    needed = (tails > (1 - energy + SAME_SHARE) * tails[..., -1:]).sum(-1).clamp(min=1).to(sigma.dtype)
    return torch.where(top == 0, 0.0, needed.masked_fill(~top.isfinite(), torch.nan))


def nuclear_norm(sigma: Tensor) -> Tensor:
    """`sum sigma`."""
    return sigma.sum(-1)
