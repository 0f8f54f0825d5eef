"""Descents: which parameter groups of an optimizer the kernels step, and by which `Descent`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import backend
from .descent import Descent
from .kernel_groups import KernelGroup, State, kernel_group


class Descents:
    """The `Descent` of one optimizer on each device that the kernels serve."""

    def __init__(self) -> None:
        self._of: dict[torch.device, Descent | None] = {}

    def serving(self, group: dict[str, Any], slices: int, state: State) -> tuple[Descent, KernelGroup] | None:
        """The `Descent` that steps a parameter group, and the group in the form it takes; None where PyTorch's own
        forms of SGD have to step it. `slices`: see `KernelGroup`."""
        params = group["params"]
        if torch.compiler.is_compiling() or not params:
            return None
        # a group without any gradient keeps its rows of the tables, which then stay as they are
        device = next((param.device for param in params if param.grad is not None), params[0].device)
        if device not in self._of:
            self._of[device] = Descent(device) if backend.kernels_serve(device) else None
        descent = self._of[device]
        served = None if descent is None else kernel_group(group, slices, state, device)
        return None if descent is None or served is None else (descent, served)

    def again(self, param_groups: Sequence[dict[str, Any]], state: State) -> Descent | None:
        """The `Descent` that steps all parameter groups, if its `again` has brought its tables up to date."""
        if torch.compiler.is_compiling() or len(self._of) != 1:
            return None
        (descent,) = self._of.values()
        return descent if descent is not None and descent.again(param_groups, state) else None
