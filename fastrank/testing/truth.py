"""The true rank of a matrix as it is stored, and the errors of computed ranks and factorisations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..metrics import RankBounds, Tolerance
from ..reference import divided, normalized, widened


class TrueRank(NamedTuple):
    """Range of the true numerical rank, `(...)` int64, from FP64 singular values; -1 where a matrix is not finite."""

    lower: Tensor
    upper: Tensor

    @property
    def ambiguous(self) -> Tensor:
        """bool `(...)`: a singular value lies within FP64 rounding of tau, so either count may be the true one."""
        return self.lower != self.upper


def true_singular_values(A: Tensor) -> Tensor:
    """Singular values `(..., r)`, descending, of `A` `(..., m, n)` as stored, by an FP64 SVD; NaN where not finite."""
    wide, scale, finite = _scaled(A)
    sigma = torch.linalg.svdvals(wide) * scale[:, None]
    return torch.where(finite[:, None], sigma, torch.nan).view(*A.shape[:-2], sigma.shape[-1])


def true_rank(A: Tensor, tolerance: Tolerance | None = None, *, room: float = 1.0) -> TrueRank:
    """Numerical rank of each matrix of `A` `(..., m, n)` as stored, on any scale (default tolerance `Tolerance()`).

    room: how often the error that is usual of FP64 singular values has to fit between one of them and tau, or the rank
        is ambiguous (default 1). `ExactMatrix` tells the rank itself.
    """
    tolerance = tolerance or Tolerance()
    wide, scale, finite = _scaled(A)
    sigma = torch.linalg.svdvals(wide)
    top = sigma[:, 0] if sigma.shape[-1] else torch.zeros_like(scale)
    if tolerance.relative_to == "absolute":
        tau = divided(torch.tensor(tolerance.value, dtype=torch.float64), scale)
    else:
        tau = tolerance.value * (top if tolerance.relative_to == "spectral" else _frobenius(wide))
    margin = room * 2.0**-52 * (max(A.shape[-2:]) + 10) * top
    counts = ((sigma > t[:, None]).sum(-1) for t in (tau + margin, tau - margin))
    return TrueRank(*(torch.where(finite, count, -1).view(A.shape[:-2]) for count in counts))


class CountErrors(NamedTuple):
    """How many of `matrices` have bounds that exclude the true rank (`wrong`), or that are unequal (`uncertified`)."""

    matrices: int
    wrong: int
    uncertified: int


def count_errors(bounds: RankBounds, truth: TrueRank) -> CountErrors:
    """Compare `bounds`, on any device, with the truth, of the same shape. Bounds are wrong only if they exclude every
    rank in the range of the truth, which is more than one rank where the truth is ambiguous."""
    lower, upper = (ranks.to(bounds.lower.device) for ranks in truth)
    wrong = (bounds.lower > upper) | (bounds.upper < lower)
    return CountErrors(wrong.numel(), int(wrong.sum()), int((bounds.lower < bounds.upper).sum()))


def factor_error(A: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Spectral and Frobenius norm `(...)` of `A - U diag(S) Vh`, FP64, on any scale; NaN where one is not finite."""
    wide, scale = normalized(widened(A).reshape(A.shape[:-2].numel(), *A.shape[-2:]))
    scale = scale.view(A.shape[:-2])
    sigma = divided(widened(S), scale[..., None])
    residual = wide.view(A.shape) - U.double() * sigma[..., None, :] @ Vh.double()
    finite = residual.isfinite().all(-1).all(-1)
    residual = torch.where(finite[..., None, None], residual, 0.0)
    norms = (torch.where(finite, torch.linalg.matrix_norm(residual, ord) * scale, torch.nan) for ord in (2, "fro"))
    spectral, frobenius = norms
    return spectral, frobenius


def _scaled(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`A / scale` `(b, m, n)` FP64, the scale, and whether A is finite `(b,)`; zeros where it is not."""
    flat = widened(A.detach().cpu()).reshape(A.shape[:-2].numel(), *A.shape[-2:])
    finite = flat.isfinite().all(-1).all(-1)
    return *normalized(torch.where(finite[:, None, None], flat, 0.0)), finite


def _frobenius(wide: Tensor) -> Tensor:
    """Frobenius norms `(b,)`, summed in NumPy's longest floating type."""
    squares = np.square(wide.numpy().astype(np.longdouble))
    return torch.from_numpy(np.sqrt(squares.sum((-2, -1))).astype(np.float64))
