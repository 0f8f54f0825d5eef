"""Proof: constants that `sketch.compare` and `sketch.conclude` share, which prove bounds of ranks and of sigma_1.

With Y = W V, C = Y^T Y and B = V^T V, the number of eigenvalues theta of (C, B) above a threshold s is the number of
positive pivots of C - s B (k, k). `sketch.compare` forms these small matrices, `inertia.ldl` counts their positive
pivots, and `sketch.conclude` turns the counts into bounds. There are 2 + 2 * tolerances of them for each W, called
problems:

    0                 C itself, whose factor makes the next basis orthonormal (`sketch.rotate`)
    1                 s just above theta_1: a count of 0 proves that theta_1 is below
    2 + 2 t, 3 + 2 t  s for the lower and for the upper bound of the rank at tolerance t

The twin, `fastrank.reference.sketch`, has the mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton.language as tl
from torch import Tensor

from ..launch import launch
from ..variant import Variant, arguments

GROWTH_LIMIT = tl.constexpr(8.0)
"""A count is believed where the growth of its factor is at most (GROWTH_LIMIT + k) ||W||_F^2."""
FROBENIUS, SPECTRAL, ABSOLUTE = map(tl.constexpr, range(3))
"""What a tolerance is relative to. A row of `tolerances` is this kind and the square of the tolerance's value."""
NORM, SPARE, LEFT, LOW, HIGH, ORTHONORMAL = map(tl.constexpr, range(6))
"""Fields of a matrix' row of `numbers`, from `sketch.compare` to `sketch.conclude`:

    NORM          ||W||_F^2
    SPARE         allowance for rounding
    LEFT          t^2 = ||W||_F^2 - (2 tr C - <B, C>) + SPARE: how much of ||W||_F^2 may be outside of the basis
    LOW, HIGH     bounds of sigma_1^2
    ORTHONORMAL   1 if V is orthonormal enough for any of this to be a proof, else 0
"""
NUMBERS = tl.constexpr(6)
"""Number of fields of a row of `numbers`."""
FIRST = tl.constexpr(2)
"""Number of the first problem that belongs to a tolerance."""
CUT = 5.3e-9
"""Share of ||W||_F^2 that is spare where products are made by integers; that of `fastrank.reference.integer_sketch`."""


LEAST = tl.constexpr(32)
"""Least order that a small matrix (k, k) is stored with, else k: `inertia.ldl` takes multiples of 32."""


def order_of(k: int) -> int:
    """Order that the small matrices (k, k) are stored with."""
    return max(int(LEAST.value), k)


def launch_all(variant: Variant, scratch: Mapping[str, Tensor], numbers: Mapping[str, float] | None = None) -> None:
    """Launches `compare_kernel` or `conclude_kernel`, one program a matrix.

    scratch: every tensor that the kernel takes, by its name without `p_`, see `Sketches.tensors`. numbers: what else it
    takes.
    """
    matrices, tolerances = scratch["table"].shape[1], len(scratch["tolerances"])
    given = arguments(variant.kernel, scratch)
    launch(variant, (matrices,), {**given, **(numbers or {}), "MATRICES": matrices, "TOLERANCES": tolerances})


def variant_of(kernel: Any, num_warps: int, maxnreg: int | None) -> Variant:
    kinds = {"p_table": "*i64:16", "p_step": "*i64:16", "p_counts": "*i64:16", "p_kept": "*i32:16",
             "p_decided": "*i32:16", "p_skip": "*fp32:16", "cut": "fp32", "MATRICES": "i32",
             "TOLERANCES": "i32"}  # fmt: skip
    return Variant(
        kernel=kernel,
        signature={name: kinds.get(name, "*fp64:16") for name in kernel.arg_names},
        num_warps=num_warps,
        num_stages=1,
        maxnreg=maxnreg,
    )
