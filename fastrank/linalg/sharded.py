"""Sharded: the answers for DTensors, whose numbers are shared out among the ranks of a mesh.

A call with a DTensor is a collective call of all ranks of its mesh, and there are two ways to the answer:

    whole   every rank receives the matrix, and measures it like any other
    Gram    G = W W^T = sum of W_i W_i^T over the parts W_i of W, FP64, W (r, n), r <= n

In the second way every rank makes the packed Gram of its own part, and an all-reduce adds them up. The rounding of G is
as small as that of the Gram of the whole matrix, see `fastrank.reference.packed`. Where this way can be gone, and when
it is, is said at `gram_is_smaller`.

No rank may wait for a collective that another one does not make. So the way is chosen by what all ranks know, shape,
dtype and placements; what is decided by values is decided by those of the mesh's first rank, which it sends to the
others; and an error of one rank is raised after all that it has to send and to receive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..counting import chunk_size
from ..kernels.limits import DTYPES
from ..metrics import RankBounds
from ..probing import require
from ..reference import Gram, packed_gram, packed_size, unpacked
from ..weights import is_sharded

ALIGNED = 64
"""Bytes to which PyTorch aligns new memory on any device."""


def each_way(
    A: Any,
    by_matrix: Callable[[Any], Any],
    by_gram: Callable[[Gram], Sequence[Tensor]],
    enough: Callable[[Sequence[Tensor]], bool] = lambda answer: True,
) -> Any:
    """The answer of one function of `fastrank.linalg` for matrices `A`, whether or not there are DTensors among them.

    Args:
        A: see `fastrank.linalg`.
        by_matrix: gives the answer, in the caller's form, for any matrices: for all that do not go by their Gram.
        by_gram: gives the answer from the Gram matrices of a stack: a tensor `(b, ...)`, or those of `RankBounds`.
        enough: whether the answer of `by_gram` may stand. Otherwise the matrices go to `by_matrix` after all.
    """
    listed = isinstance(A, list | tuple)
    each = list(A) if listed else [A]
    found = {}
    for i, matrix in enumerate(each):
        if is_sharded(matrix) and (matrix.ndim == 2 or not listed) and _inside(matrix) and gram_is_smaller(matrix):
            answer = _by_gram(matrix, by_gram)
            if enough(answer):
                found[i] = answer
                each[i] = torch.empty(0, 0, device=matrix.device)  # so that the others keep their places and names
    if not found:
        return by_matrix(A)
    if not listed:
        require(found[0][0].device)  # after all that other ranks wait for; in a list `by_matrix` does it
        return found[0][0] if len(found[0]) == 1 else RankBounds(*found[0])
    answers = by_matrix(each)
    for i, own in found.items():
        for all_, one in zip(answers if isinstance(answers, tuple) else [answers], own, strict=True):
            all_[i] = one
    return answers


def gram_is_smaller(A: Any) -> bool:
    """Whether fewer bytes move by the Gram of a DTensor `(..., m, n)` than by the whole matrices, r = min(m, n).

    Along each dimension of the mesh the DTensor has to be replicated, or sharded along the long side of its matrices;
    its dtype has to be narrower than FP64. Let c_1, c_2, ... be the sizes of the dimensions along which it is sharded,
    and C their product. Then each rank receives, for each matrix of the batch:

        whole   (1 - 1 / C) m n e                                   e: bytes of an element
        Gram    the sum over i of 2 (1 - 1 / c_i) 8 p               p = packed_size(r), about r (r + 128) / 2

    With one such dimension the Gram is smaller if 16 p < m n e: for FP32 if the long side is above about 2 r + 256, for
    half precision if it is above about 4 r + 512. Where the answer by the Gram is not enough, both are received.
    """
    if A.dtype not in DTYPES or A.dtype == torch.float64 or A.is_meta or A.ndim < 2 or not A.numel():
        return False
    sizes = []
    long = A.ndim - (2 if A.shape[-2] > A.shape[-1] else 1)
    for i, placement in enumerate(A.placements):
        if placement.is_replicate():
            continue
        along = getattr(placement, "dim", None)  # of `Shard` and `_StridedShard`, but not of `Partial`
        if along is None or along % A.ndim != long:
            return False
        sizes.append(A.device_mesh.size(i))
    gram = sum(2 * (1 - 1 / size) * 8 * packed_size(min(A.shape[-2:])) for size in sizes)
    smaller: bool = gram < (1 - 1 / math.prod(sizes)) * A.shape[-2] * A.shape[-1] * A.dtype.itemsize
    return smaller


def _by_gram(A: Any, by_gram: Callable[[Gram], Sequence[Tensor]]) -> list[Tensor]:
    """What `by_gram` answers for the matrices of a DTensor, `(..., *)` each: the same on all ranks."""
    import torch.distributed as dist

    order, inner = sorted(A.shape[-2:])
    own = _waited(A.detach().to_local())
    own = own.mT if A.shape[-2] > A.shape[-1] else own
    own = own.reshape(A.shape[:-2].numel(), order, own.shape[-1])
    packed = torch.stack([packed_gram([part], order) for part in own])
    for i, placement in enumerate(A.placements):
        if not placement.is_replicate():
            dist.all_reduce(packed, group=A.device_mesh.get_group(i))
    parts = []
    for some in torch.split(packed, chunk_size(order, packed.device)):
        matrix, trace, scale, finite, *_ = zip(*(unpacked(one, order, inner) for one in some), strict=True)
        parts.append(by_gram(Gram(torch.cat(matrix), torch.cat(trace), torch.cat(scale), torch.cat(finite), inner)))
    answers = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    return [_of_first(A, answer.reshape(A.shape[:-2] + answer.shape[1:])) for answer in answers]


def _of_first(A: Any, answer: Tensor) -> Tensor:
    """`answer` as the first rank of a DTensor's mesh has it."""
    import torch.distributed as dist

    mesh, answer = A.device_mesh, answer.contiguous()
    for i in range(mesh.ndim):
        first = list(mesh.get_coordinate())
        first[i] = 0
        if mesh.size(i) > 1:
            dist.broadcast(answer, src=int(mesh.mesh[tuple(first)]), group=mesh.get_group(i))
    return answer


