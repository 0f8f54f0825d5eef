"""Plans: the batches made for the matrices of a call, remembered for later calls: on CUDA with the same matrices, on a
CPU with matrices of the same shapes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import backend
from ..counting import CompiledBatch, RaggedBatch, is_open, signature, workspace_of_thread
from ..device import capturing
from ..metrics import RankBounds, Tolerance
from .arrays import Matrices


def by_kernels(matrices: Matrices) -> bool:
    """Whether the kernels serve a call: there are matrices, and all are on one device that the kernels serve."""
    return _all_on(matrices, backend.kernels_serve)


def by_compiled(matrices: Matrices) -> bool:
    """The same of the kernels for CPUs, of matrices that are in memory. Some subclasses of tensors have no address."""
    data = [matrices.data] if isinstance(matrices.data, Tensor) else matrices.data
    return _all_on(matrices, backend.compiled_serve) and all(x.data_ptr() or not x.numel() for x in data)


def _all_on(matrices: Matrices, served: Callable[[torch.device], bool]) -> bool:
    data = matrices.data
    devices = {data.device} if isinstance(data, Tensor) else {matrix.device for matrix in data}
    return len(devices) == 1 and len(data) > 0 and served(devices.pop())


def counted_by_kernels(matrices: Matrices, tolerance: Tolerance, resolve: bool) -> RankBounds:
    """Bounds `(b,)` of the ranks. If `resolve`, ranks that Grams from INT8 slices leave open are counted again with
    Grams in FP64, for which the host waits."""
    products = backend.integer_products(matrices.data[0].device, [tolerance])
    counted = planned(matrices, products=products).bounds([tolerance])[0]
    if not (products and resolve):
        return counted
    open_ = is_open(counted).nonzero().flatten()
    if not len(open_):
        return counted
    again = RaggedBatch([matrices.data[i] for i in open_.tolist()]).bounds([tolerance])[0]
    return RankBounds(*(x.index_copy(0, open_, y) for x, y in zip(counted, again, strict=True)))


PLANS = 64
"""How many ragged batches are remembered between calls."""

_plans: OrderedDict[object, RaggedBatch] = OrderedDict()
_captured: list[RaggedBatch] = []


def planned(matrices: Matrices, *, keep: bool = False, products: int = 0) -> RaggedBatch:
    """The ragged batch of these very tensors: made at the first call, remembered for the next ones.

    `keep` and `products` are those of `RaggedBatch`.

    Raises:
        RuntimeError: a CUDA graph is being captured, and there was no call with these tensors before.
    """
    data = matrices.data
    key = (isinstance(data, Tensor), tuple(signature([data] if isinstance(data, Tensor) else data)), keep, products)
    captured = capturing(data[0].device)
    if key not in _plans:
        if captured:
            raise RuntimeError("A: call this once with the same tensors before capturing it in a CUDA graph")
        _plans[key] = RaggedBatch(list(data), keep=keep, products=products)
        if len(_plans) > PLANS:
            _plans.popitem(last=False)
    _plans.move_to_end(key)
    if captured:
        _captured.append(_plans[key])  # the graph reads the batch's tables as long as it lives
    return _plans[key]


SMALL, BATCHES = 2**20, 16
"""Bytes of a compiled batch that is remembered at most, and how many are in a thread: they have memory of their own.
Of larger ones making the tables is not a hundredth of the time."""


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.batches: OrderedDict[object, CompiledBatch] = OrderedDict()


_here = _OfThread()


@contextmanager
def compiled(matrices: Matrices, tolerances: Sequence[Tolerance] = ()) -> Iterator[CompiledBatch]:
    """The compiled batch of these matrices, as if newly made. What it has found is to be copied before the end."""
    data = matrices.data
    kinds = (data.shape, data.dtype) if isinstance(data, Tensor) else tuple((x.shape, x.dtype) for x in data)
    key = (isinstance(data, Tensor), kinds, len(tolerances))
    batch = _here.batches.pop(key, None)
    if batch is None:
        small = 8 * sum(min(x.shape) ** 2 for x in data) <= SMALL
        batch = CompiledBatch(data, tolerances, workspace=None if small else workspace_of_thread())
    else:
        small = True
        batch.renewed(data, tolerances)
    yield batch
    batch.moved(())  # so that it keeps no matrix alive
    if small and batch.nbytes <= SMALL:
        _here.batches[key] = batch
        if len(_here.batches) > BATCHES:
            _here.batches.popitem(last=False)
