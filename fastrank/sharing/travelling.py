"""Travelling: measures the matrices of which no rank has all, where they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..device import bring, one_thread
from ..measuring import Measurer, measure_grams, measure_stack
from ..metrics import Tolerance
from ..reference import Gram
from ..streams import OwnStream
from ..weights import Source
from .moves import Moves
from .plan import Plan
from .ranks import Ranks


@dataclass
class Found:
    """What a rank has measured, by index of the matrix."""

    rows: dict[int, Tensor] = field(default_factory=dict)
    """Values `(columns,)` FP64, in memory that the next measurement writes."""
    sigma: dict[int, Tensor] = field(default_factory=dict)
    """Singular values `(r,)` FP64, where they are recorded and due."""

    def add(self, indices: Sequence[int], values: Tensor, sigma: Tensor | None, sides: Sequence[int]) -> None:
        """Take what a `Measurer` has returned for the matrices of these indices, whose short sides are `sides`."""
        self.rows.update(zip(indices, values, strict=True))
        if sigma is not None:
            self.sigma.update(zip(indices, torch.split(sigma, list(sides)), strict=True))

    def take(self, other: Found) -> None:
        """Take what was found of other matrices."""
        self.rows.update(other.rows)
        self.sigma.update(other.sigma)

    def kept(self) -> Found:
        """The same in memory of its own."""
        return Found({i: x.clone() for i, x in self.rows.items()}, {i: x.clone() for i, x in self.sigma.items()})


class Travelling:
    """Matrices that travel, each time that they are measured.

    Args:
        plan: that all ranks have made. ranks: the processes.
        chosen: indices of the matrices.
        tolerances, spectrum, device, stream: as of `Measurer`.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        chosen: Sequence[int],
        tolerances: Sequence[Tolerance],
        spectrum: Sequence[str],
        device: torch.device,
        stream: OwnStream,
    ) -> None:
        self.chosen = list(chosen)
        self._plan, self._ranks, self._device, self._stream = plan, ranks, device, stream
        self._tolerances, self._spectrum = tolerances, spectrum
        self._moves = Moves(plan, ranks, device, chosen)
        # What a measurer keeps of its matrices, such as where they are, stays right from step to step.
        self._measurers = [Measurer(tolerances, spectrum, device, stream) for _ in self._moves.targets]
        self._arriving = [[Source(x, x) for x in targets.values()] for targets in self._moves.targets]
        self._starts: dict[int, Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of assembled matrices, and of what the kernels need for them."""
        return self._moves.nbytes + sum(measurer.nbytes for measurer in self._measurers)

    def measure(self, sources: Mapping[int, Source], due: bool) -> Found:
        """Measure them all.

        Args:
            sources: what this rank has, by index of the matrix.
            due: measure the whole spectrum as well.
        """
        found = Found()
        for number, (measurer, arriving) in enumerate(zip(self._measurers, self._arriving, strict=True)):
            self._stream.join()  # what a measurer of the round before still reads is about to be written
            arrived = self._moves.run(number, lambda i: _views(sources[i], self._device))
            if arrived.whole:
                sides = [min(x.shape) for x in arrived.whole.values()]
                values, sigma = measurer.measure(arriving, due)
                with self._stream.current():
                    found.add(list(arrived.whole), values.clone(), sigma, sides)
            for i, gram in arrived.grams.items():
                self._measure_gram(i, gram, due, found)
        return found

    def settle(self, indices: Sequence[int], sources: Mapping[int, Source], due: bool) -> Found:
        """Measure some matrices, on a CPU, whose Grams have left their ranks open: by their singular values."""
        plan = self._plan.whole(indices)
        moves, found = Moves(plan, self._ranks, self._device), Found()
        for number in range(len(moves)):
            for i, matrix in moves.run(number, lambda i: _views(sources[i], self._device)).whole.items():
                wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
                with one_thread(wide.shape[0]):
                    found.rows[i] = measure_stack(wide[None], self._tolerances, self._spectrum, due, None).values[0]
        return found

    def _measure_gram(self, i: int, gram: Gram, due: bool, found: Found) -> None:
        with one_thread(gram.matrix.shape[-1]):
            m = measure_grams(gram, self._tolerances, self._spectrum, due, self._starts.get(i))
        self._starts[i], found.rows[i] = m.basis, m.values[0]
        if m.sigma is not None:
            found.sigma[i] = m.sigma[0]


def _views(source: Source, device: torch.device) -> list[Tensor]:
    """The parts of a matrix that are here, each as a 2-D tensor on the device from which it travels."""
    matrix = bring(source.matrix, device)
    return [matrix] if source.piece is None else source.piece.views(matrix)
