"""Ranks as `torch.linalg.matrix_rank` defines them, counted on the FP64 Gram matrix.

torch counts singular values that were computed in A's own dtype. If none of them is near the threshold, the exact count
is the same number. If one is within torch's own rounding of it, torch itself is asked.

What torch then answers may depend on where in memory a matrix stands, and so on its place in a batch. On a CPU it is
asked of one matrix at a time. To ask it of the whole batch would give torch's answer in the caller's own form, but a
batch of 640 random FP32 matrices of 100 x 100, of which two are undecided, would take 570 ms instead of 240.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..counting import (
    LARGEST_TAU,
    TRACE,
    Affine,
    Assumed,
    Chunk,
    GroupGrams,
    Number,
    ShiftPair,
    Shifts,
    counted,
    over_matrices,
    residual,
    shifts_around,
    top_error,
    unpivoted,
)
from ..metrics import Status
from ..reference import Gram, Moments, divided, gram, inertia, normalized, top_interval, widened
from .arrays import Matrices, as_threshold
from .plans import by_compiled, by_kernels, compiled, planned


def count_as_torch(matrices: Matrices, atol: Any, rtol: Any) -> Tensor:
    """Ranks `(*batch_shape)`, int64. Raises for non-finite matrices and bad thresholds; see `fastrank.linalg`."""
    data, shape = matrices.data, matrices.batch_shape
    if shape.numel() == 0:
        device = data.device if isinstance(data, Tensor) else None
        return torch.zeros(shape, dtype=torch.int64, device=device)
    device = data[0].device
    atol, rtol = (as_threshold(v, name, shape, device) for v, name in ((atol, "atol"), (rtol, "rtol")))
    flat = [t.expand(shape).reshape(-1) if isinstance(t, Tensor) else t for t in (atol, rtol)]
    # NaN stands for "not given", so that every threshold travels with its matrix.
    given = [
        torch.as_tensor(torch.nan if t is None else t, dtype=torch.float64, device=device).expand(shape.numel())
        for t in flat
    ]
    if by_kernels(matrices):
        rank, undecided, finite = _count_by_kernels(matrices, *given)
    elif by_compiled(matrices):
        rank, undecided, finite = _count_compiled(matrices, *given)
    else:
        rank, undecided, finite = over_matrices(data, _count, *given)
    if not finite.all():
        i = int((~finite).nonzero()[0])
        raise ValueError(f"A: matrix {i} of the batch holds NaN or Inf and has no rank; see rank_bounds")
    # On CUDA, one call for a thousand small matrices is a hundred times faster than a thousand calls.
    together = isinstance(data, Tensor) and data.is_cuda and len(shape) > 0
    picks = [undecided] if together else undecided.nonzero().flatten().tolist()
    for pick in picks if undecided.any() else []:
        own = [t[pick] if isinstance(t, Tensor) else t for t in flat]
        rank[pick] = _stock_rank(data[pick], *own)
    return rank.view(shape)


def _count(stack: Tensor, atol: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count a stack `(b, r, n)` by the inertia of its Gram matrices. `atol`, `rtol`: `(b,)`, NaN if not given.

    Returns, `(b,)` each: the rank, whether rounding in A's dtype could change it, and whether the matrix is finite.
    """
    g = gram(stack)
    if stack.shape[-2] == 0:
        return torch.zeros_like(g.finite, dtype=torch.int64), ~g.finite, g.finite
    taus = _thresholds(*_top(g), g.scale, stack.shape[-1], *_limits(stack.dtype), atol, rtol)
    bounds = counted(g, [_around(g.moments, *taus, residual(stack.shape[-2]))], inertia)[0]
    return bounds.lower, (bounds.lower != bounds.upper) | (bounds.status == Status.FALLBACK), g.finite


def _top(g: Gram) -> tuple[Tensor, Tensor]:
    """Proven lower and upper bound `(b,)` of lambda_1."""
    (low, high), error = top_interval(g.matrix), top_error(g.moments).at(g.trace)
    return (low - error).clamp(min=0), high + error


def _around(moments: Moments, low: Tensor, high: Tensor, of: Assumed) -> Shifts:
    """Where to count for a tau between `low` and `high`, which allow for more than the rounding of sigma_1."""
    least, most = (Affine(0.0, tau.clamp(0.0, LARGEST_TAU).square()) for tau in (low, high))
    return shifts_around(moments, least, most, TRACE * 0.0, of)


