"""Sketch measurer: measures on a CUDA device by sketches, and counts the ranks that a sketch leaves open. At each step:

    sketch   every matrix, in the optimizer's own pass over the weights where possible      (`bases`)
    prove    bounds of each rank, of sigma_1 and of ||W||_F from the sketches                (`plan`, from here on)
    count    the matrices whose rank is still open; for all others the launches return at once
    row      what was proven and counted

Until the kernels of the sketches are compiled, all matrices are counted.

The host waits for nothing, and a CUDA graph can capture every step. What follows once no weight is read any more runs
on the tracker's own stream, beside the next forward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backend import integer_products, sketches_by_integers
from ..counting import group, singular_values
from ..device import UNPREPARED, capturing, mark, to_host
from ..kernels.device import current
from ..metrics import Tolerance
from ..streams import OwnStream
from ..weights import Source
from .bases import Bases
from .copies import Copies
from .plan import Plan
from .row import metrics_of, spectrum_metrics

if TYPE_CHECKING:
    from ..optim import Descent

ADAPT_EVERY = 64
"""Measurements between two looks at the ranks, by which the numbers of columns are chosen."""
KINDS = ("frobenius", "spectral", "absolute")
LARGEST = {"frobenius": 2.0, "spectral": 2.0, "absolute": 1e150}
"""At these values tau exceeds every singular value already, and its square stays in the range of FP64."""
UNCOMPILED = (
    "the kernels of the sketches are still being compiled: the graph that is captured counts every matrix at every "
    "replay, which is slower; call fastrank.prepare(model, optimizer) before capturing"
)


class SketchMeasurer:
    """Measures a list of matrices after each step; any of them may have been replaced since the last step.

    At each step, call `prepare` before the optimizer's step, `fuse` in it, and `measure` after it. Only `measure` is
    necessary: without the other two the sketches take a pass of their own over the weights.

    Args:
        tolerances, spectrum: what a row has columns for, see `row.columns`.
        device: where all matrices are; the kernels serve it.
        stream: where work runs that reads no weights.
    """

    def __init__(
        self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device, stream: OwnStream
    ) -> None:
        squares = [[KINDS.index(t.relative_to), min(t.value, LARGEST[t.relative_to]) ** 2] for t in tolerances]
        self._tolerances = torch.tensor(squares, dtype=torch.float64)
        self._spectrum, self._device, self._stream = spectrum, device, stream
        self._products = integer_products(device, tolerances)
        self._metrics = list(spectrum_metrics(spectrum))
        self._bases = Bases(self._tolerances, device, integers=sketches_by_integers(device, tolerances))
        self._begun = False  # whether there are sketches
        self._copies = Copies()
        self._plan: Plan | None = None
        self._ready = False  # whether `prepare` has announced the coming measurement
        self._measured = 0
        self._ranks: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._captured: list[Plan] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, Grams, factors, and copies of matrices."""
        return self._bases.nbytes + self._copies.nbytes + (0 if self._plan is None else self._plan.nbytes)

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announces that the coming step will be measured, so that it may `fuse`; None: it will not be measured."""
        self._ready = False
        if sources is not None:
            self._stream.join()
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

        The next call overwrites the values. They are written on the own stream after this call, unless `due`.

        found_inf: not 0 where the optimizer took no step: the bases then stay as they are. None: it took one.
        """
        self._stream.join()
        if not self._ready:
            self.prepare(sources)
        self._ready = False
        sources = self._copies.settle(sources, write=True)  # `prepare` saw the weights before the step
        self._begun = self._begun and self._bases.renew(sources)
        self._bases.set_skip(found_inf)
        matrices = [source.matrix for source in sources]
        plan = self._plan_of(matrices)
        with current(self._device):
            if self._begun:
                self._bases.multiply()
            plan.read_weights()
            if plan.leaves_weights and not due:
                self._stream.fork()
            with self._stream.current():
                plan.conclude()
                if self._begun:
                    self._send_ranks(plan.values)
        return plan.values, self._spectra(matrices, plan.values) if due else {}

    def state(self) -> dict[str, Any] | None:
        """The state of `Bases`, for a checkpoint; None while there are no sketches. Waits for the device."""
        self._stream.join()
        return self._bases.state() if self._begun else None

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from `state`. Waits until the kernels of its sketches are compiled."""
        self._stream.join()
        self._begun = True
        self._bases.load(self._copies.settle(sources, write=True), state)

    def _plan_of(self, matrices: list[Tensor]) -> Plan:
        """The launches that measure `matrices`. They are planned again only when one has been replaced or moved, or
        with other sketches; `RuntimeError` if that happens while a CUDA graph is captured."""
        sketches = self._bases.sketches if self._begun else None
        if self._plan is None or not self._plan.fits(matrices, sketches):
            if capturing(self._device):
                raise RuntimeError(UNPREPARED)
            self._plan = None  # so that there is never room for two
            given = (self._bases.step, self._bases.skip, len(self._metrics), self._products)
            self._plan = Plan(matrices, self._tolerances, sketches, *given)
        if capturing(self._device):
            self._captured.append(self._plan)  # the graph reads and writes it as long as it lives
        return self._plan

    def _spectra(self, matrices: Sequence[Tensor], values: Tensor) -> dict[int, Tensor]:
        """Singular values of each matrix, by index; their metrics go into the last columns of `values`."""
        sigma: dict[int, Tensor] = {}
        for g in group(matrices):
            sigma.update(zip(g.indices, singular_values(g.stack(matrices)), strict=True))
        if self._metrics:
            each = [torch.stack(metrics_of(sigma[i], self._spectrum)) for i in range(len(matrices))]
            values[:, -len(self._metrics) :] = torch.stack(each)
        return sigma

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
