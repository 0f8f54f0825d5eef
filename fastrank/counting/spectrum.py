"""Singular values of a stack in FP64: from the Gram where its precision is enough, else directly."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import Gram, gram


def singular_values(stack: Tensor, g: Gram | None = None, *, accurate: bool = False) -> Tensor:
    """Singular values `(b, r)`, descending, of a stack `(b, r, n)`, r <= n; NaN for a matrix that is not finite.

    Args:
        stack: of any floating dtype.
        g: its Gram, if it is there already.
        accurate: decompose the matrices themselves, as FP64 ones always are. Others go through the Gram, whose
            eigenvalues are off by delta = u (n + 8 r + 80) ||W||_F^2 at most (u = 2^-53; `bounds.eigenvalue_error`),
            and so sigma_i by min(sqrt(delta), delta / sigma_i): nothing to speak of unless it is a small one.
    """
    g = gram(stack) if g is None else g
    if accurate or stack.dtype == torch.float64:
        finite = torch.where(g.finite[:, None, None], stack, 0.0).double()
        return in_scale(g, torch.linalg.svdvals(finite / g.scale[:, None, None]))
    return in_scale(g, gram_singular_values(g))


def gram_singular_values(g: Gram) -> Tensor:
    """Singular values `(b, r)`, descending, of the scaled matrices of a Gram."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(g.matrix)
    return eigenvalues.clamp(min=0).sqrt().flip(-1)


def in_scale(g: Gram, sigma: Tensor) -> Tensor:
    """Singular values `(b, r)` of the scaled matrices as those of the caller's; NaN where not finite."""
    return torch.where(g.finite[:, None], sigma * g.scale[:, None], torch.nan)


def top_singular_value(g: Gram) -> Tensor:
    """sigma_1 `(b,)` of the scaled matrices of a Gram: to full relative precision, whatever their dtype."""
    return gram_singular_values(g)[:, 0] if g.matrix.shape[-1] else g.trace
