"""The functions of `fastrank.linalg`, each made of the counts, spectra or factors that other modules compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import metrics
from ..arguments import check_count, check_share
from ..counting import chunk_size, gram_singular_values, group, is_open, over_matrices, resolve_bounds, singular_values
from ..metrics import RankBounds, Tolerance
from ..reference import gram
from .arrays import take_matrices, to_kind
from .lowrank import Search, factor_list, factor_stack
from .measures import bounds_of_gram, spectral_metric, top_metric
from .plans import by_compiled, by_kernels, compiled, counted_by_kernels
from .sharded import each_way
from .torch_rank import count_as_torch
from .traced import traceable


@traceable
def rank_bounds(A: Any, tolerance: Tolerance | None = None, *, resolve: bool = True) -> RankBounds:
    """Proven lower and upper bound of each matrix's numerical rank. Equal bounds are a certificate.

    Args:
        A: matrices, see `fastrank.linalg`.
        tolerance: threshold of the numerical rank (default `Tolerance()`: 1e-3 of the Frobenius norm).
        resolve: True (default) settles what the count leaves open by FP64 singular values, status `FALLBACK`; where
            the Gram was made from INT8 slices, a count on a Gram made in FP64 comes first. False returns the count's
            own interval. On CUDA this never waits for the device, unless the tolerance is relative to sigma_1 or there
            is a DTensor, and a CUDA graph can capture the call after a first one with the same tensors.

    Returns:
        `RankBounds` of shape `(...)`. With `resolve`, bounds still differ only where a singular value is within FP64
        rounding of the threshold.

    Source: Sylvester's law of inertia on the Gram, see `fastrank.counting.bounds`. On CUDA devices with little FP64 the
    Gram of an FP32 or narrower matrix is made from INT8 slices, see `fastrank.reference.slices`.
    """
    tolerance = Tolerance() if tolerance is None else tolerance
    if not isinstance(tolerance, Tolerance):
        raise TypeError(f"tolerance: expected a fastrank.Tolerance, not {tolerance!r}")

    def by_matrix(A: Any) -> RankBounds:
        matrices = take_matrices(A)
        if tolerance.relative_to != "spectral" and by_kernels(matrices):
            counted = counted_by_kernels(matrices, tolerance, resolve)
            counted = resolve_bounds(counted, matrices.data, tolerance) if resolve else counted
            return RankBounds(*map(matrices.answer, counted))
        if by_compiled(matrices):
            with compiled(matrices, [tolerance]) as batch:
                batch.measure(tops=tolerance.relative_to == "spectral")
                counted = RankBounds(*(found.clone() for found in batch.rank_bounds()))
                unsettled = batch.unsettled
            if resolve and unsettled:
                counted = resolve_bounds(counted, matrices.data, tolerance)
            return RankBounds(*map(matrices.answer, counted))
        return RankBounds(*map(matrices.answer, over_matrices(matrices.data, measure)))

    def measure(stack: Tensor) -> RankBounds:
        bounds = bounds_of_gram(gram(stack), tolerance)
        return resolve_bounds(bounds, stack, tolerance) if resolve else bounds

    def enough(counted: Sequence[Tensor]) -> bool:
        return not (resolve and is_open(RankBounds(*counted)).any())

    bounds: RankBounds = each_way(A, by_matrix, lambda g: bounds_of_gram(g, tolerance), enough)
    return bounds


@traceable
def matrix_rank(A: Any, *, atol: Any = None, rtol: Any = None) -> Any:
    """Number of singular values above `max(atol, rtol * sigma_1)`: `torch.linalg.matrix_rank`, batched and ragged.

    Args:
        A: matrices, see `fastrank.linalg`.
        atol: absolute threshold, a number or a tensor that broadcasts with the batch (default 0).
        rtol: relative threshold, likewise (default `max(m, n) * eps` of A's dtype, or 0 where `atol` > 0).

    Returns:
        int64 ranks `(...)`, on a CPU those of `torch.linalg.matrix_rank` of each matrix alone: where a singular value
        is so near the threshold that rounding in A's dtype decides, that function itself is called. There its answer
        for a batch may be another one, because it depends on a matrix' place in the batch; on CUDA it is called for all
        such matrices of a batch together. Where torch's singular values overflow, and its rank is 0, the true rank is
        given.

    Raises:
        ValueError: a matrix holds NaN or Inf (`rank_bounds` reports such a matrix and answers the others).
    """
    matrices = take_matrices(A)
    return to_kind(count_as_torch(matrices, atol, rtol), matrices.kind)


@traceable
def spectral_norm(A: Any) -> Any:
    """Largest singular value sigma_1 `(...)`, FP64.

    On a CPU with Numba it comes from Lanczos' iteration, and it is proven that sigma_1 is larger by at most 5e-9 of it,
    and 5e-7 with what rounding may have done. Elsewhere, and where that is not proven, it comes from an eigensolver, as
    accurate as that is, and without a proof.
    """
    return top_metric(A, lambda frobenius, spectral, scale: spectral * scale)


@traceable
def stable_rank(A: Any) -> Any:
    """`||A||_F^2 / sigma_1^2` `(...)`, FP64; 0 for a zero matrix. See `spectral_norm`."""
    return top_metric(A, lambda frobenius, spectral, scale: metrics.stable_rank(frobenius, spectral))


@traceable
def svdvals(A: Any, *, accurate: bool = False) -> Any:
    """Singular values `(..., r)`, FP64, descending; a list of `(r,)` for a ragged `A`. NaN where not finite.

    Args:
        A: matrices, see `fastrank.linalg`.
        accurate: True decomposes the matrices themselves in FP64: every sigma_i is exact to about 1e-15 sigma_1. FP64
            matrices are always decomposed so. False (default): narrower dtypes go through their FP64 Gram matrix, which
            costs much less, and sigma_i is off by at most min(sqrt(delta), delta / sigma_i), where
            delta = 1.1e-16 (n + 8 r + 80) ||A||_F^2.
    """

    def by_matrix(A: Any) -> Any:
        matrices = take_matrices(A)
        data = matrices.data
        if isinstance(data, Tensor):
            wide = data.mT if data.shape[-2] > data.shape[-1] else data
            pieces = torch.split(wide, chunk_size(wide.shape[-2], wide.device))
            return matrices.answer(torch.cat([singular_values(piece, accurate=accurate) for piece in pieces]))
        sigma: dict[int, Tensor] = {}
        for g in group(data):
            sigma.update(zip(g.indices, singular_values(g.stack(data), accurate=accurate), strict=True))
        return [to_kind(sigma[i], matrices.kind) for i in range(len(data))]

    return by_matrix(A) if accurate else each_way(A, by_matrix, lambda g: (gram_singular_values(g),))


@traceable
def effective_rank(A: Any, *, accurate: bool = False) -> Any:
    """`exp(entropy(sigma / sum sigma))` `(...)`, FP64 (Roy & Vetterli 2007); 0 for a zero matrix. See `svdvals`."""
    return spectral_metric(A, lambda sigma, scale: metrics.effective_rank(sigma), accurate)


@traceable
def energy_rank(A: Any, energy: float = 0.99, *, accurate: bool = False) -> Any:
    """The smallest k such that the k largest sigma^2 hold at least `energy` of their sum `(...)`; 0 for a zero matrix.

    Args:
        A, accurate: see `svdvals`.
        energy: above 0 and at most 1 (default 0.99). Shares that differ by 1e-12 count as equal: an energy of 1 counts
            the singular values but for those that hold less than that together, which is rounding.

    Returns:
        Whole numbers in FP64, which has NaN for a matrix that is not finite.
    """
    share = check_share(energy, "energy")
    return spectral_metric(A, lambda sigma, scale: metrics.energy_rank(sigma, share), accurate)


@traceable
def nuclear_norm(A: Any, *, accurate: bool = False) -> Any:
    """Sum of the singular values `(...)`, FP64. See `svdvals`."""
    return spectral_metric(A, lambda sigma, scale: metrics.nuclear_norm(sigma) * scale, accurate)


@traceable
def participation_ratio(A: Any, *, accurate: bool = False) -> Any:
    """`(sum sigma^2)^2 / sum sigma^4` `(...)`, FP64; 0 for a zero matrix. See `svdvals`."""
    return spectral_metric(A, lambda sigma, scale: metrics.participation_ratio(sigma), accurate)


class LowRankSVD(NamedTuple):
    """`A ~ U @ diag(S) @ Vh`, with a proven bound of the error. For a ragged `A`, U, S and Vh are lists of tensors."""

    U: Any
    """`(..., m, k)` in A's dtype (float32 for half precision), orthonormal columns."""
    S: Any
    """`(..., k)` in the same dtype, descending."""
    Vh: Any
    """`(..., k, n)` in the same dtype, orthonormal rows."""
    error: Any
    """`(...)` FP64, proven for the factors as given: `||A - U diag(S) Vh||_2 <= ||A - U diag(S) Vh||_F <= error`."""


@traceable
def svd_lowrank(A: Any, k: int, *, oversample: int = 8, power_iters: int = 2, seed: int = 0) -> LowRankSVD:
    """Randomised SVD of rank `k` of each matrix, with a proven error bound.

    Args:
        A: matrices, see `fastrank.linalg`.
        k: number of singular triplets, 1 to min(m, n) of the smallest matrix.
        oversample: columns of the sketch beyond k (default 8); the sketch has at most min(m, n) columns.
        power_iters: power iterations (default 2); 0 is enough only for spectra that fall off fast.
        seed: key of the Philox generator (default 0), at least 0 and less than 2^128. Matrix i of the batch draws
            the same numbers whatever else is in the batch; the global generators are not touched.

    On CUDA, matrices narrower than FP64 with min(k + oversample, m, n) <= 128 go through the kernels, all shapes at
    once, with up to twice the columns that `oversample` asks for (16, 32, 64 or 128 in all). The kernels draw noise by
    another counter than the CPU: the same seed gives the same bits on the same kind of device, not across kinds.

    On a CPU, matrices narrower than FP64 are multiplied in FP32 where the error is above 2^-14 sigma_1, and in FP64
    where it is smaller: rounding in FP32 moves the error by about 2^-20 sigma_1.

    Returns:
        `LowRankSVD(U, S, Vh, error)`, NaN for a matrix that is not finite.

    Raises:
        ValueError: k, oversample, power_iters or seed out of range.

    Source: Halko, Martinsson & Tropp (2011), algorithms 4.4 and 5.1.
    """
    k = check_count(k, "k", 1)
    oversample = check_count(oversample, "oversample", 0)
    power_iters = check_count(power_iters, "power_iters", 0)
    seed = check_count(seed, "seed", 0)
    if seed >= 2**128:
        raise ValueError(f"seed: must be less than 2^128, not {seed}")
    matrices = take_matrices(A)
    data = matrices.data
    for i, matrix in enumerate([data] if isinstance(data, Tensor) else data):
        if min(matrix.shape[-2:]) < k:
            where = "A" if isinstance(data, Tensor) else f"A[{i}]"
            raise ValueError(f"k: {k} singular triplets asked of {where}, of shape {tuple(matrix.shape[-2:])}")

    search = Search(k, oversample, power_iters, seed)
    if isinstance(data, Tensor):
        return LowRankSVD(*map(matrices.answer, factor_stack(data, search)))
    parts = factor_list(data, search)
    us, ss, vhs = ([to_kind(part[j], matrices.kind) for part in parts] for j in range(3))
    errors = torch.stack([part.error for part in parts]) if parts else torch.empty(0, dtype=torch.float64)
    return LowRankSVD(us, ss, vhs, to_kind(errors, matrices.kind))
