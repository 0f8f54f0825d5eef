"""The forms of SGD's update that fastrank adds to PyTorch's, for groups that no kernel steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from ..reference import stacked_sgd_
from .host_descent import DTYPES
from .kernel_groups import is_dense, same_layout
from .local_tensors import is_sharded


def update_group(
    group: dict[str, Any],
    stacked: list[str],
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor | None],
    options: dict[str, Any],
) -> None:
    """Update the parameters of a group that have gradients by the form that it asks for, if that is right.

    Args:
        stacked: which of the group's values are.
        buffers: momentum buffers, None where there is none yet; empty without momentum. New ones are put into it.
        options: the other arguments of `torch.optim.sgd.sgd`.
    """
    has_sparse_grad = any(grad.is_sparse for grad in grads)
    if stacked:
        if any(map(is_sharded, params)):
            raise RuntimeError(
                f"a group with stacked {' and '.join(stacked)} takes DTensors in steps that are neither compiled nor "
                "differentiable, with gradients on their own mesh"
            )
        if has_sparse_grad:
            raise RuntimeError(f"a group with stacked {' and '.join(stacked)} takes no sparse gradients")
        update_stacks(params, grads, buffers, options)
    elif not has_sparse_grad and (
        _asks_for_decay(group, params, options) or (group["fused"] and not fused_is_right(params, grads, buffers))
    ):
        update_stacks(params, grads, buffers, options)
    elif group["fused"] and group["momentum"] != 0:
        update_fused(params, grads, buffers, {"has_sparse_grad": has_sparse_grad, **options})
    else:
        form = {name: group[name] for name in ("foreach", "fused")}
        sgd(params, grads, buffers, has_sparse_grad=has_sparse_grad, **form, **options)


def _asks_for_decay(group: dict[str, Any], params: list[Tensor], options: dict[str, Any]) -> bool:
    """Whether PyTorch's form would ask a tensor in a graph, which has no answer, if there is a weight decay."""
    asks = torch.compiler.is_compiling() and isinstance(options["weight_decay"], Tensor) and not group["fused"]
    return asks and not any(map(is_sharded, params))


def update_stacks(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None], options: dict[str, Any]
) -> None:
    """`torch.optim.sgd.sgd` for stacks, and for whatever else has one value of everything. New buffers are put into
    `buffers`, which is empty without momentum."""
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        buffer = stacked_sgd_(param, grad, buffers[i] if buffers else None, **options)
        if buffers:
            buffers[i] = buffer


def fused_is_right(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None]) -> bool:
    """Whether PyTorch's fused form does what it says.

    On a CPU, that of PyTorch 2.13 leaves parameters in half precision as they are. And it takes numbers in the order in
    which they are in memory, also where gradients or momentum buffers have another layout, or parameters have gaps.
    """
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        buffer = buffers[i] if buffers else None
        if param.device.type == "cpu" and not (
            param.dtype in DTYPES
            and (param.is_contiguous() or is_dense(param.shape, param.stride()))
            and same_layout(grad, param)
            and (buffer is None or same_layout(buffer, param))
        ):
            return False
    return True


def update_fused(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None], options: dict[str, Any]
) -> None:
    """Call `torch.optim.sgd.sgd(fused=True)` in two parts, because it takes all momentum buffers or none."""
    due = [i for i, buffer in enumerate(buffers) if buffer is None]
    others = [i for i, buffer in enumerate(buffers) if buffer is not None]
    for chosen in (due, others):
        part = [buffers[i] for i in chosen]
        sgd([params[i] for i in chosen], [grads[i] for i in chosen], part, fused=True, **options)
        for i, buffer in zip(chosen, part, strict=True):
            buffers[i] = buffer
