"""Row: what the history records of each matrix, from the proof of its sketch and the counts of its Gram.

    values[i] = rank_lower, rank_upper        for each tolerance
                stable_rank, spectral_norm, frobenius_norm, status
                NaN                           as far as `values` has more columns

The twins are `fastrank.counting.bounds.judge` and `fastrank.measuring.row.row_of`. The bounds of a count and of a
sketch are proofs both, so their intersection is one too. A count whose factors have grown beyond their limit proves
nothing: FALLBACK. Where the count for the lower bound is r and proven, the other is not read, as it need not have been
made. Where sigma_1 is not known to TIGHT, spectral_norm and stable_rank are NaN.

One program for BLOCK matrices. Bytes: 8 S PARTS of growth a matrix, and little else. Bound by latency, measured
4 us for ResNet-18 on an H200.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from ..inertia.table import FIELDS, ROWS
from ..launch import launch
from ..variant import Variant
from .answers import SLACK, TIGHT, Answers

OK, NONFINITE, FALLBACK = map(tl.constexpr, (0.0, 1.0, 2.0))
"""As `fastrank.Status`."""
BLOCK = 32
"""Matrices of a program."""


@triton.jit
def _judged(p_counts, p_growth, p_limits, o, m, i_pair, order, trace, TOLERANCES, PARTS, BLOCK: tl.constexpr,
            PART: tl.constexpr):  # fmt: skip
    """Lower bound, upper bound and status (BLOCK,), FP64, by the counts at the two shifts of pair number `i_pair`."""
    shift = o * 2 * (TOLERANCES + 1) + 2 * i_pair
    of_upper, of_lower = tl.zeros((BLOCK, PART), tl.float64), tl.zeros((BLOCK, PART), tl.float64)
    for i in range(0, PARTS, PART):
        o_part = i + tl.arange(0, PART)
        m_part = m[:, None] & (o_part < PARTS)[None, :]
        p = p_growth + (shift[:, None] * PARTS + o_part[None, :])
        of_upper += tl.load(p, mask=m_part, other=0.0)
        of_lower += tl.load(p + PARTS, mask=m_part, other=0.0)
    upper = tl.load(p_counts + shift, mask=m, other=0).to(tl.float64)
    lower = tl.load(p_counts + shift + 1, mask=m, other=0).to(tl.float64)
    sound = (tl.sum(of_lower, 1) <= tl.load(p_limits + shift + 1, mask=m, other=0.0)) | (trace == 0)
    full = sound & (lower == order)
    sound &= (tl.sum(of_upper, 1) <= tl.load(p_limits + shift, mask=m, other=0.0)) | (trace == 0) | full
    upper = tl.where(sound & (full == 0), upper, order)
    lower = tl.where(sound, lower, 0.0)
    finite = tl.abs(trace) < float("inf")
    status = tl.where(finite, tl.where(sound, OK, FALLBACK), NONFINITE)
    return tl.where(finite, lower, -1.0), tl.where(finite, upper, -1.0), status


@triton.jit(do_not_specialize=["MATRICES", "TOLERANCES", "PARTS", "COLUMNS"])
def row_kernel(p_table, p_decided, p_proof, p_trace, p_top, p_counts, p_growth, p_limits, p_values, p_step, p_skip,
               MATRICES, TOLERANCES, PARTS, COLUMNS, BLOCK: tl.constexpr, PART: tl.constexpr):  # fmt: skip
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < MATRICES
    known = tl.load(p_decided + o, mask=m, other=1) != 0
    order = tl.load(p_table + o * FIELDS + ROWS, mask=m, other=0).to(tl.float64)
    trace = tl.load(p_trace + o, mask=m, other=0.0)
    p_known = p_proof + o * (3 + 2 * TOLERANCES)
    norm, low = tl.load(p_known, mask=m, other=0.0), tl.load(p_known + 1, mask=m, other=0.0)
    high = tl.load(p_known + 2, mask=m, other=0.0)
    norm = tl.where(known | (norm == norm), norm, trace)
    low = tl.where(known, low, tl.load(p_top + 2 * o, mask=m, other=0.0))
    high = tl.where(known, high, tl.load(p_top + 2 * o + 1, mask=m, other=0.0))
    finite = tl.abs(norm) < float("inf")
    p_value = p_values + o * COLUMNS

    worst = tl.zeros((BLOCK,), tl.float64)
    for i in range(0, TOLERANCES):
        least, most, status = _judged(
            p_counts, p_growth, p_limits, o, m, i, order, trace, TOLERANCES, PARTS, BLOCK, PART
        )
        lower = tl.load(p_known + 3 + 2 * i, mask=m, other=0.0)
        upper = tl.load(p_known + 4 + 2 * i, mask=m, other=0.0)
        tl.store(p_value + 2 * i, tl.where(known, lower, tl.maximum(lower, least)), mask=m)
        tl.store(p_value + 2 * i + 1, tl.where(known, upper, tl.minimum(upper, most)), mask=m)
        worst = tl.maximum(worst, tl.where(finite, tl.where(known, OK, status), NONFINITE))

    least, most, status = _judged(
        p_counts, p_growth, p_limits, o, m, TOLERANCES, order, trace, TOLERANCES, PARTS, BLOCK, PART
    )
    counts = (status == OK) & (known == 0)
    high = tl.where(counts & (least == 0), tl.minimum(high, low * (1 + TIGHT)), high)
    high = tl.where(counts & (most == 0), tl.minimum(high, low * (1 + SLACK)), high)
    nan = float("nan")
    spectral = tl.where(finite & (high <= low * (1 + TIGHT)), tl.sqrt(low), nan)
    frobenius = tl.where(finite, tl.sqrt(norm), nan)
    ratio = frobenius / tl.where(spectral == 0, 1.0, spectral)
    p_value += 2 * TOLERANCES
    tl.store(p_value + 0, tl.where(spectral == 0, 0.0, ratio * ratio), mask=m)
    tl.store(p_value + 1, spectral, mask=m)
    tl.store(p_value + 2, frobenius, mask=m)
    tl.store(p_value + 3, worst, mask=m)
    for i in range(4, COLUMNS - 2 * TOLERANCES):
        tl.store(p_value + i, tl.full((BLOCK,), nan, tl.float64), mask=m)

    if tl.program_id(0) == 0:
        step = tl.load(p_step) + tl.where(tl.load(p_skip) == 0, 1, 0)
        tl.debug_barrier()  # all threads have loaded what one of them stores
        tl.store(p_step, step)


def row_(
    values: Tensor, table: Tensor, decided: Tensor, proof: Tensor, answers: Answers, step: Tensor, skip: Tensor
) -> None:
    """Writes the measured columns of all matrices, and counts the step; nothing of the same step may come after it.

    Args:
        values: `(b, columns)` FP64, written; at least 2 T + 4 columns, of which those beyond become NaN.
        table: `(b, FIELDS)` int64, see `inertia.table`.
        decided: `(b,)` int32: where it is not 0, `proof` is all there is to say, and the counts are not read.
        proof: `(b, 3 + 2 T)` FP64, see `shifts.shifts_`. Not finite as ||W||_F^2 of a decided matrix: W is not finite.
        answers: of the matrices that are not decided.
        step: 0-d int64, counted up in place where `skip` `(1,)` FP32 is 0.
    """
    given = {
        "p_table": table, "p_decided": decided, "p_proof": proof, "p_trace": answers.trace, "p_top": answers.top,
        "p_counts": answers.counts, "p_growth": answers.growth, "p_limits": answers.limits, "p_values": values,
        "p_step": step, "p_skip": skip,
    }  # fmt: skip
    b, columns = values.shape
    sizes = {"MATRICES": b, "TOLERANCES": answers.tolerances, "PARTS": answers.growth.shape[-1], "COLUMNS": columns}
    launch(ROW, (-(-b // BLOCK),), given | sizes)


_KINDS = {
    "p_table": "*i64:16",
    "p_decided": "*i32:16",
    "p_counts": "*i64:16",
    "p_step": "*i64:16",
    "p_skip": "*fp32:16",
}
_SIZES = dict.fromkeys(("MATRICES", "TOLERANCES", "PARTS", "COLUMNS"), "i32")
ROW = Variant(
    kernel=row_kernel,
    signature={n: (_KINDS | _SIZES).get(n, "*fp64:16") for n in row_kernel.arg_names if n not in ("BLOCK", "PART")},
    constexprs={"BLOCK": BLOCK, "PART": 16},
    num_warps=4,
    num_stages=1,
    maxnreg=224,  # with no number given Triton 3.9 aims for fewer, and spills 12 bytes on sm_86 and sm_89
)


def variants() -> Iterator[Variant]:
    yield ROW
