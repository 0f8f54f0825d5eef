"""Sketch measurer: measures on a CUDA device by sketches, and counts the ranks that a sketch leaves open. At each step:

    sketch   every matrix, in the optimizer's own pass over the weights where possible
    prove    bounds of each rank, of sigma_1 and of ||W||_F from the sketches
    count    the matrices whose rank is still open; for all others the launches return at once

Until the kernels of the sketches are compiled, all matrices are counted.

Only the device knows which matrices are counted: the host waits for nothing, and a CUDA graph can capture every step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..counting import (
    Affine,
    Chunk,
    GroupGrams,
    RaggedBatch,
    ShiftPair,
    Shifts,
    group,
    shifts_around,
    singular_values,
    unpivoted_growth,
)
from ..device import UNPREPARED, capturing, mark, to_host
from ..metrics import RankBounds, Status, Tolerance
from ..reference import SLACK, UNIT, Moments
from ..weights import Source
from .bases import Bases
from .copies import Copies
from .row import metrics_of, row_of

if TYPE_CHECKING:
    from ..optim import Descent

TIGHT = 2e-4
"""Relative width of the interval of sigma_1^2 up to which sigma_1 is recorded: it is known to 1e-4 then."""
ADAPT_EVERY = 64
"""Measurements between two looks at the ranks, by which the numbers of columns are chosen."""
UNCOMPILED = (
    "the kernels of the sketches are still being compiled: the graph that is captured counts every matrix at every "
    "replay, which is slower; call fastrank.prepare(model, optimizer) before capturing"
)


class StartVectors(NamedTuple):
    """Vectors from which the power iteration for sigma_1 starts: those that the sketches have found (`Bases.lift`) or,
    as long as there are no sketches, those that the last iteration ended with, after noise at first."""

    vectors: Tensor
    """(2, matrices, width) FP64, zero beyond a matrix' order. Products with the Gram go from [0] to [1] and back."""
    noise: Tensor
    """(matrices, width) FP64, zero beyond a matrix' order."""

    @classmethod
    def of(cls, orders: Sequence[int], width: int, device: torch.device) -> StartVectors:
        """For Grams of these orders. width: at least every order, and even: [0] and [1] are aligned to 16 bytes."""
        noise = torch.empty(len(orders), width, dtype=torch.float64, pin_memory=device.type == "cuda")
        noise.normal_(generator=torch.Generator().manual_seed(0))
        noise *= torch.arange(width) < torch.tensor(orders, dtype=torch.int64)[:, None]
        vectors = torch.zeros(2, len(orders), width, dtype=torch.float64, device=device)
        return cls(vectors, noise.to(device, non_blocking=True))

    def renew(self) -> None:
        """Scales the vectors in [0] to unit length; noise takes the place of those that are zero or not finite."""
        last = self.vectors[0]
        size = torch.linalg.vector_norm(last, dim=-1, keepdim=True)
        last.copy_(torch.where((size > 0) & size.isfinite(), last / size, self.noise))


