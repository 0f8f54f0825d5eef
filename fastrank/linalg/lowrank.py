"""Randomised SVDs of a batch: choose which matrices the kernels take, make the factors, and prove an error bound.

The kernels (`fastrank.kernels.lowrank`) give Q with orthonormal columns, FP64, and Z = A^T Q with C = Z^T Z. Then

    C = X diag(theta) X^T,   U = Q X,   V diag(S) ~ Z X   by orth, whose pivots are S^2

`torch.linalg.eigh` decomposes the k x k matrices C. On CUDA it asks the device whether it converged, which is the only
time the host waits; no training step does this. With eigenvectors of an FP64 Gram matrix, sigma_i is off by at most
min(sqrt(delta), delta / sigma_i), delta = c k u ||A||_F^2, u = 2^-53 and c of order 10. That is at most 1e-7 ||A||_F,
which FP32 factors lose anyway. The error bound is computed from the factors as they are returned: it covers all errors.

All other matrices go to `torch_lowrank`, a stack of one shape at a time.

The answer for a matrix does not depend on what else is in the batch, except for last bits where BLAS multiplies a
longer stack of one shape in another way: those of FP64 on CUDA, and those of FP32 on a CPU, which takes the small FP32
matrices of one shape together, and of these again those that need FP64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import backend
from ..counting import WORKSPACE
from ..device_table import DeviceTable
from ..kernels.limits import KS
from .torch_lowrank import TOGETHER, Factors, Search, Taken, by_torch, narrowed

if TYPE_CHECKING:
    from ..kernels.lowrank import Layout

__all__ = ["Factors", "Search", "factor_list", "factor_stack"]

LAYOUTS = 64
"""How many layouts, the kernels' tables for one list of shapes, are remembered between calls."""


def factor_stack(stack: Tensor, search: Search) -> Factors:
    """Factor a stack `(b, m, n)`. The noise of matrix i is keyed by i."""
    if len(stack) and _served(stack, search):
        found = _by_kernels(list(stack), range(len(stack)), search)
        return Factors(*(torch.cat(parts) for parts in zip(*(factors for _, factors in found), strict=True)))
    return by_torch(stack, range(len(stack)), search)


