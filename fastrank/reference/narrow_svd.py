"""Randomised SVD of FP32 matrices on a CPU: products with A in FP32, small matrices in FP64.

    P = A^T Omega;  power_iters times: P = A^T orth(A P);  P = orth(P);  Y = A P          A (m, n), m <= n
    Y^T Y = X diag(theta) X^T,   V = P X,   U diag(S) = Y X                   else all of it for A^T

This is `fastrank.reference.lowrank.randomized_svd` of A^T: 2 power_iters + 2 products with A, of 2 m n l flops each,
for a sketch of l columns. The noise is on the smaller side, where there are fewer numbers to draw.

A basis is orthonormalised by Cholesky-QR (`_cholesky_qr`): its Gram matrix is exact but for FP64's rounding, because
the product of two FP32 numbers is exact in FP64. Between products with A a basis only has to be well conditioned. In
A (A^T Q) what belongs to sigma_i is as large as sigma_i^2; where that is near the rounding of sigma_1^2 (`STEEP`), P
is orthonormalised, too. U and V are orthonormal to the rounding with which they are returned. The rounding of the
products with A moves singular values and the residual by a few 2^-24 sigma_1, as that of the factors does.

Nothing is scaled. Whoever calls this has to see that sigma_1 is in `RANGE`, and to bound the error.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANGE = 2.0**-40, 2.0**40
"""Values of sigma_1 for which the range of FP32 is wide enough: no product overflows, and what underflows, or is a
subnormal number and may be read as zero, is below 2^-86 sigma_1."""

CLEAR = 2.0**-12
"""Most that rounding may add to the norm of a residual in FP32, relative to it."""

PIECE = 2048
"""Elements whose norm is taken in FP32. The rounding of such a norm is less than half of `CLEAR`."""

SHIFT = 2.0**-46
"""Added to the diagonal of a Gram matrix of unit vectors, times their number, so that Cholesky's pivots are positive:
rounding perturbs its eigenvalues by less. Directions below 2^-20 sigma_1 are shrunk by it; they are rounding errors."""

OFF = 2.0**-26
"""Most that an element of the Gram matrix of orthonormal vectors is off: below the rounding of FP32 vectors."""

NEAR = 2.0**-14
"""Residual norms relative to sigma_1 below which the rounding of FP32 products shows. It is about 2^-20."""

STEEP = 2.0**-24
"""Least ratio of two pivots of A A^T Q with which one orthonormalisation is enough for two products with A. It is about
(sigma_l / sigma_1)^4; the rounding of the smaller one is then at most 2^-12 of it."""


def full_precision() -> bool:
    """Whether PyTorch multiplies FP32 matrices in FP32 on a CPU. `torch.set_float32_matmul_precision`, `torch.backends`
    and `torch.autocast` let it multiply in BF16 or TF32 instead."""
    precision: str = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return precision in ("none", "ieee") and not torch.is_autocast_enabled("cpu")


def narrow_svd(stack: Tensor, omega: Tensor, k: int, power_iters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rank-`k` SVD of FP32 `stack` `(b, m, n)` from its test matrix `omega` FP32 `(b, min(m, n), k + oversample)`.

    Returns:
        U `(b, m, k)`, S `(b, k)` descending, Vh `(b, k, n)`, FP32. S is NaN where the factors could not be made
        orthonormal: A is not finite, or its rank is below k.
    """
    if stack.shape[-2] > stack.shape[-1]:
        u, s, vh = narrow_svd(stack.mT, omega, k, power_iters)
        return vh.mT, s, u.mT
    if omega.shape[-1] == stack.shape[-2]:
        # The sketch spans all of A's rows, and would only make them worse conditioned.
        rows, power_iters = stack, 0
    else:
        rows = torch.bmm(omega.mT, stack)  # bases lie in rows: BLAS multiplies Q^T A faster than A^T Q
    for _ in range(power_iters):
        columns = torch.bmm(stack, rows.mT)
        basis, pivots = _basis(columns.mT)
        steep = [min(own) <= STEEP * max(own) for own in pivots.tolist()]  # a fifth of the time of tensor operations
        if any(steep):
            # Of the whole stack: BLAS may multiply a shorter one in another way, whose length hung on the neighbours.
            columns = torch.bmm(stack, _basis(rows)[0].mT)
            basis[steep] = _basis(columns.mT)[0][steep]
        rows = torch.bmm(basis, stack)
    wide = rows.double()
    p, sound = _orthonormal(torch.linalg.solve_triangular(_cholesky(wide), wide, upper=False))
    y = torch.bmm(stack, p.float().mT).double()
    # eigh raises an error for what is not finite.
    x = torch.linalg.eigh(torch.bmm(y.mT, y).nan_to_num(0.0, 0.0, 0.0)).eigenvectors.flip(-1)[..., :k]
    product = torch.bmm(x.mT, y.mT)
    s = torch.linalg.vector_norm(product, dim=-1)
    if (s.diff(dim=-1) > 0).any():  # by rounding: the eigenvalues are in order
        s, order = s.sort(dim=-1, descending=True, stable=True)
        x = x.gather(-1, order[:, None, :].expand_as(x))
        product = product.gather(-2, order[:, :, None].expand_as(product))
    u, straight = _orthonormal(product / s[:, :, None])
    s = torch.where((sound & straight)[:, None], s, torch.nan)
    return u.mT.float(), s.float(), torch.bmm(x.mT, p).float()


