"""The operator `fastrank::sgd_`: SGD's step of the parameters of a group, as one node of a compiled graph.

A compiled `fastrank.SGD.step` calls it where a kernel for CPUs serves the group: the bits are then those of a step that
is not compiled, whatever compiles the graph. Importing this module registers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backend
from ..kernels.limits import NARROW
from ..operators import register
from .descents import descent_on
from .forms import update_group
from .host_descent import DTYPES, HostDescent
from .kernel_groups import KernelGroup, Stepped, fit
from .stacked_values import stacked_values

HOST_SERVES = backend.compiled_serve(torch.device("cpu"))
"""Found out when this is imported, as Dynamo cannot trace into it."""


def takes(
    group: dict[str, Any],
    stacked: list[str],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor | None],
) -> bool:
    """Whether a compiled step of this group is to call the operator.

    On CUDA PyTorch's own forms are left to the compiler, which fuses them, and whose CUDA graphs can hold them.
    """
    chosen = not stacked and (group["foreach"] is not None or group["fused"] is not None)
    numbers = [group[name] for name in ("momentum", "dampening")]
    values = [value for value in (group["lr"], group["weight_decay"]) if isinstance(value, Tensor)]
    if not HOST_SERVES or not params or chosen or group["differentiable"]:
        return False
    if any(isinstance(number, Tensor) for number in numbers) or any(value.requires_grad for value in values):
        return False
    given = [*grads, *(buffer for buffer in buffers if buffer is not None), *values]
    return all(
        type(param) in (torch.nn.Parameter, Tensor) and param.device.type == "cpu" and param.dtype in DTYPES
        for param in params
    ) and all(type(tensor) is Tensor and tensor.layout == torch.strided for tensor in given)


def sgd_(group: dict[str, Any], params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None]) -> None:
    """Update parameters by the operator. Momentum buffers that are None are made, and put into `buffers`, which is
    empty without momentum."""
    fresh = [buffer is None for buffer in buffers]
    made = [torch.empty_like(param) if b is None else b for param, b in zip(params, buffers, strict=False)]
    torch.ops.fastrank.sgd_.default(
        params,
        grads,
        made,
        fresh,
        *_number_or_tensor(group["lr"]),
        *_number_or_tensor(group["weight_decay"]),
        group["momentum"],
        group["dampening"],
        group["nesterov"],
        group["maximize"],
    )
    buffers[:] = made


def _number_or_tensor(value: float | Tensor) -> tuple[float, Tensor | None]:
    return (0.0, value) if isinstance(value, Tensor) else (value, None)


def _sgd_(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    fresh: list[bool],
    lr: float,
    lrs: Tensor | None,
    weight_decay: float,
    weight_decays: Tensor | None,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    group: dict[str, Any] = {
        "params": params,
        "lr": lr if lrs is None else lrs,
        "weight_decay": weight_decay if weight_decays is None else weight_decays,
        "momentum": momentum,
        "dampening": dampening,
        "nesterov": nesterov,
        "maximize": maximize,
    }
    stacked = stacked_values(group)
    slices = len(group[stacked[0]]) if stacked else 1
    before = [None if new else buffer for new, buffer in zip(fresh, buffers, strict=True)]
    momenta = before or [None] * len(params)
    each: list[Stepped] = list(zip(params, grads, momenta, strict=True))
    device = params[0].device
    after: list[Tensor | None] = list(before)
    descent = descent_on(device)
    if descent and fit(each, slices, device, DTYPES if isinstance(descent, HostDescent) else NARROW):
        state: dict[Any, Any] = {param: {"momentum_buffer": buffer} for param, _, buffer in each}
        descent.refresh([KernelGroup(group, slices, each)], state)
        descent.launch()
        after = [state[param]["momentum_buffer"] for param in params] if buffers else []
    else:
        options = {name: value for name, value in group.items() if name != "params"}
        update_group({"foreach": None, "fused": None}, stacked, params, grads, after, options)
    for own, found in zip(buffers, after, strict=True):
        if found is not own and found is not None:
            own.copy_(found)


def _fake(*given: Any) -> None:
    """Nothing is returned."""


register(
    "sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] buffers, bool[] fresh, float lr, Tensor? lrs, "
    "float weight_decay, Tensor? weight_decays, float momentum, float dampening, bool nesterov, bool maximize) -> ()",
    _sgd_,
    _fake,
)
