"""LDL by windows: the counts and growth of `inertia.ldl`, with many programs on each problem, for large orders.

A problem (a matrix and a shift) is factored right-looking, in the factor's place, by windows of `WINDOW` columns:

    first           factor's place = G - shift I                `update_kernel`, one program a tile
    a window:       LDL^T of its diagonal block                 `factor_kernel` of `inertia.ldl`, one program a problem
                    L in the rows below that block              `rows_kernel`, one program for BLOCK_ROW rows
                    A -= L D L^T for all that is to the right   `update_kernel`, one program a tile

Bytes: r^3 / (3 WINDOW) elements of the factor read and written. Flops: r^3 / 3. On sm_90 one matrix of order 4096 moves
1.4 GB a shift (0.3 ms at 4.3 TB/s, less where the L2 holds it) and has 23 GFLOP a shift (0.34 ms of the tensor cores).
Its chain of 4096 pivots takes 4 ms in the launches of `factor_kernel`, 123 us a window by the latencies of their
instructions; those of `update_kernel` do not overlap with them: of 95 launches a third have one program a problem.
Times are not measured.

Tried for `update_kernel`, by what the compiler makes of it; for the others see `inertia.ldl`:
    sm_86, sm_89     BLOCK_ROW 64 spills up to 804 bytes; BLOCK_ROW 32, 8 warps: 60 registers, no spill
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen, wide_tiles
from ..launch import launch
from ..variant import Variant
from .elimination import block_row, minus_products, problem, weights_of
from .ldl import Config, Problems, config, factor_kernel, variant_of
from .table import OFFSET, ROWS

WINDOW = 128
"""Columns of a window."""


def update_config(capability: tuple[int, int]) -> Config:
    """Of `update_kernel`: tiles of block_row x block_row, summed over `b` columns of L at a time."""
    return Config(32, 64, 8, 2) if wide_tiles(capability) else Config(32, 32, 8, 1)


@triton.jit(do_not_specialize=["SHIFTS", "PARTS"])
def rows_kernel(p_table, p_ids, p_decided, p_coefficients, p_trace, p_factors, p_growth, start, span, SHIFTS, PARTS,
                BLOCK_ROW: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """L in BLOCK_ROW rows below the window start : start + span, whose diagonal block `factor_kernel` has factored."""
    p_row, i, _, order, shift, p_factor = problem(
        p_table, p_ids, p_decided, p_coefficients, p_trace, p_factors, tl.program_id(1), tl.num_programs(1), SHIFTS, 0
    )
    end = start + span
    i_row = end + tl.program_id(0).to(tl.int64) * BLOCK_ROW
    if (shift != shift) | (i_row >= order):
        return
    rows = tl.load(p_row + ROWS)
    o_row = i_row + tl.arange(0, BLOCK_ROW)
    m_row = o_row < order
    o = tl.arange(0, B)
    below = o[:, None] > o[None, :]
    identity = tl.where(o[:, None] == o[None, :], 1.0, 0.0).to(tl.float64)
    growth = tl.full((), 0.0, tl.float64)
    for i_column in range(start, end, B):
        o_column = (i_column + o).to(tl.int64)
        block = tl.load(p_factor + (o_column[:, None] * order + o_column[None, :]))
        lower = tl.where(below, block, identity)
        inverse = tl.where(below, tl.trans(block), identity)
        d = tl.load(p_factor + o_column * (order + 1))
        weights = weights_of(d, lower, inverse, o_column < rows)
        t = tl.load(p_factor + (o_row[:, None] * order + o_column[None, :]), mask=m_row[:, None], other=0.0)
        growth += block_row(t, p_factor, o_row, m_row, o_column, order, start, i_column, lower, inverse, d, weights, B)
        tl.debug_barrier()
    # No other program adds to this part at the same time: launches for later windows come after this one.
    p_part = p_growth + i * PARTS + i_row // BLOCK_ROW
    tl.store(p_part, tl.load(p_part) + growth)


@triton.jit(do_not_specialize=["SHIFTS"])
def update_kernel(p_table, p_ids, p_decided, p_coefficients, p_trace, p_gram, p_factors, start, span, SHIFTS,
                  FIRST: tl.constexpr, BLOCK_ROW: tl.constexpr, B: tl.constexpr):  # fmt: skip
    """A -= L D L^T for one tile, on or below the diagonal, right of the window start : start + span.

    FIRST: A = G - shift I instead, with an empty window at 0, so that all tiles are to the right of it.
    """
    p_row, _i, _, order, shift, p_factor = problem(
        p_table, p_ids, p_decided, p_coefficients, p_trace, p_factors, tl.program_id(1), tl.num_programs(1), SHIFTS, 0
    )
    i_tile = tl.program_id(0)
    # Tiles of the triangle are numbered row by row; row i has i + 1 of them. The root may be rounded either way, which
    # the two lines after it correct.
    i_row = ((tl.sqrt(8.0 * i_tile.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i_row -= (i_row * (i_row + 1) // 2 > i_tile).to(tl.int32)
    i_row += ((i_row + 1) * (i_row + 2) // 2 <= i_tile).to(tl.int32)
    i_column = i_tile - i_row * (i_row + 1) // 2
    end = start + span
    o_row = end + i_row.to(tl.int64) * BLOCK_ROW + tl.arange(0, BLOCK_ROW)
    o_column = end + i_column.to(tl.int64) * BLOCK_ROW + tl.arange(0, BLOCK_ROW)
    if (shift != shift) | (end + i_row.to(tl.int64) * BLOCK_ROW >= order):
        return
    offsets = o_row[:, None] * order + o_column[None, :]
    m_row = o_row < order
    m_tile = m_row[:, None] & (o_column < order)[None, :]
    if FIRST:
        rows = tl.load(p_row + ROWS)
        t = tl.load(p_gram + tl.multiple_of(tl.load(p_row + OFFSET), 32) + offsets, mask=m_tile, other=0.0)
        on_diagonal = o_row[:, None] == o_column[None, :]
        t = tl.where(on_diagonal, tl.where((o_row < rows)[:, None], t - shift, 1.0), t)
    else:
        t = tl.load(p_factor + offsets, mask=m_tile, other=0.0)
        o_safe = tl.where(o_column < order, o_column, 0)
        t = minus_products(t, p_factor, o_row, m_row, o_safe, order, start, end, B)
    tl.store(p_factor + offsets, t, mask=m_tile)


def factor_windows_(problems: Problems, ids: Tensor, order: int) -> None:
    """Writes what `ldl.factor_` does, with many programs a problem, by about 3 order / WINDOW launches.

    Args:
        problems: see `ldl.Problems`. ids: `(n,)` int32, the matrices.
        order: of the largest of these matrices.
    """
    shifts, device = problems.coefficients.shape[1], capability(ids.device)
    c, wide = config(device), update_config(device)
    count = len(ids) * shifts
    given = problems.addresses(ids) | {"SHIFTS": shifts}
    growth, counts = ({name: given.pop(name)} for name in ("p_growth", "p_counts"))
    growth["PARTS"] = problems.growth.shape[-1]
    gram = {"p_gram": given.pop("p_gram")}

    def update(start: int, span: int, first: bool) -> None:
        across = -(-(order - start - span) // wide.block_row)
        variant = variant_of(update_kernel, wide, FIRST=first)
        launch(variant, (across * (across + 1) // 2, count), {**given, **gram, "start": start, "span": span})

    update(0, 0, first=True)
    for start in range(0, order, WINDOW):
        variant = variant_of(factor_kernel, c, IN_PLACE=True)
        window = {"start": start, "span": WINDOW}
        launch(variant, (count,), {**given, **gram, **counts, **growth, **window, "PAIRS": 0})
        if (left := order - start - WINDOW) > 0:
            variant = variant_of(rows_kernel, c)
            launch(variant, (-(-left // c.block_row), count), {**given, **growth, **window})
            update(start, WINDOW, first=False)


def variants_of(capability: tuple[int, int]) -> list[Variant]:
    """The variants that `factor_windows_` launches on a device of this compute capability."""
    c, wide = config(capability), update_config(capability)
    updates = [variant_of(update_kernel, wide, FIRST=first) for first in (True, False)]
    return [variant_of(factor_kernel, c, IN_PLACE=True), variant_of(rows_kernel, c), *updates]


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        yield variant_of(factor_kernel, c, architectures, IN_PLACE=True)
        yield variant_of(rows_kernel, c, architectures)
    for c, architectures in chosen(update_config).items():
        yield from (variant_of(update_kernel, c, architectures, FIRST=first) for first in (False, True))
