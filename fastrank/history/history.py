"""History: a row for each (step, matrix), in memory and in Parquet parts, which are written while training goes on.

Parts are `part-00000.parquet`, `part-00001.parquet`, ... in one folder. Each is written under a temporary name, synced
and renamed, so a part is either complete or not there. `state_dict` holds the rows that are in no part yet, and loading
it removes the parts written after it was taken: a resumed run has neither a gap nor a double row. `row_groups` says how
rows are stored in a part.

`pyarrow` is imported when a table is first made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import ring
from .parquet import HistoryError, concat, list_parts, part_path, read_parts, write_history
from .ring import Block, Ring
from .table import Layout, block_table, join

if TYPE_CHECKING:
    import pyarrow as pa


class HistoryWarning(UserWarning):
    """A part could not be written. Its rows are kept in memory and written with the next part."""


class History:
    """Collects the rows of one run.

    Args:
        layout: the matrices and columns of a step's rows.
        device: where rows are measured.
        directory: folder of the Parquet parts, made if missing; None keeps every row in memory.
        rows_per_part: number of rows in memory at which a part is written.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, layout: Layout, device: torch.device, directory: Path | None, rows_per_part: int) -> None:
        self.layout = layout
        self._ring = Ring(len(layout.names), len(layout.columns), device, ring.CAPACITY)
        self._pending: list[Block] = []
        self._last: Block | None = None
        self._directory = directory
        self._rows_per_part = rows_per_part
        self._parts = 0
        self._claimed = False
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def nbytes(self) -> int:
        """Bytes on the device of the buffer where rows wait."""
        return self._ring.nbytes

    def append(self, step: Tensor, values: Tensor, spectra: Tensor | None) -> None:
        """Add a step's rows, as in `Ring.append`. Never waits for the device, except to write a part.

        Raises:
            HistoryError: the folder holds parts of another run, or replays were miscounted.
        """
        if not self._claimed:
            self._claim()
        if self._ring.append(step, values, spectra):
            self._gather()

    def replayed(self, steps: int) -> None:
        """Count the rows that one replay of a CUDA graph with `steps` captured steps has added.

        Raises:
            HistoryError: replays were miscounted.
        """
        if self._ring.replayed(steps):
            self._gather()

    def flush(self) -> None:
        """Write the rows that are in no part yet, as one part.

        Raises:
            OSError: the part cannot be written; the rows are kept.
            HistoryError: replays were miscounted; the rows that are certain have been written.
        """
        try:
            self._drain()
        finally:
            if self._directory is not None and self._pending:
                self._claim()
                self._write_part(warn=False)

    def last(self) -> Block | None:
        """The rows of the last step, as a block of one step; None before the first step."""
        self._drain()
        return self._last

    def to_arrow(self) -> pa.Table:
        """All rows, from the parts and from memory."""
        self._drain()
        recent = self.table(self._pending)
        if not self._parts or self._directory is None:
            return recent
        return concat(chain(read_parts([part_path(self._directory, i) for i in range(self._parts)]), [recent]))

    def table(self, blocks: Sequence[Block]) -> pa.Table:
        """An Arrow table of the rows of `blocks`."""
        return concat(chain([self.layout.schema.empty_table()], (block_table(self.layout, block) for block in blocks)))

    def state_dict(self) -> dict[str, Any]:
        """The number of parts, the rows that are in none yet, and those of the last step, for `load_state_dict`."""
        self._drain()
        last = [] if self._last is None else [asdict(self._last)]
        return {"parts": self._parts, "blocks": [asdict(block) for block in self._pending], "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; parts that were written after it was taken are removed.

        Raises:
            HistoryError: a part that `state` counts on is missing.
        """
        parts = int(state["parts"])
        if parts and self._directory is None:
            raise HistoryError(f"the state has {parts} parts in a folder; make the tracker with directory=")
        if self._directory is not None:
            for i in range(parts):
                if not part_path(self._directory, i).exists():
                    raise HistoryError(f"{part_path(self._directory, i)}: missing, but the state counts on it")
            for extra in list_parts(self._directory)[parts:]:
                extra.unlink()
        self._ring.clear()
        self._pending = [Block(**block) for block in state["blocks"]]
        self._last = Block(**state["last"][0]) if state["last"] else None
        self._parts = parts
        self._claimed = True

    def _claim(self) -> None:
        """Before the first row, check that the folder holds no parts of another run."""
        if self._directory is not None and not self._claimed and list_parts(self._directory):
            raise HistoryError(
                f"{self._directory}: holds parts of an earlier run; load that run's tracker state to continue it, "
                "or choose another folder"
            )
        self._claimed = True

    def _gather(self) -> None:
        """After a block was sent to the host: keep the blocks that have arrived, and write a part if one is full."""
        self._keep(self._ring.collect())
        if self._directory is not None and self._pending_rows() >= self._rows_per_part:
            self._write_part(warn=True)

    def _drain(self) -> None:
        self._keep(self._ring.drain())

    def _keep(self, blocks: list[Block]) -> None:
        for block in blocks:
            # Whoever reads the last row at every step makes blocks of one step. A block is joined with those before it
            # that are not larger, so that there are few.
            while self._pending and len(self._pending[-1].steps) <= min(len(block.steps), ring.CAPACITY // 2):
                block = join(self._pending.pop(), block)
            self._pending.append(block)
        if blocks:
            self._last = blocks[-1].row(-1)
        if surplus := self._ring.surplus:
            wrong = f"{surplus} more" if surplus > 0 else f"{-surplus} fewer"
            raise HistoryError(
                f"the device has recorded {wrong} steps than were counted: after each replay() of a CUDA graph, call "
                "the tracker's replayed() once, with the number of steps the graph has captured"
            )

    def _pending_rows(self) -> int:
        return sum(len(b.steps) for b in self._pending) * len(self.layout.names)

    def _write_part(self, warn: bool) -> None:
        assert self._directory is not None
        path = part_path(self._directory, self._parts)
        try:
            write_history(self.table(self._pending), path)
        except OSError as error:
            if not warn:
                raise
            message = f"{path}: not written ({error}); its rows are kept in memory and tried again with the next part"
            warnings.warn(message, HistoryWarning, stacklevel=5)
            return
        self._parts += 1
        self._pending.clear()
