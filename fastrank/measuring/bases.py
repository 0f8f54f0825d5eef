"""Bases: the bases of all tracked matrices on a CUDA device, carried from step to step.

This file decides how many columns a basis has, whether a product is made in the optimizer's pass over the weights or in
one of its own, and when tables are made again. `fastrank.kernels.sketch` has the launches, and `plan` the order of what
follows the products. No step makes the host wait.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing
from ..device_table import DeviceTable
from ..kernels.device import current
from ..weights import Source
from .basis_passes import Basis, BasisPass, same, views_of
from .basis_size import basis_size
from .compilation import compilation_of

if TYPE_CHECKING:
    from ..kernels.launch import AnyVariant
    from ..kernels.sketch import Sketches
    from ..optim import Descent

WARM_UP = 8
"""Products that a basis goes through before its first step: 4 iterations of a subspace that began as noise."""
UNFUSED = (
    "the kernel that steps and sketches at once is still being compiled: the graph that is captured does either by "
    "itself, which is slower; call fastrank.prepare(model, optimizer), and step once, before capturing"
)


class Bases:
    """Carries the bases of a list of matrices from step to step.

    At each step, call `prepare` before the optimizer's step, `fuse` in it (or not), and then `renew` and `multiply`.
    Call `adapt` between steps.

    Args:
        tolerances: of the ranks, `(t, 2)` FP64 on the CPU, see `fastrank.kernels.sketch.proof`.
        device: where all matrices are; the kernels serve it.
        seed: key of the noise (default 0).
        integers: whether sketches are made from INT8 slices (default False: in FP64).

    Attributes:
        sketches: bases, products and what they prove; None until `prepare` has returned True.
        step: 0-d int64 on the device, the number of steps; even: V is next, odd: U. Whoever concludes a step counts it.
        skip: `(1,)` FP32 on the device; where it is not 0, the step that is concluded changes no basis.
    """

    def __init__(self, tolerances: Tensor, device: torch.device, seed: int = 0, integers: bool = False) -> None:
        self._compilation = compilation_of(device)
        self._tolerances, self._device, self._seed = tolerances, device, seed
        self._integers = integers
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.skip = torch.zeros(1, device=device)
        self.sketches: Sketches | None = None
        self._layouts: list[tuple[object, ...]] = []
        self._ks: list[int] = []
        self._passes: list[BasisPass] = []
        self._addresses, self._rows = DeviceTable(device), DeviceTable(device)
        self._rows_of: object = None  # the optimizer's rows in which the matrices' parameters were last found
        self._found: list[int] = []
        self._captured = False  # whether a CUDA graph has captured a step
        self._flags = (torch.zeros(1, device=device), torch.zeros(1, device=device))  # for fused steps, in their place
        self._skips = False  # whether `skip` may hold another number than 0
        self._kept: list[object] = []
        self._sources: Sequence[Source] = []

    @property
    def nbytes(self) -> int:
        """Bytes of bases, products and small matrices on the device."""
        return 0 if self.sketches is None else self.sketches.nbytes

    @property
    def columns(self) -> list[int]:
        """Number of columns k of each matrix' basis."""
        return list(self._ks)

    def prepare(self, sources: Sequence[Source]) -> bool:
        """Sets the matrices of the next products: `fuse` may make some of these, `multiply` makes the others.

        Matrices of another layout get new bases. Returns False if there can be no sketches yet: their kernels are not
        compiled, or tables would have to be made while a CUDA graph is captured.
        """
        if not same(sources, self._sources):
            layouts = [source.layout for source in sources]
            if layouts != self._layouts:
                ks = _first_columns(sources)
                if capturing(self._device) or not self._compilation.ready(self._variants(sources, ks)):
                    return False
                self._sources = sources
                self._plan(layouts, ks, {})
                self._warm_up()
            self._set(sources)
        for each in self._passes:
            each.stepped = None
        if capturing(self._device):
            self._captured = True
            self._kept.append((self.sketches, self._passes))  # the graph reads and writes them as long as it lives
        return True

    def renew(self, sources: Sequence[Source]) -> bool:
        """Sets the matrices as they are after the step. Since `fuse`, some may have been replaced or written once more.

        `multiply` then makes their products again. Returns False where `prepare` would.
        """
        if not same(sources, self._sources):
            if [source.layout for source in sources] != self._layouts and not self.prepare(sources):
                return False
            self._set(sources)
        for each in self._passes:
            if each.stepped and each.stepped != [s.state() for s in each.sources]:
                each.stepped = None
        return True

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps parameters of `descent`, after its `refresh`, and multiplies the new weights, in one pass over them.
        Returns the `id` of each parameter that has been stepped: `Descent.launch` has to step the others."""
        from ..kernels.step import sgd_sketch_variant

        stepped: set[int] = set()
        given = zip((grad_scale, found_inf), self._flags, strict=True)
        flags = [x if x is None else own.copy_(x.reshape(1), non_blocking=True) for x, own in given]
        scaled, guarded = (flag is not None for flag in flags)
        with current(self._device):
            self._find_rows(descent)
            for each in self._passes:
                kind = each.kind
                if kind is None:
                    continue
                form = (kind, each.k, self._device, scaled, guarded, self._integers)
                if form not in each.compiled:
                    if capturing(self._device):  # which cannot make the table of rows
                        warnings.warn(UNFUSED, RuntimeWarning, stacklevel=2)
                        continue
                    if not self._compilation.ready([sgd_sketch_variant(*form)]):
                        continue
                    each.compiled.add(form)
                self._rows.write(self._found, self._captured)
                tables = {name: getattr(descent, name) for name in ("pointers", "meta", "hyper")}
                each.step(self._rows.table, tables, kind, flags)
                # `Descent.launch` comes next, and counts up the version of every parameter that has a gradient.
                each.stepped = [s.state(s.parameter.grad is not None) for s in each.sources]
                stepped |= each.parameters
        return stepped

    def _find_rows(self, descent: Descent) -> None:
        """Finds the matrices' parameters in the tables of `descent`, unless they are where they were at the last step:
        as long as `descent.rows` is the same object, nothing of that has changed."""
        if descent.rows is not self._rows_of or self._captured:
            self._rows_of = descent.rows
            self._found = [descent.rows.get(id(source.parameter), -1) for source in self._sources]
            for each in self._passes:
                each.kind = descent.kind_of([self._found[i] for i in each.indices]) if each.is_whole else None

    def multiply(self) -> None:
        """Makes the products that `fuse` has not made."""
        with current(self._device):
            for each in self._passes:
                if each.stepped is None:
                    if self._captured:
                        self._write_addresses()
                    each.multiply(self._addresses.table)
                each.stepped = None

    def set_skip(self, found_inf: Tensor | None) -> None:
        """Says that the optimizer has not taken the step that is measured next where `found_inf` is not 0."""
        if found_inf is not None:
            self.skip.copy_(found_inf.reshape(1), non_blocking=True)
        elif self._skips or self._captured or capturing(self._device):  # a replay may have written it
            self.skip.zero_()
        self._skips = found_inf is not None

    def adapt(self, ranks: Sequence[int]) -> None:
        """Gives every matrix as many columns as its rank asks for; those it has are kept as far as there is room.
        Nothing changes until all kernels for that are compiled, nor after a CUDA graph has captured a step."""
        wanted = [
            basis_size(rank, min(source.matrix.shape), k)
            for rank, source, k in zip(ranks, self._sources, self._ks, strict=True)
        ]
        most: dict[int, int] = {}
        for source, k in zip(self._sources, wanted, strict=True):  # a parameter's matrices stay in one pass
            most[id(source.parameter)] = max(k, most.get(id(source.parameter), 0))
        ks = [most[id(source.parameter)] for source in self._sources]
        if ks != self._ks and not self._captured and self._compilation.ready(self._variants(self._sources, ks)):
            self._plan(self._layouts, ks, self.by_matrix())

    def by_matrix(self) -> dict[int, Basis]:
        """What is carried of each matrix, by its index: tensors that share the memory of the sketches."""
        return {i: Basis(*self.sketches.basis(i)) for i in range(len(self._ks))} if self.sketches is not None else {}

    def state(self) -> dict[str, Any]:
        """All that another process needs to go on from here, on the CPU. Waits for the device."""
        bases = {i: Basis(*(x.cpu() for x in basis)) for i, basis in self.by_matrix().items()}
        return {"step": int(self.step), "bases": {i: basis._asdict() for i, basis in bases.items()}}

    def load(self, sources: Sequence[Source], state: Mapping[str, Any]) -> None:
        """Go on from a `state` of matrices of the same shapes. Waits until their kernels are compiled."""
        bases = {i: Basis(**basis) for i, basis in state["bases"].items()}
        ks = [bases[i].kept.shape[-1] for i in range(len(sources))]
        for own in (ks, _first_columns(sources)):
            self._compilation.wait(self._variants(sources, own))
        if not self.prepare(sources):
            raise RuntimeError(UNPREPARED)  # in a capture
        self.step.fill_(state["step"])
        self._plan(self._layouts, ks, bases)

    def _variants(self, sources: Sequence[Source], ks: Sequence[int]) -> list[AnyVariant]:
        """Variants of the kernels that sketches of these matrices, with `ks` columns each, launch."""
        from ..kernels.sketch import variants_of_sketches

        wanted = {(source.matrix.dtype, k) for source, k in zip(sources, ks, strict=True)}
        return variants_of_sketches(wanted, self._device, self._integers)

    def _plan(self, layouts: list[tuple[object, ...]], ks: list[int], bases: Mapping[int, Basis]) -> None:
        from ..kernels.sketch import Sketches

        if capturing(self._device):
            raise RuntimeError(UNPREPARED)
        dtypes = [source.matrix.dtype for source in self._sources]
        # No step is fused with the sketch of a copy, and a pass is fused as a whole or not at all.
        apart, views = [source.offset is None for source in self._sources], views_of(self._sources)
        given = (self._tolerances, self.step, self.skip, self._seed, self._integers)
        self.sketches = Sketches(views, dtypes, ks, apart, *given)
        self.sketches.adopt(bases)
        self._passes = [BasisPass(self.sketches, each) for each in self.sketches.passes]
        self._layouts, self._ks = layouts, ks
        self._set(self._sources)

    def _warm_up(self) -> None:
        """Makes bases that know something of the matrices, which do not move meanwhile."""
        assert self.sketches is not None
        self.set_skip(None)
        for _ in range(WARM_UP):
            self.multiply()
            with current(self._device):
                self.sketches.conclude()
                self.sketches.rotate()
            self.step += 1

    def _set(self, sources: Sequence[Source]) -> None:
        self._sources, self._rows_of = sources, None
        for each in self._passes:
            each.set(self._sources)
        self._write_addresses()

    def _write_addresses(self) -> None:
        with current(self._device):
            self._addresses.write([source.matrix.data_ptr() for source in self._sources], self._captured)


def _first_columns(sources: Sequence[Source]) -> list[int]:
    """k of each matrix as long as nothing is known of its rank."""
    return [basis_size(0, min(source.matrix.shape)) for source in sources]
