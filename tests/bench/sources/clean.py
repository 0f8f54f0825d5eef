"""Two kernels that every architecture accepts: a product by FP64 and one by TF32 tensor-core instructions."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrank.kernels.variant import Variant


@triton.jit
def _row_offsets(i_row, B: tl.constexpr):  # no kernel: its name does not end as one
    return i_row * B + tl.arange(0, B)


@triton.jit
def product_kernel(p_a, p_b, p_c, n, K: tl.constexpr, B: tl.constexpr):
    o_row = _row_offsets(tl.program_id(0), B)
    o_col = tl.arange(0, B)
    total = tl.zeros((B, B), p_c.dtype.element_ty)
    for i_k in range(0, n, K):
        o_k = i_k + tl.arange(0, K)
        a = tl.load(p_a + o_row[:, None] * n + o_k[None, :]).to(total.dtype)
        b = tl.load(p_b + o_k[:, None] * B + o_col[None, :]).to(total.dtype)
        total = tl.dot(a, b, total, out_dtype=total.dtype)
    tl.store(p_c + o_row[:, None] * B + o_col[None, :], total)


def variants():
    for out, k, b in (("fp64", 16, 32), ("fp32", 32, 64)):
        yield Variant(
            kernel=product_kernel,
            signature={"p_a": "*fp32:16", "p_b": "*fp32:16", "p_c": f"*{out}:16", "n": "i32:16"},
            constexprs={"K": k, "B": b},
            label=out,
        )
