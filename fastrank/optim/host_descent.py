"""HostDescent: SGD's step on a CPU by a kernel that Numba compiles, and the tables that it keeps from step to step.

It has the methods of `Descent`, which does the same on a CUDA device. Its tables are NumPy's: the addresses of all
tensors, and the learning rates and weight decays, are read anew at every step.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernel_groups import KernelGroup, State, laid_out, own_buffer, same_layout
from .last_step import OPTIONS, LastStep
from .local_tensors import is_sharded, local, with_local

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
"""Dtypes of the parameters that the kernel steps, and NumPy's names for them."""


class HostDescent:
    """Steps the parameters of one optimizer on the CPU. A step is a `refresh` (or `again`) and then a `launch`.

    Attributes:
        rows: row in the tables of each parameter that has a gradient, by the parameter's `id`.
    """

    def __init__(self) -> None:
        from ..kernels.cpu import sgd

        self.rows: dict[int, int] = {}
        self._kernels = sgd
        self._groups: list[tuple[dict[str, Any], int]] = []
        self._works: list[Any] = []  # the `Work` of each launch
        self._pointers = self._meta = np.empty((0, 3), np.int64)
        self._written: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._last: LastStep | None = None
        self._fresh = False  # whether the last step has made a momentum buffer

    def again(self, param_groups: Sequence[dict[str, Any]], state: State) -> bool:
        """In place of `refresh`: bring the tables up to date if nothing but addresses and hyper-parameters differs from
        the last step that was kept by `remember`. Otherwise return False, and do nothing."""
        last, self._last = self._last, None
        found = None if last is None else last.again(param_groups, state)
        if found is None:
            return False
        self._pointers = np.array(found.pointers).reshape(-1, 3)
        self._written, self._gradients, self._last = found.written, found.gradients, last
        return True

    def remember(self, groups: Sequence[KernelGroup], state: State) -> None:
        """Keep what the last `refresh` was given, for `again`. groups: those, if they are all of the optimizer's."""
        if not self._copies and not self._fresh:
            self._last = LastStep(groups, self.rows, state, (*OPTIONS, "fused"))

    def refresh(self, groups: Sequence[KernelGroup], state: State) -> None:
        """Bring the tables up to date with the parameter groups. New momentum buffers are put into `state`."""
        pointers: list[tuple[int, int, int]] = []
        meta: list[tuple[int, int, int, bool]] = []
        slot = 0
        self.rows, self._works, self._written, self._gradients, self._copies = {}, [], [], [], []
        self._last, self._fresh = None, False
        self._groups = [(group, slices) for group, slices, _ in groups]
        for group, slices, parameters in groups:
            moves = group["momentum"] != 0
            for dtype, name in DTYPES.items():
                first, elements = len(meta), 0
                for param, grad, buffer in parameters:
                    if grad is None or param.dtype != dtype:
                        continue
                    part, given = local(param), local(grad)
                    seen = given if same_layout(given, part) else laid_out(given, part)
                    if seen is not given:
                        self._copies.append((given, seen))
                    fresh = moves and buffer is None
                    momenta = own_buffer(param, buffer, state) if moves else None
                    self._fresh |= fresh
                    self._gradients.append(grad)
                    self._written += [param] if momenta is None else [param, momenta]
                    self.rows[id(param)] = len(meta)
                    address = 0 if momenta is None else local(momenta).data_ptr()
                    pointers.append((part.data_ptr(), seen.data_ptr(), address))
                    meta.append((part.numel() // slices, slices, slot, fresh))
                    elements += part.numel()
                if elements:
                    options = (group[option] for option in ("momentum", "dampening", "nesterov", "maximize"))
                    self._works.append(self._kernels.Work(name, first, len(meta), elements, *options))
            slot += slices
        self._pointers = np.array(pointers, np.int64).reshape(-1, 3)
        self._meta = np.array(meta, np.int64).reshape(-1, 4)

    def launch(
        self, *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None, besides: Set[int] = frozenset()
    ) -> None:
        """Update every parameter that has a gradient.

        Args:
            grad_scale: one element, by which gradients are divided; the quotients are written back.
            found_inf: one element; if it is not 0, nothing is changed. The caller sees to it that no step with a new
                momentum buffer has overflowed.
            besides: empty; see `Descent.launch`.
        """
        if found_inf is None or not found_inf.item():
            if grad_scale is not None:
                for grad in map(local, self._gradients):
                    grad.div_(grad_scale.to(grad.device).reshape(()))
                for grad, seen in self._copies:
                    seen.copy_(grad)
                self._written = self._written + [grad for grad in self._gradients if is_sharded(grad)]
            hyper, threads = self._hyper(), torch.get_num_threads()
            for work in self._works:
                self._kernels.sgd_(self._pointers, self._meta, hyper, work, threads)
            torch.autograd.graph.increment_version(with_local(self._written))
        self._written, self._gradients, self._copies = [], [], []  # otherwise gradients would outlive `zero_grad`

    def _hyper(self) -> np.ndarray:
        """lr and weight decay of every slice of every group, in FP64."""
        columns: list[list[float]] = [[], []]
        for group, slices in self._groups:
            for column, name in zip(columns, ("lr", "weight_decay"), strict=True):
                value = group[name]
                values = value.flatten().tolist() if isinstance(value, Tensor) else [float(value)]
                column += values * slices if len(values) == 1 else values
        return np.array(columns).T.copy()
