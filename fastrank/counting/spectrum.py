"""Singular values of a stack in FP64: from the Gram matrix where its precision is enough, else directly."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import Gram, divided, gram, widened


def singular_values(stack: Tensor, g: Gram | None = None, *, accurate: bool = False) -> Tensor:
    """Singular values `(b, r)`, descending, of a stack `(b, r, n)`, r <= n; NaN for a matrix that is not finite, Inf
    for those beyond the range of FP64. For the arguments see `scaled_singular_values`."""
    sigma, scale = scaled_singular_values(stack, g, accurate=accurate)
    return sigma * scale[:, None]


def scaled_singular_values(stack: Tensor, g: Gram | None = None, *, accurate: bool = False) -> tuple[Tensor, Tensor]:
    """The same, divided by a power of two for each matrix, and these powers `(b,)`: none overflows or is rounded to 0.

    Args:
        stack: of any floating dtype.
        g: its Gram matrix, if that has been computed already.
        accurate: decompose the matrices themselves, which is always done for FP64. Default False: the Gram matrix is
            decomposed. Its eigenvalues are off by about delta = u (n + 8 r + 80) ||W||_F^2 at most (u = 2^-53), as
            seen; LAPACK proves no constant. So sigma_i is off by min(sqrt(delta), delta / sigma_i), which
            matters only if sigma_i is small. No bound of a rank rests on these numbers.
    """
    g = gram(stack) if g is None else g
    if accurate or stack.dtype == torch.float64:
        wide = widened(torch.where(g.finite[:, None, None], stack, 0.0))
        sigma = torch.linalg.svdvals(divided(wide, g.scale[:, None, None]))
        return torch.where(g.finite[:, None], sigma, torch.nan), g.scale
    return gram_singular_values(g), g.scale


def gram_singular_values(g: Gram) -> Tensor:
    """Singular values `(b, r)`, descending, of the scaled matrices that a Gram matrix was made of; NaN where not
    finite."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(g.matrix)
    return torch.where(g.finite[:, None], eigenvalues.clamp(min=0).sqrt().flip(-1), torch.nan)


def top_singular_value(g: Gram) -> Tensor:
    """sigma_1 `(b,)` of the scaled matrices that a Gram matrix was made of: to full relative precision in any dtype."""
    return gram_singular_values(g)[:, 0] if g.matrix.shape[-1] else g.trace
