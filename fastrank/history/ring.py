"""Ring: rows wait on the device, and come to the host in blocks, without the host ever waiting for a step.

A full block is copied to pinned memory on the stream that filled it, so the next row may overwrite it at once; the
copy is looked at when it is needed. On a CPU the same code simply copies.

A row's place is read from a counter on the device, which the row's own operations advance. So a CUDA graph that has
captured a row writes the next place at every replay. The host counts along: what it runs itself, and what it is told
has been replayed. Every block brings the device's count with it, and the two must agree.
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
"""Rows on the device before a block is sent."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows on the host."""

    steps: Tensor
    """(n,) int64."""
    values: Tensor
    """(n, matrices, columns) FP64."""
    spectra: dict[int, Tensor]
    """Row in this block -> singular values of all matrices, end to end, FP64."""

    def row(self, i: int) -> Block:
        """One row as a block; it shares no memory with this one."""
        i %= len(self.steps)
        spectra = {0: self.spectra[i].clone()} if i in self.spectra else {}
        return Block(self.steps[i : i + 1].clone(), self.values[i : i + 1].clone(), spectra)


class _Sent(NamedTuple):
    """A block on its way to the host."""

    event: torch.cuda.Event | None
    written: Tensor
    """(1,) int64: how many rows the device says are in it."""
    block: Block

    def arrived(self) -> bool:
        return self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call]


class Ring:
    """Rows of `(matrices, columns)` values on `device`, `capacity` at a time.

    Attributes:
        surplus: rows that the device wrote beyond those the host counted, as found when blocks were last looked at. If
            it is not 0, no block from there on is handed out.
    """

    def __init__(self, matrices: int, columns: int, device: torch.device, capacity: int) -> None:
        self.surplus = 0
        self._steps = torch.empty(capacity, dtype=torch.int64, device=device)
        self._values = torch.empty(capacity, matrices, columns, dtype=torch.float64, device=device)
        self._spectra: dict[int, Tensor] = {}
        self._written = torch.zeros(1, dtype=torch.int64, device=device)  # since a block was last sent
        self._counted = 0  # the host's idea of it
        self._captured = 0  # rows captured since anything else happened: by one graph, or by several in a row
        self._longest = 0  # at least as many as any one replay writes
        self._moving: list[_Sent] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device; spectra come on top where they are recorded."""
        return self._steps.nbytes + self._values.nbytes

    def append(self, step: Tensor, values: Tensor, spectra: Tensor | None) -> bool:
        """Add a row; `step` is a 0-d int64 tensor on the device. Returns whether a block has been sent off.

        While a CUDA graph is being captured nothing is written yet, and nothing counted: see `replayed`.

        Raises:
            RuntimeError: a graph has captured more rows than are free.
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
        """Count `rows` that one replay has written. Returns whether a block has been sent off.

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
                break  # some of its rows are others than they should be; it stays, so that nobody overlooks it
            arrived.append(_without_skipped(self._moving.pop(0).block))
        return [block for block in arrived if len(block.steps)]

    def drain(self) -> list[Block]:
        """Every row that has not been collected, in order. Waits for the device."""
        self._refuse_capture()
        self._captured = 0
        surplus = int(self._written) - self._counted
        if self._counted and not surplus:  # what is miscounted stays: the count may yet be put right
            self._send()
        for sent in self._moving:
            if sent.event is not None:
                sent.event.synchronize()
        blocks = self.collect()
        self.surplus = self.surplus or surplus
        return blocks

    def clear(self) -> None:
        """Forget every row. Graphs that have captured rows stay good."""
        self._moving.clear()
        self._restart()

    def _write(self, step: Tensor, values: Tensor) -> None:
        """What the device does for a row; a graph does it again at every replay."""
        place = self._written % len(self._steps)  # rows nobody counted must not end up outside the ring
        self._steps.index_copy_(0, place, step.reshape(1))
        self._values.index_copy_(0, place, values.to(self._values.dtype).unsqueeze(0))
        self._written += 1

    def _reserve(self) -> None:
        """Room for one more captured row: the host hears of a replay when all its rows are written."""
        self._captured += 1
        free = len(self._steps) - self._counted
        if self._captured > free:
            raise RuntimeError(
                f"a CUDA graph with {self._captured} tracked steps, but only {free} rows are free: call flush() before "
                f"capturing it, and capture at most {len(self._steps)} steps in one"
            )
        self._longest = max(self._longest, self._captured)

    def _count(self, rows: int) -> bool:
        self._captured = 0
        self._counted += rows
        if self._counted + max(1, self._longest) <= len(self._steps):
            return False
        self._send()
        return True

    def _send(self) -> None:
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
    kept = (block.steps != SKIPPED).nonzero().flatten()
    if len(kept) == len(block.steps):
        return block
    place = {int(old): new for new, old in enumerate(kept)}
    spectra = {place[i]: sigma for i, sigma in block.spectra.items() if i in place}
    return Block(block.steps[kept], block.values[kept], spectra)