def gathered(A: Any, name: str) -> Any:
    """`A` with whole tensors in place of DTensors, be it one or a list with some; a plain tensor is not copied.

    Raises:
        ValueError: this process is not in the mesh of a DTensor.
    """
    if not isinstance(A, list | tuple):
        if is_sharded(A):
            _refuse_outsider(A, name)
            return _whole(A)
        return A
    taken = [_whole(a) if is_sharded(a) and _inside(a) else a for a in A]
    for i, a in enumerate(taken):
        if is_sharded(a):
            _refuse_outsider(a, f"{name}[{i}]")
    return taken


def _whole(A: Any) -> Tensor:
    """A DTensor's whole tensor, without gradient. It does not share memory with others that are not `ALIGNED`: the last
    bits of what BLAS answers may depend on where a matrix stands, which may differ between ranks."""
    whole = A.detach()
    whole = _waited(whole.to_local() if whole.is_meta else whole.full_tensor())
    if whole.is_meta or (whole.is_contiguous() and whole.data_ptr() % ALIGNED == 0):
        return whole
    return whole.clone(memory_format=torch.contiguous_format)


def _waited(own: Any) -> Tensor:
    """A rank's own part of a DTensor, once it has arrived there if a collective that was not waited for has made it."""
    part: Tensor = own.wait() if hasattr(own, "wait") else own
    return part


def _inside(A: Any) -> bool:
    """Whether this process is in the mesh of a DTensor."""
    return A.device_mesh.get_coordinate() is not None


def _refuse_outsider(A: Any, name: str) -> None:
    import torch.distributed as dist

    if not _inside(A):
        ranks = A.device_mesh.mesh.flatten().tolist()
        raise ValueError(
            f"{name}: rank {dist.get_rank()} is not in the mesh of this DTensor and has no part of it; only the ranks "
            f"{ranks} can make this call"
        )
