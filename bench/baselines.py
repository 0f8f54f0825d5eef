"""Rivals for ranks and spectra: each the best that a user could do with it, on a whole list of matrices.

A rank comes from singular values by counting those above 1e-3 ||W||_F, so the rivals for `RANK` are all that give whole
spectra, and the few that count without them. Answers are one tensor a matrix, on the matrices' device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import cusolver
import torch
from providers import Provider, by_shape, of, stacked, wide
from torch import Tensor
from workloads import TOLERANCE

Spectrum = Callable[[list[Tensor]], list[Tensor]]


def svdvals(matrices: list[Tensor], driver: str | None = None) -> list[Tensor]:
    return by_shape(matrices, lambda stack: torch.linalg.svdvals(stack, driver=driver))


def _gram(stack: Tensor) -> Tensor:
    doubled = stack.double()
    return doubled @ doubled.mT


def _roots(stack: Tensor, eigenvalues: Callable[[Tensor], Tensor] = torch.linalg.eigvalsh) -> Tensor:
    return eigenvalues(_gram(stack)).clamp(min=0).sqrt().flip(-1)


def gram_eigvalsh_looped(matrices: list[Tensor]) -> list[Tensor]:
    return [_roots(wide(m)) for m in matrices]


def gram_eigvalsh_batched(matrices: list[Tensor]) -> list[Tensor]:
    """Batched by its interface: on CUDA, PyTorch up to 2.11 loops over matrices beyond 32 x 32, see `cusolver`."""
    return by_shape(matrices, _roots)


def gram_xsyev_batched(matrices: list[Tensor]) -> list[Tensor]:
    return by_shape(matrices, partial(_roots, eigenvalues=cusolver.eigenvalues))


def numpy_svd(matrices: list[Tensor]) -> list[Tensor]:
    import numpy as np

    return [torch.from_numpy(np.linalg.svd(m.numpy(), compute_uv=False)) for m in matrices]


def scipy_svdvals(matrices: list[Tensor]) -> list[Tensor]:
    from scipy.linalg import svdvals

    return [torch.from_numpy(svdvals(m.numpy(), check_finite=False)) for m in matrices]


def weightwatcher(matrices: list[Tensor]) -> Callable[[], list[Tensor]]:
    """`analyze` of a model whose linear layers have these matrices: it tells sigma_1 as `sv_max`.

    It also fits a power law to each spectrum, and has no form without.
    """
    import logging

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    import weightwatcher as ww

    layers = [torch.nn.Linear(m.shape[1], m.shape[0], bias=False) for m in matrices]
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.weight = torch.nn.Parameter(matrix)
    watcher = ww.WeightWatcher(model=torch.nn.Sequential(*layers), log_level=logging.ERROR)
    return lambda: [torch.tensor(top) for top in watcher.analyze(svd_method="accurate")["sv_max"]]


def cupy_stacks(matrices: list[Tensor], run: Callable[[Any], Any]) -> list[Tensor]:
    """`run` on CuPy views of stacks `(b, r, n)`."""
    import cupy

    return by_shape(matrices, lambda stack: torch.from_dlpack(run(cupy.from_dlpack(stack.contiguous()))))


def cupy_svd(matrices: list[Tensor]) -> list[Tensor]:
    import cupy

    return cupy_stacks(matrices, lambda a: cupy.linalg.svd(a, compute_uv=False))


def cupy_gesvdj(matrices: list[Tensor]) -> list[Tensor]:
    """cuSOLVER's batched Jacobi SVD takes at most 32 x 32; larger matrices go one by one."""
    import cupy
    from cupyx import cusolver

    one = partial(cusolver.gesvdj, full_matrices=False, compute_uv=False)
    # It answers in the order of LAPACK's columns, as (b, r) either way.
    return cupy_stacks(matrices, lambda a: one(a) if max(a.shape[1:]) <= 32 else cupy.stack([one(x) for x in a]))


def cupy_gesvda(matrices: list[Tensor]) -> list[Tensor]:
    """cuSOLVER's batched approximate SVD wants tall matrices."""
    from cupyx import cusolver

    return cupy_stacks(matrices, lambda a: cusolver.gesvda(a.transpose(0, 2, 1), compute_uv=False))


def cupy_eigenvalues(matrices: list[Tensor], solver: str) -> list[Tensor]:
    import cupy
    from cupyx import cusolver

    def looped(grams: Any) -> Any:
        return cupy.stack([cupy.linalg.eigvalsh(gram) for gram in grams])  # for a stack it would be syevj

    solve = {"eigvalsh": looped, "syevj": partial(cusolver.syevj, with_eigen_vector=False)}[solver]

    def roots(a: Any) -> Any:
        doubled = a.astype(cupy.float64)
        eigenvalues = cupy.sort(solve(doubled @ doubled.transpose(0, 2, 1)), axis=-1)[:, ::-1]
        return cupy.sqrt(cupy.maximum(eigenvalues, 0))

    return cupy_stacks(matrices, roots)


