"""Elimination: LDL^T of one diagonal block in registers, and the block steps that `inertia.ldl`, `count.tiny` and
`inertia.ldl_windows` are made of.

    S = L D L^T,  L unit lower triangular,  X = L^-1        all (B, B), FP64; only S's lower triangle is read

`factor_block` eliminates one column c at a time, without pivoting: l = S[:, c] / d_c below the diagonal, then
S -= l S[:, c]^T and X -= l X[c, :]. A pivot whose magnitude is below `floor` is replaced by floor, with the pivot's
sign. That changes S by at most 2 floor, which the caller's error bound allows for. Where the rest of the column is zero
this does no harm, and where it is not, the large multipliers show as growth.

`divide` solves M L^T = T for the blocks T below S, by products with X because the tensor cores can do those. M = T X^T
alone would have an error of kappa u |T|, kappa = || |L| |X| ||. One step of refinement, M + (T - M L^T) X^T, brings it
down to that of substitution plus (kappa u)^2 |T|; kappa is measured, and goes into the growth (Higham, Accuracy and
Stability of Numerical Algorithms, 12.1).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .table import FIELDS, OFFSET, ORDER

UNIT = tl.constexpr(2.0**-53)
"""Unit roundoff u of FP64."""


@triton.jit
def factor_block(s, floor, B: tl.constexpr):
    """L (B, B), X = L^-1 (B, B) and d (B,) of the block `s` (B, B); no |d| is below `floor`."""
    o = tl.arange(0, B)
    i_row, i_column = o[:, None], o[None, :]
    lower = tl.where(i_row == i_column, 1.0, 0.0).to(tl.float64)
    inverse = lower
    d = tl.zeros((B,), tl.float64)
    for c in range(B):
        column = tl.sum(tl.where(i_column == c, s, 0.0), 1)
        pivot = tl.sum(tl.where(o == c, column, 0.0), 0)
        pivot = tl.where(tl.abs(pivot) < floor, tl.where(pivot < 0, -floor, floor), pivot)
        multiplier = tl.where(o > c, column / pivot, 0.0)
        s -= multiplier[:, None] * column[None, :]
        inverse -= multiplier[:, None] * tl.sum(tl.where(i_row == c, inverse, 0.0), 0)[None, :]
        lower = tl.where((i_column == c) & (i_row > c), multiplier[:, None], lower)
        d = tl.where(o == c, pivot, d)
    return lower, inverse, d


@triton.jit
def divide(t, lower, inverse):
    """M (R, B) with M L^T = T, from T (R, B), L (B, B) and its inverse."""
    right = tl.trans(inverse)
    m = tl.dot(t, right, out_dtype=tl.float64)
    rest = t - tl.dot(m, tl.trans(lower), out_dtype=tl.float64)
    return tl.dot(rest, right, m, out_dtype=tl.float64)


@triton.jit
def condition(lower, inverse):
    """Upper bound of kappa^2, (||L||_F ||X||_F)^2."""
    return tl.sum(lower * lower) * tl.sum(inverse * inverse)


@triton.jit
def shift_of(p_coefficients, trace):
    """Shift of one problem: slope * trace + intercept, from its pair of coefficients in memory.

    A zero matrix gets a shift of 1, as any positive one gives it the count 0. Where a coefficient is NaN, or the trace
    is not finite, the shift is NaN, which callers take as: nothing to do.
    """
    shift = tl.load(p_coefficients) * trace + tl.load(p_coefficients + 1)
    shift = tl.where((trace == 0) & (shift == shift), 1.0, shift)
    return tl.where(tl.abs(trace) < float("inf"), shift, float("nan"))


@triton.jit
def place(i_problem, problems, SHIFTS, PAIRS):
    """Which of the launch's matrices, and which of its SHIFTS shifts, problem number `i_problem` of `problems` is.

    The lower bounds' shifts of all matrices, those at 2 i + 1 for i < PAIRS, come first. Some of their counts are r by
    the time that the upper bound's is due, which is r then too: see `skipped`.
    """
    first = problems // SHIFTS * PAIRS
    others = SHIFTS - PAIRS
    i = i_problem - first
    i_other = i % others
    of_lower = i < 0
    i_matrix = tl.where(of_lower, i_problem // tl.maximum(PAIRS, 1), i // others)
    i_lower = 2 * (i_problem % tl.maximum(PAIRS, 1)) + 1
    return i_matrix, tl.where(of_lower, i_lower, tl.where(i_other < PAIRS, 2 * i_other, PAIRS + i_other))


@triton.jit
def skipped(p_counts, i, i_shift, rows, PAIRS):
    """Whether problem i is an upper bound's whose lower bound has been found to be r: so is the upper one, whatever the
    factors of either are worth. Another program may be writing that count; it matters to nobody if this one is early.
    """
    of_upper = (i_shift < 2 * PAIRS) & (i_shift % 2 == 0)
    return tl.load(p_counts + i + 1, mask=of_upper, other=-1, cache_modifier=".cg") == rows


@triton.jit
def problem(p_table, p_ids, p_decided, p_coefficients, p_trace, p_factors, i_problem, problems, SHIFTS, PAIRS):
    """Where the launch's problem number `i_problem` of `problems` stands: the matrices of `p_ids` times SHIFTS shifts,
    in the order of `place`.

    Returns a pointer to the matrix's table row, the problem's index matrix * SHIFTS + shift in the arrays of the whole
    batch, the shift's own index, the order of the Gram, the shift, and a pointer to the factor. The shift is NaN where
    there is nothing to do because the matrix is decided or not finite.
    """
    i_id, i_shift = place(i_problem, problems, SHIFTS, PAIRS)
    i_matrix = tl.load(p_ids + i_id).to(tl.int64)
    i = i_matrix * SHIFTS + i_shift
    p_row = p_table + i_matrix * FIELDS
    order = tl.multiple_of(tl.load(p_row + ORDER), 32)
    shift = shift_of(p_coefficients + 2 * i, tl.load(p_trace + i_matrix))
    shift = tl.where(tl.load(p_decided + i_matrix) == 0, shift, float("nan"))
    p_factor = p_factors + tl.multiple_of(tl.load(p_row + OFFSET) * SHIFTS + i_shift * order * order, 32)
    return p_row, i, i_shift, order, shift, p_factor


@triton.jit
def minus_products(t, p_factor, o_row, m_row, o_column, order, begin, end, B: tl.constexpr):
    """t - L[rows, begin:end] D L[columns, begin:end]^T for a tile t: its update by columns that are factored."""
    total = tl.zeros(t.shape, tl.float64)
    for i_k in range(begin, end, B):
        o_k = i_k + tl.arange(0, B)
        b_rows = tl.load(p_factor + o_row[:, None] * order + o_k[None, :], mask=m_row[:, None], other=0.0)
        b_columns = tl.load(p_factor + o_column[:, None] * order + o_k[None, :])
        b_d = tl.load(p_factor + o_k * (order + 1))
        total = tl.dot(b_rows, tl.trans(b_columns * b_d[None, :]), total, out_dtype=tl.float64)
    return t - total


@triton.jit
def weights_of(d, lower, inverse, m_column):
    """Weights (B,) of the squares of L's columns in the growth: |d_j| (1 + 128 u kappa^2), and 0 for padding."""
    return tl.where(m_column, tl.abs(d) * (1 + 128 * UNIT * condition(lower, inverse)), 0.0)


@triton.jit
def block_row(t, p_factor, o_row, m_row, o_column, order, begin, end, lower, inverse, d, weights, B: tl.constexpr):
    """L of one block row in one block column, from the tile `t` of the matrix: stores it and returns its growth."""
    t = minus_products(t, p_factor, o_row, m_row, o_column, order, begin, end, B)
    b_l = divide(t, lower, inverse) / d[None, :]
    tl.store(p_factor + o_row[:, None] * order + o_column[None, :], b_l, mask=m_row[:, None])
    return tl.sum(b_l * b_l * weights[None, :])
