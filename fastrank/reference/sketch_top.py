"""Sketch top: sigma_1 as far as a sketch knows it, on a CPU, where an eigensolver costs little."""

from __future__ import annotations

import torch
from torch import Tensor

from .sketch import Basis, Sketched, above, quotient, seen


def top_bounds(sketched: Sketched, basis: Basis) -> tuple[Tensor, Tensor, Tensor]:
    """sigma_1^2 `(b,)` as far as the sketch knows it, and tighter bounds of it than those of `prove`: 0 and Inf where
    nothing is proven.

    The first vector x comes from an eigensolver, on a CPU, of which nothing is assumed: its Rayleigh quotient theta is
    a lower bound for any x, and that no theta_i is above theta + 4 A is counted. The bounds are as wide as the t^2 that
    the sketch has left out.
    """
    norm, c, b, slack, orthonormal, left = seen(sketched, basis)
    factors, info = torch.linalg.cholesky_ex(b + torch.diag_embed((~basis.kept).double()))
    half = torch.linalg.solve_triangular(factors, c, upper=False)
    whole = torch.linalg.solve_triangular(factors, half.mT, upper=False)
    known = orthonormal & (info == 0) & sketched.norm.isfinite()
    vectors = torch.linalg.eigh(torch.where(known[:, None, None], whole, 0.0)).eigenvectors[..., -1:]
    theta = quotient(c, b, torch.linalg.solve_triangular(factors.mT, vectors, upper=True)[..., 0]).clamp(min=0)
    count, sound = above(c, b, basis.kept, norm, theta + slack)
    proven = known & ((sound & (count == 0)) | (norm == 0))
    low = torch.where(known, (theta - slack).clamp(min=0), 0.0)
    return theta, low, torch.where(proven, theta + left + 2 * slack, torch.inf)
