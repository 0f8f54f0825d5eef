"""Basis size: how many columns k a matrix' basis has: as many as its rank asks for, if they cost less than a count."""

from __future__ import annotations

from ..kernels.limits import KS

COMPLETE = 64
"""Largest r for which a complete basis, of the whole smaller side, costs no more than a sketch and a count."""
ROOM = 2
"""Columns beyond the rank: one shows that no further singular value is above tau, and one is for a rank that grows."""


def basis_size(rank: int, r: int, now: int = 0) -> int:
    """Number of columns k, one of `KS`, for a matrix of numerical rank `rank` whose smaller side is `r`.

    The answer is the least k that holds rank + `ROOM` columns besides the eighth that is noise
    (`fastrank.reference.sketch.noise_columns`), among those that pay: a sketch takes 2 r n k flops in place of the
    r^2 n of a Gram, so it pays while 2 k <= r. If there is none, it is the least of `KS`.

    A matrix with r <= `COMPLETE` has at least r columns: its sketch is exact, and needs no count after it.

    now: the k that the matrix has (default 0: none). A smaller one is chosen only if 80 % of its columns besides the
        noise are enough, because replacing a basis costs more than a step.
    """
    if r <= COMPLETE:
        return next(k for k in KS if r <= k)

    def holds(k: int, share: float) -> bool:
        return rank + ROOM <= (k - k // 8) * share

    for k in KS:
        if 2 * k > max(r, 2 * KS[0]):
            break
        if holds(k, 1.0 if k >= now else 0.8):
            return k
    return KS[0]


def basis_sizes(r: int) -> list[int]:
    """Every k that `basis_size` may give a matrix whose smaller side is `r`; first the one of a new matrix."""
    if r <= COMPLETE:
        return [basis_size(0, r)]
    return [k for k in KS if k == KS[0] or 2 * k <= r]
