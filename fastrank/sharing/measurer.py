"""SharedMeasurer: measures matrices that several processes share out, each of them once, by the rank that owns it.

It takes the place of `measuring.Measurer` in the tracker of every rank. At each step all ranks do the same:

    sketch    of matrices whose ranks are low, as far as is known, thin products travel    (`sketching`, by `choice`)
    travel    parts of other matrices, or their Grams, go to the owners, round by round    (`moves`, by the `plan`)
    measure   each rank measures what it owns: by a `Measurer`, or from the Gram           (`travelling`)
    share     the rows are put together, so that every rank has all of them                (`together`)
    left      a matrix whose sketch has proven too little travels now, as if there were no sketch
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
from ..measuring import ANEW, Measurer, columns
from ..metrics import Status, Tolerance
from ..streams import OwnStream
from ..weights import Source
from .choice import Choice
from .holdings import Group
from .plan import Plan
from .ranks import Ranks
from .sketching import Sketching
from .together import Replicas, Together
from .traffic import Sketch
from .travelling import Found, Resting, Travelling

if TYPE_CHECKING:
    from ..optim import Descent


SKETCHED = ("cpu",)
"""Types of devices where matrices that travel are sketched. On CUDA the host would have to wait at every step for the
proof of a sketch, in PyTorch, and for the rows by which the next sketches are chosen. There it takes the kernels of
`fastrank.kernels.sketch`, and a choice by rows of `LAG` measurements ago."""


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
        replicas: parts that several ranks have, and that are compared at the first step (default: none).

    Attributes:
        names, shapes, weights: of the matrices of all ranks, as of `TrackedMatrices`.
        first: whether this rank is the first one, which keeps the history.
        together: puts the rows together, and tells what the ranks want of each other.
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
        replicas: Sequence[Group] = (),
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
        self._moving = Travelling(plan, ranks, moving, *given)
        metrics = len(self._columns) - len(columns(tolerances, ()))
        self._resting = Resting(Travelling(plan, ranks, resting, *given), ranks, device, metrics)
        self._choice = Choice({i: plan.matrices[i] for i in moving} if device.type in SKETCHED else {})
        self._sketching = Sketching(plan, ranks, tolerances, spectrum, device)
        self.together = Together(plan, ranks, tolerances, spectrum, device)
        self._replicas = Replicas(ranks, self.names, replicas, device)

    @property
    def nbytes(self) -> int:
        """Bytes on the device that this rank works in: assembled matrices, and what the kernels need for them."""
        travelling = self._moving.nbytes + self._resting.travelling.nbytes
        return self._measurer.nbytes + travelling + self._sketching.nbytes

    @contextmanager
    def taking_part(self, what: str) -> Iterator[None]:
        """Whatever fails in here is told to the other ranks, who would wait for this one in vain.

        Args:
            what: it failed at, or to do, such as "at step 7".
        """
        try:
            yield
        except BaseException as error:
            self.together.forget()
            self._ranks.told(f"it failed {what}: {type(error).__name__}: {error}")
            raise

    def begin(self, step: int) -> None:
        """What is measured next is the step of this number, on all ranks."""
        self.together.step, self._ranks.doing = step, f"measuring step {step}"

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
            RuntimeError: another rank is missing, measures another step, or has another matrix of the same name; the
                weights are sharded in another way than they were, or a CUDA graph is being captured.
        """
        if capturing(self._device):
            raise RuntimeError("what several processes measure together cannot be captured in a CUDA graph")
        self._check(sources)
        views = {i: sources[place] for i, place in enumerate(self._local) if place is not None}
        self._replicas.compare(views)
        found = Found()
        if self._here:
            own = [sources[place] for _, place in self._here]
            indices, sides = [i for i, _ in self._here], [min(source.shape) for source in own]
            found.add(indices, *self._measurer.measure(own, due, found_inf), sides)
        sketched = [] if due else self._choice.now()  # a sketch does not know the whole spectrum
        if not due:
            found.take(self._sketching.measure(sketched, views))
        proving = {sketch.matrix for sketch in sketched if not sketch.fresh}
        found.take(self._moving.measure(views, due, [i for i in self._moving.chosen if i not in proving]))
        if self._resting.travelling.chosen:
            found.take(self._resting.measure(views, due))
        absent = [i for i, source in views.items() if source.absent and (source.piece is None or source.piece.spans)]
        with self._stream.current():
            values, sigma = self.together.put(found, absent, due)
            left = self._left_open(values, proving)
            if left:
                values[left] = self.together.put(self._moving.measure(views, due, left), absent, False)[0][left]
            if self._device.type == "cpu" and (open_ := self._open(values)):
                settled = self._moving.settle(open_, views, due)
                values[open_] = self.together.put(settled, absent, False)[0][open_]
                self._resting.settled(open_, values)
            if self._choice:
                self._choose(values, sketched, left)
        return values, sigma

    def state(self, sources: Sequence[Source]) -> dict[str, Any]:
        """An empty state of `Measurer`: where to begin the search for sigma_1 is found again after a resume, on
        however many ranks."""
        return dict(ANEW)

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from any state. Sketches begin anew, on all ranks together, after the next measurement."""
        self.together.begins_anew = True

    def close(self, step: int, error: BaseException | None = None) -> None:
        """Take part no more, after a step. Other ranks that go on measuring are told so, and which error ended it.

        Raises:
            RuntimeError: as of `measure`, of the last steps.
        """
        if error is not None:
            self.together.forget()
            self._ranks.told(f"its training ended after step {step} with {type(error).__name__}: {error}")
            return
        try:
            self.together.hear_all()
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

    def _choose(self, values: Tensor, sketched: Sequence[Sketch], left: Sequence[int]) -> None:
        """What is sketched at the next step. Rows are looked at as all ranks have them, and nothing else."""
        if self.together.shall_begin_anew:
            self.together.shall_begin_anew = False
            self._choice.begin_anew()
            self._sketching.begin_anew()
        else:
            ranks = values[:, 1 : 2 * len(self._tolerances) : 2].amax(1)
            self._choice.look(ranks.long().tolist(), sketched, left)

    def _left_open(self, values: Tensor, sketched: Collection[int]) -> list[int]:
        """The matrices of which a sketch has not proven all, and has left a row of NaN, even where ranks belong."""
        empty = values[:, 0].isnan().nonzero().flatten().tolist() if sketched else []
        return [i for i in empty if i in sketched]

    def _open(self, values: Tensor) -> list[int]:
        """The matrices whose ranks their Grams have left open."""
        ranks = values[:, : 2 * len(self._tolerances)]
        status = values[:, self._columns.index("status")]
        undecided = (ranks[:, ::2] != ranks[:, 1::2]).any(1) | (status == Status.FALLBACK)
        return [i for i in undecided.nonzero().flatten().tolist() if self._plan.matrices[i].way == "gram"]
