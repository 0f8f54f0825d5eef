"""Readable: of which tensors a rank can be counted. What is no matrix is left out; what is elsewhere is an error."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def reason_without_matrix(weight: Tensor, layer: nn.Module, attribute: str) -> str:
    """Why a weight is no matrix whose rank can be counted, in parentheses, for `Coverage.reason`. Empty if it is one or
    several, or if nobody knows yet."""
    if is_uninitialised(weight):
        return "(not a matrix)" if attribute == "bias" else ""
    if weight.ndim < 2 or (isinstance(layer, nn.MultiheadAttention) and attribute in ("bias_k", "bias_v")):
        return "(not a matrix)"
    if weight.is_quantized or weight.dtype not in DTYPES:
        return f"(dtype {str(weight.dtype).removeprefix('torch.')})"
    if weight.layout != torch.strided:
        return f"(layout {str(weight.layout).removeprefix('torch.')})"
    if weight.shape[:-2].numel() == 0:
        return "(a stack of no matrices)"
    return ""


def refuse_unreadable(name: str, weight: Tensor) -> None:
    """Raises `ValueError`, with the cure, for a weight whose numbers are not here: not made yet, or on other devices.

    It is an error, and the weight is not left out in silence, because it has a rank that somebody waits for.
    """
    without = f"or leave it out with exclude=[{name!r}]"
    if is_uninitialised(weight):
        raise ValueError(f"parameter {name!r} is not initialised yet; run the model once before tracking it, {without}")
    if weight.is_meta:
        raise ValueError(
            f"parameter {name!r} is on the meta device and has no numbers; before tracking, give it memory with "
            f"model.to_empty(device=...) and load its weights, {without}"
        )


def is_fsdp(module: nn.Module) -> bool:
    """Whether a module is a `FullyShardedDataParallel`, which keeps slices of flattened weights."""
    return _is_a("torch.distributed.fsdp", "FullyShardedDataParallel", module)


def fsdp_type() -> type | None:
    """The class that `fully_shard` adds to a module's own; None where nobody has imported it."""
    found = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return found if isinstance(found, type) else None


def is_ddp(module: nn.Module) -> bool:
    """Whether a module is a `DistributedDataParallel`, which keeps the same weights in all processes."""
    return _is_a("torch.nn.parallel", "DistributedDataParallel", module)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is one of `torch.ao.nn.quantized`, whose packed weight is no parameter."""
    return type(module).__module__.startswith("torch.ao.nn.quantized") and callable(getattr(module, "weight", None))


def is_sharded(weight: Tensor) -> bool:
    """Whether a weight is a DTensor, of which no device need have all numbers."""
    return _is_a("torch.distributed.tensor", "DTensor", weight)


def has_shards(model: nn.Module) -> bool:
    """Whether weights of a model are sharded over processes: the same answer in all of them, unless they have other
    layers. It takes no look at what the process has of them."""
    return any(map(is_fsdp, model.modules())) or any(map(is_sharded, model.parameters()))


def reshard(model: nn.Module) -> None:
    """Put weights that `fully_shard` has gathered for a forward back to their shards, as a training step leaves them.

    After a forward without a backward, such as an evaluation's, the outermost module keeps its weights whole until the
    next step. No process waits for another one here, and the next forward gathers them again.
    """
    kind = fsdp_type()
    found: list[Any] = [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]
    for module in found:
        module.reshard()


def is_uninitialised(weight: Tensor) -> bool:
    """Whether a weight belongs to a lazy module that has not seen its input yet: it has no shape."""
    return isinstance(weight, UninitializedParameter)


def _is_a(module: str, kind: str, value: object) -> bool:
    """Whether `value` is an instance of a class in a module of PyTorch. Does not import the module, which is slow: as
    long as nobody has, there are no instances."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)
