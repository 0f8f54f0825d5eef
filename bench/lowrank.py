"""Providers of the first K singular triplets of every matrix: ours and the rivals', with the same budget of work.

Oversampling and power iterations are the same for all that have them. Answers are `(U, S, Vh)` a matrix.
"""

from __future__ import annotations

import torch
from providers import Provider, by_shape, of, wide
from torch import Tensor

import fastrank

K, OVERSAMPLE, POWER_ITERS = 16, 8, 2
Factors = tuple[Tensor, Tensor, Tensor]


def ours(matrices: list[Tensor]) -> list[Factors]:
    svd = fastrank.linalg.svd_lowrank(matrices, K, oversample=OVERSAMPLE, power_iters=POWER_ITERS)
    return list(zip(svd.U, svd.S, svd.Vh, strict=True))


def torch_svd_lowrank(matrices: list[Tensor]) -> list[Factors]:
    """Looped, as it takes one shape a call."""
    answers = []
    for matrix in matrices:
        U, S, V = torch.svd_lowrank(matrix, q=min(K + OVERSAMPLE, *matrix.shape), niter=POWER_ITERS)
        answers.append((U[:, :K], S[:K], V[:, :K].mT))
    return answers


def torch_pca_lowrank(matrices: list[Tensor]) -> list[Factors]:
    answers = []
    for matrix in matrices:
        q = min(K + OVERSAMPLE, *matrix.shape)
        U, S, V = torch.pca_lowrank(matrix, q=q, center=False, niter=POWER_ITERS)
        answers.append((U[:, :K], S[:K], V[:, :K].mT))
    return answers


def torch_lobpcg(matrices: list[Tensor]) -> list[Factors]:
    """Eigenvectors of the Gram in the matrix's own dtype: it knows no SVD. It needs r >= 3 K."""

    def factors(matrix: Tensor) -> Factors:
        if min(matrix.shape) < 3 * K:
            return svd_truncated([matrix])[0]
        w = wide(matrix)
        _, U = torch.lobpcg(w @ w.mT, k=K, largest=True)
        Z = U.mT @ w
        S = torch.linalg.vector_norm(Z, dim=1)
        Vh = Z / S[:, None]
        return (U, S, Vh) if w is matrix else (Vh.mT, S, U.mT)

    return [factors(matrix) for matrix in matrices]


def svd_truncated(matrices: list[Tensor]) -> list[Factors]:
    """The exact answer, from a full SVD."""
    answers = by_shape(matrices, lambda stack: list(zip(*torch.linalg.svd(stack, full_matrices=False), strict=True)))
    cut = [(U[:, :K], S[:K], Vh[:K]) for U, S, Vh in answers]
    return [
        (Vh.mT, S, U.mT) if matrix.shape[0] > matrix.shape[1] else (U, S, Vh)
        for matrix, (U, S, Vh) in zip(matrices, cut, strict=True)
    ]


def sklearn_randomized_svd(matrices: list[Tensor]) -> list[Factors]:
    from sklearn.utils.extmath import randomized_svd

    answers = []
    for matrix in matrices:
        factors = randomized_svd(
            matrix.numpy(), n_components=K, n_oversamples=OVERSAMPLE, n_iter=POWER_ITERS, random_state=0
        )
        answers.append(tuple(map(torch.from_numpy, factors)))
    return answers


PROVIDERS = (
    Provider("fastrank.svd_lowrank", of(ours), strict=True, kernels="fp64"),
    Provider("torch.svd_lowrank", of(torch_svd_lowrank), telling=True),
    Provider("torch.pca_lowrank", of(torch_pca_lowrank)),
    Provider("torch.lobpcg", of(torch_lobpcg)),
    Provider("sklearn randomized_svd", of(sklearn_randomized_svd), ("sklearn",), ("cpu",)),
    Provider("torch.linalg.svd", of(svd_truncated)),
)
