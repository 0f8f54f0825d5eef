"""DeviceTable: a table of integers on the device, and the host's record of what was last written into it.

The host writes by launches that carry the integers as arguments. This needs no pinned memory and no copy from the host,
and a CUDA graph that has captured a write repeats it at each replay.
"""

from __future__ import annotations

import torch

from .device import UNPREPARED, capturing


class DeviceTable:
    """An int64 table on `device`, at least as long as the values written into it.

    columns: fields of a row, of which some change alone (default 1). What has changed is written column by column.
    """

    def __init__(self, device: torch.device, columns: int = 1) -> None:
        self._device, self._columns = device, columns
        self._values: list[int] | None = None
        self.table = torch.empty(0, dtype=torch.int64, device=device)

    @property
    def size(self) -> int:
        """How many values were last written."""
        return len(self._values or ())

    def write(self, values: list[int], everything: bool) -> bool:
        """Write the `values` that differ from the last ones, or `everything`; a new number of them makes a new table.

        Returns whether it has made one.

        Raises:
            RuntimeError: a new table is needed while a CUDA graph is being captured.
        """
        if not everything and values == self._values:
            return False
        from .kernels.pointers import empty_table, poke_

        new = len(values) != self.size
        if new:
            if capturing(self._device):
                raise RuntimeError(UNPREPARED)
            self.table, self._values = empty_table(len(values), self._device, self._columns), None
        poke_(self.table, values, None if everything else self._values, self._columns)
        self._values = list(values)
        return new
