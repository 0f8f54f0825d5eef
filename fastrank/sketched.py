"""Sketched: bases of all tracked matrices on a CUDA device, and what their sketches prove at each step.

`fastrank.kernels.sketches` has the launches; here is which matrix has how many columns, whose pass over the weights
makes the product, and when all that is changed. The host waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastrank.columns import columns_of
from fastrank.metrics import Tolerance
from fastrank.mirror import UNPREPARED, Mirror
from fastrank.ring import capturing

if TYPE_CHECKING:
    from fastrank.descent import Descent
    from fastrank.kernels.sketches import Sketches

WARM_UP = 8
"""Products that a basis is made of before its first step: 4 iterations of a subspace that began as noise."""
KINDS = ("frobenius", "spectral", "absolute")


class Source(NamedTuple):
    """A tracked matrix, and the parameter it is a view of."""

    matrix: Tensor
    parameter: Tensor

    @property
    def offset(self) -> int | None:
        """Where it starts in the parameter, in elements; None if it has memory of its own."""
        shared = self.matrix.untyped_storage().data_ptr() == self.parameter.untyped_storage().data_ptr()
        return int(self.matrix.storage_offset() - self.parameter.storage_offset()) if shared else None

    @property
    def layout(self) -> tuple[object, ...]:
        """What tables depend on, but for the address."""
        return (self.matrix.shape, self.matrix.stride(), self.matrix.dtype, self.offset)


class Basis(NamedTuple):
    """What is carried of one matrix: bases of both sides, one of which is stale, and see `reference.sketch.Basis`."""

    right: Tensor
    """(n, k) FP32."""
    left: Tensor
    """(m, k) FP32."""
    kept: Tensor
    top: Tensor


class _Group:
    """Matrices of one dtype and k."""

    def __init__(self, indices: list[int], sketches: Sketches, device: torch.device) -> None:
        from fastrank.kernels.device import there

        self.indices, self.sketches = indices, sketches
        self.places = there(torch.tensor(indices, dtype=torch.int32), device)
        self.addresses, self.rows = Mirror(device), Mirror(device)
        self.multiplied = False


class Sketched:
    """Bases and proofs of the same matrices, step after step.

    Args:
        tolerances: of the ranks.
        device: where all matrices are; the kernels serve it.
        seed: key of the noise.
    """

    def __init__(self, tolerances: Sequence[Tolerance], device: torch.device, seed: int = 0) -> None:
        # Beyond these every singular value is smaller than tau, and squares stay in the range.
        most = {"frobenius": 2.0, "spectral": 2.0, "absolute": 1e150}
        squares = [[KINDS.index(t.relative_to), min(t.value, most[t.relative_to]) ** 2] for t in tolerances]
        self._tolerances = torch.tensor(squares, dtype=torch.float64)
        self._device, self._seed = device, seed
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._skip = torch.zeros(1, device=device)
        self._layouts: list[tuple[object, ...]] = []
        self._ks: list[int] = []
        self._groups: list[_Group] = []
        self._places = torch.zeros(0, dtype=torch.int64, device=device)
        self._captured = False
        self._kept: list[list[_Group]] = []
        self._sources: list[Source] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, products and small matrices."""
        return sum(group.sketches.nbytes for group in self._groups)

    @property
    def columns(self) -> list[int]:
        """k of each matrix."""
        return list(self._ks)

    def prepare(self, sources: Sequence[Source]) -> None:
        """What the next products are of; `fuse` may make some of them, `prove` makes the others."""
        self._sources = list(sources)
        layouts = [source.layout for source in sources]
        if layouts != self._layouts:
            self._plan(layouts, [columns_of(0, min(s.matrix.shape)) for s in sources], {})
            for _ in range(WARM_UP):
                self._write_addresses()
                self._multiply()
                self._conclude(None)
                self.count_step()
        for group in self._groups:
            group.multiplied = False
        if capturing(self._device):
            self._captured = True
            self._kept.append(self._groups)  # the graph reads and writes them as long as it lives
        self._write_addresses()

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps parameters of a descent that has been refreshed, and multiplies what is written, in one pass.

        Returns the `id` of each parameter that has been stepped.
        """
        from fastrank.kernels.device import capability, current
        from fastrank.kernels.sgd_sketch import config, sgd_sketch_

        stepped: set[int] = set()
        flags = [x if x is None else x.to(self._device, torch.float32) for x in (grad_scale, found_inf)]
        for group in self._groups:
            own = [self._sources[i] for i in group.indices]
            rows = [descent.rows.get(id(s.parameter), -1) for s in own]
            kind = descent.kind_of(rows)
            if kind is None or config(group.sketches.k, capability(self._device)) is None or not _whole(own):
                continue
            group.rows.write(rows, self._captured)
            scratch = {**group.sketches.tensors, "rows": group.rows.table}
            tables = {"pointers": descent.pointers, "meta": descent.meta, "hyper": descent.hyper}
            with current(self._device):
                sgd_sketch_(scratch, tables, len(rows), group.sketches.k, kind, *flags)
            group.multiplied = True
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
        from fastrank.kernels.device import current
        from fastrank.kernels.power import lift_

        with current(self._device):
            for group in self._groups:
                sketches = group.sketches
                lift_(vectors, group.places, sketches.tensors, len(group.indices), sketches.k)

    def adapt(self, ranks: Sequence[int]) -> None:
        """Gives every matrix as many columns as its rank asks for, with the basis it has. Not in a step."""
        wanted = [
            columns_of(rank, min(source.matrix.shape), k)
            for rank, source, k in zip(ranks, self._sources, self._ks, strict=True)
        ]
        most: dict[int, int] = {}
        for source, k in zip(self._sources, wanted, strict=True):  # matrices of one parameter stay together
            most[id(source.parameter)] = max(k, most.get(id(source.parameter), 0))
        ks = [most[id(source.parameter)] for source in self._sources]
        if ks != self._ks and not self._captured:
            self._plan(self._layouts, ks, self.bases())

    def bases(self) -> dict[int, Basis]:
        """What is carried of each matrix, by index; views of the state."""
        return {
            i: Basis(*group.sketches.basis(place)) for group in self._groups for place, i in enumerate(group.indices)
        }

    def state(self) -> dict[str, Any]:
        """All it takes to go on elsewhere. Waits for the device."""
        bases = {i: Basis(*(x.cpu() for x in basis)) for i, basis in self.bases().items()}
        return {"step": int(self._step), "bases": {i: basis._asdict() for i, basis in bases.items()}}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from `state`, of matrices of these shapes."""
        self.prepare(sources)
        bases = {i: Basis(**basis) for i, basis in state["bases"].items()}
        self._step.fill_(state["step"])
        self._plan(self._layouts, [bases[i].kept.shape[-1] for i in range(len(sources))], bases)

    def _plan(self, layouts: list[tuple[object, ...]], ks: list[int], bases: Mapping[int, Basis]) -> None:
        from fastrank.kernels.device import there
        from fastrank.kernels.sketch_table import View
        from fastrank.kernels.sketches import Sketches

        if capturing(self._device):
            raise RuntimeError(UNPREPARED)
        members: dict[tuple[torch.dtype, int], list[int]] = {}
        for i, (source, k) in enumerate(zip(self._sources, ks, strict=True)):
            members.setdefault((source.matrix.dtype, k), []).append(i)
        groups = []
        for (dtype, k), indices in members.items():
            matrices = [self._sources[i] for i in indices]
            shapes = [(*s.matrix.shape, *s.matrix.stride()) for s in matrices]
            views = [
                View(s.offset or 0, m, n, down, across, i)
                for s, (m, n, down, across), i in zip(matrices, shapes, indices, strict=True)
            ]
            sketches = Sketches(views, dtype, k, self._tolerances, self._step, self._skip, self._seed)
            sketches.adopt({place: bases[i] for place, i in enumerate(indices) if i in bases})
            groups.append(_Group(indices, sketches, self._device))
        order = [i for group in groups for i in group.indices]
        self._places = there(torch.tensor(order, dtype=torch.int64).argsort(), self._device)
        self._groups, self._layouts, self._ks = groups, layouts, ks

    def _write_addresses(self) -> None:
        for group in self._groups:
            group.addresses.write([self._sources[i].matrix.data_ptr() for i in group.indices], self._captured)

    def _multiply(self) -> None:
        for group in self._groups:
            if not group.multiplied:
                group.sketches.multiply(group.addresses.table)
            group.multiplied = False

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


def _whole(sources: Sequence[Source]) -> bool:
    """Whether the matrices are all there is of their parameters, so that stepping them steps those."""
    elements: dict[int, int] = {}
    for source in sources:
        if source.offset is None:
            return False
        elements[id(source.parameter)] = elements.get(id(source.parameter), 0) + source.matrix.numel()
    return all(elements[id(s.parameter)] == s.parameter.numel() for s in sources)
