"""Descent: SGD's step by the kernels, and the tables of an optimizer's parameters that it keeps from step to step.

Little changes between steps: the addresses of new gradients, a learning rate. The tables are compared with the last
step's, and what differs is written by launches that carry it as arguments. A learning rate or weight decay that is a
tensor on the device is copied into its table there at every step. The host waits for nothing, and a CUDA graph that has
captured a step follows a learning rate that is changed in place.

A captured step writes its tables anew, and so does every step after it. So a replay finds the addresses of its own
step, whatever ran in between, and so does the next step.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import backend
from ..device import UNPREPARED, capturing
from ..device_table import DeviceTable
from ..kernels.limits import NARROW
from .kernel_groups import KernelGroup, State, kernel_group, laid_out, same_layout

if TYPE_CHECKING:
    from ..kernels.step import Kind


class Descent:
    """Steps the parameters of one optimizer on one device. A step is a `refresh` and then a `launch`.

    Other kernels that update parameters in the same step are launched between the two, because copies of gradients
    live only until the `launch`.

    Attributes:
        rows: row in the tables of each parameter that has had a gradient, by the parameter's `id`.
        pointers (P, 3) int64, meta (P, 3) int64, hyper (slots, 2) FP32: tables on the device, see
            `fastrank.kernels.step.descent`; valid from one `refresh` to the next.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows: dict[int, int] = {}
        self._pointers, self._meta, self._hyper = DeviceTable(device), DeviceTable(device), DeviceTable(device)
        self._shapes: list[tuple[int, int]] = []
        self._kinds: dict[Kind, list[int]] = {}
        self._written: list[Tensor] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._tiled: object = None
        self._tiles: list[Tensor] = []
        self._captured = False

    @property
    def pointers(self) -> Tensor:
        return self._pointers.table[: 3 * len(self.rows)].view(-1, 3)

    @property
    def meta(self) -> Tensor:
        return self._meta.table[: 3 * len(self.rows)].view(-1, 3)

    @property
    def hyper(self) -> Tensor:
        return self._hyper.table[: self._hyper.size].view(torch.float32).view(-1, 2)

    def refresh(self, groups: Sequence[KernelGroup], state: State) -> None:
        """Bring the tables up to date with the parameter groups. New momentum buffers are put into `state`.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there was no step like this one before.
        """
        from ..kernels.device import current
        from ..kernels.step import Kind

        rows: dict[int, int] = {}
        pointers: list[int] = []
        meta: list[int] = []
        slot = 0
        self._shapes, self._kinds, self._written, self._gradients = [], {}, [], []
        for group, slices, stepped in groups:
            momentum = group["momentum"]
            # floats, because Triton compiles a kernel anew for an int, and once more for the int 1
            options = (float(momentum), float(group["dampening"]), group["nesterov"], group["maximize"])
            of_dtype = {dtype: self._kinds.setdefault(Kind(dtype, *options), []) for dtype in NARROW}
            for param, grad, buffer in stepped:
                if grad is None and (id(param) not in self.rows or param.dtype not in NARROW):
                    continue
                gradient = momenta = fresh = 0
                if grad is not None:
                    seen = grad if same_layout(grad, param) else laid_out(grad, param)
                    gradient = seen.data_ptr()
                    self._gradients.append((grad, seen))
                    self._written.append(param)
                    if momentum != 0:
                        fresh = buffer is None
                        buffer = self._buffer(param, buffer, state)
                        momenta = buffer.data_ptr()
                        self._written.append(buffer)
                row, numel = len(rows), param.numel() // slices
                rows[id(param)] = row
                of_dtype[param.dtype].append(row)
                self._shapes.append((slices, numel))
                pointers += (param.data_ptr(), gradient, momenta)
                meta += (numel, slot, fresh)
            slot += slices
        self.rows = rows
        with current(self.device):
            self._captured |= capturing(self.device)
            self._pointers.write(pointers, self._captured)
            self._meta.write(meta, self._captured)
            self._write_hyper(groups)

    def launch(
        self, *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None, besides: Set[int] = frozenset()
    ) -> None:
        """Update every parameter that has a gradient, except those whose `id` is in `besides`.

        Args:
            grad_scale: one element, by which gradients are divided; the quotients are written back.
            found_inf: one element; if it is not 0, nothing is changed.
            besides: parameters that another kernel updates in this step. Their autograd versions too are counted up
                here.
        """
        from ..kernels.device import current, to_device
        from ..kernels.step import sgd_, tiles_of

        others = {self.rows[i] for i in besides if i in self.rows}
        listed = [[row for row in rows if row not in others] for rows in self._kinds.values()]
        if self._tiled != (self._shapes, listed):
            if capturing(self.device):
                raise RuntimeError(UNPREPARED)
            self._tiles = [to_device(tiles_of(self._shapes, rows), self.device) for rows in listed]
            self._tiled = (self._shapes, listed)
        given = (grad_scale, found_inf)
        flags = [x if x is None else x.to(self.device, torch.float32, non_blocking=True) for x in given]
        with current(self.device):
            for kind, tiles in zip(self._kinds, self._tiles, strict=True):
                sgd_(self._pointers.table, self._meta.table, tiles, self.hyper, kind, *flags)
        if grad_scale is not None:
            for grad, seen in self._gradients:
                if seen is not grad:
                    grad.copy_(seen)
            self._written += [grad for grad, _ in self._gradients]
        torch.autograd.graph.increment_version(self._written)
        self._written, self._gradients = [], []  # otherwise gradients would outlive `zero_grad`
        if capturing(self.device):
            tables = [table.table for table in (self._pointers, self._meta, self._hyper)]
            _kept.append([*tables, *self._tiles])

    def kind_of(self, rows: Sequence[int]) -> Kind | None:
        """The `Kind` (dtype and options) that all `rows` of the tables share; None if they do not share one."""
        return next((kind for kind, own in self._kinds.items() if set(rows) <= set(own)), None)

    def _buffer(self, param: Tensor, buffer: Tensor | None, state: State) -> Tensor:
        """A parameter's momentum buffer in the parameter's memory layout. A new buffer is uninitialised."""
        if buffer is not None and same_layout(buffer, param):
            return buffer
        if buffer is None and capturing(self.device):
            raise RuntimeError(UNPREPARED)  # a replay would start the momentum anew
        own = torch.empty_like(param) if buffer is None else laid_out(buffer, param)
        state[param]["momentum_buffer"] = own
        return own

    def _write_hyper(self, groups: Sequence[KernelGroup]) -> None:
        """Write `hyper`: numbers by launches, if they have changed, and tensors on the device by copies there."""
        numbers: list[list[float]] = [[], []]
        copies = []
        for group, slices, _ in groups:
            for column, name in enumerate(("lr", "weight_decay")):
                value = group[name]
                if isinstance(value, Tensor) and value.device.type == self.device.type:
                    start = len(numbers[column])
                    copies.append((slice(start, start + slices), column, value.detach().reshape(-1)))
                    value = 0.0
                # reading a tensor on the host does not wait for the device
                values = value.flatten().tolist() if isinstance(value, Tensor) else [float(value)]
                numbers[column] += values * slices if len(values) == 1 else values
        flat = [number for pair in zip(*numbers, strict=True) for number in pair]
        words = torch.tensor(flat, dtype=torch.float32, device="cpu").view(torch.int64)
        self._hyper.write(words.tolist(), self._captured)
        hyper = self.hyper
        for slots, column, value in copies:
            hyper[slots, column].copy_(value, non_blocking=True)


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


_kept: list[list[Tensor]] = []
"""Tables that captured steps read. They are kept for ever, because nobody knows how long the CUDA graphs live."""
