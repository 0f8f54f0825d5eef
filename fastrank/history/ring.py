"""Ring: takes a row at each step, on the device, so that the host never waits for a step.

A row is here what is measured in one step: `(matrices, columns)` values. Rows come to the host in blocks. A full block
is copied to pinned memory on the stream that filled it, so the next row may overwrite it at once; the host looks at
the copy when it needs it. On a CPU the same code simply copies. `rows` says where rows are until they are sent.

A CUDA graph that has captured a row writes another one at every replay, and the device counts them. The host counts
too: the rows that it writes itself, and those that it is told a replay has written. Every block brings the device's
count with it, and the two counts must agree.

Ctrl-C raises between two calls, never between two plain statements. Where several things must change together, they
change in statements without a call, so that what was recorded before Ctrl-C can be written after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..device import capturing, mark, to_host
from ..streams import OwnStream
from .block import Block, Shapes
from .parquet import HistoryError
from .rows import DeviceRows, HostRows, StepNumber, on_host

CAPACITY = 256
"""Rows that the device holds before they are sent to the host as a block."""


class _Sent(NamedTuple):
    """A block on its way to the host."""

    event: torch.cuda.Event | None
    written: StepNumber
    """The number of rows in it, as the device counts."""
    block: Block
    held: tuple[Tensor, ...] = ()
    """What is copied and nobody else keeps: its memory must not be given away before the copy is complete."""

    def arrived(self) -> bool:
        """Whether the copy to the host is complete. Does not wait."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]


