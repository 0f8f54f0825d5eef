"""Columns: how many a matrix' basis has. As many as its rank asks for, where they cost less than counting it."""

from __future__ import annotations

from ..kernels.limits import KS

COMPLETE = 64
"""Largest r for which a basis of the whole side costs no more than a sketch and a count."""
ROOM = 2
"""Columns beyond the rank: one that shows that there is no more, and one for a rank that grows."""


def basis_size(rank: int, r: int, now: int = 0) -> int:
    """k of a matrix of that rank, whose smaller side is r; the least that there is if none pays.

    A sketch takes 2 r n k flops in place of the r^2 n of a Gram: it pays while 2 k <= r. An eighth of the columns is
    noise (`fastrank.reference.sketch.noise_columns`). A matrix that has more columns than that keeps those it has until
    its rank is well below: replacing a basis costs more than a step.

    A matrix with r <= `COMPLETE` has at least r columns: its sketch is exact, and needs no count after it.
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
    """Every k that `basis_size` may give a matrix whose smaller side is r, the first one first."""
    if r <= COMPLETE:
        return [basis_size(0, r)]
    return [k for k in KS if k == KS[0] or 2 * k <= r]
