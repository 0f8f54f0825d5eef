"""Factors: which kernels factor the problems of a batch, and what these launches need to know of them.

`cuda/ldl.cu`      all problems, of any orders, in one launch; where CUDA C++ serves the device
`ldl.factor_`      else, one program a problem, for r <= `ONE_PROGRAM_UP_TO`,
`factor_windows_`  and many programs a problem, above
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..cuda import CudaVariant, build
from ..device import capability, to_device
from ..launch import AnyVariant, launch
from . import ldl, ldl_windows
from .ldl import Problems
from .ldl_windows import factor_windows_
from .table import order_of
from .tasks import TILE, Progress, Tasks

ONE_PROGRAM_UP_TO = 512
"""Largest order that one program of Triton factors. By the latencies of its instructions (no time is measured) it takes
290, 513 and 810 us for r = 256, 384 and 512, and many programs take 271, 419 and 566 us, but in 5, 8 and 11 launches: a
step in which sketches have decided all ranks would wait for each of these in vain. There no upper bound is skipped."""


class Factors:
    """Factors the problems of certain matrices. It can be shared: what a launch writes is given to it.

    Args:
        rows: r of all matrices of a table, by their index.
        ids: indices of those that are factored.
        device: of the table.
        shifts, pairs: those of `Problems` that most launches will have.
        inverses: whether others read the inverses of the diagonal blocks of L, see `ldl`.
    """

    def __init__(
        self,
        rows: Sequence[int],
        ids: Sequence[int],
        device: torch.device,
        shifts: int,
        *,
        pairs: int = 0,
        inverses: bool = False,
    ) -> None:
        self._rows, self._ids, self._device, self._inverses = rows, ids, device, inverses
        self._tasks: dict[tuple[int, int], Tasks] = {}
        self._one: Tensor | None = None
        self._many: dict[int, Tensor] = {}
        if len(ids) and build.serves(device):
            self._tasks_of(shifts, pairs)
            return
        listed = sorted(ids, key=lambda i: rows[i], reverse=True)  # what takes longest starts first
        one = [i for i in listed if rows[i] <= ONE_PROGRAM_UP_TO]
        self._one = _ids(one, device) if one else None
        for order in {order_of(rows[i]) for i in listed if rows[i] > ONE_PROGRAM_UP_TO}:
            self._many[order] = _ids([i for i in listed if order_of(rows[i]) == order], device)

    def progress(self, shifts: int) -> Progress | None:
        """For the `Problems` of launches that follow each other, with so many shifts, and of no other launches."""
        if not self._tasks:
            return None
        found = [tasks for (s, _), tasks in self._tasks.items() if s == shifts]
        return (found or [self._tasks_of(shifts, 0)])[0].progress()

    def launch(self, problems: Problems) -> None:
        """Writes counts, growth and factors of `problems`, on the current device and stream."""
        if problems.progress is not None:
            shifts, parts = problems.growth.shape[1:]
            tasks = self._tasks_of(shifts, problems.pairs)
            given = problems._asdict() | problems.progress._asdict() | {"tasks": tasks.tasks, "count": len(tasks.tasks)}
            variant = cuda_variant(tasks.many, capability(self._device))
            sizes = {"shifts": shifts, "parts": parts, "inverses": int(self._inverses)}
            launch(variant, (len(tasks.tasks),), given | sizes)
        if self._one is not None:
            ldl.factor_(problems, self._one)
        for order, ids in self._many.items():
            factor_windows_(problems, ids, order)

    def _tasks_of(self, shifts: int, pairs: int) -> Tasks:
        if (shifts, pairs) not in self._tasks:
            if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("count for so many tolerances once before capturing it in a CUDA graph")
            self._tasks[shifts, pairs] = Tasks.of(self._rows, self._ids, shifts, pairs, self._device)
        return self._tasks[shifts, pairs]


def growth_parts(order: int, device: torch.device) -> int:
    """Parts that the growth of a matrix of this order needs in `Problems`."""
    return 1 if build.serves(device) else ldl.growth_parts(order, capability(device))


def cuda_variant(many: bool, capability: tuple[int, int]) -> CudaVariant:
    """`ldl.cu` for problems of one tile each, or of any size, as a device of this compute capability launches it."""
    if not many:
        return CudaVariant(file="ldl.cu", name="ldl_kernel", threads=192, shared=49360, macros={"MANY": 0})
    wide = capability in ((8, 0), (9, 0), (10, 0))  # where a block may have 163 KiB of shared memory or more
    stages, shared = (3, 110800) if wide else (2, 98448)
    macros = {"MANY": 1, "STAGES": stages}
    return CudaVariant(file="ldl.cu", name="ldl_kernel", threads=192, shared=shared, macros=macros)


def variants_of_factors(rows: Collection[int], device: torch.device) -> list[AnyVariant]:
    """Every variant that `Factors` launches on `device` for matrices with so many rows."""
    at = capability(device)
    if build.serves(device):
        return [cuda_variant(many, at) for many in {r > TILE for r in rows}]
    found: list[AnyVariant] = []
    if any(r <= ONE_PROGRAM_UP_TO for r in rows):
        found.append(ldl.variant_of(ldl.factor_kernel, ldl.config(at), IN_PLACE=False))
    if any(r > ONE_PROGRAM_UP_TO for r in rows):
        found += ldl_windows.variants_of(at)
    return found


def _ids(ids: list[int], device: torch.device) -> Tensor:
    return to_device(torch.tensor(ids, dtype=torch.int32), device)
