"""LDL: how many eigenvalues of G are above a shift, by the signs of the pivots of G - s I = L D L^T, without pivoting.

    for each column K of tiles:   W(p) = G(p, K) - L(p) D L(K)^T     over all columns before, for p >= K
                                  factor the tile on the diagonal;  L(p, K) = W(p) (D M^T)^-1

L is made column by column from G, which is only read: several shifts have one G. It lies in memory as G does, so that
no product needs to copy anything. Of large matrices BLOCK columns of tiles are made from the columns before them
together: a panel of L is then read once for all of them.

growth = sum_j |d_j| ||L_j||^2 bounds || |L| |D| |L^T| ||_2, see the twin, `fastrank.reference.ldl`. A pivot below
u sum_j |g_jj| becomes that. A product goes through no more operations than `shifts.terms_of` says: the SUM of one sum,
one for each further sum, and six for all else. Flops: r^3 / 3. Bytes: 4 r^2 of L, read r / (16 BLOCK) times.
"""

from __future__ import annotations

from numba import njit

from .tiles import OPTIONS, SIDE, TILE, panel, panels, solve, update

LARGE, BLOCK = 512, 4
"""r of the largest matrices whose columns of tiles are made one by one; how many are made together of larger ones."""
UNIT = 2.0**-53


def scratch_size(order: int) -> int:
    """FP64 numbers that `inertia` works in besides L: the scaled rows, pivots, and a tile's own."""
    return SIDE * -(-order // SIDE) * (BLOCK * SIDE + 1) + TILE + 3 * SIDE


@njit(**OPTIONS)
def inertia(g, i_g, order, shift, trace, factors, scratch):
    """Number of eigenvalues of G above `shift`, and growth.

    Args:
        g: the lower triangle that begins at `i_g`.
        trace: sum of its diagonal.
        factors: a lower triangle, where L is written. scratch: of `scratch_size`.
    """
    count = panels(order)
    padded = SIDE * count
    block = 1 if order <= LARGE else BLOCK
    pivots = scratch[:padded]
    scaled = scratch[padded : padded + BLOCK * SIDE * padded]
    own = scratch[padded + BLOCK * SIDE * padded :]
    floor = UNIT * (trace + order * abs(shift))
    own[TILE + 2 * SIDE : TILE + 3 * SIDE] = 0.0
    above, growth = 0, 0.0
    for start in range(0, count, block):
        end = min(start + block, count)
        known = SIDE * start
        for i in range(start, end):
            _scale(factors, pivots, i, 0, known, scaled, (i - start) * SIDE * padded)
        update(factors, 0, g, i_g, factors, 0, 0, scaled, 0, SIDE * padded, start, end, count, known)
        for i in range(start, end):
            if i > start:
                _scale(factors, pivots, i, known, SIDE * i, scaled, 0)
                update(factors, 0, factors, 0, factors, SIDE * known, 0, scaled, SIDE * known, 0, i, i + 1, count,
                       SIDE * i - known)  # fmt: skip
            more, grown = _factor(factors, panel(i) + TILE * i, min(SIDE, order - SIDE * i), shift, floor, pivots,
                                  SIDE * i, own)  # fmt: skip
            above += more
            growth += grown
            for p in range(i + 1, count):
                solve(factors, panel(p) + TILE * i, own, 0, own, TILE, own, TILE + 2 * SIDE)
    for i in range(SIDE):
        growth += own[TILE + 2 * SIDE + i]
    return above, growth


@njit(inline="always")
def _scale(factors, pivots, i, first, last, scaled, at):
    """-L D of panel `i`, columns `first` to `last`, written from `at` on as the panel has them."""
    begin = panel(i)
    for k in range(first, last):
        for j in range(SIDE):
            scaled[at + SIDE * k + j] = -factors[begin + SIDE * k + j] * pivots[k]


@njit(inline="always")
def _factor(factors, tile, rows, shift, floor, pivots, first, own):
    """Factor a tile on the diagonal, and write what `solve` needs of it: `own` is M D, 1 / D and |D|.

    Of the last panel only some `rows` are the matrix's: the others have no pivots.
    """
    own[: TILE + 2 * SIDE] = 0.0
    pivots[first : first + SIDE] = 0.0
    above, growth = 0, 0.0
    for k in range(rows):
        factors[tile + (SIDE + 1) * k] -= shift
    for k in range(rows):
        pivot = factors[tile + (SIDE + 1) * k]
        if abs(pivot) < floor:
            pivot = -floor if pivot < 0 else floor
        inverse = 1.0 / pivot
        size = abs(pivot)
        pivots[first + k], own[TILE + k], own[TILE + SIDE + k] = pivot, inverse, size
        above += pivot > 0
        growth += size
        for i in range(k + 1, rows):
            element = factors[tile + SIDE * k + i]
            own[SIDE * i + k] = element
            factors[tile + SIDE * k + i] = element * inverse
            growth += size * (element * inverse) ** 2
        for j in range(k + 1, rows):
            for i in range(j, rows):
                factors[tile + SIDE * j + i] -= factors[tile + SIDE * k + i] * own[SIDE * j + k]
    return above, growth
