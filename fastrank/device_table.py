"""DeviceTable: a table of integers on the device, and the host's record of what was last written into it.

The host writes by launches that carry the integers as arguments. This needs no pinned memory and no copy from the host,
and a CUDA graph that has captured a write repeats it at each replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .device import UNPREPARED, capturing


class DeviceTable:
    """An int64 table on `device`, at least as long as the values written into it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._values: list[int] | None = None
        self.table = torch.empty(0, dtype=torch.int64, device=device)

    @property
    def size(self) -> int:
        """How many values were last written."""
        return len(self._values or ())

    def write(self, values: Sequence[int], everything: bool) -> None:
        """Write the `values` that differ from the last ones, or `everything`; a new number of them makes a new table.

        Raises:
            RuntimeError: a new table is needed while a CUDA graph is being captured.
        """
        from .kernels.pointers import empty_table, poke_

        if len(values) != self.size:
            if capturing(self._device):
                raise RuntimeError(UNPREPARED)
            self.table, self._values = empty_table(len(values), self._device), None
        poke_(self.table, list(values), None if everything else self._values)
        self._values = list(values)
