"""Bounds from singular values: the slow path, which decides what a count leaves open, for a tau of any size.

Singular values of an FP64 matrix are known to u sigma_1, where those from a Gram are known to sqrt(u) sigma_1. They are
verified after they are computed, so that nothing is assumed of LAPACK (docs/proof.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..device import one_thread
from ..metrics import RankBounds, Status, Tolerance
from ..reference import UNIT, normalized, product_residual, residual_norm, widened
from .batch import over_matrices
from .bounds import absolute_tau, factor


def is_open(bounds: RankBounds) -> Tensor:
    """bool: the count has left something to the slow path."""
    return (bounds.lower != bounds.upper) | (bounds.status == Status.FALLBACK)


def resolve_bounds(bounds: RankBounds, matrices: Tensor | Sequence[Tensor], tolerance: Tolerance) -> RankBounds:
    """Narrow the bounds that are unequal, or have status `FALLBACK`, by the slow path. Waits for the device.

    matrices: a stack `(b, m, n)`, or 2-D tensors of any shapes; those whose bounds are narrowed are finite.
    """
    open_ = is_open(bounds)
    if not open_.any():
        return bounds
    picks = open_.nonzero().flatten()
    chosen = matrices[picks] if isinstance(matrices, Tensor) else [matrices[i] for i in picks.tolist()]
    with one_thread(max(min(matrix.shape[-2:]) for matrix in chosen)):
        slow = RankBounds(*over_matrices(chosen, partial(singular_value_bounds, tolerance=tolerance)))
    # Both paths are proofs, so their intersection is one too.
    lower, upper, status = (x.clone() for x in bounds)
    lower[picks] = torch.maximum(lower[picks], slow.lower)
    upper[picks] = torch.minimum(upper[picks], slow.upper)
    status[picks] = slow.status
    return RankBounds(lower, upper, status)


def singular_value_bounds(stack: Tensor, tolerance: Tolerance) -> RankBounds:
    """Bounds from an FP64 singular value decomposition of finite matrices `(b, m, n)`: the slow path, for any tau."""
    wide, scale = normalized(widened(stack))
    low, high = singular_value_interval(wide)
    if tolerance.relative_to == "absolute":
        least = most = absolute_tau(tolerance, scale)
    elif tolerance.relative_to == "frobenius":
        # Squares are added up row by row, so that none goes through more than m + n additions.
        norm = wide.square().sum(-1).sum(-1).sqrt() * factor(tolerance)
        wrong = UNIT * (sum(stack.shape[-2:]) + 8.0)
        least, most = norm * (1 - wrong), norm * (1 + wrong)
    else:
        least, most = (sigma[:, 0] * factor(tolerance) for sigma in (low * (1 - 4 * UNIT), high * (1 + 4 * UNIT)))
    lower = (low > most[:, None]).sum(-1)
    upper = (high > least[:, None]).sum(-1)
    status = torch.full_like(lower, Status.FALLBACK, dtype=torch.int8)
    return RankBounds(lower, upper, status)


def singular_value_interval(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Proven lower and upper bounds `(b, r)` of the singular values, descending, of finite FP64 matrices `(b, m, n)`
    whose elements are near 1, as `normalized` makes them.

    With A = U S V^T + R as computed, alpha = ||U^T U - I|| and beta = ||V^T V - I||,

        s_i (1 - alpha) (1 - beta) - ||R||  <=  sigma_i(A)  <=  s_i (1 + alpha) (1 + beta) + ||R||

    by Ostrowski and Weyl (Rump 2011, Verified bounds for singular values). All three norms are bounded as
    `product_residual` does it. Where they are not small, or not finite, the bounds are 0 and infinite.
    """
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    eye = torch.eye(s.shape[-1], dtype=wide.dtype, device=wide.device).expand(len(s), -1, -1)
    alpha, beta = product_residual(eye, u.mT, u), product_residual(eye, vh, vh.mT)
    residual = residual_norm(wide, u, s, vh)
    off = (alpha + beta + alpha * beta)[:, None]  # 1 - off is at most (1 - alpha) (1 - beta)
    s = s.abs().sort(dim=-1, descending=True).values
    low = (s * (1 - off) - residual[:, None]) * (1 - 8 * UNIT)
    high = (s * (1 + off) + residual[:, None]) * (1 + 8 * UNIT)
    known = off + residual[:, None] < 0.5
    return torch.where(known, low.clamp(min=0), 0.0), torch.where(known, high, torch.inf)