class SketchMeasurer:
    """Measures a list of matrices after each step; any of them may have been replaced since the last step.

    At each step, call `prepare` before the optimizer's step, `fuse` in it, and `measure` after it. Only `measure` is
    necessary: without the other two the sketches take a pass of their own over the weights.

    Args:
        tolerances, spectrum: what a row has columns for, see `row.columns`.
        device: where all matrices are; the kernels serve it.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._tolerances, self._spectrum, self._device = tolerances, spectrum, device
        self._bases = Bases(tolerances, device)
        self._begun = False  # whether there are sketches
        self._copies = Copies()
        self._batch: RaggedBatch | None = None
        self._at: list[Tensor] = []  # for each chunk of the batch, the indices of its matrices
        self._start = StartVectors.of([], 0, device)
        self._ready = False  # whether `prepare` has announced the coming measurement
        self._measured = 0
        self._ranks: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._captured: list[tuple[RaggedBatch, StartVectors]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, Grams, factors, and copies of matrices."""
        return self._bases.nbytes + self._copies.nbytes + (0 if self._batch is None else self._batch.nbytes)

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announces that the coming step will be measured, so that it may `fuse`; None: it will not be measured."""
        self._ready = False
        if sources is not None:
            if self._begun:
                self._adapt()
            self._begun = self._bases.prepare(self._copies.settle(sources, write=False))
            if not self._begun and capturing(self._device):
                warnings.warn(UNCOMPILED, RuntimeWarning, stacklevel=2)
            self._ready = True

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps some parameters of `descent` and sketches the new weights; returns their `id`s. See `Bases.fuse`."""
        return self._bases.fuse(descent, grad_scale, found_inf) if self._ready and self._begun else set()

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Values `(matrices, columns)` FP64 and, if `due`, the singular values `(r,)` FP64 of each matrix, by index.

        found_inf: not 0 where the optimizer took no step: the bases then stay as they are. None: it took one.
        """
        if not self._ready:
            self.prepare(sources)
        self._ready = False
        sources = self._copies.settle(sources, write=True)  # `prepare` saw the weights before the step
        matrices = [source.matrix for source in sources]
        self._begun = self._begun and self._bases.renew(sources)
        if self._begun:
            bounds, top, norm = self._count(matrices, *self._bases.prove(found_inf))
            self._bases.count_step()
        else:
            bounds, top, norm = self._count(matrices, *self._nothing_proven(len(matrices)))
        finite = norm.isfinite()
        moments = Moments(norm.masked_fill(~finite, 0.0), torch.ones_like(norm), finite, 0.0, 0.0)
        sigma: dict[int, Tensor] = {}
        spectra: list[Tensor] = []
        if due:
            for g in group(matrices):
                sigma.update(zip(g.indices, singular_values(g.stack(matrices)), strict=True))
            each = [torch.stack(metrics_of(sigma[i], self._spectrum)) for i in range(len(matrices)) if self._spectrum]
            spectra = list(torch.stack(each).unbind(-1)) if each and each[0].numel() else []
        values = row_of(moments, bounds, top, self._spectrum, spectra)
        if self._begun:
            self._send_ranks(values)
        return values, sigma

    def state(self) -> dict[str, Any] | None:
        """The state of `Bases`, for a checkpoint; None while there are no sketches. Waits for the device."""
        return self._bases.state() if self._begun else None

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from `state`. Waits until the kernels of its sketches are compiled."""
        self._begun = True
        self._bases.load(self._copies.settle(sources, write=True), state)

    def _nothing_proven(self, count: int) -> tuple[Tensor, Tensor]:
        """What `Bases.prove` would return if nothing were known: bounds that hold for any matrix, and NaN as norm."""
        row = [torch.nan, 0.0, torch.inf, *[-1.0, 2.0**53] * len(self._tolerances)]
        columns = [torch.full((count,), value, dtype=torch.float64, device=self._device) for value in row]
        return torch.stack(columns, -1), torch.zeros(count, dtype=torch.int32, device=self._device)

    def _count(self, matrices: list[Tensor], proof: Tensor, decided: Tensor) -> tuple[list[RankBounds], Tensor, Tensor]:
        """Counts the matrices that are not `decided`, and puts counts and `proof` (of `Bases.prove`) together. Returns
        bounds of the ranks for each tolerance; sigma_1, NaN unless known as well as `TIGHT` says; and ||W||_F^2."""
        norm, low, high = (x.clone() for x in proof[:, :3].unbind(-1))
        batch = self._batch_of(matrices)
        for chunk, at in zip(batch.chunks, self._at, strict=True):
            chunk.launches.decided.copy_(decided[at])
        vectors = self._start.vectors
        if self._begun:
            self._bases.lift(vectors[0])
        else:
            self._start.renew()
        places = dict(zip(map(id, batch.chunks), self._at, strict=True))

        def wanted(chunk: Chunk, moments: Moments, grams: Iterator[GroupGrams]) -> list[ShiftPair]:
            """Where to count in a chunk: for each tolerance, and at last to certify sigma_1."""
            at = places[id(chunk)]
            if not self._begun:
                norm[at] = moments.trace
                high[at] = moments.trace * (1 + UNIT * (moments.inner + moments.order + 64))
            found = batch.top(chunk, moments, vectors, at)
            low[at] = torch.where(decided[at] == 0, torch.maximum(low[at], found), low[at])
            pairs = [batch.shift_pair(chunk, moments, t, (low[at], high[at])) for t in self._tolerances]
            return [*pairs, ShiftPair.of(_certificates(moments, low[at]), moments.trace)]

        counted = list(batch.count(wanted))
        *ranks, above = (batch.in_order([c.bounds[i] for c in counted]) for i in range(len(self._tolerances) + 1))
        known, finite = decided != 0, norm.isfinite()
        bounds = []
        for i, count in enumerate(ranks):
            lower, upper = proof[:, 3 + 2 * i].long(), proof[:, 4 + 2 * i].long()
            status = torch.where(known, Status.OK, count.status).masked_fill(~finite, Status.NONFINITE).to(torch.int8)
            lower = torch.where(known, lower, torch.maximum(lower, count.lower))
            bounds.append(RankBounds(lower, torch.where(known, upper, torch.minimum(upper, count.upper)), status))
        counts = ~known & (above.status == Status.OK)
        for proven, factor in ((counts & (above.lower == 0), TIGHT), (counts & (above.upper == 0), SLACK)):
            high = torch.where(proven, torch.minimum(high, low * (1 + factor)), high)
        return bounds, torch.where(high <= low * (1 + TIGHT), low.sqrt(), torch.nan), norm

    def _batch_of(self, matrices: list[Tensor]) -> RaggedBatch:
        """The batch with its tables and workspace. It is made again only when a matrix has been replaced or moved;
        `RuntimeError` if that happens while a CUDA graph is captured."""
        if self._batch is None or not self._batch.fits(matrices):
            from ..kernels.device import to_device

            if capturing(self._device):
                raise RuntimeError(UNPREPARED)
            self._batch = RaggedBatch(matrices, len(self._tolerances) + 1, keep=True)
            self._batch.allocate()
            self._at = [to_device(torch.tensor(chunk.indices), self._device) for chunk in self._batch.chunks]
            orders = [min(m.shape) for m in matrices]
            self._start = StartVectors.of(orders, -(-max(orders) // 32) * 32, self._device)
        if capturing(self._device):
            self._captured.append((self._batch, self._start))  # the graph reads and writes them as long as it lives
        return self._batch

    def _send_ranks(self, values: Tensor) -> None:
        """Every `ADAPT_EVERY` measurements, sends the column `rank_upper` to the host, which does not wait for it."""
        if capturing(self._device):
            return
        self._measured += 1
        if self._measured % ADAPT_EVERY == 1 and self._ranks is None:
            self._ranks = to_host(values[:, 1]), mark(self._device)

    def _adapt(self) -> None:
        """Adapts the numbers of columns to the ranks that `_send_ranks` has sent, once they have arrived."""
        if self._ranks is None or capturing(self._device):
            return
        ranks, event = self._ranks
        if event is None or event.query():  # type: ignore[no-untyped-call]
            self._bases.adapt([max(0, int(rank)) for rank in ranks.tolist()])
            self._ranks = None


def _certificates(moments: Moments, low: Tensor) -> Shifts:
    """Shifts that certify a lower bound `low` `(b,)` of lambda_1: if no eigenvalue of the Gram is above the shift
    `upper`, lambda_1 <= low (1 + SLACK); if none is above `lower`, lambda_1 <= low (1 + TIGHT)."""
    near, far = Affine(0.0, low * (1 + SLACK)), Affine(0.0, low * (1 + TIGHT))
    assert isinstance(moments.order, Tensor)
    shifts = shifts_around(moments, near, far, Affine(0.0, 0.0), unpivoted_growth(moments.order))
    return Shifts(shifts.upper, far * 2.0 - shifts.lower, shifts.limit)  # near - delta and far - delta
