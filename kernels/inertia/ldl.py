"""LDL: how many eigenvalues of each Gram are above each of several shifts, by an unpivoted blocked LDL^T.

    G - shift I = L D L^T                           G (r, r) FP64; one factor a matrix i and shift s
    counts[i, s] = number of positive pivots d_j    = number of eigenvalues above the shift, by Sylvester's law
    growth[i, s] = sum_j |d_j| ||L_j||^2 (1 + 128 u kappa_j^2)

L_j is column j of L, and kappa_j the kappa of its diagonal block (`elimination`). The computed factors are exact
for a matrix within terms u (||G - shift I||_F + growth) of G - shift I, where terms is the most operations that any
product l d l goes through on its way into a pivot, or a_ij itself:

    r + 64                here: at most r + 3 for the sums of products, 2 B + 7 for `divide` and D, whose own B columns
                          are not among those summed, and 2 for a moved pivot
    WINDOW + r / WINDOW   in `ldl_windows`, and the same 2 B + 12: a window's products are summed from 0, and the
                          sum is subtracted at once; after that the element goes through a subtraction a window

The smaller of r and 576 + r / 128, and 64 more, covers both (B is 32 at most, WINDOW 128), and `cuda/ldl.cu`, which
says how many it makes: `fastrank.counting.unpivoted`. The twin is `fastrank.reference.ldl`; `fastrank.counting.bounds`
says what the counts prove.

A matrix of full rank, as most are at the beginning of a training, needs one factor only, if the lower bound's comes
first (`elimination.place`).

One program factors one problem, a matrix and a shift. It takes the block columns left-looking: each is updated by all
columns before it, then factored. So a factor is written once, and only read after that. `inertia.ldl_windows` puts many
programs on one problem, by the same block steps, `inertia.elimination`. A factor is stored apart from its Gram; in its
diagonal blocks L stands below the diagonal, D on it, and X^T = L^-T above it.

Bytes: r^2 / 2 elements of G read and of L written, r^3 / (6 BLOCK_ROW) of L read again, from L2; 8 bytes each. Flops:
r^3 / 3, FP64. On sm_90, 640 matrices of order 512 have 29 GFLOP a shift: 0.43 ms of the tensor cores. What bounds a
small batch is the chain of r pivots, each a few dependent reductions over a block: by the latencies of their
instructions 0.9 to 1.0 us a pivot up to r = 128 and 1.6 at r = 512, 0.8 ms in all. `cuda/ldl.cu` is for that.

Tried, by what the compiler makes of it (no time is measured):
    sm_80, sm_90     B 32, BLOCK_ROW 64, 8 warps: spills up to 280 bytes; B 16, 4 warps: none, with two stages
    sm_86, sm_89     B 16, BLOCK_ROW 64, 4 warps: spills up to 220 bytes; B 32, BLOCK_ROW 32, 8 warps: none, at 254
                     registers; B 16, BLOCK_ROW 32, 4 warps: none, at 168 with one stage and 254 with two. B 16, as its
                     pivots take a quarter of the FP64 arithmetic, of which there is little
    sm_100, sm_120   BLOCK_ROW 64 spills, and fails under Triton 3.6 (FP64 products of 64 rows in tensor memory);
                     B 32, BLOCK_ROW 32, 8 warps: none with one stage, 400 bytes with two
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen, wide_tiles
from ..launch import launch
from ..variant import Variant
from .elimination import UNIT, block_row, factor_block, minus_products, problem, skipped, weights_of
from .table import OFFSET, ROWS
from .tasks import Progress


class Config(NamedTuple):
    """Launch configuration."""

    b: int
    """Order of a diagonal block, and so the width of a block column."""
    block_row: int
    """Rows that are divided by a diagonal block at a time."""
    num_warps: int
    num_stages: int


def config(capability: tuple[int, int]) -> Config:
    """Of `factor_kernel` and `ldl_windows.rows_kernel`; depends on the architecture alone."""
    if wide_tiles(capability):
        return Config(16, 64, 4, 2)
    return Config(32, 32, 8, 1) if capability[0] >= 10 else Config(16, 32, 4, 1)


@triton.jit(do_not_specialize=["SHIFTS", "PARTS", "PAIRS"])
def factor_kernel(p_table, p_ids, p_decided, p_coefficients, p_trace, p_gram, p_factors, p_counts, p_growth, start,
                  span, SHIFTS, PARTS, PAIRS, IN_PLACE: tl.constexpr, BLOCK_ROW: tl.constexpr,
                  B: tl.constexpr):  # fmt: skip
    """Factors rows and columns start : start + span of a problem, and adds to its count and to part 0 of its growth.

    IN_PLACE: what is factored is what the factor's place holds (`inertia.ldl_windows`); else it is G - shift I.
    """
    p_row, i, i_shift, order, shift, p_factor = problem(
        p_table, p_ids, p_decided, p_coefficients, p_trace, p_factors, tl.program_id(0), tl.num_programs(0), SHIFTS,
        PAIRS
    )  # fmt: skip
    rows = tl.load(p_row + ROWS)
    full = skipped(p_counts, i, i_shift, rows, PAIRS)
    if start == 0:
        tl.store(p_counts + i, tl.where(full, rows, 0), mask=shift == shift)
    if (shift != shift) | (start >= order) | full:
        return
    end = tl.minimum(start + span, tl.cdiv(rows, B) * B)  # nobody reads the blocks that are all padding
    floor = UNIT * (tl.load(p_trace + i // SHIFTS) + rows * tl.abs(shift))
    p_source = p_factor if IN_PLACE else p_gram + tl.multiple_of(tl.load(p_row + OFFSET), 32)
    o = tl.arange(0, B)
    diagonal = o[:, None] == o[None, :]
    count = tl.full((), 0, tl.int64)
    growth = tl.full((), 0.0, tl.float64)
    for i_column in range(start, end, B):
        o_column = (i_column + o).to(tl.int64)
        offsets = o_column[:, None] * order + o_column[None, :]
        t = tl.load(p_source + offsets)
        if not IN_PLACE:
            # Padding becomes rows of the identity: it changes no other pivot, and is left out of count and growth.
            t = tl.where(diagonal, tl.where(o_column < rows, t - shift, 1.0), t)
        t = minus_products(t, p_factor, o_column, o_column < order, o_column, order, start, i_column, B)
        lower, inverse, d = factor_block(t, floor, B)
        stored = tl.where(o[:, None] > o[None, :], lower, tl.where(diagonal, d[None, :], tl.trans(inverse)))
        tl.store(p_factor + offsets, stored)
        weights = weights_of(d, lower, inverse, o_column < rows)
        count += tl.sum(((d > 0) & (o_column < rows)).to(tl.int64))
        growth += tl.sum(lower * lower * weights[None, :])
        for i_row in range(i_column + B, end, BLOCK_ROW):
            o_row = (i_row + tl.arange(0, BLOCK_ROW)).to(tl.int64)
            m_row = o_row < end
            b = tl.load(p_source + (o_row[:, None] * order + o_column[None, :]), mask=m_row[:, None], other=0.0)
            growth += block_row(
                b, p_factor, o_row, m_row, o_column, order, start, i_column, lower, inverse, d, weights, B
            )
        # For the next block column, threads load what other threads of the program have stored for this one.
        tl.debug_barrier()
    tl.store(p_counts + i, tl.load(p_counts + i) + count)
    tl.store(p_growth + i * PARTS, tl.load(p_growth + i * PARTS) + growth)


class Problems(NamedTuple):
    """What is to be factored and where the answers go, on the device, for b matrices and S shifts each."""

    table: Tensor
    """(b, FIELDS) int64, see `inertia.table`"""
    decided: Tensor
    """(b,) int32; where it is not 0 the matrix is skipped: nothing is written"""
    coefficients: Tensor
    """(b, S, 2) FP64, slope and intercept: shift = slope * trace + intercept; where it is NaN, nothing is written"""
    trace: Tensor
    """(b,) FP64, of the Grams"""
    gram: Tensor
    """FP64 workspace with the finished Grams, of which the lower triangles are read"""
    factors: Tensor
    """FP64 workspace of S times the size of the Grams', written: the factors. May be `gram` itself where S = 1"""
    counts: Tensor
    """(b, S) int64, 0 before, written"""
    growth: Tensor
    """(b, S, parts) FP64, zero before: each program adds to a part of its own; their sum is the growth"""
    pairs: int = 0
    """How many of the pairs of shifts belong to tolerances: shift 2 i for the upper bound, 2 i + 1 for the lower one.
    Where the count of the latter is found to be r, the former need not be made: it is r then, and its growth 0."""
    progress: Progress | None = None
    """What the blocks of a launch in CUDA C++ tell each other, of `Factors.progress`; None in Triton"""

    def addresses(self, ids: Tensor) -> dict[str, Tensor]:
        """Pointer arguments of a launch over the matrices `ids`, by name."""
        given = {f"p_{name}": x for name, x in self._asdict().items() if isinstance(x, Tensor)}
        return given | {"p_ids": ids}


