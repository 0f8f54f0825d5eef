"""A kernel whose shared memory fits into a block of sm_90 but not of sm_120."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrank.kernels.variant import Variant


@triton.jit
def transpose_kernel(p_x, p_y, R: tl.constexpr, C: tl.constexpr):
    o_row, o_col = tl.arange(0, R), tl.arange(0, C)
    x = tl.load(p_x + o_row[:, None] * C + o_col[None, :])
    tl.store(p_y + o_col[:, None] * R + o_row[None, :], tl.trans(x))


def variants():
    yield Variant(
        kernel=transpose_kernel,
        signature={"p_x": "*fp32:16", "p_y": "*fp32:16"},
        constexprs={"R": 256, "C": 128},
        num_warps=8,
    )
