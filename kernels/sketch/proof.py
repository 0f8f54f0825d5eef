"""Proof: what the two kernels share that lead from the Grams of a sketch to bounds of ranks and of sigma_1.

`sketch.compare` forms C - s B for each threshold s that something is to be proven about; `ldl` counts their
positive pivots; `sketch.conclude` reads the counts. Problem 0 is C itself, whose factors make the next basis
orthonormal (`sketch.rotate`); problem 1 certifies theta_1; 2 + 2 t and 3 + 2 t bound the rank for tolerance t
from below and from above. `fastrank.reference.sketch`, the twin, has the mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton.language as tl
from torch import Tensor

from ..variant import Variant, arguments

GROWTH_LIMIT = tl.constexpr(8.0)
FROBENIUS, SPECTRAL, ABSOLUTE = map(tl.constexpr, range(3))
"""Kinds of tolerances."""
NORM, SPARE, LEFT, LOW, HIGH, ORTHONORMAL = map(tl.constexpr, range(6))
"""Of a matrix' numbers: ||W||_F^2, what rounding may have done, t^2, bounds of sigma_1^2, 1 if V is orthonormal."""
NUMBERS = tl.constexpr(6)
FIRST = tl.constexpr(2)
"""Problems before those of the tolerances."""


def order_of(k: int) -> int:
    """Order that small problems are stored with."""
    return max(32, k)


def launch(variant: Variant, scratch: Mapping[str, Tensor], matrices: int, tolerances: int) -> None:
    """One program a matrix; `scratch` has every tensor of the kernel by its name without `p_`."""
    given = arguments(variant.kernel, scratch)
    variant.kernel[matrices,](
        **given, MATRICES=matrices, TOLERANCES=tolerances, **variant.constexprs, **variant.options
    )


def variant_of(kernel: Any, k: int, num_warps: int, maxnreg: int | None) -> Variant:
    kinds = {"p_table": "*i64:16", "p_step": "*i64:16", "p_counts": "*i64:16", "p_kept": "*i32:16",
             "p_decided": "*i32:16", "p_skip": "*fp32:16", "MATRICES": "i32", "TOLERANCES": "i32"}  # fmt: skip
    constexprs = {"BLOCK": 16, "K": k, "ORDER": order_of(k)}
    return Variant(
        kernel=kernel,
        signature={name: kinds.get(name, "*fp64:16") for name in kernel.arg_names if name not in constexprs},
        constexprs=constexprs,
        num_warps=num_warps,
        num_stages=1,
        maxnreg=maxnreg,
    )
