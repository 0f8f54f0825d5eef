"""Descent: SGD's step by the kernels, and the tables of an optimizer's parameters that it keeps from step to step.

Little changes between steps: the addresses of new gradients, a learning rate. The tables are compared with the last
step's, and what differs is written by launches that carry it as arguments. A learning rate or weight decay that is a
tensor on the device is copied into its table there at every step. The host waits for nothing, and a CUDA graph that has
captured a step follows a learning rate that is changed in place.

A captured step writes its tables anew, and so does every step after it. So a replay finds the addresses of its own
step, whatever ran in between, and so does the next step.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing
from ..device_table import DeviceTable
from ..kernels.device import current, to_device
from ..kernels.limits import NARROW
from .kernel_groups import KernelGroup, State, laid_out, own_buffer, same_layout
from .last_step import LastStep
from .local_tensors import local, with_local

if TYPE_CHECKING:
    from ..kernels.launch import Tape
    from ..kernels.step import Kind


class Descent:
    """Steps the parameters of one optimizer on one device. A step is a `refresh` and then a `launch`.

    Other kernels that update parameters in the same step are launched between the two, because copies of gradients
    live only until the `launch`.

    Attributes:
        rows: row in the tables of each parameter that has had a gradient, by the parameter's `id`. As long as this is
            the same object, `kind_of` has the same answers and the tables are the same tensors.
        pointers (P, 3) int64, meta (P, 3) int64, hyper (slots, 2) FP32: tables on the device, see
            `fastrank.kernels.step.descent`; valid from one `refresh` to the next.
    """

    def __init__(self, device: torch.device) -> None:
        from ..kernels import step
        from ..kernels.launch import Tape

        self.device = device
        self.rows: dict[int, int] = {}
        self._kernels, self._new_tape = step, Tape
        self._pointers, self._meta, self._hyper = DeviceTable(device, 3), DeviceTable(device, 3), DeviceTable(device)
        self.pointers = self.meta = torch.empty(0, 3, dtype=torch.int64, device=device)
        self.hyper = torch.empty(0, 2, device=device)
        self._groups: list[tuple[dict[str, Any], int]] = []
        self._shapes: list[tuple[int, int]] = []
        self._kinds: dict[Kind, list[int]] = {}
        self._kind_of: dict[int, Kind] = {}
        self._written: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._work: dict[frozenset[int], Work] = {}
        self._work_of: tuple[object, ...] = ()  # the shapes, kinds and tables for which that was prepared
        self._last: LastStep | None = None
        self._fresh = False  # whether the last step has made a momentum buffer
        self._captured = False  # whether any step was

    def again(self, param_groups: Sequence[dict[str, Any]], state: State) -> bool:
        """In place of `refresh`: bring the tables up to date if nothing but addresses and hyper-parameters differs from
        the last step that was kept by `remember`. Otherwise return False, and do nothing."""
        last, self._last = self._last, None
        found = None if last is None or capturing(self.device) else last.again(param_groups, state)
        if found is None:
            return False
        pointers, self._written, self._gradients = found
        with current(self.device):
            self._pointers.write(pointers, False)
            self._write_hyper()
        self._last = last
        return True

    def remember(self, groups: Sequence[KernelGroup], state: State) -> None:
        """Keep what the last `refresh` was given, for `again`. groups: those, if they are all of the optimizer's."""
        if not self._captured and not self._copies and not self._fresh:
            self._last = LastStep(groups, self.rows, state)

    def refresh(self, groups: Sequence[KernelGroup], state: State) -> None:
        """Bring the tables up to date with the parameter groups. New momentum buffers are put into `state`.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there was no step like this one before.
        """
        rows: dict[int, int] = {}
        pointers: list[int] = []
        meta: list[int] = []
        slot = 0
        self._shapes, self._kinds, self._written, self._gradients, self._copies = [], {}, [], [], []
        self._last, self._fresh = None, False
        self._groups = [(group, slices) for group, slices, _ in groups]
        for group, slices, stepped in groups:
            momentum = group["momentum"]
            # floats, because Triton compiles a kernel anew for an int, and once more for the int 1
            options = (float(momentum), float(group["dampening"]), group["nesterov"], group["maximize"])
            of_dtype = {dtype: self._kinds.setdefault(self._kernels.Kind(dtype, *options), []) for dtype in NARROW}
            for param, grad, buffer in stepped:
                if grad is None and (id(param) not in self.rows or param.dtype not in NARROW):
                    continue
                part, gradient, momenta, fresh = local(param), 0, 0, 0
                if grad is not None:
                    given = local(grad)
                    seen = given if same_layout(given, part) else laid_out(given, part)
                    gradient = seen.data_ptr()
                    self._gradients.append(grad)
                    if seen is not given:
                        self._copies.append((given, seen))
                    self._written.append(param)
                    if momentum != 0:
                        fresh = buffer is None
                        self._fresh |= fresh
                        if fresh and capturing(self.device):
                            raise RuntimeError(UNPREPARED)  # a replay would start the momentum anew
                        buffer = own_buffer(param, buffer, state)
                        momenta = local(buffer).data_ptr()
                        self._written.append(buffer)
                row, numel = len(rows), part.numel() // slices
                rows[id(param)] = row
                of_dtype[param.dtype].append(row)
                self._shapes.append((slices, numel))
                pointers += (part.data_ptr(), gradient, momenta)
                meta += (numel, slot, fresh)
            slot += slices
        self.rows, self._kind_of = rows, {row: kind for kind, own in self._kinds.items() for row in own}
        with current(self.device):
            self._captured |= capturing(self.device)
            if self._pointers.write(pointers, self._captured):
                self.pointers = self._pointers.table[: len(pointers)].view(-1, 3)
            if self._meta.write(meta, self._captured):
                self.meta = self._meta.table[: len(meta)].view(-1, 3)
            self._write_hyper()
        work_of = (self._shapes, self._kinds, rows, id(self.pointers), id(self.meta), id(self.hyper))
        if work_of != self._work_of:
            self._work, self._work_of = {}, work_of

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
        tiles, step, tape = self._work_besides(frozenset(besides))
        with current(self.device):
            if grad_scale is None and found_inf is None:
                tape(step)
            else:  # they are elsewhere at every step, which a tape cannot follow
                given = (grad_scale, found_inf)
                step(*(x if x is None else x.to(self.device, torch.float32, non_blocking=True) for x in given))
        if grad_scale is not None:
            for grad, seen in self._copies:
                grad.copy_(seen)
            self._written = self._written + self._gradients
        torch.autograd.graph.increment_version(with_local(self._written))
        self._written, self._gradients, self._copies = [], [], []  # otherwise gradients would outlive `zero_grad`
        if self._captured and capturing(self.device):
            tables = [table.table for table in (self._pointers, self._meta, self._hyper)]
            _kept.append([*tables, *tiles])

    def kind_of(self, rows: Sequence[int]) -> Kind | None:
        """The `Kind` (dtype and options) that all `rows` of the tables share; None if they do not share one."""
        kinds = [self._kind_of.get(row) for row in rows]
        return kinds[0] if kinds and all(kind is kinds[0] for kind in kinds) else None

    def _work_besides(self, besides: frozenset[int]) -> Work:
        """The launches for all parameters but those in `besides`: some steps have a tracker's, and others do not."""
        if besides not in self._work:
            if capturing(self.device):
                raise RuntimeError(UNPREPARED)
            others = {self.rows[i] for i in besides if i in self.rows}
            listed = [[row for row in rows if row not in others] for rows in self._kinds.values()]
            tiles = [to_device(self._kernels.tiles_of(self._shapes, rows), self.device) for rows in listed]
            work = list(zip(self._kinds, tiles, strict=True))
            tables = (self._pointers.table, self._meta.table, self.hyper)
            self._work[besides] = Work(tiles, partial(_step, self._kernels.sgd_, *tables, work), self._new_tape())
        return self._work[besides]

    def _write_hyper(self) -> None:
        """Write `hyper`: numbers by launches, if they have changed, and tensors on the device by copies there."""
        numbers: list[list[float]] = [[], []]
        copies = []
        for group, slices in self._groups:
            for column, name in enumerate(("lr", "weight_decay")):
                value = group[name]
                if isinstance(value, Tensor) and value.device.type == self.device.type:
                    start = len(numbers[column])
                    copies.append((slice(start, start + slices), column, value.detach().reshape(-1)))
                    value = math.nan  # equal to no number that may stand there later
                # reading a tensor on the host does not wait for the device
                values = value.flatten().tolist() if isinstance(value, Tensor) else [float(value)]
                numbers[column] += values * slices if len(values) == 1 else values
        flat = array("f", [number for pair in zip(*numbers, strict=True) for number in pair])
        words = memoryview(flat).cast("B").cast("q").tolist()
        if self._hyper.write(words, self._captured):
            self.hyper = self._hyper.table[: len(words)].view(torch.float32).view(-1, 2)
        for slots, column, value in copies:
            self.hyper[slots, column].copy_(value, non_blocking=True)


class Work(NamedTuple):
    """The launches of a step."""

    tiles: list[Tensor]
    """Lists of work on the device, one for each `Kind`."""
    step: Callable[..., None]
    """Launches all of it, given a `grad_scale` and a `found_inf` or neither."""
    tape: Tape


def _step(
    sgd_: Callable[..., None],
    pointers: Tensor,
    meta: Tensor,
    hyper: Tensor,
    work: list[tuple[Kind, Tensor]],
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    for kind, tiles in work:
        sgd_(pointers, meta, tiles, hyper, kind, grad_scale, found_inf)


_kept: list[list[Tensor]] = []
"""Tables that captured steps read. They are kept for ever, because nobody knows how long the CUDA graphs live."""
