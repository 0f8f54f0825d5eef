"""Which parameter groups the kernels can step as they are: by the layouts, dtypes and kinds of their tensors."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.limits import NARROW

State = MutableMapping[Any, Any]
"""An optimizer's `state`."""


class KernelGroup(NamedTuple):
    """A parameter group whose step the kernels can take."""

    group: dict[str, Any]
    slices: int
    """Of how many independent models: E of a stack, else 1."""
    parameters: list[tuple[Tensor, Tensor | None, Tensor | None]]
    """Each with gradient and momentum buffer where there is one."""


def kernel_group(group: dict[str, Any], slices: int, state: State, device: torch.device) -> KernelGroup | None:
    """A group of `torch.optim.SGD` as the kernels of a device take it; None if they cannot.

    Tensors of other layouts, dtypes and kinds are left to PyTorch, and so is what asks for it: `foreach=True`,
    `differentiable`, a learning rate that has a gradient. Parameters without a gradient do not matter.
    """
    if group["foreach"] or group["differentiable"] or slices == 0:
        return None
    if any(isinstance(group[name], Tensor) for name in ("momentum", "dampening")):
        return None
    if any(isinstance(value, Tensor) and value.requires_grad for value in (group["lr"], group["weight_decay"])):
        return None
    parameters = [
        (param, param.grad, state[param].get("momentum_buffer") if param in state else None)
        for param in group["params"]
    ]
    if not all(grad is None or _fits(param, grad, buffer, slices, device) for param, grad, buffer in parameters):
        return None
    return KernelGroup(group, slices, parameters)


def same_layout(tensor: Tensor, param: Tensor) -> bool:
    """Whether elements stand in memory as a parameter's do; along an axis of one element strides mean nothing."""
    ours, theirs = tensor.stride(), param.stride()
    return ours == theirs or all(a == b for a, b, n in zip(ours, theirs, param.shape, strict=True) if n > 1)


def laid_out(tensor: Tensor, param: Tensor) -> Tensor:
    """A copy in a parameter's layout."""
    return torch.empty_like(param).copy_(tensor)


def _fits(param: Tensor, grad: Tensor, buffer: Tensor | None, slices: int, device: torch.device) -> bool:
    return (
        type(param) in (torch.nn.Parameter, Tensor)
        and param.dtype in NARROW
        and param.device == device
        and _is_dense(param.shape, param.stride())
        and (slices == 1 or param.numel() in (0, param.stride(0) * slices))
        and _is_alike(grad, param)
        and (buffer is None or _is_alike(buffer, param))
    )


def _is_alike(tensor: Tensor, param: Tensor) -> bool:
    """Whether a tensor differs in strides at most, and is what its address shows: subclasses may have other memory."""
    return (
        type(tensor) is Tensor
        and tensor.dtype == param.dtype
        and tensor.shape == param.shape
        and tensor.device == param.device
        and tensor.layout == torch.strided
        and not tensor.is_neg()
    )


@cache
def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements fill a piece of memory without gaps or overlaps."""
    expected = 1
    if 0 in shape:
        return True
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True