def _cholesky(rows: Tensor) -> Tensor:
    """L of the Gram matrix L L^T of FP64 `rows` `(b, l, n)`."""
    gram = torch.bmm(rows, rows.mT)
    # The second term is for rows that are zero. It is far below all that is in `RANGE`.
    gram.diagonal(dim1=-2, dim2=-1).mul_(1 + SHIFT * gram.shape[-1]).add_(2.0**-220)
    lower: Tensor = torch.linalg.cholesky_ex(gram).L
    return lower


def _basis(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A well-conditioned basis of the row space of FP32 `rows` `(b, l, n)`, in FP32, and Cholesky's pivots `(b, l)`."""
    lower = _cholesky(rows.double())
    basis = torch.linalg.solve_triangular(lower.float(), rows, upper=False)
    return basis, lower.diagonal(dim1=-2, dim2=-1).square()


def _orthonormal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """FP64 `rows` `(b, l, n)`, which are nearly orthonormal, after one more pass of Cholesky-QR where they are not
    orthonormal to `OFF`; and where they are now, `(b,)`."""
    gram = torch.bmm(rows, rows.mT)
    sound = _is_identity(gram)
    if not sound.all():
        poor = ~sound
        again = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(gram[poor]).L, rows[poor], upper=False)
        rows[poor] = again
        sound[poor] = _is_identity(torch.bmm(again, again.mT))
    return rows, sound


def _is_identity(gram: Tensor) -> Tensor:
    """Whether the Gram matrices `(b, l, l)` of some rows are the identity to `OFF`, `(b,)`."""
    off = gram.clone()
    off.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return off.abs_().amax((-2, -1)) <= OFF


def narrow_residual_norm(stack: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Proven upper bound `(b,)` FP64 of `||A - U diag(S) Vh||_F`, from a residual in FP32; NaN if `CLEAR` is exceeded.

    Let u = 2^-24 and W = U diag(S), rounded to FP32. In whatever order an element of A - W Vh is summed, with fused
    multiplications or without, its error is at most gamma_(k+1) (|a| + sum_j |w_j v_j|), and that of W adds
    u sum_j |w_j v_j|. In the Frobenius norm the sum is at most `size` = sum_j ||w_j|| ||v_j||, and ||A|| is at most
    the residual's norm plus `size`, which is made in FP64. The norm of n elements in FP32 is off by at most (n / 2 + 2)
    u of it. Numbers that underflow, those of A that are read as zero, and the squares of u are in what is added to
    k + 1 and n / 2 + 2: for norms above 2^-32, `CLEAR`, and m n < 2^32, beyond which nothing is claimed, they are below
    2^-30 of the norm.
    """
    scaled = u * s[:, None, :]
    lengths = (torch.linalg.vector_norm(x, dim=d, dtype=torch.float64) for x, d in ((scaled, -2), (vh, -1)))
    size = torch.mul(*lengths).sum(-1)
    difference = torch.bmm(scaled, vh).sub_(stack)  # which takes a third less time than `baddbmm`: that copies A
    pieces = torch.split(difference, PIECE, -1)
    norms = torch.stack([torch.linalg.vector_norm(piece, dim=-1) for piece in pieces], -1)
    residual = torch.linalg.vector_norm(norms.double(), dim=(-2, -1))
    k, length = s.shape[-1], min(PIECE, stack.shape[-1])
    added = 2.0**-24 * (length / 2 + k + 8) * residual + 2.0**-23 * (k + 4) * size
    clear = (added <= CLEAR * residual) & (residual > 2.0**-32) & (stack[0].numel() < 2**32)
    return torch.where(clear, residual + added, torch.nan)