class Ring:
    """Takes up to `capacity` rows of `(matrices, columns)` values, measured on `device`, before they are sent.

    Args:
        stream: where rows are appended, and for which the reader waits (default: the current one).

    Attributes:
        surplus: how many more rows the device has written than the host has counted, as found when blocks were last
            looked at. If it is not 0, neither the block where it was found nor any later one is handed out.
        overdue: set it to have a block sent when the next row or replay is counted, however few its rows.
    """

    def __init__(
        self, matrices: int, columns: int, device: torch.device, capacity: int, stream: OwnStream | None = None
    ) -> None:
        self.surplus, self.overdue = 0, False
        self._stream = stream or OwnStream(device)
        self._device, self._capacity = device, capacity
        sizes = (matrices, columns, capacity)
        self._rows: HostRows | DeviceRows = HostRows(*sizes) if on_host(device) else DeviceRows(*sizes, device)
        self._spectra: dict[int, Tensor] = {}
        self._shapes: Shapes = ()  # of the rows since a block was last sent
        self._counted = 0  # rows since a block was last sent, as the host counts
        self._captured = 0  # rows captured since anything else happened: by one CUDA graph, or by several in a row
        self._longest = 0  # at least the number of rows that any one replay writes
        self._moving: list[_Sent] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the rows; spectra come on top where they are recorded."""
        return self._rows.nbytes

    @property
    def idle(self) -> bool:
        """Whether no block is on its way to the host, or ought to be."""
        return not self._moving and not self.overdue

    def append(self, step: StepNumber, values: Tensor, spectra: Tensor | None, shapes: Shapes) -> bool:
        """Add a row. Returns whether a block has been sent to the host.

        While a CUDA graph is being captured nothing is written yet, and nothing counted: see `replayed`.

        Args:
            step: as `on_host` has it.
            values: `(matrices, columns)`, which may be written to later.
            spectra: singular values of all matrices, end to end, FP64; None if they are not recorded at this step.
            shapes: of the matrices at this step. All rows of a block have the same, so a block is sent first if these
                differ from those of the row before. Replays have the shapes with which their graph was captured.

        Raises:
            RuntimeError: a CUDA graph has captured more rows than are free, or other shapes than the rows before it.
        """
        if capturing(self._device):
            self._reserve(shapes)
            self._write(step, values, counted=0)
            return False
        self._stream.follow()
        changed = self._counted > 0 and shapes != self._shapes
        if changed or self._counted == self._capacity:  # full: Ctrl-C came when the last block was to be sent
            self._send()
        self._shapes = shapes
        self._write(step, values, counted=1)
        if spectra is not None:
            self._spectra[self._counted - 1] = spectra
        return self._send_if_full() or changed

    def replayed(self, rows: int) -> bool:
        """Count the `rows` that one replay of a CUDA graph has written. Returns whether a block has been sent.

        Raises:
            ValueError: no graph has captured so many. RuntimeError: a graph is being captured.
        """
        self._refuse_capture()
        self._stream.wait()
        if rows > self._longest:
            raise ValueError(f"steps: {rows} replayed, but no CUDA graph has captured more than {self._longest}")
        self._counted += rows
        return self._send_if_full()

    def collect(self, kept: list[Block]) -> None:
        """Move the blocks that have arrived on the host to the end of `kept`, in order. Does not wait."""
        self.surplus = 0
        while self._moving and self._moving[0].arrived():
            _, written, block, _ = self._moving[0]
            self.surplus = int(written) - len(block.steps)
            if self.surplus:
                break  # some of its rows are wrong; it stays here, so that every later call finds it too
            block = block.without_skipped()
            arrived = [block] if len(block.steps) else []
            kept += arrived
            del self._moving[0]

    def drain(self, kept: list[Block]) -> None:
        """Move all rows that have not been collected yet to the end of `kept`, in order. Waits for the device."""
        self._refuse_capture()
        self._stream.wait()
        self._captured = 0
        surplus = int(self._rows.written) - self._counted
        if self._counted and not surplus:  # miscounted rows stay, because the count may yet be put right
            self._send()
        for sent in self._moving:
            if sent.event is not None:
                sent.event.synchronize()
        self.collect(kept)
        self.surplus = self.surplus or surplus

    def check(self) -> None:
        """Raise `HistoryError` if there is a surplus, or the contrary."""
        if self.surplus:
            wrong = f"{self.surplus} more" if self.surplus > 0 else f"{-self.surplus} fewer"
            raise HistoryError(
                f"the device has recorded {wrong} steps than were counted: after each replay() of a CUDA graph, call "
                "the tracker's replayed() once, with the number of steps the graph has captured"
            )

    def clear(self) -> None:
        """Forget every row. CUDA graphs that have captured rows stay valid."""
        self._stream.wait()
        self._restart([])

    def _write(self, step: StepNumber, values: Tensor, counted: int) -> None:
        """Write a row, and advance the device's counter, and the host's by `counted`."""
        self._rows.write(step, values)
        self._rows.written += 1
        self._counted += counted

    def _reserve(self, shapes: Shapes) -> None:
        """Check that one more captured row has room. All rows of a replay need room at the same time, because the host
        hears of a replay only after it has written them, and one list of shapes."""
        if (self._counted or self._captured) and shapes != self._shapes:
            raise RuntimeError(
                "a tracked matrix has another shape than before: call flush() before capturing a CUDA graph"
            )
        self._shapes = shapes
        self._captured += 1
        free = self._capacity - self._counted
        if self._captured > free:
            raise RuntimeError(
                f"a CUDA graph with {self._captured} tracked steps, but only {free} rows are free: call flush() before "
                f"capturing it, and capture at most {self._capacity} steps in one"
            )
        self._longest = max(self._longest, self._captured)

    def _send_if_full(self) -> bool:
        """Send a block if the next row or replay might find no room, or it is overdue. Returns whether one was sent."""
        self._captured = 0
        if self._counted + max(1, self._longest) <= self._capacity and not self.overdue:
            return False
        self._send()
        return True

    def _send(self) -> None:
        """Start the copy of all counted rows to the host."""
        written, steps, values = self._rows.read(self._counted)
        block = Block(steps, values, {i: to_host(sigma) for i, sigma in self._spectra.items()}, self._shapes)
        sent = _Sent(mark(self._device), written, block, tuple(self._spectra.values()))
        self._restart([*self._moving, sent])

    def _restart(self, moving: list[_Sent]) -> None:
        self._moving, self._spectra, self._counted, self.overdue = moving, {}, 0, False
        self._rows.written *= 0

    def _refuse_capture(self) -> None:
        if capturing(self._device):
            raise RuntimeError("a CUDA graph is being captured: the history can be read, and replays counted, outside")
