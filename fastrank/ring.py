"""Ring: rows wait on the device, and come to the host in blocks, without the host ever waiting for a step.

A full block is copied to pinned memory on the stream that filled it, so the next row may overwrite it at once; the
copy is looked at when it is needed. On a CPU the same code simply copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


class Ring:
    """Rows of `(matrices, columns)` values on `device`, `capacity` at a time."""

    def __init__(self, matrices: int, columns: int, device: torch.device, capacity: int) -> None:
        self._steps = torch.empty(capacity, dtype=torch.int64, device=device)
        self._values = torch.empty(capacity, matrices, columns, dtype=torch.float64, device=device)
        self._spectra: dict[int, Tensor] = {}
        self._filled = 0
        self._moving: list[tuple[torch.cuda.Event | None, Block]] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device; spectra come on top where they are recorded."""
        return self._steps.nbytes + self._values.nbytes

    def append(self, step: Tensor, values: Tensor, spectra: Tensor | None) -> bool:
        """Add a row; `step` is a 0-d int64 tensor on the device. Returns whether a block has been sent off."""
        self._steps[self._filled] = step
        self._values[self._filled] = values
        if spectra is not None:
            self._spectra[self._filled] = spectra
        self._filled += 1
        if self._filled < len(self._steps):
            return False
        self._send()
        return True

    def collect(self) -> list[Block]:
        """Blocks that have arrived on the host since the last call, in order. Does not wait."""
        arrived = []
        while self._moving and (self._moving[0][0] is None or self._moving[0][0].query()):  # type: ignore[no-untyped-call]
            arrived.append(_without_skipped(self._moving.pop(0)[1]))
        return [block for block in arrived if len(block.steps)]

    def drain(self) -> list[Block]:
        """Every row that has not been collected, in order. Waits for the device."""
        if self._filled:
            self._send()
        for event, _ in self._moving:
            if event is not None:
                event.synchronize()
        return self.collect()

    def _send(self) -> None:
        rows = slice(self._filled)
        block = Block(
            _to_host(self._steps[rows]),
            _to_host(self._values[rows]),
            {i: _to_host(sigma) for i, sigma in self._spectra.items()},
        )
        event = None
        if self._values.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._values.device))
        self._moving.append((event, block))
        self._spectra, self._filled = {}, 0


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def _without_skipped(block: Block) -> Block:
    kept = (block.steps != SKIPPED).nonzero().flatten()
    if len(kept) == len(block.steps):
        return block
    place = {int(old): new for new, old in enumerate(kept)}
    spectra = {place[i]: sigma for i, sigma in block.spectra.items() if i in place}
    return Block(block.steps[kept], block.values[kept], spectra)
