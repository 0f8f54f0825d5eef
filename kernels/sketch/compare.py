"""Compare: the thresholds s that a sketch can prove something about, and the small matrix C - s B for each.

    C = Y^T Y, B = V^T V (k, k)   summed over their strips; V (n, k) this step's basis, Y = W V; all FP64
    t^2 = LEFT                    ||W||_F^2 - (2 tr C - <B, C>) + spare, over the columns of V that are kept
    theta_1 = x^T C x / x^T B x   x (k,) by power iteration with C, begun where the last step found it
    LOW = theta_1 - spare,   HIGH = theta_1 (1 + SLACK) + t^2 + 2 spare at most        bounds of sigma_1^2

The thresholds are theta_1 (1 + SLACK) + spare for problem 1, and tau^2 + spare and tau^2 - t^2 - spare for each
tolerance. Where tau is relative to sigma_1 the first has HIGH in place of sigma_1^2, the second LOW. See `sketch.proof`
for the problems and for what becomes of them, and `fastrank.reference.sketch`, the twin, for why.

One program a matrix. Bytes: 8 k^2 for each strip's Gram read, 8 k^2 (2 tolerances + 3) written and read again, from L2.
Flops: 24 k^3 and 12 k^2 for theta_1. What bounds it is the chain of squarings and of products with a vector that goes
through L1: about 2 us each by estimate. Times are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import triton
import triton.language as tl
from torch import Tensor

from ..count import UNIT
from ..limits import KS
from ..variant import Variant
from .proof import FIRST, FROBENIUS, HIGH, LEFT, LOW, NORM, NUMBERS, ORTHONORMAL, SPARE, SPECTRAL, launch, variant_of
from .table import COLUMNS, FIELDS, FIRST_NORM, FIRST_STRIP, NORMS, ROWS, STRIPS

SLACK = tl.constexpr(1e-5)
"""Relative width of the interval that theta_1 is certified to be in. All four constants are those of the twin."""
POWERS, SQUARINGS, SQUARED = map(tl.constexpr, (4, 12, 64))
"""Products of C with x in a step; squarings of C, for a product with C^4096 before those; the largest k that has it."""


@triton.jit
def _total(p_grams, p_row, i_block, BLOCK: tl.constexpr, K: tl.constexpr):
    """Block row `i_block` (BLOCK, K) of the sum of the Grams of a matrix' strips."""
    o_row, o_column = i_block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, K)
    p = p_grams + tl.load(p_row + FIRST_STRIP) * K * K + (o_row[:, None] * K + o_column[None, :])
    total = tl.zeros((BLOCK, K), tl.float64)
    for i in range(0, tl.load(p_row + STRIPS)):
        total += tl.load(p + i * K * K)
    return total


@triton.jit
def _times(p_matrix, p_x, p_y, kept, stride, BLOCK: tl.constexpr, K: tl.constexpr):
    """y = M x / |x| over the kept columns, x and y (K,) in memory; returns x^T M x / |x|^2. stride: of M's rows."""
    o_column = tl.arange(0, K)
    x = tl.load(p_x + o_column)
    size = tl.sqrt(tl.sum(x * x))
    x = tl.where(kept, x / tl.maximum(size, 1e-300), 0.0)
    product = tl.full((), 0.0, tl.float64)
    tl.debug_barrier()  # every thread has x before y, which may be in its place, is written
    for i in range(0, K, BLOCK):
        o_row = i + tl.arange(0, BLOCK)
        m = tl.load(p_matrix + (o_row[:, None] * stride + o_column[None, :]))
        y = tl.sum(tl.where(kept[None, :], m * x[None, :], 0.0), 1)
        of_rows = tl.sum(tl.where(o_row[:, None] == o_column[None, :], x[None, :], 0.0), 1)
        product += tl.sum(of_rows * y)
        tl.store(p_y + o_row, y)
    tl.debug_barrier()
    return product


