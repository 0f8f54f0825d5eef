"""Answers: what counting a step's matrices leaves on the device, from `count.shifts` by way of `inertia.ldl` to
`count.row`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

TIGHT = tl.constexpr(2e-4)
"""Relative width of the interval of sigma_1^2 up to which sigma_1 is recorded: it is known to 1e-4 then."""
SLACK = tl.constexpr(1e-5)
"""Relative width of the interval of sigma_1^2 that the certificate's other count proves."""


class Answers(NamedTuple):
    """For b matrices, T tolerances and S = 2 (T + 1) shifts: two for each tolerance, and two to certify sigma_1."""

    trace: Tensor
    """(b,) FP64, of the Grams."""
    top: Tensor
    """(b, 2) FP64, lower and upper bound of sigma_1^2."""
    coefficients: Tensor
    """(b, S, 2) FP64, see `ldl.Problems`; the slopes are 0. First the upper bound's shift, then the lower bound's."""
    limits: Tensor
    """(b, S) FP64: of the factors at each shift, the largest growth that is believed."""
    counts: Tensor
    """(b, S) int64, eigenvalues above each shift."""
    growth: Tensor
    """(b, S, parts) FP64, of the factors, see `ldl.Problems`."""

    @classmethod
    def of(cls, matrices: int, tolerances: int, parts: int, device: torch.device) -> Answers:
        """Zeros. parts: of `Launches.parts`."""
        shifts = 2 * (tolerances + 1)

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(matrices, *shape, dtype=dtype, device=device)

        return cls(
            zeros(), zeros(2), zeros(shifts, 2), zeros(shifts), zeros(shifts, dtype=torch.int64),
            zeros(shifts, parts),
        )  # fmt: skip

    @property
    def tolerances(self) -> int:
        """T."""
        return self.limits.shape[1] // 2 - 1

    @property
    def counted(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """What `Launches.problems` takes after the workspace: traces, coefficients, counts, growth and T."""
        return self.trace, self.coefficients, self.counts, self.growth, self.tolerances
