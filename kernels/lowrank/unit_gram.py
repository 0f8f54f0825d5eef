"""Unit Gram: scales the columns of a product Y to unit length for the LDL^T of C = Y^T Y, and undoes it in the factor.

    unit_gram_   C_s = D^-1 C D^-1,   D = diag(sqrt(c_jj))              C (k, k) FP64, the sum of its strips
    ldl.factor_  C_s = L_s diag(d_s) L_s^T
    keep_        kept_j = d_s,j > DEAD,   L = D L_s D^-1,   d = D^2 d_s    in place of the factor of C_s

This is for `lowrank.range_finder`, which keeps every column of Y that it can. LDL^T without pivoting does not depend on
how columns are scaled, except for two thresholds: the floor of a pivot, and the pivot below which a column is dead.
With columns of unit length a pivot tells how much of its own column is not in the span of those before it, with an
error of about k u. Columns of a product with an orthonormal basis may be as much smaller than the first as singular
values are, and are sound all the same (van der Sluis 1969; Demmel 1989). A threshold relative to the largest pivot, as
`sketch.conclude` has it because some of its columns become noise anyway, would lose all below 4e-6 sigma_1.

A matrix that is not finite, or zero, keeps no column. The twin is `fastrank.reference.orthonormal`.

One program a matrix. Bytes: 8 k^2 a strip read, 8 k^2 written, and again read and written, from L2. Flops: 2 k^2 a
strip. Bound by latency, a few us by estimate. Times are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch
from ..limits import KS
from ..sketch import DEAD, order_of
from ..sketch.table import FIELDS, GRAM, STRIPS, WIDEST, strip_of
from ..variant import Variant, arguments

BLOCK = 16
"""Rows of C that a program handles at a time."""
WARPS = 4


@triton.jit(do_not_specialize=["MATRICES"])
def unit_gram_kernel(p_table, p_step, p_grams, p_size, p_small, MATRICES, BLOCK: tl.constexpr, K: tl.constexpr,
                     ORDER: tl.constexpr):  # fmt: skip
    i_matrix = tl.program_id(0).to(tl.int64)
    p_row = p_table + ((tl.load(p_step) & 1) * MATRICES + i_matrix) * FIELDS
    strips = tl.load(p_row + STRIPS)
    p = p_grams + tl.load(p_row + GRAM)
    o = tl.arange(0, K)
    diagonal = tl.zeros((K,), tl.float64)
    for i_strip in range(0, strips):
        diagonal += tl.load(p + i_strip * K * K + o * (K + 1))
    usable = (diagonal > 0) & (diagonal < float("inf"))
    inverse = tl.where(usable, 1.0 / tl.sqrt(tl.where(usable, diagonal, 1.0)), 0.0)
    tl.store(p_size + i_matrix * K + o, tl.sqrt(diagonal))
    for i in range(0, K, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK, K), tl.float64)
        for i_strip in range(0, strips):
            total += tl.load(p + i_strip * K * K + (o_row[:, None] * K + o[None, :]))
        of_rows = tl.sum(tl.where(o_row[:, None] == o[None, :], inverse[None, :], 0.0), 1)
        both = (of_rows[:, None] > 0) & (inverse[None, :] > 0)
        unit = tl.where(both, total * of_rows[:, None] * inverse[None, :], 0.0)
        tl.store(p_small + i_matrix * ORDER * ORDER + (o_row[:, None] * ORDER + o[None, :]), unit)


@triton.jit
def keep_kernel(p_size, p_small, p_kept, BLOCK: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr):
    i_matrix = tl.program_id(0).to(tl.int64)
    p_factor = p_small + i_matrix * ORDER * ORDER
    o = tl.arange(0, K)
    size = tl.load(p_size + i_matrix * K + o)
    usable = (size > 0) & (size < float("inf"))
    d = tl.load(p_factor + o * (ORDER + 1))
    tl.store(p_kept + i_matrix * WIDEST + o, (usable & (d > DEAD)).to(tl.int32))
    size = tl.where(usable, size, 1.0)
    tl.debug_barrier()  # every thread has read d before the loop overwrites it
    for i in range(0, K, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        offsets = o_row[:, None] * ORDER + o[None, :]
        factor = tl.load(p_factor + offsets)
        of_rows = tl.sum(tl.where(o_row[:, None] == o[None, :], size[None, :], 0.0), 1)
        below, diagonal = o_row[:, None] > o[None, :], o_row[:, None] == o[None, :]
        # Above the diagonal stands the transposed inverse of L, which is scaled the other way round.
        ratio = tl.where(below, of_rows[:, None] / size[None, :], size[None, :] / of_rows[:, None])
        tl.store(p_factor + offsets, factor * tl.where(diagonal, of_rows[:, None] * size[None, :], ratio))


def unit_gram_(scratch: Mapping[str, Tensor], matrices: int, k: int) -> None:
    """Writes C_s of each matrix, and the norms of Y's columns.

    Args:
        scratch: every tensor that the kernel takes, by its name without `p_`. Read: `grams` FP64, the (k, k)
            share of each strip in C. Written: `small` FP64, C_s with the order `proof.order_of(k)`, and `size` `(b, k)`
            FP64, the norms.
        matrices: b.
    """
    variant = _variant(unit_gram_kernel, k)
    given = arguments(unit_gram_kernel, scratch)
    launch(variant, (matrices,), {**given, "MATRICES": matrices})


def keep_(scratch: Mapping[str, Tensor], matrices: int, k: int) -> None:
    """Writes `kept` `(b, k)` int32, and turns the factors of C_s in `small` into those of C, in place."""
    variant = _variant(keep_kernel, k)
    launch(variant, (matrices,), arguments(keep_kernel, scratch))


def unit_gram_cost(shapes: list[tuple[int, int]], k: int) -> tuple[int, int]:
    """Bytes and flops of both, for products of `shapes` (r, n): the Gram of each strip, three passes over C."""
    strips = sum(-(-r // strip_of(k)) for r, _ in shapes)
    return 8 * k * k * (strips + 3 * len(shapes)), k * k * (strips + 5 * len(shapes))


def _variant(kernel: Any, k: int) -> Variant:
    kinds = {"p_table": "*i64:16", "p_step": "*i64:16", "p_kept": "*i32:16", "MATRICES": "i32"}
    constexprs = {"BLOCK": BLOCK, "K": k, "ORDER": order_of(k)}
    return Variant(
        kernel=kernel,
        signature={name: kinds.get(name, "*fp64:16") for name in kernel.arg_names if name not in constexprs},
        constexprs=constexprs,
        num_warps=WARPS,
        num_stages=1,
    )


def variants() -> Iterator[Variant]:
    for k in KS:
        yield from (_variant(kernel, k) for kernel in (unit_gram_kernel, keep_kernel))
