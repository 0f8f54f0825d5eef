"""Plan: what is launched after a step to measure matrices of one layout, in one list.

    while W is read     products    by the optimizer's own pass over W, or by one of their own (`bases`)
                        conclude    what they prove: bounds of ranks, of sigma_1, of ||W||_F; which ranks are left open
                        gram        of the matrices whose rank is open. For all others the launches return at once
    after that          rotate      the next bases, made from the products
                        lift        where the first singular vectors are, as the sketches have found them
                        finish      Grams
                        power       sigma_1, from there
                        shifts      where to count
                        factor      counts
                        recount     of large matrices, where the factors have grown too much
                        row         what counts and proofs say together

Only the device knows which ranks are open: the host waits for nothing, and a CUDA graph can capture the whole list.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..counting import BUDGET, packed, signature
from ..kernels.device import to_device

if TYPE_CHECKING:
    from ..kernels.sketch import Sketches


NOTHING = [torch.nan, 0.0, torch.inf]
"""What is known of ||W||_F^2 and of sigma_1^2 before any sketch: bounds that hold for every matrix."""
ANY_RANK = [-1.0, 2.0**53]
"""The same of a rank."""


class Plan:
    """The launches for matrices that stay where they are, and the memory that they write.

    Args:
        matrices: 2-D, on one device. Their memory is read at every step.
        tolerances: `(t, 2)` FP64, see `fastrank.kernels.sketch.proof`.
        sketches: of these matrices, in this order; None until their kernels are compiled: all ranks are then open.
        step: 0-d int64, counted up by each step that is taken. skip: `(1,)` FP32, not 0 where none is.
        more: columns that a row has for metrics of the whole spectrum.
        products: how many products of INT8 slices make a Gram; 0 (default): it is made in FP64. See `Launches`.

    Attributes:
        values: `(matrices, columns)` FP64, the rows of the last step, see `row.columns`; overwritten by the next.
        nbytes: of the workspace for Grams and factors, and of what is written about each matrix.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        tolerances: Tensor,
        sketches: Sketches | None,
        step: Tensor,
        skip: Tensor,
        more: int,
        products: int = 0,
    ) -> None:
        from ..kernels.count import Answers, Launches, workspace_bytes
        from ..kernels.launch import Tape

        device, b, t = matrices[0].device, len(matrices), len(tolerances)
        self._matrices, self._sketches = list(matrices), sketches
        self._step, self._skip = step if sketches is not None else torch.zeros_like(step), skip
        self._tolerances = to_device(tolerances, device)
        if sketches is not None:
            self._proof, self._decided = sketches.proof, sketches.decided
        else:
            self._proof = to_device(torch.tensor([NOTHING + t * ANY_RANK] * b, dtype=torch.float64), device)
            self._decided = torch.zeros(b, dtype=torch.int32, device=device)
        shifts = 2 * (t + 1)  # two for each tolerance, and two that certify sigma_1
        chunks = packed(matrices, BUDGET, lambda matrix: workspace_bytes(matrix, shifts, True, products))
        self._chunks = [
            Launches(matrices, shifts, True, pairs=t, only=indices, decided=self._decided, products=products)
            for indices in ([i for g in groups for i in g.indices] for groups in chunks)
        ]
        self._workspace = torch.empty(max(c.size for c in self._chunks), dtype=torch.float64, device=device)
        self._answers = Answers.of(b, t, self._chunks[0].parts, device)
        self._vectors, self._noise = _start_vectors([min(m.shape) for m in matrices], device)
        self.values = torch.zeros(b, 2 * t + 4 + more, dtype=torch.float64, device=device)
        self._reading, self._rest = Tape(), Tape()

    @property
    def nbytes(self) -> int:
        tensors = (self._workspace, self._vectors, self._noise, self.values, *self._answers)
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def leaves_weights(self) -> bool:
        """Whether `conclude` reads no weights. It does where the Grams have no room at the same time."""
        return len(self._chunks) == 1

    def fits(self, matrices: Sequence[Tensor], sketches: Sketches | None) -> bool:
        """Whether this is the plan for `matrices`, at the same addresses, with these sketches."""
        if self._sketches is sketches and all(map(operator.is_, matrices, self._matrices)):
            return True
        if self._sketches is not sketches or signature(matrices) != signature(self._matrices):
            return False
        self._matrices = list(matrices)
        return True

    def read_weights(self) -> None:
        """Launches what reads the matrices, but for their products with the bases, which come before."""
        self._reading(self._launch_reading)

    def conclude(self) -> None:
        """Launches the rest, which fills `values`."""
        self._rest(self._launch_rest)

    def _launch_reading(self) -> None:
        if self._sketches is not None:
            self._sketches.conclude()
        if self.leaves_weights:
            self._chunks[0].make_grams(self._workspace)

    def _launch_rest(self) -> None:
        from ..kernels.count import row_

        if self._sketches is not None:
            self._sketches.rotate()
            self._sketches.lift(self._vectors[0])
        for chunk in self._chunks:
            if not self.leaves_weights:
                chunk.make_grams(self._workspace)
            chunk.finish_grams(self._workspace)
            chunk.multiply(self._workspace, self._vectors, self._proof)
            chunk.shift(self._workspace, self._vectors, self._noise, self._tolerances, self._proof, self._answers)
            problems = chunk.problems(self._workspace, *self._answers.counted)
            chunk.factor(problems)
            chunk.recount(problems, self._answers.limits)
        table = self._chunks[0].table
        row_(self.values, table, self._decided, self._proof, self._answers, self._step, self._skip)


def _start_vectors(orders: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Vectors for the power iteration, `(2, matrices, width)` FP64, and the noise `(matrices, width)` that they begin
    with, which is zero beyond a matrix' order. Products go from [0] to [1] and back."""
    width = -(-max(orders) // 32) * 32
    noise = torch.empty(len(orders), width, dtype=torch.float64, pin_memory=device.type == "cuda")
    noise.normal_(generator=torch.Generator().manual_seed(0))
    noise *= torch.arange(width) < torch.tensor(orders, dtype=torch.int64)[:, None]
    there = noise.to(device, non_blocking=True)
    return torch.stack([there, torch.zeros_like(there)]), there
