"""Descents: which parameter groups of an optimizer the kernels step, and by which `Descent` or `HostDescent`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import backend
from ..kernels.limits import NARROW
from .descent import Descent
from .host_descent import DTYPES, HostDescent
from .kernel_groups import KernelGroup, State, kernel_group


class Descents:
    """The descent of one optimizer on each device that kernels serve."""

    def __init__(self) -> None:
        self._of: dict[torch.device, Descent | HostDescent | None] = {}

    def serving(
        self, group: dict[str, Any], stacked: list[str], state: State
    ) -> tuple[Descent | HostDescent, KernelGroup] | None:
        """The descent that steps a parameter group, and the group in the form it takes; None where PyTorch's own forms
        of SGD have to step it. `stacked`: which of its values are."""
        params = group["params"]
        if torch.compiler.is_compiling() or not params:
            return None
        # a group without any gradient keeps its rows of the tables, which then stay as they are
        device = next((param.device for param in params if param.grad is not None), params[0].device)
        if device not in self._of:
            self._of[device] = descent_on(device)
        descent = self._of[device]
        on_host = isinstance(descent, HostDescent)
        if on_host and not stacked and (group["foreach"] is not None or group["fused"] is not None):
            return None  # the user has chosen one of PyTorch's forms
        slices = len(group[stacked[0]]) if stacked else 1
        served = descent and kernel_group(group, slices, state, device, DTYPES if on_host else NARROW)
        return (descent, served) if descent and served else None

    def again(self, param_groups: Sequence[dict[str, Any]], state: State) -> Descent | HostDescent | None:
        """The descent that steps all parameter groups, if its `again` has brought its tables up to date."""
        if torch.compiler.is_compiling() or len(self._of) != 1:
            return None
        (descent,) = self._of.values()
        return descent if descent is not None and descent.again(param_groups, state) else None


def descent_on(device: torch.device) -> Descent | HostDescent | None:
    """A new descent by the kernels of `device`; None where none serve."""
    if backend.kernels_serve(device):
        return Descent(device)
    return HostDescent() if backend.compiled_serve(device) else None
