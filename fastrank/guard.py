"""Guard: tells whether tensors are what others were, but for their addresses and values.

Whatever rests on the tensors of the last step asks this of all tensors of a network at every step. In Python that takes
0.8 us a tensor; PyTorch's own guards, which `torch.compile` makes for its inputs, take 0.1 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

VERSIONS = ("2.9.", "2.10.", "2.11.", "2.12.", "2.13.")
"""Beginnings of the versions of PyTorch whose guards are used. They are not public: in any other, Python looks."""


def guard(tensors: Sequence[Tensor]) -> Callable[[Sequence[Any]], bool]:
    """A function that tells whether as many others have the same types, dtypes, devices, layouts, sizes and strides,
    and are negated views (`is_neg`) where these are.

    It keeps no tensor alive, and may say no where nothing has changed: in another mode, such as inference mode, and
    where one tensor is there twice.
    """
    if not torch.__version__.startswith(VERSIONS):
        before = [_described(tensor) for tensor in tensors]
        return lambda others: [_described(x) for x in others] == before
    from torch._C._dynamo.guards import TensorGuards

    # without these two arguments it crashes
    check = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    number = len(tensors)
    return lambda others: len(others) == number and check(*others)


def _described(x: Any) -> tuple[object, ...]:
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return (type(x),)
    return (type(x), x.dtype, x.device, x.shape, x.stride(), x.is_neg())
