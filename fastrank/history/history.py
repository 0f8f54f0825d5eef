"""History: a row for each (step, matrix), in memory and in Parquet parts, which are written while training goes on.

Parts are `part-00000.parquet`, `part-00001.parquet`, ... in one folder, each either complete or not there. `state_dict`
holds the rows that are in no part yet, and loading it removes the parts written after it was taken: a resumed run has
neither a gap nor a double row. `row_groups` says how rows are stored in a part.

A part is complete when it has `rows_per_part` rows. Until then an alarm writes what there is to the same file, so a
process that is killed loses only the last `flush_every` seconds. The alarm rings in another thread, which must not ask
a CUDA device for rows: it writes what is on the host, and the next row sends the others.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import capturing
from ..streams import OwnStream
from . import ring
from .alarm import Alarm
from .block import Block, Shapes
from .ending import close_at_last
from .parquet import HistoryError, concat, part_path, read_parts
from .parts import HistoryWarning, Parts
from .pending import Pending
from .rows import StepNumber
from .table import Layout, block_table

if TYPE_CHECKING:
    import pyarrow as pa


class History:
    """Collects the rows of one run. Its methods may be called from any thread.

    Args:
        layout: the matrices and columns of a step's rows.
        device: where rows are measured.
        directory: folder of the Parquet parts, made if missing; None keeps rows in memory.
        rows_per_part: number of rows in memory at which a part is complete.
        overwrite: whether the first step removes parts of an earlier run that no loaded state counts on.
        flush_every: seconds after which rows are written, even if they do not make a part.
        stream: where rows are measured and appended (default: the current one).
        keeps: whether all rows are kept (default), or the last one alone.

    Raises:
        HistoryError: another tracker writes to the folder.
        OSError: the folder cannot be made. ImportError: there is a folder, but pyarrow is missing.
    """

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        directory: Path | None,
        rows_per_part: int,
        overwrite: bool = False,
        flush_every: float = 60.0,
        stream: OwnStream | None = None,
        keeps: bool = True,
    ) -> None:
        self.layout = layout
        self._rows_per_part = rows_per_part
        self._device = device
        self._ring = ring.Ring(len(layout.names), len(layout.columns), device, ring.CAPACITY, stream)
        self._pending = Pending(keeps)
        self._full = False  # whether those rows make a part
        self._late = False  # whether they are to be written as soon as all have arrived
        self._alarm = Alarm(flush_every, self._on_alarm)
        self._lock = threading.RLock()
        self._owner: Callable[[], object] = lambda: None
        self._parts = Parts(directory.expanduser(), overwrite) if directory is not None else None

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that wait to be sent."""
        return self._ring.nbytes

    def append(
        self, step: StepNumber, values: Tensor, spectra: Tensor | None, shapes: Shapes, *, claim: bool = True
    ) -> None:
        """Add a step's rows, as in `Ring.append`. Never waits for the device, except to write a part.

        Args:
            claim: whether this is a step of training, before which parts of an earlier run are an error, or removed.
                The row of a model that has not been trained may yet be dropped by `load_state_dict`, and leaves them.

        Raises:
            HistoryError: the folder holds parts of another run or is written by one, or replays were miscounted.
        """
        with self._lock:
            if claim and self._parts is not None and not self._parts.claimed:
                self._parts.claim()
            self._added(self._ring.append(step, values, spectra, shapes))

    def replayed(self, steps: int) -> None:
        """Count the rows that a replay of a CUDA graph with `steps` captured steps has added. Raises `HistoryError` if
        replays were miscounted."""
        with self._lock:
            self._added(self._ring.replayed(steps))

    def watch(self, wanted: bool) -> None:
        """Have the blocks that arrive from now on kept for `take_arrived` as well, if that is wanted."""
        self._pending.watched = wanted

    def hurry(self) -> None:
        """Have the rows that there are brought to the host: at once on a CPU, elsewhere with the next one."""
        with self._lock:
            if self._device.type == "cpu":
                self._keep(wait=True)
            else:
                self._ring.overdue = True

    def take_arrived(self) -> list[Block]:
        """The blocks that have arrived on the host since the last call, from `watch` on. Does not wait."""
        with self._lock:
            arrived, self._pending.arrived = self._pending.arrived, []
            return arrived

    def known(self) -> list[Block]:
        """The rows on the host that are in no complete part yet, or else the last one. Does not wait."""
        with self._lock:
            return self._pending.known()

    def flush(self, *, claim: bool = True) -> None:
        """Write the rows that are in no part yet, as one part.

        Args:
            claim: as in `append`, for rows that came without it. False leaves such rows, and parts of an earlier run.

        Raises:
            OSError: the part cannot be written; the rows are kept. HistoryError: as in `append`, or replays were
                miscounted, and the rows that are certain have been written.
        """
        with self._lock:
            try:
                self._keep(wait=True)
            finally:
                if self._parts is not None and (claim or self._parts.free):
                    self._write(complete=True)

    def close(self, *, write: bool = True) -> None:
        """Flush, if rows are to be written, and let others write to the folder; after an error of `flush` it is kept. A
        row that is added later takes it again, if no other run has taken it."""
        with self._lock:
            if write:
                self.flush(claim=False)
            self._alarm.cancel()
            if self._parts is not None:
                self._parts.release()

    def close_with(self, owner: object) -> None:
        """Have this history closed when `owner` is collected, or when the process ends."""
        if self._parts is not None:
            self._owner = weakref.ref(owner)
            close_at_last(owner, self._device, self.close, self._warn)

    def last(self) -> Block | None:
        """The rows of the last step, as a block of one step; None before the first step."""
        with self._lock:
            self._keep(wait=True)
            return self._pending.last()

    def to_arrow(self) -> pa.Table:
        """All rows, from the parts and from memory. Raises `HistoryError` if only the last one is kept."""
        if not self._pending.keeps:
            raise HistoryError("this process keeps no history: ask the first one's tracker, or read its directory")
        with self._lock:
            self._keep(wait=True)
            recent = self.table(self._pending.blocks)
            if self._parts is None or not self._parts.count:
                return recent
            paths = [part_path(self._parts.directory, i) for i in range(self._parts.count)]
            return concat(chain(read_parts(paths), [recent]))

    def table(self, blocks: Sequence[Block]) -> pa.Table:
        """An Arrow table of the rows of `blocks`."""
        return concat([self.layout.schema.empty_table(), *(block_table(self.layout, block) for block in blocks)])

    def state_dict(self) -> dict[str, Any]:
        """The number of parts, the rows that are in none yet, and those of the last step, for `load_state_dict`."""
        with self._lock:
            self._keep(wait=True)
            return {"parts": self._parts.count if self._parts is not None else 0, **self._pending.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; parts that were written after it was taken are removed.

        Raises:
            HistoryError: a part that `state` counts on is missing, or another tracker writes to the folder.
        """
        with self._lock:
            parts = int(state["parts"])
            if self._parts is not None:
                self._parts.continue_after(parts)
            elif parts:
                raise HistoryError(f"the state has {parts} parts in a folder; make the tracker with directory=")
            self._ring.clear()
            self._pending.load(state)
            self._full = self._late = False

    def _added(self, sent: bool) -> None:
        """After rows were added to the ring: keep the blocks that have arrived, and write those that are due."""
        if (sent or self._full or self._late or self._pending.watched) and not capturing(self._device):
            self._keep(wait=False)
            full = self._full
            if full or (self._late and self._ring.idle):
                self._full = self._late = False
                try:
                    self._write(complete=full)
                except (OSError, MemoryError) as error:
                    self._warn(f"not written ({error}); its rows are kept in memory and tried again later", 5)
        if self._parts is not None:
            self._alarm.set()

    def _on_alarm(self) -> None:
        owner = self._owner()  # kept alive meanwhile, because its end would close this history in the midst of it
        with self._lock:
            try:
                if self._device.type == "cuda":
                    self._late = self._ring.overdue = True
                else:
                    self._keep(wait=True)
                if self._parts is not None and self._parts.free and not self._pending.safe:
                    self._write(complete=False)
            except (OSError, HistoryError, MemoryError) as error:
                self._warn(f"not written ({error}); its rows are kept in memory and tried again later")
        del owner

    def _keep(self, *, wait: bool) -> None:
        """Have rows moved from the ring to those that are pending: all of them, or those that have arrived."""
        if self._pending.take(self._ring, wait=wait):
            rows = self._pending.steps * len(self.layout.names)
            self._full = self._parts is not None and rows >= self._rows_per_part
        self._ring.check()

    def _write(self, complete: bool) -> None:
        """Write the pending rows as the next part. If it is not complete, they stay pending and are written again."""
        parts, pending = self._parts, self._pending
        if parts is None or not pending.blocks or not parts.claim():
            return
        last = pending.last()
        parts.write(self.table(pending.blocks))
        # As in the ring, statements without a call, between which Ctrl-C cannot raise.
        if complete:
            parts.count, pending.blocks, pending.previous, self._full = parts.count + 1, [], last, False
        pending.safe = True

    def _warn(self, message: str, stacklevel: int = 1) -> None:
        assert self._parts is not None
        where = part_path(self._parts.directory, self._parts.count)
        warnings.warn(f"{where}: {message}", HistoryWarning, stacklevel + 1)
