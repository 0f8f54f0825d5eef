"""Bases: the bases of all tracked matrices on a CUDA device, and what their sketches prove at each step.

This file decides how many columns a basis has, whether a product is made in the optimizer's pass over the weights or in
one of its own, and when tables are made again. `fastrank.kernels.sketch` has the launches. No step makes the host wait.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing
from ..metrics import Tolerance
from ..weights import Source
from .basis_groups import Basis, BasisGroup, are_whole, indices_of, views_of
from .basis_size import basis_size
from .compilation import compilation_of

if TYPE_CHECKING:
    from ..kernels.variant import Variant
    from ..optim import Descent

WARM_UP = 8
"""Products that a basis goes through before its first step: 4 iterations of a subspace that began as noise."""
UNFUSED = (
    "the kernel that steps and sketches at once is still being compiled: the graph that is captured does either by "
    "itself, which is slower; call fastrank.prepare(model, optimizer), and step once, before capturing"
)
KINDS = ("frobenius", "spectral", "absolute")


class Bases:
    """Carries the bases of a list of matrices from step to step, and proves bounds from their sketches.

    At each step, call `prepare` before the optimizer's step, `fuse` in it, and then `renew`, `prove`, `lift` and
    `count_step`, in this order. `lift` may be left out, and so may `fuse` with `renew`. Call `adapt` between steps.

    Args:
        tolerances: of the ranks.
        device: where all matrices are; the kernels serve it.
        seed: key of the noise (default 0).
    """

    def __init__(self, tolerances: Sequence[Tolerance], device: torch.device, seed: int = 0) -> None:
        self._compilation = compilation_of(device)
        # At these values tau exceeds every singular value already, and its square stays in the range of FP64.
        most = {"frobenius": 2.0, "spectral": 2.0, "absolute": 1e150}
        squares = [[KINDS.index(t.relative_to), min(t.value, most[t.relative_to]) ** 2] for t in tolerances]
        self._tolerances = torch.tensor(squares, dtype=torch.float64)
        self._device, self._seed = device, seed
        self._step = torch.zeros((), dtype=torch.int64, device=device)  # number of steps; even: V is next, odd: U
        self._skip = torch.zeros(1, device=device)  # not 0: this step changes no basis
        self._layouts: list[tuple[object, ...]] = []
        self._ks: list[int] = []
        self._groups: list[BasisGroup] = []
        self._places = torch.zeros(0, dtype=torch.int64, device=device)  # of each matrix in the groups' joined proofs
        self._captured = False  # whether a CUDA graph has captured a step
        self._kept: list[list[BasisGroup]] = []
        self._sources: list[Source] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, products and small matrices on the device."""
        return sum(group.sketches.nbytes for group in self._groups)

    @property
    def columns(self) -> list[int]:
        """Number of columns k of each matrix' basis."""
        return list(self._ks)

    def prepare(self, sources: Sequence[Source]) -> bool:
        """Sets the matrices of the next products: `fuse` may make some of these, `prove` makes the others.

        Matrices of another layout get new bases. Returns False if there can be no sketches yet: their kernels are not
        compiled, or tables would have to be made while a CUDA graph is captured.
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
        """Sets the matrices as they are after the step. Since `fuse`, some may have been replaced or written once more.

        `prove` then makes their products again. Returns False where `prepare` would.
        """
        if [source.layout for source in sources] != self._layouts and not self.prepare(sources):
            return False
        self._sources = list(sources)
        for group in self._groups:
            if group.stepped and group.stepped != [self._sources[i].state() for i in group.indices]:
                group.stepped = None
        return True

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps parameters of `descent`, after its `refresh`, and multiplies the new weights, in one pass over them.
        Returns the `id` of each parameter that has been stepped: `Descent.launch` has to step the others."""
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
                if variant is not None and capturing(self._device):  # which cannot make the table `rows`
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
            # `Descent.launch` comes next, and counts up the version of every parameter that has a gradient.
            group.stepped = [s.state(s.parameter.grad is not None) for s in own]
            stepped |= {id(s.parameter) for s in own}
        return stepped

    def prove(self, found_inf: Tensor | None) -> tuple[Tensor, Tensor]:
        """Makes the products that `fuse` has not made, and proves bounds from all of them.

        Returns `(matrices, 3 + 2 tolerances)` FP64: ||W||_F^2 (not finite where W is not), bounds of sigma_1^2, bounds
        of each rank (-1 where W is not finite); and `(matrices,)` int32: 1 where no rank is open. If `found_inf` is not
        0, no basis changes, and both are those of the last step.
        """
        self._multiply()
        self._conclude(found_inf)
        proof = torch.cat([g.sketches.proof for g in self._groups])[self._places]
        return proof, torch.cat([g.sketches.decided for g in self._groups])[self._places]

    def lift(self, vectors: Tensor) -> None:
        """Writes each matrix' first singular vector of its smaller side, as just found, into its row of `vectors`."""
        from ..kernels.device import current
        from ..kernels.sketch import lift_

        with current(self._device):
            for group in self._groups:
                sketches = group.sketches
                lift_(vectors, group.places, sketches.tensors, len(group.indices), sketches.k)

    def adapt(self, ranks: Sequence[int]) -> None:
        """Gives every matrix as many columns as its rank asks for; those it has are kept as far as there is room.
        Nothing changes until all kernels for that are compiled, nor after a CUDA graph has captured a step."""
        wanted = [
            basis_size(rank, min(source.matrix.shape), k)
            for rank, source, k in zip(ranks, self._sources, self._ks, strict=True)
        ]
        most: dict[int, int] = {}
        for source, k in zip(self._sources, wanted, strict=True):  # a parameter's matrices stay in one group
            most[id(source.parameter)] = max(k, most.get(id(source.parameter), 0))
        ks = [most[id(source.parameter)] for source in self._sources]
        if ks != self._ks and not self._captured and self._compilation.ready(self._variants(self._sources, ks)):
            self._plan(self._layouts, ks, self.by_matrix())

    def by_matrix(self) -> dict[int, Basis]:
        """What is carried of each matrix, by its index: tensors that share the memory of the groups."""
        return {
            i: Basis(*group.sketches.basis(place)) for group in self._groups for place, i in enumerate(group.indices)
        }

    def state(self) -> dict[str, Any]:
        """All that another process needs to go on from here, on the CPU. Waits for the device."""
        bases = {i: Basis(*(x.cpu() for x in basis)) for i, basis in self.by_matrix().items()}
        return {"step": int(self._step), "bases": {i: basis._asdict() for i, basis in bases.items()}}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from a `state` of matrices of the same shapes. Waits until their kernels are compiled."""
        bases = {i: Basis(**basis) for i, basis in state["bases"].items()}
        ks = [bases[i].kept.shape[-1] for i in range(len(sources))]
        for own in (ks, _first_columns(sources)):
            self._compilation.wait(self._variants(sources, own))
        if not self.prepare(sources):
            raise RuntimeError(UNPREPARED)  # in a capture
        self._step.fill_(state["step"])
        self._plan(self._layouts, ks, bases)

    def _variants(self, sources: Sequence[Source], ks: Sequence[int]) -> list[Variant]:
        """Variants of the kernels that sketches of these matrices, with `ks` columns each, launch."""
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
        for group in groups:  # here, because a capture could not make the table
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
        """Ends a step: the next one multiplies with the other side's basis. A skipped step does not count."""
        self._step += (self._skip == 0).squeeze()


def _first_columns(sources: Sequence[Source]) -> list[int]:
    """k of each matrix as long as nothing is known of its rank."""
    return [basis_size(0, min(source.matrix.shape)) for source in sources]
