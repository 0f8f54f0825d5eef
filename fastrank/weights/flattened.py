"""Flattened: where the parameters of the older `FullyShardedDataParallel` are in their weights.

With `use_orig_params=True` a module keeps its parameters, each of which is a slice of the flattened weight between
forwards: as many elements of it as this process has, row by row, or none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .pieces import Part
from .readable import is_fsdp


class Flat(NamedTuple):
    """A weight that is flattened."""

    shape: tuple[int, ...]
    """Of the whole weight."""
    first: int
    """Which of its elements, row by row, is the first one here."""

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor without numbers in the form of the whole weight."""
        return torch.empty(self.shape, dtype=tensor.dtype, device="meta")

    def part(self, tensor: Tensor) -> Part | None:
        """What this process has of it; None if it has it whole, as while a forward is under way."""
        return None if tuple(tensor.shape) == self.shape else Part(tensor, self.shape, (), self.first)


def refuse_slice(name: str, parameter: Tensor) -> None:
    """Raises `ValueError` for a slice of a flattened weight of which nothing is known, as its wrapper is not there."""
    # There is no public way to see that without the wrapper, which marks the parameter for itself.
    if parameter.ndim == 1 and getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            f"parameter {name!r} is a slice of one that FullyShardedDataParallel has flattened: make the RankTracker "
            "with the model that it returns, once all of it is wrapped"
        )


def flattened_in(model: nn.Module) -> dict[tuple[int, str], Flat]:
    """The flattened weights of a model, by the `id` of the module that has them and their name there.

    Raises:
        ValueError: the model keeps flat parameters in place of its weights.
    """
    found = {}
    for module in model.modules():
        if not is_fsdp(module):
            continue
        # There is no public way to where a parameter is in the flat one.
        handle: Any = getattr(module, "_handle", None)
        if handle is None:  # nothing in it is sharded
            continue
        if not handle._use_orig_params:
            raise ValueError(
                "model: FullyShardedDataParallel keeps flat parameters in place of its weights; make it with "
                "use_orig_params=True, or shard the model with fully_shard"
            )
        flat = handle.flat_param
        infos = zip(flat._param_infos, flat._shapes, flat._shard_param_infos, strict=True)
        for info, shape, own in infos:
            found[(id(info.module), info.param_name)] = Flat(tuple(shape), own.intra_param_start_idx or 0)
        for shared in flat._shared_param_infos:
            same = found.get((id(shared.prim_module), shared.prim_param_name))
            if same is not None:
                found[(id(shared.module), shared.param_name)] = same
    return found
