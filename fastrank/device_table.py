"""DeviceTable: a table of integers on the device, and what the host last wrote into it.

Written by launches that carry the integers as arguments: no pinned memory, no copy from the host, and a CUDA graph that
has captured a write makes it again at each replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .device import UNPREPARED, capturing


class DeviceTable:
    """An int64 table on `device`, at least as long as what is written into it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._values: list[int] | None = None
        self.table = torch.empty(0, dtype=torch.int64, device=device)

    @property
    def size(self) -> int:
        return len(self._values or ())

    def write(self, values: Sequence[int], everything: bool) -> None:
        """Write what has changed, or everything. `RuntimeError` where a capture would need a longer table."""
        from .kernels.pointers import empty_table, poke_

        if len(values) != self.size:
            if capturing(self._device):
                raise RuntimeError(UNPREPARED)
            self.table, self._values = empty_table(len(values), self._device), None
        poke_(self.table, list(values), None if everything else self._values)
        self._values = list(values)
