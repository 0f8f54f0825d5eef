"""Singular values of a stack in FP64: from the Gram where its precision is enough, else directly."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrank.reference.gram import Gram, gram


def singular_values(stack: Tensor) -> Tensor:
    """Singular values `(b, r)`, descending, of a stack `(b, r, n)`, r <= n; NaN for a matrix that is not finite.

    Matrices of at most 24 significant bits go through the FP64 Gram: sigma_i^2 is off by about 1e-15 n ||W||_F^2, so
    sigma_i by 1e-8 sqrt(n) ||W||_F at worst, and by far less for all but the smallest. FP64 matrices are decomposed
    directly.
    """
    g = gram(stack)
    if stack.dtype == torch.float64:
        scaled = torch.where(g.finite[:, None, None], stack, 0.0) / g.scale[:, None, None]
        sigma = torch.linalg.svdvals(scaled)
    else:
        sigma = gram_singular_values(g)
    return torch.where(g.finite[:, None], sigma * g.scale[:, None], torch.nan)


def gram_singular_values(g: Gram) -> Tensor:
    """Singular values `(b, r)`, descending, of the scaled matrices of a Gram."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(g.matrix)
    return eigenvalues.clamp(min=0).sqrt().flip(-1)


def top_singular_value(g: Gram) -> Tensor:
    """sigma_1 `(b,)` of the scaled matrices of a Gram: to full relative precision, whatever their dtype."""
    return gram_singular_values(g)[:, 0] if g.matrix.shape[-1] else g.trace