def growth_parts(order: int, capability: tuple[int, int]) -> int:
    """Parts that the growth of a matrix of this order needs: one for each block row."""
    return -(-order // config(capability).block_row)


def factor_(problems: Problems, ids: Tensor) -> None:
    """Writes factors, counts and growth of `problems` for the matrices `ids` `(n,)` int32, one program a problem.

    Programs start in the order of `ids`, for the lower bounds, and once more for all other shifts: the largest matrices
    should come first.
    """
    shifts = problems.coefficients.shape[1]
    variant = variant_of(factor_kernel, config(capability(ids.device)), IN_PLACE=False)
    sizes = {"start": 0, "span": 2**30, "SHIFTS": shifts, "PARTS": problems.growth.shape[-1], "PAIRS": problems.pairs}
    launch(variant, (len(ids) * shifts,), {**problems.addresses(ids), **sizes})


def ldl_cost(orders: list[int], shifts: int) -> tuple[int, int]:
    """Bytes and flops: one triangle of each Gram read and of each factor written, once; r^3 / 3 flops a shift."""
    return sum(4 * r * r * (1 + shifts) for r in orders), sum(shifts * r**3 // 3 for r in orders)


_SIGNATURE = {
    "p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "p_coefficients": "*fp64:16",
    "p_trace": "*fp64:16", "p_gram": "*fp64:16", "p_factors": "*fp64:16", "p_counts": "*i64:16", "p_growth": "*fp64:16",
    "start": "i32:16", "span": "i32:16", "SHIFTS": "i32", "PARTS": "i32", "PAIRS": "i32",
}  # fmt: skip


def variant_of(kernel: Any, c: Config, architectures: tuple[str, ...] = (), **constexprs: bool) -> Variant:
    return Variant(
        kernel=kernel,
        signature={name: kind for name, kind in _SIGNATURE.items() if name in kernel.arg_names},
        constexprs=constexprs | {"BLOCK_ROW": c.block_row, "B": c.b},
        num_warps=c.num_warps,
        num_stages=c.num_stages,
        architectures=architectures,
    )


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        yield variant_of(factor_kernel, c, architectures, IN_PLACE=False)
