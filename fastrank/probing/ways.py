"""Ways: whatever makes Grams and counts ranks on a device, and the decomposition that decides what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import backend
from ..counting import (
    Chunk,
    CompiledBatch,
    GroupGrams,
    RaggedBatch,
    ShiftPair,
    inertia_bounds,
    singular_value_interval,
)
from ..device import one_thread
from ..metrics import RankBounds, Tolerance
from ..reference import Moments, gram, inertia, integer_gram
from .exact import exponents, integers, known
from .finding import REPORTED, Finding

NARROW = 1e-10
"""Widest interval of a singular value that is not suspicious, as a share of sigma_1."""


class Way(NamedTuple):
    """One way of counting the ranks of 2-D matrices of one dtype, all on the device."""

    name: str
    grams: Callable[[Sequence[Tensor]], list[Tensor]]
    """Gram matrices `(r, r)`, of which the lower triangles are meant."""
    bounds: Callable[[Tensor, Sequence[Tolerance]], list[RankBounds]]
    """Bounds of the rank of one matrix, from the counts alone: one for each tolerance."""
    on_cpu: bool
    """Whether a CPU that flushes subnormal numbers may flush those of the matrices."""


def ways(device: torch.device) -> Iterator[Way]:
    """All that count on a device: the kernels where they serve, and PyTorch, which does what they leave."""
    if backend.compiled_serve(device):
        yield Way("kernels compiled by Numba", _grams_by_numba, _bounds_by_numba, True)
    if backend.kernels_serve(device):
        yield Way("kernels of the GPU", _grams_by_gpu, _bounds_by_gpu, False)
    yield Way("PyTorch", _grams_by_torch, _bounds_by_torch, device.type == "cpu")


def _grams_by_numba(matrices: Sequence[Tensor]) -> list[Tensor]:
    found = []
    for matrix in matrices:
        batch = CompiledBatch([matrix])
        batch.measure()
        found.append(batch.gram(0) * float(batch.scale[0]) ** 2)
    return found


def _bounds_by_numba(matrix: Tensor, tolerances: Sequence[Tolerance]) -> list[RankBounds]:
    batch = CompiledBatch([matrix], tolerances)
    batch.measure()
    return [batch.rank_bounds(i) for i in range(len(tolerances))]


def _grams_by_gpu(matrices: Sequence[Tensor], products: int = 0) -> list[Tensor]:
    batch = RaggedBatch(matrices, keep=True, products=products)
    found: dict[int, Tensor] = {}

    def keep(chunk: Chunk, moments: Moments, grams: Iterator[GroupGrams]) -> list[ShiftPair]:
        for group, _, g in grams:
            found.update(zip(group.indices, g.matrix * g.scale[:, None, None] ** 2, strict=True))
        return [batch.shift_pair(chunk, moments, Tolerance())]

    for _ in batch.count(keep):
        pass
    return [found[i] for i in range(len(matrices))]


def _bounds_by_gpu(matrix: Tensor, tolerances: Sequence[Tolerance]) -> list[RankBounds]:
    return RaggedBatch([matrix], len(tolerances)).bounds(tolerances)


def _grams_by_torch(matrices: Sequence[Tensor]) -> list[Tensor]:
    found = [gram(_wide(matrix)) for matrix in matrices]
    return [(g.matrix * g.scale[:, None, None] ** 2)[0] for g in found]


def _bounds_by_torch(matrix: Tensor, tolerances: Sequence[Tolerance]) -> list[RankBounds]:
    with one_thread(min(matrix.shape)):
        return inertia_bounds(gram(_wide(matrix)), tolerances, inertia)


def _wide(matrix: Tensor) -> Tensor:
    return (matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix)[None]


def factors(device: torch.device, orders: Sequence[int]) -> Finding:
    """LDL^T by the kernels of a GPU of L L^T, for integer L with a diagonal of ones: all pivots are 1, to the bit.

    Then the growth of the factors, sum_j |d_j| ||L_j||^2, is ||L||^2, which is the trace.
    """
    name = "LDL^T of a matrix with integer factors is exact to the bit"
    for i, order in enumerate(orders):
        lower = np.tril(integers((order, order), 1, i), -1) * (integers((order, order), 3, 70 + i) > 5) + np.eye(order)
        matrices = [torch.from_numpy(lower).to(device, torch.float32)]
        for keep in (False, True):
            launches = RaggedBatch(matrices, keep=keep).chunks[0].launches
            workspace = torch.empty(launches.size, dtype=torch.float64, device=device)
            trace, unshifted = workspace.new_zeros(1), workspace.new_zeros(1, 2, 2)
            launches.sum_grams(workspace, trace, None)
            counts, growth, _ = launches.count(workspace, trace, None, unshifted, unshifted.clone(), 0)
            if counts.tolist() != [[order] * 2] or growth.tolist() != [[float((lower**2).sum())] * 2]:
                seen = f"of order {order} there are {counts.tolist()} positive pivots, and the growth is off"
                return Finding(name, False, seen, REPORTED)
    return Finding(name, True, f"kernels of the GPU: pivots and growth are, of {len(orders)} matrices")


def slices(device: torch.device, shapes: Sequence[tuple[int, int]]) -> Finding:
    """Gram matrices of INT8 slices by the kernels of a GPU, with rows from 2^-60 to 2^60: bits of the twin, whose
    integers are exact."""
    name, count = "integers that INT8 slices sum up to are exact", 0
    for i, (rows, columns) in enumerate(shapes):
        numbers = integers((rows, columns), 24, 40 + i).astype(np.float64)
        scales = exponents(rows, 60, 50 + i)[:, None] - exponents(columns, 6, 60 + i)
        matrix = torch.from_numpy(np.ldexp(numbers, scales)).float()
        for products in (10, 13):
            (found,) = _grams_by_gpu([matrix.to(device)], products)
            expected = integer_gram(matrix[None], products).matrix[0]
            if not torch.equal(found.cpu().tril(), expected.tril()):
                seen = f"{products} products make another Gram matrix of one of {rows} x {columns}"
                return Finding(name, False, seen, REPORTED)
            count += 1
    return Finding(name, True, f"kernels of the GPU: all bits of {count} Gram matrices are those of sums in INT64")


def decompositions(device: torch.device, orders: Sequence[int]) -> Finding:
    """Singular values by PyTorch, with the interval that is proven of each, of matrices that have known ones."""
    name, widest = "the interval of each singular value is narrow and has the exact one in it", 0.0
    for order in orders:
        w, sigma = known(order, 1, order)
        stack = torch.from_numpy(w).to(device).double().expand(3 if order <= 64 else 1, -1, -1)
        exact = torch.from_numpy(sigma).to(device).double()
        with one_thread(order):
            low, high = (x * 2.0**10 for x in singular_value_interval(stack / 2.0**10))
        widest = max(widest, float(((high - low) / exact[0]).max()))
        if ((low > exact) | (exact > high)).any():
            return Finding(name, False, f"a singular value of a matrix of order {order} is outside of it", REPORTED)
    passed = widest <= NARROW
    return Finding(name, passed, f"they are {widest:.2g} sigma_1 wide at most", "" if passed else REPORTED)
