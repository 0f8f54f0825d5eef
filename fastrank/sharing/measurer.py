"""SharedMeasurer: measures matrices that several processes share out, each of them once, by the rank that owns it.

It takes the place of `measuring.Measurer` in the tracker of every rank. At each step all ranks do the same:

    travel    parts of matrices, or their Grams, go to the owners, a round at a time       (`moves`, by the `plan`)
    measure   each rank measures what it owns: by a `Measurer`, or from the Gram           (`travelling`)
    share     the rows are put together, so that every rank has all of them
    settle    on a CPU, matrices whose ranks their Grams have left open travel whole, and singular values decide

A Gram that was added up on several ranks proves as much as one that was made on one, see `reference.packed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import capturing
from ..measuring import SETTLING, Measurer, Unchanged, columns
from ..metrics import Status, Tolerance
from ..streams import OwnStream
from ..weights import Source
from .plan import Plan
from .ranks import Ranks
from .telling import Telling
from .travelling import Found, Travelling

if TYPE_CHECKING:
    from ..optim import Descent


class SharedMeasurer:
    """Measures the matrices of all ranks after a step. All ranks call `measure` for the same steps.

    Args:
        plan: that all ranks have made.
        ranks: the processes.
        sources: those of this rank, as they are now: later ones have to be the same parts of matrices.
        names: of these.
        frozen: names of matrices that nobody trains; those of them that travel do so when one has changed.
        weights: how many of the plan's matrices, the first ones, are weights.
        tolerances, spectrum, device, stream: as of `Measurer`.

    Attributes:
        names, shapes, weights: of the matrices of all ranks, as of `TrackedMatrices`.
        first: whether this rank is the first one, which keeps the history.
        telling: what the ranks tell each other.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        sources: Sequence[Source],
        names: Sequence[str],
        frozen: Collection[str],
        weights: int,
        tolerances: Sequence[Tolerance],
        spectrum: Sequence[str],
        device: torch.device,
        stream: OwnStream,
    ) -> None:
        self.names = tuple(matrix.name for matrix in plan.matrices)
        self.shapes = tuple(matrix.shape for matrix in plan.matrices)
        self.weights, self.first = weights, ranks.rank == 0
        self._plan, self._ranks, self._device, self._stream = plan, ranks, device, stream
        self._tolerances, self._spectrum = tolerances, spectrum
        self._columns = columns(tolerances, spectrum)
        self._declared = [(name, s.shape, s.matrix.dtype, s.piece) for name, s in zip(names, sources, strict=True)]
        places = {name: i for i, name in enumerate(names)}
        self._local = [places.get(name) for name in self.names]
        own = [i for i, m in enumerate(plan.matrices) if m.way == "local" and m.owner == ranks.rank]
        self._here = [(i, place) for i in own if (place := self._local[i]) is not None]
        given = (tolerances, spectrum, device, stream)
        self._measurer = Measurer(*given)
        travel = [i for indices in plan.rounds for i in indices]
        resting = [i for i in travel if self.names[i] in frozen]
        moving = [i for i in travel if self.names[i] not in frozen]
        self._moving, self._resting = (Travelling(plan, ranks, chosen, *given) for chosen in (moving, resting))
        self._unchanged, self._left, self._rested = Unchanged(), 0, (False, Found())
        self.telling = Telling(ranks, device)
        self._sides = [min(shape) for shape in self.shapes]

    @property
    def nbytes(self) -> int:
        """Bytes on the device that this rank works in: assembled matrices, and what the kernels need for them."""
        return self._measurer.nbytes + self._moving.nbytes + self._resting.nbytes

    @contextmanager
    def taking_part(self, what: str) -> Iterator[None]:
        """Whatever fails in here is told to the other ranks, who would wait for this one in vain.

        Args:
            what: it failed at, or to do, such as "at step 7".
        """
        try:
            yield
        except BaseException as error:
            self.telling.forget()
            self._ranks.told(f"it failed {what}: {type(error).__name__}: {error}")
            raise

    def begin(self, step: int) -> None:
        """What is measured next is the step of this number, on all ranks."""
        self.telling.step, self._ranks.doing = step, f"measuring step {step}"

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """As `Measurer.prepare`, for those of its own that are whole here."""
        self._measurer.prepare(None if sources is None else [sources[place] for _, place in self._here] or None)

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """As `Measurer.fuse`."""
        return self._measurer.fuse(descent, grad_scale, found_inf)

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `Measurer.measure`, for the matrices of all ranks.

        Raises:
            RuntimeError: another rank is missing, or measures another step; the weights are sharded in another way than
                they were, or a CUDA graph is being captured.
        """
        if capturing(self._device):
            raise RuntimeError("what several processes measure together cannot be captured in a CUDA graph")
        self._check(sources)
        found = Found()
        if self._here:
            own = [sources[place] for _, place in self._here]
            indices, sides = [i for i, _ in self._here], [min(source.shape) for source in own]
            found.add(indices, *self._measurer.measure(own, due, found_inf), sides)
        views = {i: sources[place] for i, place in enumerate(self._local) if place is not None}
        found.take(self._moving.measure(views, due))
        if self._resting.chosen:
            found.take(self._rest(views, due))
        absent = [i for i, source in views.items() if source.absent and (source.piece is None or source.piece.spans)]
        with self._stream.current():
            values, sigma = self._together(found, absent, due)
            if self._device.type == "cpu" and (open_ := self._open(values)):
                settled = self._moving.settle(open_, views, due)
                values[open_] = self._together(settled, absent, False)[0][open_]
                self._rested[1].rows.update({i: values[i].clone() for i in open_ if i in self._rested[1].rows})
        return values, sigma

    def state(self, sources: Sequence[Source]) -> dict[str, Any]:
        """An empty state of `Measurer`: where to begin the search for sigma_1 is found again after a resume, on
        however many ranks."""
        return {"trained": [], "starts": {}, "sketches": None}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from any state."""

    def close(self, step: int, error: BaseException | None = None) -> None:
        """Take part no more, after a step. Other ranks that go on measuring are told so, and which error ended it.

        Raises:
            RuntimeError: as of `measure`, of the last steps.
        """
        if error is not None:
            self.telling.forget()
            self._ranks.told(f"its training ended after step {step} with {type(error).__name__}: {error}")
            return
        try:
            self.telling.hear_all()
        finally:
            self._ranks.close(f"its tracker was closed after step {step}")

    def _check(self, sources: Sequence[Source]) -> None:
        for source, (name, shape, dtype, piece) in zip(sources, self._declared, strict=True):
            if source.shape != shape or torch.promote_types(source.matrix.dtype, dtype) != dtype:
                was, now = (f"{r} x {c}, {d}" for (r, c), d in ((shape, dtype), (source.shape, source.matrix.dtype)))
                raise RuntimeError(
                    f"{name!r} was {was} when this RankTracker was made, and is {now} now: make a new one on all ranks"
                )
            if source.piece is not piece and source.piece != piece:
                own = "all of it" if source.piece is None else f"{list(source.piece.spans)} of it"
                raise RuntimeError(
                    f"{name!r} is not sharded as it was when this RankTracker was made: this process now has {own}. "
                    "Measure after the optimizer's step, when the weights are sharded again, or make a new RankTracker"
                )

    def _rest(self, views: Mapping[int, Source], due: bool) -> Found:
        """The rows of frozen matrices that travel, measured if any rank has seen one of them change."""
        own = [views[i] for i in self._resting.chosen if i in views]
        changed = torch.tensor([not self._unchanged.since(own)], dtype=torch.int64, device=self._device)
        if self._ranks.sum_(changed).item():
            self._left, self._rested = SETTLING if self._device.type == "cuda" else 1, (False, Found())
        with_spectrum, found = self._rested
        if self._left or (due and not with_spectrum):
            found = self._resting.measure(views, due).kept()
            self._left, self._rested = max(0, self._left - 1), (due, found)
        return found

    def _together(self, found: Found, absent: Sequence[int], due: bool) -> tuple[Tensor, Tensor | None]:
        """The rows of all ranks, and the singular values if they are due and recorded."""
        count, width = len(self.names), len(self._columns)
        flat = torch.zeros(count * (width + 1) + self.telling.size, dtype=torch.float64, device=self._device)
        table, told = flat[: count * (width + 1)].view(count, width + 1), flat[count * (width + 1) :]
        for i, row in found.rows.items():
            table[i, :width] = row
        if absent:
            table[absent, width] = 1.0
        self.telling.say(told)
        self._ranks.sum_(flat)
        mixed = self.telling.hear(told)  # an error, of which the host may hear later
        values, without = table[:, :width], table[:, width] > 0
        values.masked_fill_(mixed, torch.nan)
        values[:, self._columns.index("status")].masked_fill_(without | mixed, float(Status.ABSENT))
        if not (due and "singular_values" in self._spectrum):
            return values, None
        sigma = torch.zeros(sum(self._sides), dtype=torch.float64, device=self._device)
        for own, i in zip(torch.split(sigma, self._sides), range(count), strict=True):
            if i in found.sigma:
                own.copy_(found.sigma[i])
        return values, self._ranks.sum_(sigma).masked_fill_(mixed, torch.nan)

    def _open(self, values: Tensor) -> list[int]:
        """The matrices whose ranks their Grams have left open."""
        ranks = values[:, : 2 * len(self._tolerances)]
        status = values[:, self._columns.index("status")]
        undecided = (ranks[:, ::2] != ranks[:, 1::2]).any(1) | (status == Status.FALLBACK)
        return [i for i in undecided.nonzero().flatten().tolist() if self._plan.matrices[i].way == "gram"]
