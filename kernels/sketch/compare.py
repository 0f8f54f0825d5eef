"""Compare: the thresholds s that a sketch can prove something about, and the small matrix C - s B for each.

    C = Y^T Y, B = V^T V (k, k)   summed over their strips; V (n, k) this step's basis, Y = W V; all FP64
    t^2 = LEFT                    ||W||_F^2 - <C, 2 I - B> + spare, over the columns of V that are kept
    theta_1 = x^T C x / x^T B x   x (k,) by power iteration with C, see `sketch.top`
    LOW = theta_1 - spare,   HIGH = theta_1 (1 + SLACK) + t^2 + 2 spare at most        bounds of sigma_1^2

The thresholds are theta_1 (1 + SLACK) + spare for problem 1, and tau^2 + spare and tau^2 - t^2 - spare for each
tolerance. Where tau is relative to sigma_1 the first has HIGH in place of sigma_1^2, the second LOW. `spare` allows for
rounding and, by a share `cut` of ||W||_F^2, for what products by integers leave out of W. See `sketch.proof` for the
problems and for what becomes of them, and `fastrank.reference.sketch`, the twin, for why.

One program a matrix, with a branch for each k. Bytes: 8 k^2 for each strip's Gram read, 8 k^2 (2 tolerances + 3)
written and read again, from L2. Flops: 24 k^3 and 12 k^2 for theta_1. What bounds it is a chain of latencies, an
estimated 12 us at k = 16: sums over the strips, squarings, and reductions across warps. Measured on an H200: 16
to 21 us at k = 16, 45 at k = 32, 64 to 94 at k = 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import triton
import triton.language as tl
from torch import Tensor

from ..device import capability, chosen
from ..inertia import UNIT
from ..variant import Variant
from .proof import (
    FIRST,
    FROBENIUS,
    HIGH,
    LEAST,
    LEFT,
    LOW,
    NORM,
    NUMBERS,
    ORTHONORMAL,
    SPARE,
    SPECTRAL,
    launch_all,
    variant_of,
)
from .table import COLUMNS, FIELDS, FIRST_NORM, GRAM, NORMS, ROWS, SMALL, STRIPS, WIDEST, WIDTH
from .top import HELD, times, top, whole

SLACK = tl.constexpr(1e-5)
"""Relative width of the interval that theta_1 is certified to be in, as in the twin."""


@triton.jit
def _totals(p_c, p_b, c_strips, b_strips, o_row, K: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    """Rows `o_row` (BLOCK, K) of C and of B, each the sum of its strips, of which AT_ONCE are on their way together."""
    o_strip = tl.arange(0, AT_ONCE)[:, None, None]
    offsets = o_strip * (K * K) + (o_row[:, None] * K + tl.arange(0, K)[None, :])[None, :, :]
    c = tl.zeros((AT_ONCE, BLOCK, K), tl.float64)
    b = tl.zeros((AT_ONCE, BLOCK, K), tl.float64)
    for i in range(0, tl.maximum(c_strips, b_strips), AT_ONCE):
        more_c = tl.load(p_c + i * (K * K) + offsets, mask=i + o_strip < c_strips, other=0.0)
        more_b = tl.load(p_b + i * (K * K) + offsets, mask=i + o_strip < b_strips, other=0.0)
        c += more_c
        b += more_b
    return tl.sum(c, 0), tl.sum(b, 0)


@triton.jit
def _sum_up(p_c, p_b, c_strips, b_strips, p_first, p_last, p_kept, kept, K: tl.constexpr, BLOCK: tl.constexpr,
            ORDER: tl.constexpr, AT_ONCE: tl.constexpr):  # fmt: skip
    """Writes C and B (K, K); returns <C, 2 I - B> and ||B - I||_F^2 over the kept columns."""
    o = tl.arange(0, K)
    within = tl.zeros((BLOCK, K), tl.float64)
    deviation = tl.zeros((BLOCK, K), tl.float64)
    for i in range(0, K, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        offsets = o_row[:, None] * ORDER + o[None, :]
        c, b = _totals(p_c, p_b, c_strips, b_strips, o_row, K, BLOCK, AT_ONCE)
        tl.store(p_first + offsets, c)
        tl.store(p_last + offsets, b)
        both = (tl.load(p_kept + o_row) != 0)[:, None] & kept[None, :]
        identity = tl.where(o_row[:, None] == o[None, :], 1.0, 0.0)
        within += tl.where(both, c * (2 * identity - b), 0.0)
        away = tl.where(both, b - identity, 0.0)
        deviation += away * away
    return tl.sum(within), tl.sum(deviation)


@triton.jit
def _write_problems(p_first, p_last, p_tolerances, p_kept, kept, norm, certified, low, high, left, spare, TOLERANCES,
                    K: tl.constexpr, BLOCK: tl.constexpr, ORDER: tl.constexpr):  # fmt: skip
    """Writes C - s B for every s but that of problem 0; B is at `p_last`, the place of the last of them."""
    o = tl.arange(0, K)
    for i in range(0, K, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        offsets = o_row[:, None] * ORDER + o[None, :]
        both = (tl.load(p_kept + o_row) != 0)[:, None] & kept[None, :]
        c = tl.where(both, tl.load(p_first + offsets), 0.0)
        b = tl.where(both, tl.load(p_last + offsets), 0.0)
        rest = tl.where((o_row[:, None] == o[None, :]) & (kept[None, :] == 0), -norm / K, 0.0)
        p_problem = p_first + ORDER * ORDER + offsets
        tl.store(p_problem, c - certified * b + rest)
        for i_tolerance in range(0, TOLERANCES):
            kind, square = tl.load(p_tolerances + 2 * i_tolerance), tl.load(p_tolerances + 2 * i_tolerance + 1)
            least = tl.where(kind == FROBENIUS, square * norm, tl.where(kind == SPECTRAL, square * low, square))
            most = tl.where(kind == SPECTRAL, square * high, least)
            p_problem += ORDER * ORDER
            tl.store(p_problem, c - (most + spare) * b + rest)
            p_problem += ORDER * ORDER
            tl.store(p_problem, c - (least - left - spare) * b + rest)


@triton.jit
def _compare(p_row, p_other, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
             p_growth, p_number, cut, TOLERANCES, K: tl.constexpr, BLOCK: tl.constexpr,
             AT_ONCE: tl.constexpr):  # fmt: skip
    ORDER: tl.constexpr = K if K > LEAST else LEAST
    problems = FIRST + 2 * TOLERANCES
    first, count = tl.load(p_row + FIRST_NORM), tl.load(p_row + NORMS)
    p_c, p_b = p_grams + tl.load(p_row + GRAM), p_basis_grams + tl.load(p_other + GRAM)
    c_strips, b_strips = tl.load(p_row + STRIPS), tl.load(p_other + STRIPS)
    terms = 4 * tl.load(p_row + COLUMNS) + tl.load(p_row + ROWS) + 16 * K + 128
    p_first = p_small + tl.load(p_row + SMALL)
    p_last = p_first + (problems - 1) * ORDER * ORDER  # has B until it becomes the last problem
    o = tl.arange(0, K)
    kept = tl.load(p_kept + o) != 0

    squares = tl.zeros((128,), tl.float64)
    for i in range(0, count, 128):
        o_norm = i + tl.arange(0, 128)
        squares += tl.load(p_norms + first + o_norm, mask=o_norm < count, other=0.0)
    norm = tl.sum(squares)

    within, deviation = _sum_up(p_c, p_b, c_strips, b_strips, p_first, p_last, p_kept, kept, K, BLOCK, ORDER, AT_ONCE)
    tl.debug_barrier()
    spare = (4 * UNIT * K * terms.to(tl.float64) + cut) * norm
    left = tl.maximum(norm - within, 0.0) + spare
    orthonormal = deviation <= 0.25

    both = (tl.load(p_kept + o) != 0)[:, None] & kept[None, :]
    c = whole(p_first, both, HELD, K, ORDER)
    x = top(c, p_first, p_top, p_x, norm, kept, both, K, BLOCK, ORDER)
    b = whole(p_last, both, HELD, K, ORDER)
    below = tl.sum(x * times(b, p_last, p_x, x, kept, K, BLOCK, ORDER))
    above = tl.sum(x * times(c, p_first, p_x, x, kept, K, BLOCK, ORDER))
    tl.store(p_x + o, x)
    theta = tl.where(below > 0, above / below, 0.0)
    certified = theta * (1 + SLACK) + spare
    low = tl.maximum(theta - spare, 0.0)
    high = tl.minimum(certified + left + spare, norm + spare)
    _write_problems(p_first, p_last, p_tolerances, p_kept, kept, norm, certified, low, high, left, spare, TOLERANCES, K,
                    BLOCK, ORDER)  # fmt: skip
    for i_problem in range(0, problems):
        tl.store(p_trace + i_problem, norm)
        tl.store(p_growth + i_problem, 0.0)
    tl.store(p_number + NORM, norm)
    tl.store(p_number + SPARE, spare)
    tl.store(p_number + LEFT, left)
    tl.store(p_number + LOW, low)
    tl.store(p_number + HIGH, high)
    tl.store(p_number + ORTHONORMAL, orthonormal.to(tl.float64))


@triton.jit(do_not_specialize=["MATRICES", "TOLERANCES"])
def compare_kernel(p_table, p_step, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
                   p_growth, p_numbers, cut, MATRICES, TOLERANCES):  # fmt: skip
    i_matrix = tl.program_id(0).to(tl.int64)
    side = tl.load(p_step) & 1
    p_row = p_table + (side * MATRICES + i_matrix) * FIELDS
    p_other = p_table + ((1 - side) * MATRICES + i_matrix) * FIELDS
    k = tl.load(p_row + WIDTH)
    p_kept += i_matrix * WIDEST
    p_top += i_matrix * WIDEST
    p_x += i_matrix * WIDEST
    p_trace += i_matrix * (FIRST + 2 * TOLERANCES)
    p_growth += i_matrix * (FIRST + 2 * TOLERANCES)
    p_number = p_numbers + i_matrix * NUMBERS
    if k == 16:
        _compare(p_row, p_other, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
                 p_growth, p_number, cut, TOLERANCES, 16, 16, 8)  # fmt: skip
    elif k == 32:
        _compare(p_row, p_other, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
                 p_growth, p_number, cut, TOLERANCES, 32, 16, 4)  # fmt: skip
    elif k == 64:
        _compare(p_row, p_other, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
                 p_growth, p_number, cut, TOLERANCES, 64, 16, 2)  # fmt: skip
    else:
        _compare(p_row, p_other, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_x, p_trace,
                 p_growth, p_number, cut, TOLERANCES, 128, 16, 1)  # fmt: skip


def compare_(scratch: Mapping[str, Tensor], cut: float = 0.0) -> None:
    """Writes the problems of each matrix, and the numbers that `conclude_` needs besides their counts.

    scratch: see `Sketches.tensors`. Written are `small`, the problems; `trace` and `growth`, as `ldl.factor_` needs
        them; `numbers`, see `sketch.proof`; and `x`.
    cut: share of ||W||_F^2 that is spare because the products are not those of W itself (default 0: they are).
    """
    launch_all(compare_variant(config(capability(scratch["table"].device))), scratch, {"cut": cut})


def config(capability: tuple[int, int]) -> tuple[int, int | None]:
    """Number of warps, and of registers that a thread may have.

    With 8 warps, Triton 3.6 fails on sm_100 to multiply 64 rows in FP64, and spills 16 bytes on sm_80. With 16 it
    spills 32 bytes on sm_90, and a barrier takes longer.
    """
    return (16, None) if capability == (8, 0) or capability[0] == 10 else (8, 255)


def compare_variant(c: tuple[int, int | None], architectures: tuple[str, ...] = ()) -> Variant:
    # Fused, a product that a warp sums is rounded in the lanes it goes to and not in its own: their sums would differ.
    return replace(variant_of(compare_kernel, *c), architectures=architectures, enable_fp_fusion=False)


def variants() -> Iterator[Variant]:
    for c, architectures in chosen(config).items():
        yield compare_variant(c, architectures)
