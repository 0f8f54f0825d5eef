"""Find out which parameter groups the kernels can step, by the layouts, dtypes and types of the groups' tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, MutableMapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.limits import NARROW
from .local_tensors import as_placed, is_sharded, local, placed_alike

State = MutableMapping[Any, Any]
"""An optimizer's `state`."""


Stepped = tuple[Tensor, Tensor | None, Tensor | None]
"""A parameter, its gradient and its momentum buffer; None where there is none."""


class KernelGroup(NamedTuple):
    """A parameter group whose step the kernels can take."""

    group: dict[str, Any]
    slices: int
    """Number of independent models: E for a stack, else 1."""
    parameters: list[Stepped]
    """Each parameter with its gradient and momentum buffer; None where there is none. They may be DTensors, of which
    the kernels take the local tensors."""


def kernel_group(
    group: dict[str, Any], slices: int, state: State, device: torch.device, dtypes: Collection[torch.dtype] = NARROW
) -> KernelGroup | None:
    """A parameter group of `torch.optim.SGD` in the form that the kernels of `device` take; None if they cannot.

    `dtypes` are those that the kernels take.

    PyTorch has to step a group with tensors of other layouts, dtypes or types, with `foreach=True` or `differentiable`,
    with momentum or dampening as a tensor, or with a learning rate or weight decay that requires a gradient. It has to
    step DTensors, too, whose gradients or momentum buffers are placed in another way. Parameters without a gradient do
    not matter.
    """
    if group["foreach"] or group["differentiable"] or slices == 0:
        return None
    if any(isinstance(group[name], Tensor) for name in ("momentum", "dampening")):
        return None
    values = [value for value in (group["lr"], group["weight_decay"]) if isinstance(value, Tensor)]
    if any(value.requires_grad or is_sharded(value) for value in values):
        return None
    parameters = [
        (param, param.grad, state[param].get("momentum_buffer") if param in state else None)
        for param in group["params"]
    ]
    return KernelGroup(group, slices, parameters) if fit(parameters, slices, device, dtypes) else None


def fit(parameters: Iterable[Stepped], slices: int, device: torch.device, dtypes: Collection[torch.dtype]) -> bool:
    """Whether the kernels of `device`, which take `dtypes`, can step parameters that have these gradients and buffers;
    those without a gradient do not matter."""
    return all(
        grad is None or (param.dtype in dtypes and _fits(param, grad, buffer, slices, device))
        for param, grad, buffer in parameters
    )


def same_layout(tensor: Tensor, param: Tensor) -> bool:
    """Whether a tensor has the memory layout of a parameter. Strides along an axis of one element mean nothing."""
    ours, theirs = tensor.stride(), param.stride()
    return ours == theirs or all(a == b for a, b, n in zip(ours, theirs, param.shape, strict=True) if n > 1)


def is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements fill one piece of memory without gaps or overlaps."""
    expected = 1
    if 0 in shape:
        return True
    for step, size in sorted(zip(stride, shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True


_is_dense = cache(is_dense)  # Dynamo, which traces the other, takes exception to a cache


def laid_out(tensor: Tensor, param: Tensor) -> Tensor:
    """A copy of `tensor` in the memory layout of a parameter."""
    return torch.empty_like(param).copy_(tensor)


def own_buffer(param: Tensor, buffer: Tensor | None, state: State) -> Tensor:
    """A parameter's momentum buffer in the parameter's memory layout. A new buffer is uninitialised."""
    part = local(param)
    if buffer is not None and same_layout(local(buffer), part):
        return buffer
    own = torch.empty_like(part) if buffer is None else laid_out(local(buffer), part)
    state[param]["momentum_buffer"] = own = as_placed(own, param)
    return own


def _fits(param: Tensor, grad: Tensor, buffer: Tensor | None, slices: int, device: torch.device) -> bool:
    if is_sharded(param):
        if not all(placed_alike(tensor, param) for tensor in (grad, buffer) if tensor is not None):
            return False
        param, grad, buffer = local(param), local(grad), buffer if buffer is None else local(buffer)
    return (
        type(param) in (torch.nn.Parameter, Tensor)
        and param.layout == torch.strided
        and param.device == device
        and _is_dense(param.shape, param.stride())
        and (slices == 1 or param.numel() in (0, param.stride(0) * slices))
        and _is_alike(grad, param)
        and (buffer is None or _is_alike(buffer, param))
    )


def _is_alike(tensor: Tensor, param: Tensor) -> bool:
    """Whether a tensor differs from a parameter in strides at most, and its values are those at its address, which
    need not be so for a subclass."""
    return (
        type(tensor) is Tensor
        and tensor.dtype == param.dtype
        and tensor.shape == param.shape
        and tensor.device == param.device
        and tensor.layout == torch.strided
        and not tensor.is_neg()
    )