def factor_list(matrices: Sequence[Tensor], search: Search) -> list[Factors]:
    """Factor 2-D matrices of any shapes, dtypes and devices. The noise of matrix i is keyed by i."""
    served: dict[torch.device, list[int]] = defaultdict(list)
    stacks: dict[object, list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        if _served(matrix, search):
            served[matrix.device].append(i)
        else:
            together = narrowed(matrix) and 2 * matrix.numel() <= TOGETHER
            stacks[(matrix.shape, matrix.dtype) if together else i].append(i)
    found: dict[int, Factors] = {}
    for keys, factors in chain(
        *(_by_kernels([matrices[i] for i in indices], indices, search) for indices in served.values()),
        ((keys, by_torch(_stacked([matrices[i] for i in keys]), keys, search)) for keys in stacks.values()),
    ):
        each = zip(*(f.unbind() for f in factors), strict=True)
        found |= {key: Factors(*one) for key, one in zip(keys, each, strict=True)}
    return [found[i] for i in range(len(matrices))]


def _served(matrices: Tensor, search: Search) -> bool:
    """Whether the kernels take a matrix, or a stack of matrices."""
    fits = matrices.dtype != torch.float64 and 0 < search.columns(*matrices.shape[-2:]) <= KS[-1]
    return fits and backend.kernels_serve(matrices.device)


def _stacked(matrices: list[Tensor]) -> Tensor:
    return matrices[0][None] if len(matrices) == 1 else torch.stack(matrices)


Keyed = tuple[Sequence[int], Factors]
"""Keys of some matrices of one shape, and the stack of their factors."""


def _by_kernels(matrices: Sequence[Tensor], keys: Sequence[int], search: Search) -> Iterator[Keyed]:
    """Factor matrices that are on one device, in stacks of one shape; `keys` are the keys of their noise."""
    groups: dict[tuple[torch.dtype, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        width = search.columns(*matrix.shape)
        groups[matrix.dtype, next(k for k in KS if k >= width)].append(i)
    for (_, width), members in groups.items():
        members.sort(key=lambda i: tuple(matrices[i].shape))  # stable: within one shape the order stays as it is
        for piece in _pieces([matrices[i] for i in members], width):
            chosen = members[piece]
            yield from _find([matrices[i] for i in chosen], [keys[i] for i in chosen], width, search)


def _pieces(matrices: Sequence[Tensor], width: int) -> Iterator[slice]:
    """Cut a list into slices whose products and bases take about `WORKSPACE` bytes together, or that are one matrix."""
    start = total = 0
    for i, matrix in enumerate(matrices):
        size = 32 * width * (sum(matrix.shape) + width)
        if i > start and total + size > WORKSPACE:
            yield slice(start, i)
            start, total = i, 0
        total += size
    yield slice(start, len(matrices))


@lru_cache(LAYOUTS)
def _layout(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, width: int, device: torch.device) -> Layout:
    """The kernels' tables for bases of `width` columns. shapes: rows, columns, both strides and key of each matrix."""
    from ..kernels.lowrank import Layout
    from ..kernels.sketch.table import View

    return Layout([View(0, *shape) for shape in shapes], dtype, width, device)


def _find(matrices: Sequence[Tensor], keys: Sequence[int], width: int, search: Search) -> Iterator[Keyed]:
    """Factor matrices of one dtype, with bases of `width` columns; matrices of one shape must follow each other."""
    from ..kernels.lowrank import LAST_PASSES, RangeFinder

    device = matrices[0].device
    shapes = tuple((*m.shape, *m.stride(), key) for m, key in zip(matrices, keys, strict=True))
    layout = _layout(shapes, matrices[0].dtype, width, device)
    addresses = DeviceTable(device)
    addresses.write([m.data_ptr() for m in matrices], True)

    finder = RangeFinder(layout, addresses.table, search.word)
    finder.find(search.power_iters)
    q = [finder.product(run) for run in layout.runs]
    sound, lengths = finder.kept != 0, finder.pivots.sqrt()
    finder.multiply()
    x, sound = _eigenvectors(finder.gram(), finder.size, sound)
    for run in layout.runs:
        product = finder.product(run)
        product.copy_(product @ x[run.matrices])
    finder.take_product()
    s = finder.orthonormalise(LAST_PASSES).sqrt()
    sound &= finder.kept != 0

    order = torch.where(sound, s, -1.0).argsort(dim=-1, descending=True, stable=True)[:, : search.k]
    s = torch.where(sound, s, 0.0).gather(-1, order)
    x = (x / torch.where(x.any(-1), lengths, 1.0)[:, :, None]).gather(-1, _of_rows(order, width))
    for run, left in zip(layout.runs, q, strict=True):
        size = max(1, WORKSPACE // (32 * run.shape[0] * run.shape[1]))
        right = finder.basis(run)
        for at in range(0, run.length, size):
            own = slice(at, min(at + size, run.length))
            listed = slice(run.place + own.start, run.place + own.stop)
            v = right[own].gather(-1, _of_rows(order[listed], run.shape[1]))
            taken = Taken.of(torch.stack(list(matrices[listed])))
            yield keys[listed], taken.prove(left[own] @ x[listed], s[listed], v.mT.contiguous())


def _of_rows(order: Tensor, rows: int) -> Tensor:
    """Indices `(b, rows, k)` for `gather`, which choose the same columns `order` `(b, k)` in each row."""
    return order[:, None, :].expand(-1, rows, -1)


def _eigenvectors(gram: Tensor, size: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors X `(b, k, k)` of C, that of the largest eigenvalue first, and which of its columns exist `(b, k)`.

    Args:
        gram, size: of Z: Gram matrix of its columns scaled to unit length, and their norms; see `RangeFinder`.
        sound: `(b, k)` bool, which columns of Q are orthonormal. X has as many eigenvectors, and zeros in the rows of
            the other columns.
    """
    size = torch.where(size.isfinite() & sound, size, 0.0)
    size = size / size.amax(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    # A column that is not sound gets the eigenvalue -1, the least of all, and no other eigenvector has a part in it.
    c = gram * size[:, :, None] * size[:, None, :] - torch.diag_embed((~sound).double())
    # On CUDA eigh has other algorithms for one matrix than for many: one is added, so that there are many.
    vectors = torch.linalg.eigh(torch.cat([c, c[:1]])).eigenvectors[:-1].flip(-1)
    vectors = torch.where(sound[:, :, None], vectors, 0.0)
    exist = vectors.square().sum(1) > 0.5
    return torch.where(exist[:, None, :], vectors, 0.0), exist