def _count_by_kernels(matrices: Matrices, atol: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_count` returns, for all matrices of a call at once: by the kernels and the law of inertia."""
    batch = planned(matrices, keep=True)

    def wanted(chunk: Chunk, moments: Moments, grams: Iterator[GroupGrams]) -> list[ShiftPair]:
        between = []
        for group, _, g in grams:
            chosen = list(group.indices)
            limits = _limits(matrices.data[chosen[0]].dtype)
            between.append(_thresholds(*_top(g), g.scale, group.columns, *limits, atol[chosen], rtol[chosen]))
        low, high = (torch.cat(x) for x in zip(*between, strict=True))
        return [ShiftPair.of(_around(moments, low, high, unpivoted(chunk.order)), moments.trace)]

    bounds = batch.in_order([chunk.bounds[0] for chunk in batch.count(wanted)])
    undecided = (bounds.lower != bounds.upper) | (bounds.status == Status.FALLBACK)
    return bounds.lower, undecided, bounds.status != Status.NONFINITE


def _count_compiled(matrices: Matrices, atol: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_count` returns, for all matrices of a call at once: by the kernels for CPUs and the law of inertia."""
    data = matrices.data
    each = [data[0]] * len(data) if isinstance(data, Tensor) else data
    limits = [(float(max(matrix.shape)), *_limits(matrix.dtype)) for matrix in each]
    n, eps, tiny = torch.tensor(limits, dtype=torch.float64, device="cpu").unbind(1)

    def between(own: slice) -> NDArray[np.float64]:
        _, _, low, high = torch.from_numpy(batch.found[own]).unbind(1)
        scale = torch.from_numpy(batch.scale[own])
        taus = _thresholds(low, high, scale, n[own], eps[own], tiny[own], atol[own], rtol[own])
        squares: NDArray[np.float64] = torch.stack(taus, 1).clamp(0.0, LARGEST_TAU).square().numpy()
        return squares

    with compiled(matrices) as batch:
        batch.measure(given=between)
        bounds = batch.rank_bounds()
        undecided = (bounds.lower != bounds.upper) | (bounds.status == Status.FALLBACK)
        return bounds.lower.clone(), undecided, bounds.status != Status.NONFINITE


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    """eps and the smallest normal number."""
    info = torch.finfo(dtype)
    return info.eps, info.tiny


def _thresholds(
    top_low: Tensor,
    top_high: Tensor,
    scale: Tensor,
    n: Number,
    eps: Number,
    tiny: Number,
    atol: Tensor,
    rtol: Tensor,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bound `(b,)` of the tau that an SVD in A's dtype gives torch, from bounds `(b,)` of lambda_1."""
    rtol = rtol.where(~rtol.isnan(), torch.where(atol > 0, 0.0, n * eps)).clamp(max=2.0)  # above 1 every rank is 0
    atol = divided(atol.nan_to_num(0.0, torch.inf), scale)
    low, high = (torch.maximum(atol, rtol * top.sqrt()) for top in (top_low, top_high))
    # A generous bound on the backward error of that SVD, which a relative threshold inherits from sigma_1. A subnormal
    # number is rounded to a multiple of the smallest one.
    noise = 8 * n**0.5 * eps * top_high.sqrt() * (1 + rtol) + 4 * tiny * eps / scale
    return low - noise, high + noise


def _stock_rank(matrix: Tensor, atol: Any, rtol: Any) -> Tensor:
    """`torch.linalg.matrix_rank` `(...)`. Half precision, which it does not take, is widened but keeps its own eps.

    Where torch's singular values would overflow, and its rank be 0, those of the FP64 matrix, scaled down, are counted.
    """
    shape, info = matrix.shape, torch.finfo(matrix.dtype)
    least, share = (
        torch.as_tensor(0.0 if t is None else t, dtype=torch.float64, device=matrix.device) for t in (atol, rtol)
    )
    if rtol is None:
        share = torch.where(least > 0, 0.0, share.new_tensor(max(shape[-2:]) * info.eps))
    wide = widened(matrix)
    mixed = isinstance(atol, Tensor) != isinstance(rtol, Tensor) and None not in (atol, rtol)
    if info.bits == 16 or mixed:  # neither of which torch takes
        atol, rtol = least, share
    rank: Tensor = torch.linalg.matrix_rank(wide if info.bits == 16 else matrix, atol=atol, rtol=rtol)
    wide, scale = normalized(wide.reshape(-1, *shape[-2:]))
    end = 0.999 * info.max  # of the range; the difference is more than an SVD's rounding
    if (torch.linalg.matrix_norm(wide) * scale > end).any():
        sigma = torch.linalg.svdvals(wide)
        tau = torch.maximum(divided(least, scale), share * sigma[:, 0])
        true = (sigma > tau[:, None]).sum(-1)
        rank = torch.where(sigma[:, 0] * scale > end, true, rank.flatten()).view_as(rank)
    return rank
