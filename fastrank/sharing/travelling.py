"""Travelling: measures the matrices of which no rank has all, where they arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..device import bring, one_thread
from ..measuring import SETTLING, Measurer, Unchanged, measure_grams, measure_stack
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


JOURNEYS = 4
"""Of so many sets of matrices it is remembered how they travel, because that takes long to plan."""


class _Journey(NamedTuple):
    """Matrices that travel at the same step.

    What a measurer keeps of its matrices, such as where they are, stays right from step to step.
    """

    moves: Moves
    measurers: list[Measurer]
    """For each round."""
    arriving: list[list[Source]]
    """What each of these measures."""


class Travelling:
    """Matrices that travel: all of them when they are measured, or some.

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
        self._journeys: dict[tuple[int, ...], _Journey] = {}
        self._space: dict[str, Tensor] = {}  # all of them travel at the first measurement, and need most
        self._starts: dict[int, Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of assembled matrices, and of what the kernels need for them."""
        measurers = [measurer for journey in self._journeys.values() for measurer in journey.measurers]
        return sum(x.nbytes for x in self._space.values()) + sum(measurer.nbytes for measurer in measurers)

    def measure(self, sources: Mapping[int, Source], due: bool, indices: Sequence[int] | None = None) -> Found:
        """Measure them all, or some.

        Args:
            sources: what this rank has, by index of the matrix.
            due: measure the whole spectrum as well.
            indices: of those that are measured, the same on all ranks (default None: all).
        """
        found, journey = Found(), self._journey(self.chosen if indices is None else indices)
        for number, (measurer, arriving) in enumerate(zip(journey.measurers, journey.arriving, strict=True)):
            self._stream.join()  # what a measurer of the round before still reads is about to be written
            arrived = journey.moves.run(number, lambda i: views_of(sources[i], self._device))
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
            for i, matrix in moves.run(number, lambda i: views_of(sources[i], self._device)).whole.items():
                wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
                with one_thread(wide.shape[0]):
                    found.rows[i] = measure_stack(wide[None], self._tolerances, self._spectrum, due, None).values[0]
        return found

    def _journey(self, indices: Sequence[int]) -> _Journey:
        """What is needed to have these travel. That of the last `JOURNEYS` different sets is kept."""
        key = tuple(indices)
        journey = self._journeys.pop(key, None)
        if journey is None:
            moves = Moves(self._plan, self._ranks, self._device, key, self._space)
            given = (self._tolerances, self._spectrum, self._device, self._stream)
            arriving = [[Source(x, x) for x in targets.values()] for targets in moves.targets]
            journey = _Journey(moves, [Measurer(*given) for _ in moves.targets], arriving)
            if len(self._journeys) == JOURNEYS:
                del self._journeys[next(iter(self._journeys))]
        self._journeys[key] = journey
        return journey

    def _measure_gram(self, i: int, gram: Gram, due: bool, found: Found) -> None:
        with one_thread(gram.matrix.shape[-1]):
            m = measure_grams(gram, self._tolerances, self._spectrum, due, self._starts.get(i))
        self._starts[i], found.rows[i] = m.basis, m.values[0]
        if m.sigma is not None:
            found.sigma[i] = m.sigma[0]


class Resting:
    """Matrices that nobody trains: they travel when one of them has changed, and their rows are repeated otherwise.

    Args:
        travelling: these matrices. ranks: the processes.
        device: where they are measured.
        metrics: how many of the last columns are metrics of the whole spectrum.
    """

    def __init__(self, travelling: Travelling, ranks: Ranks, device: torch.device, metrics: int) -> None:
        self.travelling, self._ranks, self._device, self._metrics = travelling, ranks, device, metrics
        self._unchanged, self._left = Unchanged(), 0
        self._due, self._found = False, Found()

    def measure(self, sources: Mapping[int, Source], due: bool) -> Found:
        """As `Travelling.measure`, if any rank has seen one of them change."""
        own = [sources[i] for i in self.travelling.chosen if i in sources]
        changed = torch.tensor([not self._unchanged.since(own)], dtype=torch.int64, device=self._device)
        if self._ranks.sum_(changed).item():
            self._left, self._due, self._found = SETTLING if self._device.type == "cuda" else 1, False, Found()
        if self._left or (due and not self._due):
            self._found = self.travelling.measure(sources, due).kept()
            self._left, self._due = max(0, self._left - 1), due
        if due or not self._due or not self._metrics:
            return self._found
        rows = {i: row.clone() for i, row in self._found.rows.items()}
        for row in rows.values():
            row[-self._metrics :] = torch.nan  # they are not due
        return Found(rows)

    def settled(self, indices: Sequence[int], values: Tensor) -> None:
        """Repeat these rows `(matrices, columns)` of them, too, which other measurements have made complete."""
        self._found.rows.update({i: values[i].clone() for i in indices if i in self._found.rows})


def views_of(source: Source, device: torch.device) -> list[Tensor]:
    """The parts of a matrix that are here, each as a 2-D tensor on the device from which it travels."""
    matrix = bring(source.matrix, device)
    return [matrix] if source.piece is None else source.piece.views(matrix)
