"""Tiny: eigenvalue counts of small matrices, straight from W: those with r <= 64, or 32 where tiles must be small.

    counts[i, s] = number of eigenvalues of W_i W_i^T above shift[i, s]        W_i (r, n), any strides and dtype
    growth[i, s] as in `inertia.ldl`,  trace[i] = ||W_i||_F^2                    FP64

One program a matrix and shift, one launch a size and dtype. A program sums the Gram in registers, as `count.gram` does,
and eliminates it there, as `inertia.ldl` does; the Gram is never written. The twin is `fastrank.reference.ldl`.

Bytes: r n elements of W for each shift, the first time from memory. Flops, for each shift: 2 r^2 n for the Gram (both
triangles) and BLOCK steps that each touch 3 BLOCK^2 elements: at most 64 x 3 x 4096 = 0.8 MFLOP. But the steps come one
after the other, and their latency bounds a small batch: about 64 x 0.9 us (by latencies; not measured). So shifts do
not wait for each other, and the Gram is summed again for each of them, unless the bound that it is for is known to be r
(`elimination.skipped`).

Tried, by what the compiler makes of it:
    sm_86, sm_89     BLOCK 16, 2 warps and BLOCK 32, 8 warps, as on sm_120: 4 bytes spilled; 1 and 4 warps, two stages:
                     none. BLOCK 64: none either, at up to 255 registers, but left out: its 0.8 MFLOP a shift are
                     several times what blocks of 16 take (`inertia.ldl`), and FP64 is slow there
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import chosen, wide_tiles
from ..inertia import Problems
from ..inertia.elimination import UNIT, factor_block, place, shift_of, skipped
from ..inertia.table import COLUMNS, FIELDS, POINTER, ROWS, STRIDE_COLUMN, STRIDE_ROW
from ..launch import launch
from ..limits import DTYPES
from ..variant import Variant
from .product import TRITON_TYPES, sum_products


class Config(NamedTuple):
    """Launch configuration."""

    block: int
    num_warps: int
    num_stages: int


def config(rows: int, capability: tuple[int, int]) -> Config | None:
    """For matrices with this many rows, at least 1; None if they are too many for this way of counting."""
    narrow = ((16, 2, 1), (32, 8, 1)) if capability[0] >= 10 else ((16, 1, 2), (32, 4, 2))
    known = (*narrow, (64, 8, 2)) if wide_tiles(capability) else narrow
    found = (Config(*c) for c in known if rows <= c[0])
    return next(found, None)


@triton.jit(do_not_specialize=["SHIFTS", "PARTS", "PAIRS"])
def tiny_kernel(p_table, p_ids, p_decided, p_scale, p_coefficients, p_trace, p_counts, p_growth, SHIFTS, PARTS, PAIRS,
                DTYPE: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Count and growth of one matrix for one shift; its trace too, for one of the shifts that none is skipped for."""
    i_id, i_shift = place(tl.program_id(0), tl.num_programs(0), SHIFTS, PAIRS)
    i_matrix = tl.load(p_ids + i_id)
    i = i_matrix.to(tl.int64) * SHIFTS + i_shift
    p_row = p_table + i_matrix * FIELDS
    rows, columns = tl.load(p_row + ROWS), tl.load(p_row + COLUMNS)
    decided = tl.load(p_decided + i_matrix) != 0
    full = skipped(p_counts, i, i_shift, rows, PAIRS)
    if full & (decided == 0):
        tl.store(p_counts + i, rows)
    if full | decided:
        return
    stride_row, stride_column = tl.load(p_row + STRIDE_ROW), tl.load(p_row + STRIDE_COLUMN)
    p = tl.load(p_row + POINTER).to(tl.pointer_type(DTYPE))
    factor = 1.0 / tl.load(p_scale + i_matrix) if SCALED else tl.full((), 1.0, tl.float64)
    o = tl.arange(0, BLOCK).to(tl.int64)
    diagonal = o[:, None] == o[None, :]

    gram = sum_products(p, o, o, stride_row, stride_column, rows, 0, columns, factor, BLOCK, BLOCK_K)
    trace = tl.sum(tl.where(diagonal, gram, 0.0))
    if i_shift == tl.minimum(PAIRS, 1):
        tl.store(p_trace + i_matrix, trace)

    shift = shift_of(p_coefficients + 2 * i, trace)
    if shift == shift:
        # Padding becomes rows of the identity: it changes no other pivot, and is left out of count and growth.
        s = tl.where(diagonal, tl.where(o < rows, gram - shift, 1.0), gram)
        lower, _, d = factor_block(s, UNIT * (trace + rows * tl.abs(shift)), BLOCK)
        weights = tl.where(o < rows, tl.abs(d), 0.0)
        tl.store(p_counts + i, tl.sum(((d > 0) & (o < rows)).to(tl.int64)))
        tl.store(p_growth + i * PARTS, tl.sum(lower * lower * weights[None, :]))


def tiny_(problems: Problems, ids: Tensor, scale: Tensor | None, dtype: torch.dtype, config: Config) -> None:
    """Writes the traces, counts and growth of the matrices `ids`; `problems` says where they go.

    Args:
        problems: see `ldl.Problems`, whose `trace` is written here. `gram` and `factors` are not used.
        ids: `(n,)` int32: matrices of one dtype, of at most `config.block` rows.
        scale: `(b,)` FP64 powers of two that matrices are divided by; None stands for 1.
        dtype: of the matrices.
        config: of `config`, for their number of rows.
    """
    variant = _variant(dtype, scale is not None, config)
    given = {name: x for name, x in problems.addresses(ids).items() if name in tiny_kernel.arg_names}
    given["p_scale"] = problems.trace if scale is None else scale
    shifts = problems.coefficients.shape[1]
    sizes = {"SHIFTS": shifts, "PARTS": problems.growth.shape[-1], "PAIRS": problems.pairs}
    launch(variant, (len(ids) * shifts,), given | sizes)


def tiny_cost(shapes: list[tuple[int, int]], itemsize: int, shifts: int) -> tuple[int, int]:
    """Bytes and flops for `shapes` (r, n): W read once; half the products of a full Gram, and r^3 / 3 flops a shift.

    That is the least; W is read, and its products are summed, once a shift.
    """
    return sum(r * n * itemsize for r, n in shapes), sum(r * r * n + shifts * r**3 // 3 for r, n in shapes)


def _variant(dtype: torch.dtype, scaled: bool, c: Config, architectures: tuple[str, ...] = ()) -> Variant:
    return Variant(
        kernel=tiny_kernel,
        signature={
            "p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "p_scale": "*fp64:16",
            "p_coefficients": "*fp64:16", "p_trace": "*fp64:16", "p_counts": "*i64:16", "p_growth": "*fp64:16",
            "SHIFTS": "i32", "PARTS": "i32", "PAIRS": "i32",
        },
        constexprs={"DTYPE": TRITON_TYPES[dtype], "SCALED": scaled, "BLOCK": c.block, "BLOCK_K": 32},
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        maxnreg=224,  # with no number given both Tritons aim for fewer, and spill up to 16 bytes
        label=str(dtype).removeprefix("torch."),
        architectures=architectures,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    for rows in (16, 32, 64):
        for c, architectures in chosen(partial(config, rows)).items():
            if c is not None:
                yield from (_variant(dtype, dtype == torch.float64, c, architectures) for dtype in DTYPES)
