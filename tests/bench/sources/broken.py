"""Everything a module can get wrong about its kernels, and one kernel that is right."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrank.kernels.variant import Variant


@triton.jit
def copy_kernel(p_x, p_y):
    tl.store(p_y, tl.load(p_x))


@triton.jit
def forgotten_kernel(p_x):
    tl.store(p_x, 0.0)


@triton.autotune([triton.Config({"B": 16})], key=[])
@triton.jit
def tuned_kernel(p_x, B: tl.constexpr):
    tl.store(p_x + tl.arange(0, B), 0.0)


@triton.jit
def mismatched_kernel(p_x, B: tl.constexpr):
    tl.store(p_x, tl.zeros((B,), tl.float32) + tl.zeros((B + B,), tl.float32))


def variants():
    pointers = {"p_x": "*fp32:16", "p_y": "*fp32:16"}
    yield Variant(kernel=copy_kernel, signature=pointers, label="right", architectures=("sm_90",))
    yield Variant(kernel=copy_kernel, signature={"p_x": "*fp32:16"}, label="incomplete")
    yield Variant(kernel=copy_kernel, signature=pointers, label="nowhere", architectures=("sm90",))
    yield Variant(kernel=mismatched_kernel, signature={"p_x": "*fp32:16"}, constexprs={"B": 4}, label="mismatched")
