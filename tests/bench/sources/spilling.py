"""A kernel with more live values than a thread has registers."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrank.kernels.variant import Variant


@triton.jit
def scan_kernel(p_x, B: tl.constexpr):
    o = tl.arange(0, B)
    x = tl.load(p_x + o)
    y = tl.load(p_x + B + o)
    tl.debug_barrier()
    tl.store(p_x + o, tl.sqrt(x) + tl.sum(x * y) / y)


def variants():
    yield Variant(kernel=scan_kernel, signature={"p_x": "*fp32:16"}, constexprs={"B": 2048}, num_warps=1, maxnreg=32)
