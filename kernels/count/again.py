"""Again: where to count once more, because the factors of a first count have grown more than they were allowed to.

    limit' = min(MARGIN growth, MOST limit)                    of each shift whose growth is above its limit
    s'     = s -+ (1 + 2^-20) u terms (limit' - limit)         - for an upper bound, + for a lower one

That is what delta becomes wider by, see the twin, `fastrank.reference.again`. All other shifts become NaN: the
launches that follow leave their counts and growth alone.

One program for the two shifts of a tolerance, or of the certificate of sigma_1. Bytes: 16 PARTS of growth. Bound by
latency, a few us. Times are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..inertia import UNIT, Problems
from ..inertia.table import FIELDS, ROWS
from ..launch import launch
from ..variant import Variant
from .shifts import AGAIN_ABOVE, SPARE, terms_of

MARGIN, MOST = map(tl.constexpr, (4.0, 64.0))
"""As in `fastrank.reference.again`."""
ABOVE = AGAIN_ABOVE.value
"""Largest r of the matrices that are counted only once."""


@triton.jit
def _grown(p_growth, i, PARTS, BLOCK: tl.constexpr):
    """Growth of the factors at shift i."""
    total = tl.zeros((BLOCK,), tl.float64)
    for i_part in range(0, PARTS, BLOCK):
        o = i_part + tl.arange(0, BLOCK)
        total += tl.load(p_growth + i * PARTS + o, mask=o < PARTS, other=0.0)
    return tl.sum(total)


@triton.jit
def _set(p_coefficients, p_limits, p_counts, p_growth, i, grown, scale, trace, PARTS, BLOCK: tl.constexpr):
    """Shift i and its limit, moved by `scale` times what is added to the limit; and a count and growth of 0."""
    limit = tl.load(p_limits + i)
    shift = tl.load(p_coefficients + 2 * i) * trace + tl.load(p_coefficients + 2 * i + 1)
    redo = ((grown <= limit) == 0) & (shift == shift)
    wider = tl.where(grown * MARGIN < limit * MOST, grown * MARGIN, limit * MOST)
    tl.debug_barrier()  # all threads have loaded what one of them stores
    tl.store(p_coefficients + 2 * i, 0.0)
    tl.store(p_coefficients + 2 * i + 1, tl.where(redo, shift + scale * (wider - limit), float("nan")))
    tl.store(p_limits + i, tl.where(redo, wider, limit))
    if redo:
        tl.store(p_counts + i, 0)
        for i_part in range(0, PARTS, BLOCK):
            o = i_part + tl.arange(0, BLOCK)
            tl.store(p_growth + i * PARTS + o, tl.zeros((BLOCK,), tl.float64), mask=o < PARTS)


@triton.jit(do_not_specialize=["SHIFTS", "PARTS", "PAIRS"])
def again_kernel(p_table, p_ids, p_decided, p_coefficients, p_trace, p_counts, p_growth, p_limits, SHIFTS, PARTS, PAIRS,
                 BLOCK: tl.constexpr):  # fmt: skip
    i_matrix = tl.load(p_ids + tl.program_id(0) // (SHIFTS // 2)).to(tl.int64)
    i_pair = tl.program_id(0) % (SHIFTS // 2)
    trace = tl.load(p_trace + i_matrix)
    i = i_matrix * SHIFTS + 2 * i_pair
    if (tl.load(p_decided + i_matrix) == 0) & (trace > 0) & (trace < float("inf")):
        rows = tl.load(p_table + i_matrix * FIELDS + ROWS)
        scale = terms_of(rows.to(tl.float64)) * (UNIT * SPARE)
        upper, lower = _grown(p_growth, i, PARTS, BLOCK), _grown(p_growth, i + 1, PARTS, BLOCK)
        # Where the lower bound is r, the other count is of no use (`count.row`), and may not have been made.
        full = (i_pair < PAIRS) & (tl.load(p_counts + i + 1) == rows)
        upper = tl.where(full, lower, upper)
        tl.debug_barrier()
        _set(p_coefficients, p_limits, p_counts, p_growth, i, upper, -scale, trace, PARTS, BLOCK)
        scale = tl.where(i_pair < PAIRS, scale, -scale)
        _set(p_coefficients, p_limits, p_counts, p_growth, i + 1, lower, scale, trace, PARTS, BLOCK)
    else:
        tl.store(p_coefficients + 2 * i + 1, float("nan"))
        tl.store(p_coefficients + 2 * i + 3, float("nan"))


def again_(problems: Problems, limits: Tensor, ids: Tensor) -> None:
    """Writes where to count the matrices `ids` once more. After it, and a launch that counts, limits are final.

    Args:
        problems: as a first count has left them; `coefficients` are written, and counts and growth are set to 0 where
            there is something to count. The first `pairs` pairs of shifts are upper and lower bound's; for any further
            ones both shifts are moved down.
        limits: `(b, S)` FP64, overwritten: the largest growth that is believed.
        ids: `(n,)` int32.
    """
    given = {name: x for name, x in problems.addresses(ids).items() if name in again_kernel.arg_names}
    shifts = limits.shape[1]
    sizes = {"SHIFTS": shifts, "PARTS": problems.growth.shape[-1], "PAIRS": problems.pairs}
    launch(AGAIN, (len(ids) * (shifts // 2),), {**given, "p_limits": limits, **sizes})


_KINDS = {"p_table": "*i64:16", "p_ids": "*i32:16", "p_decided": "*i32:16", "p_counts": "*i64:16"}
_KINDS |= dict.fromkeys(("SHIFTS", "PARTS", "PAIRS"), "i32")
AGAIN = Variant(
    kernel=again_kernel,
    signature={n: _KINDS.get(n, "*fp64:16") for n in again_kernel.arg_names if n != "BLOCK"},
    constexprs={"BLOCK": 64},
    num_warps=1,
    num_stages=1,
)


def variants() -> Iterator[Variant]:
    yield AGAIN
