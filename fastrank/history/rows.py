"""Rows: where the rows that are not sent yet are kept, in a buffer on a CUDA device or in a list on the host.

A buffer's next place is `written`, a counter on the device, so that a CUDA graph that has captured a row writes to the
next place at every replay. On a CPU, where each of PyTorch's calls takes as long as all else that is done with a row,
there is one call a row, which copies it, and the rows are put together when a block of them is read.

Both have `written`, the number of rows since `written` was last set to 0. What nobody has counted must not end up
outside: it is written to the last place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .. import backend
from ..device import to_host
from ..kernels.device import current

if TYPE_CHECKING:
    from ..kernels.launch import Tape

StepNumber = Tensor | int
"""Number of a step: 0-d int64 on the device, or an int where rows are kept on the host."""


def on_host(device: torch.device) -> bool:
    """Whether the rows of this device are kept on the host."""
    return device.type == "cpu" and not backend.kernels_serve(device)


class HostRows:
    """Up to `capacity` rows of `(matrices, columns)` values."""

    def __init__(self, matrices: int, columns: int, capacity: int) -> None:
        empty = torch.empty(matrices, columns, dtype=torch.float64)
        self._rows: list[tuple[int, Tensor]] = [(0, empty)] * capacity
        self.nbytes = capacity * (empty.nbytes + 8)
        """At most."""
        self.written = 0

    def write(self, step: StepNumber, values: Tensor) -> None:
        """Keep a copy of a row in the next place; whoever calls this counts `written` up."""
        self._rows[min(self.written, len(self._rows) - 1)] = int(step), values.clone()

    def read(self, rows: int) -> tuple[StepNumber, Tensor, Tensor]:
        """`written`, and of the first rows copies of steps `(rows,)` int64 and values `(rows, matrices, columns)`."""
        steps, values = zip(*self._rows[:rows], strict=True)
        return self.written, torch.tensor(steps), torch.stack(values).double()


class DeviceRows:
    """The same in memory of `device`. Nothing waits for the device."""

    def __init__(self, matrices: int, columns: int, capacity: int, device: torch.device) -> None:
        self._steps = torch.empty(capacity, dtype=torch.int64, device=device)
        self._values = torch.empty(capacity, matrices, columns, dtype=torch.float64, device=device)
        self._launched: tuple[StepNumber, Tensor, Tape] | None = None  # the last row's step and values, and the launch
        self.nbytes = self._steps.nbytes + self._values.nbytes
        self.written = torch.zeros(1, dtype=torch.int64, device=device)

    def write(self, step: StepNumber, values: Tensor) -> None:
        """Write a row to the next place by operations that a CUDA graph repeats at every replay, as it does those by
        which whoever calls this counts `written` up."""
        step, values = cast(Tensor, step), values.to(self._values.dtype)
        if backend.kernels_serve(self._values.device):
            self._launch(step, values.contiguous())
        else:
            place = self.written.clamp(max=len(self._steps) - 1)
            self._steps.index_copy_(0, place, step.reshape(1))
            self._values.index_copy_(0, place, values.unsqueeze(0))

    def _launch(self, step: Tensor, values: Tensor) -> None:
        """The same by a kernel. The same tensors as in the last row make it the same launch."""
        from ..kernels.record import record_

        if self._launched is None or self._launched[0] is not step or self._launched[1] is not values:
            from ..kernels.launch import Tape

            self._launched = step, values, Tape()
        with current(values.device):
            self._launched[2](lambda: record_(self._steps, self._values, self.written, step, values))

    def read(self, rows: int) -> tuple[StepNumber, Tensor, Tensor]:
        """As that of `HostRows`; the copies to the host are under way on return."""
        return to_host(self.written), to_host(self._steps[:rows]), to_host(self._values[:rows])
