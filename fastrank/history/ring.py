"""Ring: a buffer on the device that takes a row at each step, so that the host never waits for a step.

A row is here what is measured in one step: `(matrices, columns)` values. Rows come to the host in blocks. A full block
is copied to pinned memory on the stream that filled it, so the next row may overwrite it at once; the host looks at
the copy when it needs it. On a CPU the same code simply copies.

A row's place in the buffer is read from a counter on the device, which the operations that write the row advance. So a
CUDA graph that has captured a row writes to the next place at every replay. The host counts too: the rows that it
writes itself, and those that it is told a replay has written. Every block brings the device's count with it, and the
two counts must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..device import capturing, mark, to_host

SKIPPED = -1
"""Step number of a row that must not be kept: the optimizer did not step (its gradients had overflowed)."""

CAPACITY = 256
"""Rows that the device holds before they are sent to the host as a block."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows on the host."""

    steps: Tensor
    """(n,) int64."""
    values: Tensor
    """(n, matrices, columns) FP64."""
    spectra: dict[int, Tensor]
    """Singular values of all matrices, end to end, FP64, by the row's place in this block; only where recorded."""

    def row(self, i: int) -> Block:
        """Row `i` as a block of one row, which shares no memory with this block."""
        i %= len(self.steps)
        spectra = {0: self.spectra[i].clone()} if i in self.spectra else {}
        return Block(self.steps[i : i + 1].clone(), self.values[i : i + 1].clone(), spectra)


class _Sent(NamedTuple):
    """A block on its way to the host."""

    event: torch.cuda.Event | None
    written: Tensor
    """(1,) int64: the number of rows in it, as the device counts."""
    block: Block

    def arrived(self) -> bool:
        """Whether the copy to the host is complete. Does not wait."""
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]


class Ring:
    """A buffer on `device` for `capacity` rows of `(matrices, columns)` values.

    Attributes:
        surplus: how many more rows the device has written than the host has counted, as found when blocks were last
            looked at. If it is not 0, neither the block where it was found nor any later one is handed out.
    """

    def __init__(self, matrices: int, columns: int, device: torch.device, capacity: int) -> None:
        self.surplus = 0
        self._steps = torch.empty(capacity, dtype=torch.int64, device=device)
        self._values = torch.empty(capacity, matrices, columns, dtype=torch.float64, device=device)
        self._spectra: dict[int, Tensor] = {}
        self._written = torch.zeros(1, dtype=torch.int64, device=device)  # rows since a block was last sent
        self._counted = 0  # the same, as the host counts
        self._captured = 0  # rows captured since anything else happened: by one CUDA graph, or by several in a row
        self._longest = 0  # at least the number of rows that any one replay writes
        self._moving: list[_Sent] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device; spectra come on top where they are recorded."""
        return self._steps.nbytes + self._values.nbytes

    def append(self, step: Tensor, values: Tensor, spectra: Tensor | None) -> bool:
        """Add a row. Returns whether a block has been sent to the host.

        While a CUDA graph is being captured nothing is written yet, and nothing counted: see `replayed`.

        Args:
            step: 0-d int64 on the device.
            values: `(matrices, columns)`.
            spectra: singular values of all matrices, end to end, FP64; None if they are not recorded at this step.

        Raises:
            RuntimeError: a CUDA graph has captured more rows than are free.
        """
        if capturing(self._values.device):
            self._reserve()
            self._write(step, values)
            return False
        self._write(step, values)
        if spectra is not None:
            self._spectra[self._counted] = spectra
        return self._count(1)

    def replayed(self, rows: int) -> bool:
        """Count the `rows` that one replay of a CUDA graph has written. Returns whether a block has been sent.

        Raises:
            ValueError: no graph has captured so many. RuntimeError: a graph is being captured.
        """
        self._refuse_capture()
        if rows > self._longest:
            raise ValueError(f"steps: {rows} replayed, but no CUDA graph has captured more than {self._longest}")
        return self._count(rows)

    def collect(self) -> list[Block]:
        """Blocks that have arrived on the host since the last call, in order. Does not wait."""
        self.surplus = 0
        arrived = []
        while self._moving and self._moving[0].arrived():
            _, written, block = self._moving[0]
            self.surplus = int(written) - len(block.steps)
            if self.surplus:
                break  # some of its rows are wrong; it stays here, so that every later call finds it too
            arrived.append(_without_skipped(self._moving.pop(0).block))
        return [block for block in arrived if len(block.steps)]

    def drain(self) -> list[Block]:
        """All rows that have not been collected yet, in order. Waits for the device."""
        self._refuse_capture()
        self._captured = 0
        surplus = int(self._written) - self._counted
        if self._counted and not surplus:  # miscounted rows stay, because the count may yet be put right
            self._send()
        for sent in self._moving:
            if sent.event is not None:
                sent.event.synchronize()
        blocks = self.collect()
        self.surplus = self.surplus or surplus
        return blocks

    def clear(self) -> None:
        """Forget every row. CUDA graphs that have captured rows stay valid."""
        self._moving.clear()
        self._restart()

    def _write(self, step: Tensor, values: Tensor) -> None:
        """Write a row and advance the device's counter, by operations that a CUDA graph repeats at every replay."""
        place = self._written % len(self._steps)  # rows that the host did not count must not end up outside the buffer
        self._steps.index_copy_(0, place, step.reshape(1))
        self._values.index_copy_(0, place, values.to(self._values.dtype).unsqueeze(0))
        self._written += 1

    def _reserve(self) -> None:
        """Check that one more captured row has room. All rows of a replay need room at the same time, because the host
        hears of a replay only after it has written them."""
        self._captured += 1
        free = len(self._steps) - self._counted
        if self._captured > free:
            raise RuntimeError(
                f"a CUDA graph with {self._captured} tracked steps, but only {free} rows are free: call flush() before "
                f"capturing it, and capture at most {len(self._steps)} steps in one"
            )
        self._longest = max(self._longest, self._captured)

    def _count(self, rows: int) -> bool:
        """Count `rows`, and send a block if the next row or replay might find no room. Returns whether one was sent."""
        self._captured = 0
        self._counted += rows
        if self._counted + max(1, self._longest) <= len(self._steps):
            return False
        self._send()
        return True

    def _send(self) -> None:
        """Start the copy of all counted rows to the host."""
        rows = slice(self._counted)
        written = to_host(self._written)
        block = Block(
            to_host(self._steps[rows]),
            to_host(self._values[rows]),
            {i: to_host(sigma) for i, sigma in self._spectra.items()},
        )
        self._moving.append(_Sent(mark(self._values.device), written, block))
        self._restart()

    def _restart(self) -> None:
        self._spectra, self._counted = {}, 0
        self._written.zero_()

    def _refuse_capture(self) -> None:
        if capturing(self._values.device):
            raise RuntimeError("a CUDA graph is being captured: the history can be read, and replays counted, outside")


def _without_skipped(block: Block) -> Block:
    """A block without its rows whose step is `SKIPPED`."""
    kept = (block.steps != SKIPPED).nonzero().flatten()
    if len(kept) == len(block.steps):
        return block
    place = {int(old): new for new, old in enumerate(kept)}
    spectra = {place[i]: sigma for i, sigma in block.spectra.items() if i in place}
    return Block(block.steps[kept], block.values[kept], spectra)
