"""Stacked values: the `lr` and `weight_decay` of a parameter group whose parameters are stacks of models."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .local_tensors import cut_along


def is_stack(value: object, name: str) -> TypeGuard[Tensor]:
    """Whether `value` is a tensor with one value a slice. To PyTorch, a 1-element `lr` is a number."""
    return isinstance(value, Tensor) and (value.numel() != 1 if name == "lr" else value.ndim > 0)


def stacked_values(group: dict[str, Any]) -> list[str]:
    """Which of `lr` and `weight_decay` are stacked; ValueError where one does not fit a parameter."""
    stacked = [name for name in ("lr", "weight_decay") if is_stack(group[name], name)]
    for name in stacked:
        shape = group[name].shape
        for index, param in enumerate(group["params"]):
            label = repr(group["param_names"][index]) if "param_names" in group else str(index)
            if len(shape) != 1 or param.shape[:1] != shape:
                number = "1-element" if name == "lr" else "0-d"
                raise ValueError(
                    f"Tensor {name} must be {number}, or of shape (E,) in a group "
                    f"whose parameters all have E as leading axis: {name} has shape {tuple(shape)}, "
                    f"parameter {label} has shape {tuple(param.shape)}"
                )
            if cut_along(param, 0):
                raise ValueError(
                    f"{name} is stacked along the leading axis, along which parameter {label} is sharded; shard it "
                    "along another axis, as with fully_shard(..., shard_placement_fn=lambda parameter: Shard(1))"
                )
    return stacked


def with_values(params: ParamsT, values: dict[str, Tensor]) -> ParamsT:
    """`params` as parameter groups that have `values`, except where they have their own."""
    if not values or isinstance(params, Tensor):
        return params
    groups: list[Any] = list(params)
    if groups and not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    for group in groups:
        if isinstance(group, dict):
            for name, value in values.items():
                group.setdefault(name, value)
    return groups