def count(spectrum: Spectrum, matrices: list[Tensor]) -> list[Tensor]:
    """Numerical ranks from singular values of any precision; the norm in FP64, where no square leaves the range."""

    def ranks(sigma: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(sigma, dim=-1, keepdim=True, dtype=torch.float64)
        return (sigma > TOLERANCE.value * norm).sum(-1)

    return stacked(spectrum(matrices), ranks, key=len)


def matrix_rank(matrices: list[Tensor]) -> list[Tensor]:
    def ranks(stack: Tensor) -> Tensor:
        tau = TOLERANCE.value * torch.linalg.matrix_norm(stack, dtype=torch.float64)
        return torch.linalg.matrix_rank(stack, atol=tau, rtol=torch.zeros_like(tau))

    return by_shape(matrices, ranks)


def _shifted_gram(stack: Tensor) -> Tensor:
    gram = _gram(stack)
    shift = TOLERANCE.value**2 * gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    gram.diagonal(dim1=-2, dim2=-1).sub_(shift[:, None])
    return gram


def gram_lu_signs(matrices: list[Tensor]) -> list[Tensor]:
    """Pivots of an LU factorisation without pivoting have the signs of the LDL^T's: the law of inertia, uncertified."""

    def ranks(stack: Tensor) -> Tensor:
        lu = torch.linalg.lu_factor_ex(_shifted_gram(stack), pivot=False)[0]  # waits for nothing
        return (lu.diagonal(dim1=-2, dim2=-1) > 0).sum(-1)

    return by_shape(matrices, ranks)


def gram_ldl_signs(matrices: list[Tensor]) -> list[Tensor]:
    """The same with LAPACK's pivoted LDL^T (Bunch-Kaufman), whose 2 x 2 blocks have one positive eigenvalue each."""

    def ranks(stack: Tensor) -> Tensor:
        factors, pivots, _ = torch.linalg.ldl_factor_ex(_shifted_gram(stack))
        single = pivots > 0
        return ((factors.diagonal(dim1=-2, dim2=-1) > 0) & single).sum(-1) + (~single).sum(-1) // 2

    return by_shape(matrices, ranks)


def matrix_norm(matrices: list[Tensor]) -> list[Tensor]:
    return by_shape(matrices, lambda stack: torch.linalg.matrix_norm(stack, ord=2))


def lobpcg(matrices: list[Tensor]) -> list[Tensor]:
    def top(matrix: Tensor) -> Tensor:
        w = wide(matrix)
        return torch.lobpcg(w @ w.mT, k=1, largest=True)[0].sqrt()

    return [top(matrix).squeeze() for matrix in matrices]


def scipy_svds(matrices: list[Tensor]) -> list[Tensor]:
    """ARPACK's Lanczos iteration."""
    from scipy.sparse.linalg import svds

    return [torch.tensor(svds(m.numpy(), k=1, return_singular_vectors=False)[0]) for m in matrices]


class Rival(NamedTuple):
    run: Spectrum
    needs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    telling: bool = False

    def provider(self, name: str, run: Spectrum) -> Provider:
        return Provider(name, of(run), self.needs, self.devices, telling=self.telling)


# The most telling first.
SPECTRA: dict[str, Rival] = {
    "torch.linalg.svdvals": Rival(svdvals, telling=True),
    "gram eigvalsh batched": Rival(gram_eigvalsh_batched, telling=True),
    "cusolver gram XsyevBatched": Rival(gram_xsyev_batched, devices=("cuda",), telling=True),
    "cupy gesvda": Rival(cupy_gesvda, ("cupy",), ("cuda",), telling=True),
    **{
        f"torch.linalg.svdvals {driver}": Rival(partial(svdvals, driver=driver), devices=("cuda",), telling=True)
        for driver in ("gesvda", "gesvdj", "gesvd")
    },
    "gram eigvalsh looped": Rival(gram_eigvalsh_looped),
    "numpy.linalg.svd": Rival(numpy_svd, devices=("cpu",)),
    "scipy.linalg.svdvals": Rival(scipy_svdvals, ("scipy",), ("cpu",)),
    "cupy.linalg.svd": Rival(cupy_svd, ("cupy",), ("cuda",)),
    "cupy gesvdj": Rival(cupy_gesvdj, ("cupy",), ("cuda",)),
    "cupy gram eigvalsh": Rival(partial(cupy_eigenvalues, solver="eigvalsh"), ("cupy",), ("cuda",)),
    "cupy gram syevj": Rival(partial(cupy_eigenvalues, solver="syevj"), ("cupy",), ("cuda",)),
}
COUNTS: dict[str, Rival] = {
    "gram LU signs": Rival(gram_lu_signs, devices=("cuda",), telling=True),
    "gram LDL signs": Rival(gram_ldl_signs),
    "torch.linalg.matrix_rank": Rival(matrix_rank),
}

DEFAULT = "torch.linalg.svdvals gesvdj"
"""PyTorch tries this driver first where none is named: ranks are not measured twice by it."""

SPECTRUM = tuple(rival.provider(name, rival.run) for name, rival in SPECTRA.items())
RANK = (
    *(r.provider(name, partial(count, r.run)) for name, r in SPECTRA.items() if r.telling and name != DEFAULT),
    *(rival.provider(name, rival.run) for name, rival in COUNTS.items()),
    *(rival.provider(name, partial(count, rival.run)) for name, rival in SPECTRA.items() if not rival.telling),
)
NORM = (
    Provider("torch.linalg.matrix_norm", of(matrix_norm), telling=True),
    Provider("torch.lobpcg", of(lobpcg)),
    Provider("scipy svds", of(scipy_svds), ("scipy",), ("cpu",)),
    Provider("weightwatcher.analyze", weightwatcher, ("weightwatcher",), ("cpu",)),
)
