"""Bases: bases of all tracked matrices on a CUDA device, and what their sketches prove at each step.

`fastrank.kernels.sketch` has the launches; here is which matrix has how many columns, whose pass over the weights makes
the product, and when all that is changed. The host waits for nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing
from ..metrics import Tolerance
from .basis_groups import Basis, BasisGroup, are_whole, indices_of, views_of
from .basis_size import basis_size
from .compilation import compilation_of
from .source import Source

if TYPE_CHECKING:
    from ..kernels.variant import Variant
    from ..optim import Descent

WARM_UP = 8
"""Products that a basis is made of before its first step: 4 iterations of a subspace that began as noise."""
UNFUSED = (
    "the kernel that steps and sketches at once is still being compiled: the graph that is captured does either by "
    "itself, which is slower; call fastrank.prepare(model, optimizer), and step once, before capturing"
)
KINDS = ("frobenius", "spectral", "absolute")


class Bases:
    """Bases and proofs of the same matrices, step after step.

    Args:
        tolerances: of the ranks.
        device: where all matrices are; the kernels serve it.
        seed: key of the noise.
    """

    def __init__(self, tolerances: Sequence[Tolerance], device: torch.device, seed: int = 0) -> None:
        self._compilation = compilation_of(device)
        # Beyond these every singular value is smaller than tau, and squares stay in the range.
        most = {"frobenius": 2.0, "spectral": 2.0, "absolute": 1e150}
        squares = [[KINDS.index(t.relative_to), min(t.value, most[t.relative_to]) ** 2] for t in tolerances]
        self._tolerances = torch.tensor(squares, dtype=torch.float64)
        self._device, self._seed = device, seed
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._skip = torch.zeros(1, device=device)
        self._layouts: list[tuple[object, ...]] = []
        self._ks: list[int] = []
        self._groups: list[BasisGroup] = []
        self._places = torch.zeros(0, dtype=torch.int64, device=device)
        self._captured = False
        self._kept: list[list[BasisGroup]] = []
        self._sources: list[Source] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, products and small matrices."""
        return sum(group.sketches.nbytes for group in self._groups)

    @property
    def columns(self) -> list[int]:
        """k of each matrix."""
        return list(self._ks)

    def prepare(self, sources: Sequence[Source]) -> bool:
        """What the next products are of: `fuse` may make some, `prove` makes the others. After a step, `renew` it.

        False where there can be no sketches of these yet: their kernels are not compiled, or tables would have to be
        made while a CUDA graph is captured.
        """
        layouts = [source.layout for source in sources]
        if layouts != self._layouts:
            ks = _first_columns(sources)
            if capturing(self._device) or not self._compilation.ready(self._variants(sources, ks)):
                return False
            self._sources = list(sources)
            self._plan(layouts, ks, {})
            for _ in range(WARM_UP):
                self._multiply()
                self._conclude(None)
                self.count_step()
        self._sources = list(sources)
        for group in self._groups:
            group.stepped = None
        if capturing(self._device):
            self._captured = True
            self._kept.append(self._groups)  # the graph reads and writes them as long as it lives
        return True

    def renew(self, sources: Sequence[Source]) -> bool:
        """The matrices as they are after a step: some may have been replaced since `prepare`, or written once more.

        A product that `fuse` has made of what is no longer there is made again. False as of `prepare`.
        """
        if [source.layout for source in sources] != self._layouts and not self.prepare(sources):
            return False
        self._sources = list(sources)
        for group in self._groups:
            if group.stepped and group.stepped != [self._sources[i].state() for i in group.indices]:
                group.stepped = None
        return True

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps parameters of a descent that has been refreshed, and multiplies what is written, in one pass.

        Returns the `id` of each parameter that has been stepped.
        """
        from ..kernels.device import current
        from ..kernels.step import sgd_sketch_, sgd_sketch_variant

        stepped: set[int] = set()
        flags = [x if x is None else x.to(self._device, torch.float32) for x in (grad_scale, found_inf)]
        for group in self._groups:
            own = [self._sources[i] for i in group.indices]
            rows = [descent.rows.get(id(s.parameter), -1) for s in own]
            kind = descent.kind_of(rows)
            if kind is None or not are_whole(own):
                continue
            scaled, guarded = (flag is not None for flag in flags)
            form = (kind, scaled, guarded)
            if form not in group.compiled:
                variant = sgd_sketch_variant(kind, group.sketches.k, self._device, scaled, guarded)
                if variant is not None and capturing(self._device):  # which can make none of the tables that it takes
                    warnings.warn(UNFUSED, RuntimeWarning, stacklevel=2)
                    continue
                if variant is None or not self._compilation.ready([variant]):
                    continue
                group.compiled.add(form)
            tables = {"pointers": descent.pointers, "meta": descent.meta, "hyper": descent.hyper}
            with current(self._device):
                group.rows.write(rows, self._captured)
                scratch = {**group.sketches.tensors, "rows": group.rows.table}
                sgd_sketch_(scratch, tables, len(rows), group.sketches.k, kind, *flags)
            # `Descent.launch` counts versions up, of what has a gradient.
            group.stepped = [s.state(s.parameter.grad is not None) for s in own]
            stepped |= {id(s.parameter) for s in own}
        return stepped

    def prove(self, found_inf: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the sketches prove: `(matrices, 3 + 2 tolerances)` FP64 and `(matrices,)` int32, whether ranks are.

        The numbers are ||W||_F^2 (not finite where W is not), bounds of sigma_1^2, and bounds of each rank. Where
        `found_inf` is not 0 nothing that is carried changes, and the answer is the last one. `count_step` ends it.
        """
        self._multiply()
        self._conclude(found_inf)
        proof = torch.cat([g.sketches.proof for g in self._groups])[self._places]
        return proof, torch.cat([g.sketches.decided for g in self._groups])[self._places]

    def lift(self, vectors: Tensor) -> None:
        """Writes the first singular vector of each matrix, as last proven, of its smaller side, into `vectors`."""
        from ..kernels.device import current
        from ..kernels.sketch import lift_

        with current(self._device):
            for group in self._groups:
                sketches = group.sketches
                lift_(vectors, group.places, sketches.tensors, len(group.indices), sketches.k)

    def adapt(self, ranks: Sequence[int]) -> None:
        """Gives every matrix as many columns as its rank asks for, with the basis it has. Not in a step.

        Nothing changes before all kernels are compiled that it takes.
        """
        wanted = [
            basis_size(rank, min(source.matrix.shape), k)
            for rank, source, k in zip(ranks, self._sources, self._ks, strict=True)
        ]
        most: dict[int, int] = {}
        for source, k in zip(self._sources, wanted, strict=True):  # matrices of one parameter stay together
            most[id(source.parameter)] = max(k, most.get(id(source.parameter), 0))
        ks = [most[id(source.parameter)] for source in self._sources]
        if ks != self._ks and not self._captured and self._compilation.ready(self._variants(self._sources, ks)):
            self._plan(self._layouts, ks, self.by_matrix())

    def by_matrix(self) -> dict[int, Basis]:
        """What is carried of each matrix, by index; views of the state."""
        return {
            i: Basis(*group.sketches.basis(place)) for group in self._groups for place, i in enumerate(group.indices)
        }

    def state(self) -> dict[str, Any]:
        """All it takes to go on elsewhere. Waits for the device."""
        bases = {i: Basis(*(x.cpu() for x in basis)) for i, basis in self.by_matrix().items()}
        return {"step": int(self._step), "bases": {i: basis._asdict() for i, basis in bases.items()}}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from `state`, of matrices of these shapes."""
        bases = {i: Basis(**basis) for i, basis in state["bases"].items()}
        ks = [bases[i].kept.shape[-1] for i in range(len(sources))]
        for own in (ks, _first_columns(sources)):
            self._compilation.wait(self._variants(sources, own))
        if not self.prepare(sources):
            raise RuntimeError(UNPREPARED)  # in a capture
        self._step.fill_(state["step"])
        self._plan(self._layouts, ks, bases)

    def _variants(self, sources: Sequence[Source], ks: Sequence[int]) -> list[Variant]:
        """What sketches of these matrices with so many columns launch."""
        from ..kernels.sketch import variants_of_sketches

        wanted = {(source.matrix.dtype, k) for source, k in zip(sources, ks, strict=True)}
        return [variant for dtype, k in wanted for variant in variants_of_sketches(dtype, k, self._device)]

    def _plan(self, layouts: list[tuple[object, ...]], ks: list[int], bases: Mapping[int, Basis]) -> None:
        from ..kernels.device import to_device
        from ..kernels.sketch import Sketches

        if capturing(self._device):
            raise RuntimeError(UNPREPARED)
        groups = []
        for (dtype, k), indices in indices_of(self._sources, ks):
            views = views_of(self._sources, indices)
            sketches = Sketches(views, dtype, k, self._tolerances, self._step, self._skip, self._seed)
            sketches.adopt({place: bases[i] for place, i in enumerate(indices) if i in bases})
            groups.append(BasisGroup(indices, sketches, self._device))
        order = [i for group in groups for i in group.indices]
        self._places = to_device(torch.tensor(order, dtype=torch.int64).argsort(), self._device)
        self._groups, self._layouts, self._ks = groups, layouts, ks
        for group in groups:  # now that a table may be made, also if it is in a capture that it is first read
            self._write_addresses(group)

    def _write_addresses(self, group: BasisGroup) -> None:
        from ..kernels.device import current

        with current(self._device):
            group.addresses.write([self._sources[i].matrix.data_ptr() for i in group.indices], self._captured)

    def _multiply(self) -> None:
        for group in self._groups:
            if group.stepped is None:
                self._write_addresses(group)
                group.sketches.multiply(group.addresses.table)
            group.stepped = None

    def _conclude(self, found_inf: Tensor | None) -> None:
        if found_inf is None:
            self._skip.zero_()
        else:
            self._skip.copy_(found_inf.reshape(1), non_blocking=True)
        for group in self._groups:
            group.sketches.conclude()

    def count_step(self) -> None:
        """Ends a step, unless it was to be skipped: then it is the other side's turn."""
        self._step += (self._skip == 0).squeeze()


def _first_columns(sources: Sequence[Source]) -> list[int]:
    """k of each matrix while nothing is known of its rank."""
    return [basis_size(0, min(source.matrix.shape)) for source in sources]
