"""DeviceMeasurer: measures the tracked matrices of one device after a step: those that are trained each time, frozen
ones when they change.

Either are measured in one of four ways, which `ChosenMeasurer` chooses anew at each step:

sketches   `SketchMeasurer`: on a CUDA device that the kernels serve
counts     `CountMeasurer`: there as well, those that are FP64 or empty
compiled   `CompiledMeasurer`: on the CPU, where Numba compiles the kernels for it
stacks     `StackMeasurer`: everywhere else, by PyTorch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import backend
from ..metrics import Status, Tolerance
from ..probing import require
from ..streams import OwnStream
from ..weights import Source
from .compiled_measurer import CompiledMeasurer
from .count_measurer import CountMeasurer
from .frozen import FrozenRows
from .row import columns, spectrum_metrics
from .sketch_measurer import SketchMeasurer
from .stack_measurer import StackMeasurer

if TYPE_CHECKING:
    from ..optim import Descent


WithoutSketch = StackMeasurer | CountMeasurer | CompiledMeasurer


class DeviceMeasurer:
    """Measures matrices of one device after each step; any of them may have been replaced since the last step.

    At each step, `prepare` is called before the optimizer's step, `fuse` in the step of a `fastrank.SGD`, and `measure`
    after it. Only `measure` is necessary: the other two save a pass over the weights.

    Args:
        tolerances: of the ranks, at least one.
        spectrum: metrics of the whole spectrum that a row has columns for, see `row.check_spectrum`.
        device: where all matrices are, and where the values go.
        stream: where the kernels run that read no weights. Values are to be read in its `current()`, before the next
            step is measured.

    Raises:
        RuntimeError: the arithmetic of the device is not what proofs assume, see `fastrank.probing`. `measure` raises
            it, too: a thread's rounding mode may change at any time.
    """

    def __init__(
        self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device, stream: OwnStream
    ) -> None:
        require(device)
        self._device, self._stream = device, stream
        self._trained = ChosenMeasurer(tolerances, spectrum, device, stream)
        self._apart = ChosenMeasurer(tolerances, spectrum, device, stream)
        self._at_rest = ChosenMeasurer(tolerances, spectrum, device, stream)
        self._frozen = FrozenRows(self._at_rest, device, len(spectrum_metrics(spectrum)))
        self._status = columns(tolerances, spectrum).index("status")
        self._order: tuple[list[int], Tensor] | None = None
        self._others: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes on the device that the kernels work in."""
        return self._trained.nbytes + self._apart.nbytes + self._at_rest.nbytes

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announce that the coming step will be measured, so that it may `fuse`; None: it will not be measured."""
        self._trained.prepare(sources if sources is None else those(sources, self._parted(sources)[0]))

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Step some parameters of `descent` in the pass that sketches them; return their `id`s. See `Bases.fuse`."""
        return self._trained.fuse(descent, grad_scale, found_inf)

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Measure all matrices, after a step.

        Args:
            sources: the matrices with their parameters.
            due: measure the whole spectrum as well.
            found_inf: on CUDA, not 0 where the optimizer took no step: the bases of the sketches then stay as they are
                (default None: it took one).

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`; and, if the spectrum is due, the singular values
            `(r,)` FP64 of each matrix, by its index.
        """
        require(self._device)
        trained, apart, frozen = self._parted(sources)
        if len(trained) == len(sources):
            values, sigma = self._trained.measure(sources, due, found_inf)
        else:
            sigma = {}
            self._others = []  # kept until the own stream, which reads them below, is joined
            for indices, measurer in ((frozen, self._frozen), (apart, self._apart)):
                if indices:
                    values, more = measurer.measure(those(sources, indices), due)
                    self._others.append(values)
                    sigma |= {indices[i]: x for i, x in more.items()}
            if trained:
                self._stream.join()
                own, more = self._trained.measure(those(sources, trained), due, found_inf)
                places = self._places([*trained, *frozen, *apart])
                with self._stream.current():
                    values = torch.cat([own, *self._others])[places]
                sigma |= {trained[i]: x for i, x in more.items()}
        absent = [i for i, source in enumerate(sources) if source.absent]
        if absent:
            with self._stream.current():
                for i in absent:
                    values[i, self._status] = Status.ABSENT  # of NaN, what is measured is NONFINITE
        return values, sigma

    def state(self, sources: Sequence[Source]) -> dict[str, Any]:
        """What `load` needs, for a checkpoint. Waits for the device. Frozen matrices have no state.

        `"trained"` are the indices of the matrices whose `"sketches"` these are; `"starts"` are by index, too.
        """
        trained, apart, _ = self._parted(sources)
        starts = {
            indices[i]: basis.cpu()
            for indices, measurer in ((trained, self._trained), (apart, self._apart))
            for i, basis in measurer.warm_starts().items()
            if i < len(indices)
        }
        return {"trained": trained, "starts": starts, "sketches": self._trained.state()}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, with the matrices that `sources` now has.

        Sketches use their own state alone, and only if the same matrices are trained; counts and stacks use the warm
        starts alone. After a change from one to the other, as from a CUDA device to a CPU, all begin anew.
        """
        trained, apart, _ = self._parted(sources)
        sketches = state["sketches"] if state["trained"] == trained else None
        for indices, measurer, own in ((trained, self._trained, sketches), (apart, self._apart, None)):
            starts = {place: state["starts"][i] for place, i in enumerate(indices) if i in state["starts"]}
            if indices:
                measurer.load(those(sources, indices), own, starts)

    def _parted(self, sources: Sequence[Source]) -> tuple[list[int], list[int], list[int]]:
        """Indices of the matrices that are trained, of those to be measured apart because sketches could measure the
        others but not them, and of the frozen ones."""
        trained = [i for i, source in enumerate(sources) if not source.frozen]
        frozen = [i for i, source in enumerate(sources) if source.frozen] if len(trained) < len(sources) else []
        if not backend.kernels_serve(self._device):
            return trained, [], frozen
        fit = [i for i in trained if _sketchable(sources[i])]
        if not fit or len(fit) == len(trained):
            return trained, [], frozen
        return fit, [i for i in trained if not _sketchable(sources[i])], frozen

    def _places(self, order: list[int]) -> Tensor:
        """Where each matrix stands in `order`, on the device."""
        if self._order is None or self._order[0] != order:
            places = torch.tensor(order, dtype=torch.int64).argsort()
            self._order = order, places.to(self._device)
        return self._order[1]


def those(sources: Sequence[Source], indices: Sequence[int]) -> Sequence[Source]:
    """The sources of these indices, which are `sources` itself if all are."""
    return sources if len(indices) == len(sources) else [sources[i] for i in indices]


def _sketchable(source: Source) -> bool:
    """Whether a sketch can measure a matrix: it is not empty, nor FP64, whose products are not exact in FP64."""
    return source.matrix.dtype != torch.float64 and source.matrix.numel() > 0


class ChosenMeasurer:
    """Measures matrices in the way that suits them; arguments and methods are as those of `DeviceMeasurer`."""

    def __init__(
        self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device, stream: OwnStream
    ) -> None:
        self._device = device
        self._stacks = StackMeasurer(tolerances, spectrum, device)
        self._counts = CountMeasurer(tolerances, spectrum, device)
        self._sketches = SketchMeasurer(tolerances, spectrum, device, stream)
        self._compiled = CompiledMeasurer(tolerances, spectrum)
        self._sketched: Sequence[Source] | None = None
        """The last ones that sketches could measure, if they are views: others would be kept alive by this."""
        self._without_sketch: WithoutSketch = self._stacks
        """Which of them has measured last: its warm starts are the ones to save."""

    @property
    def nbytes(self) -> int:
        return self._sketches.nbytes + self._counts.nbytes + self._compiled.nbytes

    def prepare(self, sources: Sequence[Source] | None) -> None:
        self._sketches.prepare(sources if sources and self._by_sketch(sources) else None)

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        return self._sketches.fuse(descent, grad_scale, found_inf)

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Values `(matrices, columns)` FP64 and, if `due`, the singular values `(r,)` FP64 of each matrix, by index."""
        if self._by_sketch(sources):
            return self._sketches.measure(sources, due, found_inf)
        return self._choose_without_sketch().measure(sources, due)

    def state(self) -> dict[str, Any] | None:
        """The bases of the sketches; None while there are none."""
        return self._sketches.state()

    def warm_starts(self) -> dict[int, Tensor]:
        """The warm start of the search for sigma_1, by index, of each matrix that is measured without a sketch."""
        return self._without_sketch.warm_starts()

    def load(self, sources: Sequence[Source], state: Mapping[str, Any] | None, starts: Mapping[int, Tensor]) -> None:
        """Go on from what `state` and `warm_starts` returned."""
        if not self._by_sketch(sources):
            self._choose_without_sketch().load(sources, starts)
        elif state is not None:
            self._sketches.load(sources, state)

    def _choose_without_sketch(self) -> WithoutSketch:
        """Which of them measures the matrices; `warm_starts` are those of the one chosen last."""
        self._without_sketch = self._stacks
        if backend.kernels_serve(self._device):
            self._without_sketch = self._counts
        elif backend.compiled_serve(self._device):
            self._without_sketch = self._compiled
        return self._without_sketch

    def _by_sketch(self, sources: Sequence[Source]) -> bool:
        """Whether sketches can measure the matrices."""
        if sources is not self._sketched:
            if not (backend.kernels_serve(self._device) and all(map(_sketchable, sources))):
                return False
            self._sketched = sources if all(s.offset is not None for s in sources) else None
            return True
        return backend.kernels_serve(self._device)
