"""Randomised SVDs of a batch: which matrices the kernels take, how their factors are made, and the proof of all.

The kernels (`fastrank.kernels.lowrank`) give Q with orthonormal columns, FP64, and Z = A^T Q with C = Z^T Z. Then

    C = X diag(theta) X^T,   U = Q X,   V diag(S) ~ Z X   by orth, whose pivots are S^2

Eigenvalues and eigenvectors are `torch.linalg.eigh`'s of k x k matrices, which no training step waits for; on CUDA it
asks the device whether it converged: the one wait there is. Of eigenvectors of an FP64 Gram sigma_i is off by at most
min(sqrt(delta), delta / sigma_i), delta = c k u ||A||_F^2, u = 2^-53 and c of order 10: 1e-7 ||A||_F at most, what
FP32 factors cost anyway. Whatever went wrong is in the error bound, which is that of the factors as they are returned.

What else is in a batch changes no answer, but for the last bits of FP64 where cuBLAS multiplies a longer stack of one
shape another way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import backend
from ..counting import WORKSPACE
from ..device_table import DeviceTable
from ..kernels.limits import KS
from ..reference import gaussian, normalized, randomized_svd, residual_norm

if TYPE_CHECKING:
    from ..kernels.lowrank import Layout

LAYOUTS = 64
"""How many tables are remembered between calls."""


class Factors(NamedTuple):
    """Of a stack; see `fastrank.linalg.LowRankSVD`."""

    u: Tensor
    s: Tensor
    vh: Tensor
    error: Tensor


class Search(NamedTuple):
    """What is looked for: the arguments of `fastrank.linalg.svd_lowrank`."""

    k: int
    oversample: int
    power_iters: int
    seed: int

    def columns(self, m: int, n: int) -> int:
        """Of the sketch of a matrix (m, n)."""
        return min(self.k + self.oversample, m, n)

    @property
    def word(self) -> int:
        """The seed as the kernels take it, a signed number of 64 bits: all seeds below 2^63 are themselves."""
        folded = (self.seed ^ self.seed >> 64) & 2**64 - 1
        return folded - 2**64 if folded >> 63 else folded


def factor_stack(stack: Tensor, search: Search) -> Factors:
    """Of a stack `(b, m, n)`; matrix i is keyed by i."""
    if len(stack) and _served(stack, search):
        found = _by_kernels(list(stack), range(len(stack)), search)
        return Factors(*(torch.cat(parts) for parts in zip(*(factors for _, factors in found), strict=True)))
    return _by_torch(stack, range(len(stack)), search)


def factor_list(matrices: Sequence[Tensor], search: Search) -> list[Factors]:
    """Of each matrix by itself; matrix i is keyed by i."""
    found: dict[int, Factors] = {}
    served: dict[torch.device, list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        if _served(matrix, search):
            served[matrix.device].append(i)
        else:
            factors = _by_torch(matrix[None], range(i, i + 1), search)
            found[i] = Factors(*(f[0] for f in factors))
    for indices in served.values():
        for keys, factors in _by_kernels([matrices[i] for i in indices], indices, search):
            each = zip(*(f.unbind() for f in factors), strict=True)
            found |= {key: Factors(*one) for key, one in zip(keys, each, strict=True)}
    return [found[i] for i in range(len(matrices))]


def _served(matrices: Tensor, search: Search) -> bool:
    fits = matrices.dtype != torch.float64 and 0 < search.columns(*matrices.shape[-2:]) <= KS[-1]
    return fits and backend.kernels_serve(matrices.device)


class _Taken(NamedTuple):
    """A stack in FP64: zero where it is not finite, divided by a power of two."""

    wide: Tensor
    scale: Tensor
    finite: Tensor
    dtype: torch.dtype
    """Of the answers."""

    @classmethod
    def of(cls, stack: Tensor) -> _Taken:
        finite = stack.isfinite().all(-1).all(-1)
        wide, scale = normalized(torch.where(finite[:, None, None], stack, 0).double())
        return cls(wide, scale, finite, stack.dtype if stack.dtype == torch.float64 else torch.float32)

    def prove(self, u: Tensor, s: Tensor, vh: Tensor) -> Factors:
        """Factors as they are returned, with their bound; NaN where the matrix is not finite."""
        u, s, vh = u.to(self.dtype), s.to(self.dtype), vh.to(self.dtype)
        error = residual_norm(self.wide, u, s.double() / self.scale[:, None], vh) * self.scale
        # Where S overflows its dtype nothing is proven; where the error is subnormal, scaling may have rounded it down.
        error = torch.where(error > 0, error.nextafter(torch.full_like(error, torch.inf)), error)
        factors = (u, s, vh, error.nan_to_num(torch.inf, torch.inf))
        return Factors(*(torch.where(self.finite.view(-1, *[1] * (f.ndim - 1)), f, torch.nan) for f in factors))


def _by_torch(stack: Tensor, keys: range, search: Search) -> Factors:
    taken = _Taken.of(stack)
    m, n = stack.shape[-2:]
    omega = gaussian(search.seed, keys, n, search.columns(m, n)).to(stack.device)
    u, s, vh = randomized_svd(taken.wide, omega, search.k, search.power_iters)
    return taken.prove(u, s * taken.scale[:, None], vh)


Keyed = tuple[Sequence[int], Factors]


def _by_kernels(matrices: Sequence[Tensor], keys: Sequence[int], search: Search) -> Iterator[Keyed]:
    """Stacks of the answers, with the keys of the matrices they are of; all are on one device."""
    groups: dict[tuple[torch.dtype, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        width = search.columns(*matrix.shape)
        groups[matrix.dtype, next(k for k in KS if k >= width)].append(i)
    for (_, width), members in groups.items():
        members.sort(key=lambda i: tuple(matrices[i].shape))  # stable: those of one shape in the order they came in
        for piece in _pieces([matrices[i] for i in members], width):
            chosen = members[piece]
            yield from _find([matrices[i] for i in chosen], [keys[i] for i in chosen], width, search)


def _pieces(matrices: Sequence[Tensor], width: int) -> Iterator[slice]:
    """As many at a time as have products and bases of about `WORKSPACE` bytes together, or one."""
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
    """shapes: rows, columns, both strides and key of each matrix."""
    from ..kernels.lowrank import Layout
    from ..kernels.sketch.table import View

    return Layout([View(0, *shape) for shape in shapes], dtype, width, device)


def _find(matrices: Sequence[Tensor], keys: Sequence[int], width: int, search: Search) -> Iterator[Keyed]:
    """Of matrices of one dtype and width, those of one shape together."""
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
            there = slice(run.place + own.start, run.place + own.stop)
            v = right[own].gather(-1, _of_rows(order[there], run.shape[1]))
            taken = _Taken.of(torch.stack(list(matrices[there])))
            yield keys[there], taken.prove(left[own] @ x[there], s[there], v.mT.contiguous())


def _of_rows(order: Tensor, rows: int) -> Tensor:
    """The same choice of columns `(b, k)` in each row: `(b, rows, k)`."""
    return order[:, None, :].expand(-1, rows, -1)


def _eigenvectors(gram: Tensor, size: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """X `(b, k, k)`, the largest eigenvalue first, and which of them there are.

    Args:
        gram, size: of Z, see `RangeFinder`.
        sound: columns of Q that are orthonormal; X is zero in the rows of others, and there are as many eigenvectors.
    """
    size = torch.where(size.isfinite() & sound, size, 0.0)
    size = size / size.amax(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    # Columns that are not there have the least eigenvalue, and no other eigenvector has a part in them.
    c = gram * size[:, :, None] * size[:, None, :] - torch.diag_embed((~sound).double())
    # On CUDA eigh has other algorithms for one matrix than for many: there are always many.
    vectors = torch.linalg.eigh(torch.cat([c, c[:1]])).eigenvectors[:-1].flip(-1)
    vectors = torch.where(sound[:, :, None], vectors, 0.0)
    there = vectors.square().sum(1) > 0.5
    return torch.where(there[:, None, :], vectors, 0.0), there