@triton.jit
def _powered(p_matrix, p_x, kept, SQUARINGS: tl.constexpr, ORDER: tl.constexpr, K: tl.constexpr):
    """x = M^(2^SQUARINGS) x up to a factor, in place; M (K, K) positive semidefinite, over the kept columns."""
    o = tl.arange(0, K)
    kept_too = tl.sum(tl.where(o[:, None] == o[None, :], kept[None, :].to(tl.int32), 0), 1) != 0
    m = tl.load(p_matrix + (o[:, None] * ORDER + o[None, :]))
    m = tl.where(kept_too[:, None] & kept[None, :], m, 0.0)
    for _ in range(SQUARINGS):
        m = m / tl.maximum(tl.sum(tl.where(o[:, None] == o[None, :], m, 0.0)), 1e-300)
        m = tl.dot(m, m, out_dtype=tl.float64)
    x = tl.load(p_x + o)
    tl.debug_barrier()  # every thread has x before another is written in its place
    tl.store(p_x + o, tl.sum(m * x[None, :], 1))
    tl.debug_barrier()


@triton.jit(do_not_specialize=["MATRICES", "TOLERANCES"])
def compare_kernel(p_table, p_step, p_norms, p_grams, p_basis_grams, p_kept, p_top, p_tolerances, p_small, p_inner, p_x,
                   p_trace, p_growth, p_numbers, MATRICES, TOLERANCES, BLOCK: tl.constexpr, K: tl.constexpr,
                   ORDER: tl.constexpr):  # fmt: skip
    i_matrix = tl.program_id(0).to(tl.int64)
    side = tl.load(p_step) & 1
    p_row = p_table + (side * MATRICES + i_matrix) * FIELDS
    p_other = p_table + ((1 - side) * MATRICES + i_matrix) * FIELDS
    problems = FIRST + 2 * TOLERANCES
    p_first = p_small + i_matrix * problems * ORDER * ORDER
    p_b = p_inner + i_matrix * K * K
    o = tl.arange(0, K)
    kept = tl.load(p_kept + i_matrix * K + o) != 0

    first, count = tl.load(p_row + FIRST_NORM), tl.load(p_row + NORMS)
    squares = tl.zeros((128,), tl.float64)
    for i in range(0, count, 128):
        o_norm = i + tl.arange(0, 128)
        squares += tl.load(p_norms + first + o_norm, mask=o_norm < count, other=0.0)
    norm = tl.sum(squares)

    trace = tl.full((), 0.0, tl.float64)
    inner = tl.full((), 0.0, tl.float64)
    deviation = tl.full((), 0.0, tl.float64)
    for i_block in range(0, K // BLOCK):
        o_row = i_block * BLOCK + tl.arange(0, BLOCK)
        on_diagonal = o_row[:, None] == o[None, :]
        both = (tl.load(p_kept + i_matrix * K + o_row) != 0)[:, None] & kept[None, :]
        c = _total(p_grams, p_row, i_block, BLOCK, K)
        b = _total(p_basis_grams, p_other, i_block, BLOCK, K)
        tl.store(p_first + (o_row[:, None] * ORDER + o[None, :]), c)
        tl.store(p_b + (o_row[:, None] * K + o[None, :]), b)
        trace += tl.sum(tl.where(both & on_diagonal, c, 0.0))
        inner += tl.sum(tl.where(both, b * c, 0.0))
        away = tl.where(both, b - tl.where(on_diagonal, 1.0, 0.0), 0.0)
        deviation += tl.sum(away * away)
    tl.debug_barrier()

    terms = 4 * tl.load(p_row + COLUMNS) + tl.load(p_row + ROWS) + 16 * K + 128
    spare = 4 * UNIT * K * terms.to(tl.float64) * norm
    left = tl.maximum(norm - (2 * trace - inner), 0.0) + spare
    orthonormal = deviation <= 0.25

    # theta_1: x starts from where it was last step or, if that is not known, at the longest column of Y.
    p_vector = p_x + i_matrix * K
    before = tl.load(p_top + i_matrix * K + o)
    diagonal = tl.where(kept, tl.load(p_first + o * (ORDER + 1)), -1.0)
    largest = tl.min(tl.where(diagonal == tl.max(diagonal), o, K))
    unknown = tl.sum(tl.where(before != 0, 1, 0)) == 0
    tl.store(p_vector + o, tl.where(unknown, tl.where(o == largest, 1.0, 0.0), before))
    tl.debug_barrier()
    if K <= SQUARED:
        _powered(p_first, p_vector, kept, SQUARINGS, ORDER, K)
    for _ in range(POWERS):
        _times(p_first, p_vector, p_vector, kept, ORDER, BLOCK, K)
    below = _times(p_b, p_vector, p_x + (MATRICES + i_matrix) * K, kept, K, BLOCK, K)
    above = _times(p_first, p_vector, p_x + (MATRICES + i_matrix) * K, kept, ORDER, BLOCK, K)
    theta = tl.where(below > 0, above / below, 0.0)
    certified = theta * (1 + SLACK) + spare
    low = tl.maximum(theta - spare, 0.0)
    high = tl.minimum(certified + left + spare, norm + spare)

    for i_problem in range(1, problems):
        i_tolerance = (i_problem - FIRST) // 2
        s = certified
        if i_problem >= FIRST:
            kind = tl.load(p_tolerances + 2 * i_tolerance)
            square = tl.load(p_tolerances + 2 * i_tolerance + 1)
            least = tl.where(kind == FROBENIUS, square * norm, tl.where(kind == SPECTRAL, square * low, square))
            most = tl.where(kind == SPECTRAL, square * high, least)
            s = tl.where((i_problem - FIRST) % 2 == 0, most + spare, least - left - spare)
        p_problem = p_first + i_problem * ORDER * ORDER
        for i_block in range(0, K // BLOCK):
            o_row = i_block * BLOCK + tl.arange(0, BLOCK)
            both = (tl.load(p_kept + i_matrix * K + o_row) != 0)[:, None] & kept[None, :]
            offsets = o_row[:, None] * ORDER + o[None, :]
            c = tl.load(p_first + offsets)
            b = tl.load(p_b + (o_row[:, None] * K + o[None, :]))
            rest = tl.where(o_row[:, None] == o[None, :], -norm / K, 0.0)
            tl.store(p_problem + offsets, tl.where(both, c - s * b, tl.where(kept[None, :], 0.0, rest)))
    for i_problem in range(0, problems):
        tl.store(p_trace + i_matrix * problems + i_problem, norm)
        tl.store(p_growth + i_matrix * problems + i_problem, 0.0)
    p_number = p_numbers + i_matrix * NUMBERS
    tl.store(p_number + NORM, norm)
    tl.store(p_number + SPARE, spare)
    tl.store(p_number + LEFT, left)
    tl.store(p_number + LOW, low)
    tl.store(p_number + HIGH, high)
    tl.store(p_number + ORTHONORMAL, orthonormal.to(tl.float64))
    # Other kernels multiply x with all columns of the basis, of which those that are not kept hold noise.
    tl.store(p_vector + o, 0.0, mask=tl.load(p_kept + i_matrix * K + o) == 0)


def compare_(scratch: Mapping[str, Tensor], matrices: int, tolerances: int, k: int) -> None:
    """Writes the problems of each matrix, and the numbers that `conclude_` needs besides their counts.

    Args:
        scratch: see `Sketches.tensors`. Written are `small`, the problems; `trace` and `growth`, as `ldl.factor_` needs
            them; `numbers`, see `sketch.proof`; `inner`, B; and `x`.
        matrices, tolerances: how many.
    """
    launch(compare_variant(k), scratch, matrices, tolerances)


CONFIGS = {16: (4, 224), 32: (4, 128), 64: (16, None), 128: (8, 200)}
"""Number of warps, and of registers that a thread may have, for each k. A dozen scalars live all through the kernel:
with no number given the compiler aims for fewer registers, and spills 4 to 56 bytes."""


def compare_variant(k: int) -> Variant:
    num_warps, maxnreg = CONFIGS[k]
    return variant_of(compare_kernel, k, num_warps, maxnreg)


def variants() -> Iterator[Variant]:
    yield from map(compare_variant, KS)
