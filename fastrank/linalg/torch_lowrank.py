"""Randomised SVDs of stacks of one shape by PyTorch, on any device, in FP64; in FP32 on a CPU where that is enough.

FP32 is enough (`fastrank.reference.narrow_svd`) unless its rounding would show: a residual below `NEAR` sigma_1, a
sigma_1 out of `RANGE`, factors that could not be made orthonormal, or PyTorch set to multiply in BF16. What is then
left to FP64 also is what is zero or not finite. The error bound is that of the factors as they are returned, in FP64
if rounding would be more than `CLEAR` of a bound in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import (
    NEAR,
    RANGE,
    divided,
    full_precision,
    gaussian,
    narrow_residual_norm,
    narrow_svd,
    normalized,
    randomized_svd,
    residual_norm,
    scaled_up,
    widened,
)

TOGETHER = 2**17
"""Elements of FP32 matrices of one shape that a CPU factors together. They stay in its cache; larger matrices are
factored one at a time, which is no slower."""


class Factors(NamedTuple):
    """Factors and error bounds of a stack, or of one matrix; see `fastrank.linalg.LowRankSVD`."""

    u: Tensor
    s: Tensor
    vh: Tensor
    error: Tensor


class Search(NamedTuple):
    """What is looked for: the arguments of `fastrank.linalg.svd_lowrank` besides the matrices."""

    k: int
    oversample: int
    power_iters: int
    seed: int

    def columns(self, m: int, n: int) -> int:
        """Number of columns of the sketch of a matrix (m, n)."""
        return min(self.k + self.oversample, m, n)

    @property
    def word(self) -> int:
        """The seed as the kernels take it: folded into a signed 64-bit integer. A seed below 2^63 stays as it is."""
        folded = (self.seed ^ self.seed >> 64) & 2**64 - 1
        return folded - 2**64 if folded >> 63 else folded


class Taken(NamedTuple):
    """A stack in FP64: each matrix is divided by a power of two, `scale`; one that is not finite is set to zero."""

    wide: Tensor
    scale: Tensor
    finite: Tensor
    dtype: torch.dtype
    """Dtype of the factors that are returned."""

    @classmethod
    def of(cls, stack: Tensor) -> Taken:
        finite = stack.isfinite().all(-1).all(-1)
        wide, scale = normalized(widened(torch.where(finite[:, None, None], stack, 0)))
        return cls(wide, scale, finite, stack.dtype if stack.dtype == torch.float64 else torch.float32)

    def prove(self, u: Tensor, s: Tensor, vh: Tensor) -> Factors:
        """Round the factors to the dtype they are returned in, and bound their error; NaN where not finite."""
        u, s, vh = u.to(self.dtype), s.to(self.dtype), vh.to(self.dtype)
        error = residual_norm(self.wide, u, divided(widened(s), self.scale[:, None]), vh)
        # Where S overflows its dtype the bound is Inf.
        factors = (u, s, vh, scaled_up(error, self.scale).nan_to_num(torch.inf, torch.inf))
        return Factors(*(torch.where(self.finite.view(-1, *[1] * (f.ndim - 1)), f, torch.nan) for f in factors))


def by_torch(stack: Tensor, keys: Sequence[int], search: Search) -> Factors:
    """Factor a stack of one shape in FP64, or in FP32 where that is enough."""
    if not (narrowed(stack) and len(stack)):
        return _wide(stack, keys, search)
    size = max(1, TOGETHER // stack[0].numel())
    pieces = (slice(at, at + size) for at in range(0, len(stack), size))
    found = [_narrow(stack[piece].float(), keys[piece], search) for piece in pieces]
    return found[0] if len(found) == 1 else Factors(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def narrowed(matrices: Tensor) -> bool:
    """Whether a matrix, or a stack of matrices, is factored in FP32."""
    return matrices.is_cpu and matrices.dtype != torch.float64 and matrices.numel() > 0 and full_precision()


def _narrow(stack: Tensor, keys: Sequence[int], search: Search) -> Factors:
    """Factor a stack in FP32, and in FP64 those matrices for which FP32 has not enough range or precision."""
    omega = gaussian(search.seed, keys, min(stack.shape[-2:]), search.columns(*stack.shape[-2:]), torch.float32)
    u, s, vh = narrow_svd(stack, omega, search.k, search.power_iters)
    error = narrow_residual_norm(stack, u, s, vh)
    # Python's numbers, because a matrix is most often alone here, and each operation of PyTorch costs microseconds.
    fits = [RANGE[0] < top < RANGE[1] for top in s[:, 0].tolist()]
    vague = [i for i, bound in enumerate(error.tolist()) if fits[i] and math.isnan(bound)]
    if vague:
        error[vague] = residual_norm(widened(stack[vague]), u[vague], s[vague], vh[vague])
    found = Factors(u, s, vh, error)
    proven = zip(fits, s[:, 0].tolist(), error.tolist(), strict=True)
    others = [i for i, (fit, top, bound) in enumerate(proven) if not (fit and NEAR * top < bound < math.inf)]
    if others:
        for ours, theirs in zip(found, _wide(stack[others], [keys[i] for i in others], search), strict=True):
            ours[others] = theirs
    return found


def _wide(stack: Tensor, keys: Sequence[int], search: Search) -> Factors:
    taken = Taken.of(stack)
    m, n = stack.shape[-2:]
    omega = gaussian(search.seed, keys, n, search.columns(m, n)).to(stack.device)
    u, s, vh = randomized_svd(taken.wide, omega, search.k, search.power_iters)
    return taken.prove(u, s * taken.scale[:, None], vh)
