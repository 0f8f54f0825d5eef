"""Randomised SVD of a stack: Halko, Martinsson & Tropp (2011), algorithms 4.4 (range finder) and 5.1 (direct SVD).

    Q = orth(A Omega);  power_iters times: Q = orth(A orth(A^T Q));  Q^T A = U' S Vh;  U = Q U'

Omega is (n, k + oversample) Gaussian. It comes from Philox, a counter-based generator, keyed by (seed, matrix): a
matrix's answer does not depend on what else is in the batch, and no global generator is touched.

`fastrank.reference.narrow_svd` is the same in FP32, for FP32 matrices on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .residual import UNIT, frobenius, product_residual

KEPT = 2**15
"""Most numbers of a draw that is kept for the next call; 256 draws are kept, in FP32 at most 32 MiB."""


def gaussian(seed: int, matrices: Sequence[int], rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """`(len(matrices), rows, columns)` standard normal numbers on the CPU, FP64 or FP32. `matrices`: the key of each
    matrix. The two dtypes hold different numbers."""
    wide = dtype == torch.float64
    # Matrices that are measured again and again, as in training, draw the same numbers every time.
    draw = _draw.__wrapped__ if wide or rows * columns > KEPT else _draw
    draws = [draw(seed, i, rows, columns, np.float64 if wide else np.float32) for i in matrices]
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, rows, columns, dtype=dtype)


@lru_cache(256)
def _draw(seed: int, matrix: int, rows: int, columns: int, dtype: type) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, matrix]))
    return generator.standard_normal((rows, columns), dtype)


def randomized_svd(stack: Tensor, omega: Tensor, k: int, power_iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rank-`k` SVD of finite FP64 `stack` `(b, m, n)` from its test matrix `omega` `(b, n, k + oversample)`.

    Returns:
        U `(b, m, k)`, S `(b, k)` descending, Vh `(b, k, n)`, FP64.
    """
    q = torch.linalg.qr(stack @ omega).Q
    for _ in range(power_iters):
        # Orthonormalised after every product, because powers of a decaying spectrum soon fall below FP64's precision.
        q = torch.linalg.qr(stack.mT @ q).Q
        q = torch.linalg.qr(stack @ q).Q
    u, s, vh = torch.linalg.svd(q.mT @ stack, full_matrices=False)
    return (q @ u)[..., :k], s[..., :k], vh[..., :k, :]


def residual_norm(stack: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Proven upper bound `(b,)` of `||A - U diag(S) Vh||_F`, and so of its spectral norm, for the factors as given.

    The residual is computed in FP64, see `product_residual`; U diag(S) is rounded once more. No square may leave the
    range of FP64, which `fastrank.reference.grams.normalized` ensures.
    """
    u, s, vh = u.double(), s.double(), vh.double()
    scaled = u * s[..., None, :]
    rounded = frobenius(scaled) * frobenius(vh) * (2 * UNIT)
    nothing = ~(stack.any(-1).any(-1) | scaled.any(-1).any(-1))
    return torch.where(nothing, 0.0, product_residual(stack, scaled, vh) + rounded)
